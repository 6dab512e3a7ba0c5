"""Exact int8 products: through float32 while sums stay integers it holds, or through a provider.

A new way to multiply is a provider (`provider.py`); this file decides only what is joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.products.provider import Product, chosen_product

__all__ = ["Int8Weights", "int8_sum"]

Term = tuple[NDArray[np.int8], "_Matrix"]
Piece = tuple[NDArray[np.int8], NDArray[np.float32], int]

EXACT_SUM = 1 << 24
"""Up to here float32 holds every integer, so sums are exact in whatever order they are added."""

LARGEST_PRODUCT = 1 << 14
"""-128 times -128."""

BLOCK_ELEMENTS = 1 << 19
"""Elements of an intermediate block: 2 MiB, near a cache but few calls of the BLAS."""


class Int8Weights:
    """Installed int8 arrays: `matrix` is int8 [columns, rows], or [batch, columns, rows].

    The matrix must not change afterwards: other forms of it are made when first needed, and kept.
    """

    def __init__(self, matrix: NDArray[np.int8]) -> None:
        assert matrix.dtype == np.int8, f"int8 weights, not {matrix.dtype}"
        assert matrix.ndim in (2, 3), f"[columns, rows] or [batch, columns, rows]: {matrix.shape}"
        self.batched = matrix.ndim == 3
        self._matrices = tuple(map(_Matrix, matrix if self.batched else matrix[None]))

    def at(self, index: int) -> _Matrix:
        """The array of one batch index; the only one if they have no batch axis."""
        return self._matrices[index if self.batched else 0]


class _Matrix:
    """One array int8 [columns, rows] with the forms that products want."""

    def __init__(self, matrix: NDArray[np.int8]) -> None:
        self.columns = matrix.shape[0]
        self._matrix = matrix

    @cached_property
    def wide(self) -> NDArray[np.float32]:
        """float32 [columns, rows]."""
        return self._matrix.astype(np.float32, order="C")

    @cached_property
    def tall(self) -> NDArray[np.int8]:
        """int8 [rows, columns]: what providers take."""
        return np.ascontiguousarray(self._matrix.T)

    @cached_property
    def reach(self) -> int:
        """No sum of products, whole or partial, is greater than this in magnitude."""
        return 128 * int(np.abs(self.wide).sum(axis=1, dtype=np.float64).max(initial=0))


def int8_sum(terms: Sequence[tuple[NDArray[np.int8], Int8Weights]]) -> NDArray[np.int32]:
    """The sum over terms of activation @ matrix[:, :r].T, modulo 2**32.

    Activations are int8 [n, r] and the result int32 [n, columns]. `r` is at most the matrix's rows
    and may differ between terms; n and columns may not. With a batch axis activations are
    [n, batch, r] and the result is [n, batch, columns]: each index has its own matrix, or all
    share the only one.
    """
    first = terms[0][0]
    if first.ndim == 2 or not any(weights.batched for _, weights in terms):
        flat = _sum([(activation, weights.at(0)) for activation, weights in terms])
        return flat.reshape(*first.shape[:-1], flat.shape[1])
    n, batch, _ = first.shape
    result = np.empty((n, batch, terms[0][1].at(0).columns), np.int32)
    for i in range(batch):
        result[:, i] = _sum([(a[:, i], weights.at(i)) for a, weights in terms])
    return result


def _sum(terms: Sequence[Term]) -> NDArray[np.int32]:
    """The sum of activations [..., r] as int32 [n, columns], n being all axes but the last."""
    n, columns = math.prod(terms[0][0].shape[:-1]), terms[0][1].columns
    depths = [activation.shape[-1] for activation, _ in terms]
    product = chosen_product(n * columns * sum(depths))
    if product is not None:
        return _through_provider(product, terms)
    terms = [(a.reshape(n, r), matrix) for r, (a, matrix) in zip(depths, terms, strict=True)]
    result = np.empty((n, columns), np.int32)
    step = max(1, min(n, BLOCK_ELEMENTS // max(columns, *depths, 1)))
    wide = np.empty((step, max(depths)), np.float32)
    sums = np.empty((2, step, columns), np.float32)
    for start in range(0, n, step):
        block = slice(start, start + step)
        part = [(activation[block], matrix) for activation, matrix in terms]
        size = len(result[block])
        _through_float(part, result[block], wide[:size], sums[:, :size])
    return result


def _through_float(
    terms: Sequence[Term],
    result: NDArray[np.int32],
    wide: NDArray[np.float32],
    sums: NDArray[np.float32],
) -> None:
    """Set `result` to the sum: float32 within a group of pieces, int32 between groups.

    `wide` [n, at least r] and `sums` [2, n, columns] are scratch, the same for all blocks.
    """
    total, product = sums
    for index, group in enumerate(_groups(terms)):
        for place, (activation, weights, _) in enumerate(group):
            left = wide[:, : activation.shape[1]]
            np.copyto(left, activation)
            np.matmul(left, weights.T, out=product if place else total)
            if place:
                np.add(total, product, out=total)
        if index:
            np.add(result, total, out=result, dtype=np.int32, casting="unsafe")
        else:
            np.copyto(result, total, casting="unsafe")


def _groups(terms: Sequence[Term]) -> Iterator[list[Piece]]:
    """Pieces in order, as many together as float32 can add exactly."""
    group: list[Piece] = []
    reach = 0
    for piece in (piece for term in terms for piece in _pieces(*term)):
        if group and reach + piece[2] > EXACT_SUM:
            yield group
            group, reach = [], 0
        group.append(piece)
        reach += piece[2]
    yield group


def _pieces(activation: NDArray[np.int8], matrix: _Matrix) -> Iterator[Piece]:
    """One term, cut along its rows if a sum of all of them could pass `EXACT_SUM`."""
    rows = activation.shape[1]
    reach = min(matrix.reach, rows * LARGEST_PRODUCT)
    if reach <= EXACT_SUM:
        yield activation, matrix.wide[:, :rows], reach
        return
    step = EXACT_SUM // LARGEST_PRODUCT
    for start in range(0, rows, step):
        piece = activation[:, start : start + step]
        weights = matrix.wide[:, start : start + piece.shape[1]]
        yield piece, weights, piece.shape[1] * LARGEST_PRODUCT


def _through_provider(product: Product, terms: Sequence[Term]) -> NDArray[np.int32]:
    """All terms as one product. Providers take activations as uint8, 128 more than they are."""
    ends = np.cumsum([0] + [activation.shape[-1] for activation, _ in terms]).tolist()
    biased = np.empty((*terms[0][0].shape[:-1], ends[-1]), np.uint8)
    for start, end, (activation, _) in zip(ends, ends[1:], terms, strict=False):
        biased[..., start:end] = activation.view(np.uint8)
    np.bitwise_xor(biased, np.uint8(128), out=biased)
    weights = [matrix.tall[: activation.shape[-1]] for activation, matrix in terms]
    tall = weights[0] if len(weights) == 1 else np.concatenate(weights)
    return product(biased.reshape(-1, ends[-1]), tall)
