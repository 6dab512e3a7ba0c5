"""The slow path of fp16 products: exact integer sums, and what infinities and NaN make of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_ROWS", "exact_product", "special_product"]

Half = NDArray[np.float16]
Wide = NDArray[np.float64]

MOST_ROWS = 8192
"""Sums of so many products of 20-bit integers stay within 2**53, in whatever order."""

PART_BITS = 20
"""A finite fp16 is an integer below 2**40 times 2**-24: two parts of this many bits."""


def exact_product(activation: Wide, weights: Wide) -> NDArray[np.float32]:
    """activation [m, r] @ weights [columns, r].T, each sum rounded once, ties to even; 0 is +0.

    Values are those of finite fp16 numbers. Parts are multiplied apart, in float64 but exactly:
    with x = high * 2**-4 + low * 2**-24 all four products of parts are integers below 2**40.
    """
    m, columns = len(activation), len(weights)
    sums = np.matmul(_parts(activation), _parts(weights).T).astype(np.int64)
    middle = sums[:m, columns:] + sums[m:, :columns]
    return _rounded(sums[:m, :columns], middle, sums[m:, columns:])


def special_product(
    activation: Half, weights: Half, finite: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`finite`, replaced where IEEE products and sums would be infinite or NaN.

    `finite` is the product with infinities and NaN taken as 0. Which terms are special is counted
    by products of signs and indicators, so no BLAS has to know what an infinity is.
    """
    with np.errstate(invalid="ignore"):
        a, w = activation.astype(np.float64), weights.astype(np.float64)
    lanes = ~(np.isfinite(a).all(axis=0) & np.isfinite(w).all(axis=0))
    sign, infinite, zero = _indicators(a[:, lanes])
    w_sign, w_infinite, w_zero = _indicators(w[:, lanes])
    # Infinite terms, those above 0 less those below; all of them; infinity times 0.
    excess = _count(infinite, sign, w_sign, w_infinite)
    terms = _count(abs(infinite), abs(sign), abs(w_sign), abs(w_infinite))
    invalid = _count(abs(infinite), zero, w_zero, abs(w_infinite))
    nan = np.logical_or.outer(*(np.logical_or.reduce(np.isnan(x), axis=1) for x in (a, w)))
    result: NDArray[np.float32]
    result = np.where(terms > 0, np.copysign(np.float32(np.inf), excess), finite)
    result[(invalid > 0) | (abs(excess) < terms) | nan] = np.nan
    return result


def _indicators(values: Wide) -> tuple[NDArray[np.float32], ...]:
    """Signs, with 0 for NaN; signs of the infinities, with 0 for all else; 1 for each 0."""
    sign = (values > 0).astype(np.float32) - (values < 0)
    return sign, np.where(np.isinf(values), sign, np.float32(0)), (values == 0).astype(np.float32)


def _count(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32], d: NDArray[np.float32]
) -> NDArray[np.float32]:
    """a @ c.T + b @ d.T, exact: small integers. Terms with two infinities count twice."""
    counts: NDArray[np.float32] = np.matmul(np.hstack((a, b)), np.hstack((c, d)).T)
    return counts


def _parts(values: Wide) -> Wide:
    """[2 n, r]: the high parts of values [n, r], then the low ones."""
    n, r = values.shape
    parts = np.empty((2 * n, r))
    scaled = values * 2.0**4
    np.floor(scaled, out=parts[:n])
    np.subtract(scaled, parts[:n], out=parts[n:])
    parts[n:] *= 2.0**PART_BITS
    return parts


def _rounded(
    high: NDArray[np.int64], middle: NDArray[np.int64], low: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(high * 2**40 + middle * 2**20 + low) * 2**-48 rounded to float32."""
    mask = (1 << PART_BITS) - 1
    middle = middle + (low >> PART_BITS)
    high = high + (middle >> PART_BITS)
    rest = ((middle & mask) << PART_BITS) | (low & mask)
    # The number is high * 2**40 + rest, 0 <= rest < 2**40. If it has no more than 63 bits the
    # conversion rounds it. Else its lowest 31 bits are far below what float32 keeps, and one bit
    # that says whether they are all 0 does for them.
    short = np.abs(high) < 1 << 22
    whole = (np.where(short, high, 0) << 40) | rest
    odd = (rest & ((1 << 31) - 1)) != 0
    tail = (np.where(short, 0, high) << 9) | (rest >> 31) | odd
    result: NDArray[np.float32] = np.where(
        short,
        whole.astype(np.float32) * np.float32(2.0**-48),
        tail.astype(np.float32) * np.float32(2.0**-17),
    )
    return result
