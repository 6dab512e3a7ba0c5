"""Exact arithmetic on arrays: integers times a common power of two, which every float is.

Means have a denominator besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Exact", "matmul_integers", "round_half_even", "to_exact"]

Array = NDArray[np.generic]
Integers = NDArray[np.object_]

_FLOAT64_EXACT = 1 << 53


@dataclass(frozen=True, slots=True)
class Exact:
    """The values `numerators * 2**exponent / denominator`; Python integers never overflow."""

    numerators: Integers
    exponent: int
    denominator: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.numerators.shape

    def reshape(self, shape: tuple[int, ...]) -> Exact:
        """The same values in another shape."""
        return replace(self, numerators=self.numerators.reshape(shape))

    def transpose(self, axes: tuple[int, ...] | None = None) -> Exact:
        """The same values with axes permuted, reversed by default."""
        return replace(self, numerators=self.numerators.transpose(axes))

    def at(self, exponent: int) -> Integers:
        """The numerators for a smaller or equal exponent."""
        assert exponent <= self.exponent, "a larger exponent would lose bits"
        return self.numerators * (1 << (self.exponent - exponent))

    def __add__(self, other: Exact) -> Exact:
        return self._aligned(other, lambda a, b: a + b)

    def __sub__(self, other: Exact) -> Exact:
        return self._aligned(other, lambda a, b: a - b)

    def __mul__(self, other: Exact) -> Exact:
        product = self.numerators * other.numerators
        return self._product(other, np.asarray(product, object))

    def _product(self, other: Exact, numerators: Integers) -> Exact:
        exponent = self.exponent + other.exponent
        return Exact(numerators, exponent, self.denominator * other.denominator)

    def __matmul__(self, other: Exact) -> Exact:
        return self._product(other, matmul_integers(self.numerators, other.numerators))

    def over(self, divisor: int) -> Exact:
        """The values divided by a positive integer."""
        return replace(self, denominator=self.denominator * divisor)

    def maximum(self, other: Exact) -> Exact:
        """The larger of two values, elementwise with broadcasting."""
        return self._aligned(other, np.maximum)

    def minimum(self, other: Exact) -> Exact:
        """The smaller of two values, elementwise with broadcasting."""
        return self._aligned(other, np.minimum)

    def to_float(self) -> NDArray[np.float64]:
        """The nearest float64 of each value."""
        top, bottom = max(self.exponent, 0), self.denominator << max(-self.exponent, 0)
        flat = [(int(n) << top) / bottom for n in self.numerators.reshape(-1)]
        return np.array(flat, np.float64).reshape(self.shape)

    def _aligned(self, other: Exact, f: Callable[[Integers, Integers], Integers]) -> Exact:
        exponent = min(self.exponent, other.exponent)
        a, b = self.at(exponent), other.at(exponent)
        denominator = math.lcm(self.denominator, other.denominator)
        if denominator > 1:
            a, b = a * (denominator // self.denominator), b * (denominator // other.denominator)
        return Exact(np.asarray(f(a, b), object), exponent, denominator)


def to_exact(array: Array) -> Exact:
    """Finite floats or integers as they are, without rounding."""
    if array.dtype.kind in "biu":
        return Exact(array.astype(object) + 0, 0)
    values = array.astype(np.float64)
    assert np.array_equal(values.astype(array.dtype), array), "only finite values are exact"
    mantissas, exponents = np.frexp(values)
    low = int(exponents[mantissas != 0].min(initial=0)) - 53
    flat = zip(mantissas.reshape(-1), exponents.reshape(-1), strict=True)
    numerators = np.empty(array.size, object)
    for i, (mantissa, exponent) in enumerate(flat):
        numerators[i] = int(mantissa * 2.0**53) << max(int(exponent) - 53 - low, 0)
    return _reduced(Exact(numerators.reshape(array.shape), low))


def round_half_even(value: Exact, divisor: Exact) -> Integers:
    """`value / divisor` rounded to the nearest integer, ties to even; `divisor` is positive."""
    shift = value.exponent - divisor.exponent
    top = value.numerators * (divisor.denominator << max(shift, 0))
    bottom = divisor.numerators * (value.denominator << max(-shift, 0))
    return np.asarray(np.frompyfunc(_divide_half_even, 2, 1)(top, bottom), object)


def matmul_integers(a: Integers, b: Integers) -> Integers:
    """numpy.matmul of Python integers; through float64 where that is exact, which is fast."""
    if not a.size or not b.size:
        return np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(int), object)
    bound = int(np.abs(a).max()) * int(np.abs(b).max()) * a.shape[-1]
    if bound < _FLOAT64_EXACT:
        product = np.matmul(a.astype(np.float64), b.astype(np.float64))
        return np.asarray(np.asarray(product).astype(np.int64).astype(object), object)
    return np.asarray(np.matmul(a, b), object)


def _reduced(value: Exact) -> Exact:
    """Without the factors of two that all numerators share: smaller integers are faster."""
    nonzero = [int(n) for n in value.numerators.reshape(-1) if n]
    shared = min(((n & -n).bit_length() - 1 for n in nonzero), default=0)
    return Exact(np.asarray(value.numerators // (1 << shared), object), value.exponent + shared)


def _divide_half_even(top: int, bottom: int) -> int:
    quotient, rest = divmod(top, bottom)
    if 2 * rest > bottom or (2 * rest == bottom and quotient % 2):
        return quotient + 1
    return quotient
