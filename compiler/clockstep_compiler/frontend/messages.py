"""How names from the file and errors from onnx read in a one-line diagnostic."""

from __future__ import annotations

__all__ = ["place", "sentence", "shown"]


def place(name: str, op: str) -> str:
    """How a diagnostic names a node: its name, and its operator in brackets."""
    return f"{shown(name)} ({shown(op)})"


def shown(text: str) -> str:
    """A name from the file as it may stand in a one-line message."""
    return text if text.isprintable() else repr(text)


def sentence(error: Exception) -> str:
    """The first line of a library's error, or its class where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0]) if lines else type(error).__name__
