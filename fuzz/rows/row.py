"""A row: one operator of the fuzzer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fuzz.bounds import Rule
from fuzz.builder import Graph

__all__ = ["ARITHMETIC", "BYTES", "FLOATS", "Row"]

ARITHMETIC = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32")
FLOATS = ("float16", "float32", "float64")
BYTES = ("int8", "uint8")


@dataclass(frozen=True, slots=True)
class Row:
    """One operator. `make` adds it to a graph or raises `Skip`; `error` is its rule of errors.

    `others` are the rules of its further results; the last rule holds for all that follow.
    """

    op: str
    make: Callable[[Graph, str], object]
    error: Rule
    others: tuple[Rule, ...] = ()
