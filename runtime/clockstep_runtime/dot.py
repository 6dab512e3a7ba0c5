"""Exact dot products: what a column of the MXM's array gives, whatever order a BLAS adds in.

int8: every partial sum is an integer below 2**24, which float32 holds exactly in any order.
fp16: the exact sum, rounded once to float32; see `HalfMatrix`. A new weight type is a new class
with `product`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["HalfMatrix", "Int8Matrix"]

BLOCK_ROWS = 1024
"""1024 products of at most 2**14 reach 2**24, the last integer up to which float32 has no gap."""

SPLIT_BITS = 20
"""An fp16 is an integer below 2**40 times 2**-24; its halves have at most this many bits."""


class Int8Matrix:
    """An installed int8 array: `weights` is int8 [rows, columns]."""

    def __init__(self, weights: NDArray[np.int8]) -> None:
        self._weights = weights.astype(np.float32)

    def product(self, activation: NDArray[np.int8], rows: int) -> NDArray[np.int32]:
        """Exact int32 [columns]: at most 4096 lanes, so no sum exceeds 2**26."""
        total = np.zeros(self._weights.shape[1], np.int32)
        wide = activation[:rows].astype(np.float32)
        for start in range(0, rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, rows)
            total += (wide[start:stop] @ self._weights[start:stop]).astype(np.int32)
        return total


class HalfMatrix:
    """An installed fp16 array: `weights` is float16 [rows, columns].

    An fp16 number is h * 2**-4 + l * 2**-24 with integers -2**20 <= h < 2**20 and 0 <= l < 2**20.
    A product of halves is below 2**40 and a sum of 4096 of them below 2**53: exact in float64 in
    any order. The four sums are joined as integers and rounded once.
    """

    def __init__(self, weights: NDArray[np.float16]) -> None:
        self._weights = weights
        self._finite = bool(np.isfinite(weights).all())
        self._halves = np.concatenate(_split(weights), axis=1)

    def product(self, activation: NDArray[np.float16], rows: int) -> NDArray[np.float32]:
        """The exact sums rounded once to float32 [columns], ties to even; an exact 0 is +0.

        NaN where a product is NaN or infinities of both signs meet, else infinity where one is.
        """
        vector = activation[:rows]
        sums = np.stack(_split(vector)) @ self._halves[:rows]
        columns = self._weights.shape[1]
        whole = sums.astype(np.int64)
        result = _join(
            whole[0, :columns], whole[0, columns:] + whole[1, :columns], whole[1, columns:]
        )
        if self._finite and bool(np.isfinite(vector).all()):
            return result
        return _with_specials(result, vector, self._weights[:rows])


def _split(values: NDArray[np.float16]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The halves (h, l) of finite values; infinities and NaN count as 0."""
    wide = np.where(np.isfinite(values), values, np.float16(0)).astype(np.float64)
    high = np.floor(wide * 2.0**4)
    return high, (wide * 2.0**4 - high) * 2.0**SPLIT_BITS


def _join(
    high: NDArray[np.int64], middle: NDArray[np.int64], low: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(high * 2**40 + middle * 2**20 + low) * 2**-48, rounded once to float32."""
    mask = (1 << SPLIT_BITS) - 1
    middle = middle + (low >> SPLIT_BITS)
    top = high + (middle >> SPLIT_BITS)  # below 2**54 in magnitude
    rest = ((middle & mask) << SPLIT_BITS) | (low & mask)  # 0 <= rest < 2**40
    negative = top < 0
    # Magnitude of the 94-bit number: -(top * 2**40 + rest).
    borrow = negative & (rest != 0)
    top = np.where(negative, -top - borrow, top)
    rest = np.where(borrow, (1 << 40) - rest, rest)
    # Either the number fits in 63 bits, or its 31 lowest bits lie below the rounding position
    # and matter only by being zero or not.
    fits = top < 1 << 22
    exact = (np.where(fits, top, 0) << 40) | rest
    sticky = (rest & ((1 << 31) - 1)) != 0
    short = (np.where(fits, 0, top) << 9) | (rest >> 31) | sticky
    magnitude = np.where(
        fits,
        exact.astype(np.float32) * np.float32(2.0**-48),
        short.astype(np.float32) * np.float32(2.0**-17),
    )
    signed: NDArray[np.float32] = np.where(negative, -magnitude, magnitude)
    return signed


def _with_specials(
    result: NDArray[np.float32], vector: NDArray[np.float16], weights: NDArray[np.float16]
) -> NDArray[np.float32]:
    """`result` with infinities and NaN where IEEE arithmetic of the products gives them."""
    with np.errstate(invalid="ignore", over="ignore"):
        products = vector.astype(np.float64)[:, None] * weights.astype(np.float64)
    plus, minus = np.isposinf(products).any(axis=0), np.isneginf(products).any(axis=0)
    invalid = np.isnan(products).any(axis=0) | (plus & minus)
    infinite = np.where(plus, np.float32(np.inf), np.float32(-np.inf))
    specials = np.where(invalid, np.float32(np.nan), infinite)
    final: NDArray[np.float32] = np.where(plus | minus | invalid, specials, result)
    return final
