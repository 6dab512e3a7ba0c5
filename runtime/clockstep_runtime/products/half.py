"""Exact fp16 products: float64 sums with a bound on their error, doubtful roundings done again.

Products of fp16 numbers are exact in float64; a BLAS may add them in any order, so its sum is
right only up to a bound. Where both ends of the bound round to the same float32, so does the exact
sum. The few other elements go to `exact.py`, where a new way to settle them belongs. Mostly there
are none: numbers of moderate size have float64 sums that are exact.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.products.exact import MOST_ROWS, exact_product, special_product

__all__ = ["HalfWeights", "half_product"]

Half = NDArray[np.float16]
Wide = NDArray[np.float64]
Indices = NDArray[np.intp]

BLOCK_ELEMENTS = 1 << 17
"""Elements of an intermediate block: 1 MiB, so that a few of them stay in a cache."""

SLACK = 1 + 2.0**-20
"""More than all rounding errors in computing a bound from at most `MOST_ROWS` numbers."""

EXACT = 2.0**53
"""float64 holds every integer up to here: what two spreads may come to (`_Vectors.spread`)."""

LEAST_UNIT = 2.0**-24
"""The lowest bit of a fp16 number, and its least magnitude."""


class HalfWeights:
    """Installed fp16 arrays: `matrix` is float16 [columns, rows], or [batch, columns, rows].

    The matrix must not change afterwards: other forms of it are made when first needed, and kept;
    with `narrow` that of float64, which takes four times its room, is made each time.
    """

    def __init__(self, matrix: Half, *, narrow: bool = False) -> None:
        assert matrix.dtype == np.float16, f"fp16 weights, not {matrix.dtype}"
        assert matrix.ndim in (2, 3), f"[columns, rows] or [batch, columns, rows]: {matrix.shape}"
        assert matrix.shape[-1] <= MOST_ROWS, f"at most {MOST_ROWS} rows, not {matrix.shape[-1]}"
        self.batched = matrix.ndim == 3
        self._matrices = tuple(
            _Matrix(one, narrow) for one in (matrix if self.batched else matrix[None])
        )

    def at(self, index: int) -> _Matrix:
        """The array of one batch index; the only one if they have no batch axis."""
        return self._matrices[index if self.batched else 0]


class _Vectors:
    """Rows of fp16 numbers in float64, with what the error of their products depends on."""

    def __init__(self, half: Half) -> None:
        with np.errstate(invalid="ignore"):
            wide = half.astype(np.float64, order="C")
            squares = np.vecdot(wide, wide)
        self.special: Indices = np.flatnonzero(~np.isfinite(squares))
        """The rows that hold an infinity or NaN."""
        if self.special.size:
            rows = wide[self.special]
            wide[self.special] = np.where(np.isfinite(rows), rows, 0.0)
            squares = np.vecdot(wide, wide)
        self.wide: Wide = wide
        """float64 [n, r]; infinities and NaN are 0."""
        self.norms: Wide = np.sqrt(squares) * SLACK
        """float64 [n]: not less than the Euclidean norms of `wide`."""

    def spread(self, rows: Indices) -> Wide:
        """For each of `rows` its norm in units of the lowest bit that any of its values has.

        If the product of two spreads is at most `EXACT`, every partial sum of the products is a
        multiple of the product of the units that float64 can hold: the sum is exact.
        """
        bits = np.bitwise_or.reduce((self.wide[rows] / LEAST_UNIT).astype(np.int64), axis=1)
        unit = (bits & -bits).astype(np.float64) * LEAST_UNIT
        spread: Wide = self.norms[rows] / np.where(unit > 0, unit, 1.0)
        return spread


class _Matrix:
    """One array float16 [columns, rows]."""

    def __init__(self, matrix: Half, narrow: bool) -> None:
        self.columns = matrix.shape[0]
        self.half = matrix
        self._narrow = narrow

    @cached_property
    def _kept(self) -> _Vectors:
        return _Vectors(self.half)

    def _vectors(self) -> _Vectors:
        """The columns, each as a row."""
        return _Vectors(self.half) if self._narrow else self._kept

    def wide(self) -> Wide:
        """float64 [columns, rows]; infinities and NaN are 0."""
        if not self._narrow:
            return self._kept.wide
        wide = self.half.astype(np.float64, order="C")
        if self.special.size:
            rows = wide[self.special]
            wide[self.special] = np.where(np.isfinite(rows), rows, 0.0)
        return wide

    @cached_property
    def _bounds(self) -> tuple[Indices, Wide, Wide]:
        """What there is to know of columns: `special`, `margin`, `spread`.

        n products in any order are n - 1 roundings, each at most 2**-53 of a partial sum, and no
        partial sum is above the sum of magnitudes, hence (Cauchy, Schwarz) the product of norms.
        The rest is for the rounding when the margin is added. One product, or none, is exact.
        """
        vectors = self._vectors()
        products = np.count_nonzero(vectors.wide, axis=1).astype(np.float64)
        relative = np.where(products > 1, (products + 2) * 2.0**-53 * SLACK, 0.0)
        return vectors.special, relative * vectors.norms, vectors.spread(np.arange(self.columns))

    @property
    def special(self) -> Indices:
        """The columns that hold an infinity or NaN."""
        return self._bounds[0]

    @property
    def margin(self) -> Wide:
        """float64 [columns]: times the norm of an activation, bounds the error of a float64 sum."""
        return self._bounds[1]

    @property
    def spread(self) -> Wide:
        """float64 [columns]: the `spread` of each column."""
        return self._bounds[2]

    @cached_property
    def longest(self) -> float:
        """The norm up to which an activation's products are all exact, whatever its lowest bit."""
        return EXACT * LEAST_UNIT / max(float(self.spread.max(initial=0.0)), 1.0)


