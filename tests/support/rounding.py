"""Exact fractions rounded to a float type by the book, to test arithmetic against."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["nearest"]

_FORMATS = {"float16": (11, -14, 15), "float32": (24, -126, 127)}
"""Bits of the significand, least and greatest exponent of a normal number."""


def nearest(value: Fraction, dtype: Any) -> float:
    """The number of a float type nearest to `value`, ties to even, beyond the range infinite."""
    precision, least, greatest = _FORMATS[np.dtype(dtype).name]
    if value == 0:
        return 0.0
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - precision + 1)
    rounded = round(value / unit) * unit
    if abs(rounded) >= Fraction(2) ** (greatest + 1):
        return float("inf") if value > 0 else float("-inf")
    return float(rounded)
