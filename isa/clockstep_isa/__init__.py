"""The machine, its instruction set and its programs; nothing about models."""