def half_product(activation: Half, weights: HalfWeights) -> NDArray[np.float32]:
    """activation @ matrix[:, :r].T: the exact sums, each rounded once to float32, ties to even.

    The activation is float16 [n, r] with r at most the matrix's rows, the result [n, columns].
    NaN (0x7fc00000) where a product is NaN or infinities of both signs meet, else infinity where
    one is; an exact 0 is +0. With a batch axis the activation is [n, batch, r] and the result is
    [n, batch, columns]: each index has its own matrix, or all share the only one.
    """
    if activation.ndim == 2:
        return _product(activation, weights.at(0))
    n, batch, rows = activation.shape
    if not weights.batched:
        flat = _product(activation.reshape(n * batch, rows), weights.at(0))
        return flat.reshape(n, batch, -1)
    result = np.empty((n, batch, weights.at(0).columns), np.float32)
    for i in range(batch):
        result[:, i] = _product(activation[:, i], weights.at(i))
    return result


def _product(activation: Half, matrix: _Matrix) -> NDArray[np.float32]:
    n, rows = activation.shape
    result = np.empty((n, matrix.columns), np.float32)
    step = max(1, BLOCK_ELEMENTS // max(matrix.columns, rows, 1))
    for start in range(0, n, step):
        block = slice(start, start + step)
        _multiply(activation[block], matrix, result[block])
    return result


def _multiply(activation: Half, matrix: _Matrix, result: NDArray[np.float32]) -> None:
    """Set `result` to the product of a block of rows."""
    rows = activation.shape[1]
    left = _Vectors(activation)
    sums = np.matmul(left.wide, matrix.wide()[:, :rows].T)
    if left.norms.max(initial=0.0) <= matrix.longest:
        np.add(sums, 0.0, out=result, casting="same_kind")  # +0 makes +0 of an exact -0
    else:
        _round(result, sums, left, matrix)
    if left.special.size or matrix.special.size:
        _set_special(result, activation, left.special, matrix)


def _round(result: NDArray[np.float32], sums: Wide, left: _Vectors, matrix: _Matrix) -> None:
    """Set `result` to what the exact sums round to, `sums` being those of float64."""
    margin = left.norms[:, None] * matrix.margin
    # Both ends of the bound. Adding a margin of +0 also makes +0 of an exact -0.
    np.add(sums, margin, out=result, casting="same_kind")
    below = np.empty_like(result)
    np.subtract(sums, margin, out=below, casting="same_kind")
    doubtful = below != result
    if doubtful.any():
        _settle(result, doubtful, sums, left, matrix)


def _set_special(
    result: NDArray[np.float32], activation: Half, special: Indices, matrix: _Matrix
) -> None:
    """Set what infinities and NaN make of `result`: the `special` rows, then special columns."""
    n, r = activation.shape
    ordinary = np.delete(np.arange(n), special)
    blocks = (special, np.arange(matrix.columns)), (ordinary, matrix.special)
    for rows, columns in blocks:
        if rows.size and columns.size:
            part, weights = np.ix_(rows, columns), matrix.half[columns, :r]
            result[part] = special_product(activation[rows], weights, result[part])


def _settle(
    result: NDArray[np.float32],
    doubtful: NDArray[np.bool_],
    sums: Wide,
    left: _Vectors,
    matrix: _Matrix,
) -> None:
    """Set the elements of `result` whose float64 sums the bound leaves open."""
    i, j = np.divmod(np.flatnonzero(doubtful), matrix.columns)
    rows = _distinct(i, len(left.wide))
    spread = np.zeros(len(left.wide))
    spread[rows] = left.spread(rows)
    exact = spread[i] * matrix.spread[j] <= EXACT
    result[i[exact], j[exact]] = (sums[i[exact], j[exact]] + 0.0).astype(np.float32)
    if exact.all():
        return
    rows, columns = _distinct(i[~exact], len(left.wide)), _distinct(j[~exact], matrix.columns)
    weights = matrix.wide()[columns, : left.wide.shape[1]]
    result[np.ix_(rows, columns)] = exact_product(left.wide[rows], weights)


def _distinct(values: Indices, size: int) -> Indices:
    """The distinct values, in order, of some below `size`: without sorting."""
    present = np.zeros(size, np.bool_)
    present[values] = True
    return np.flatnonzero(present)
