"""Where the parts of a tensor are when several chips, the ranks, share the work on it.

A tensor is WHOLE (every rank has all of it), PARTIAL (it is the sum of what the ranks have), or
split along an axis: rank r has the r-th of as many equal parts. What an operator can do with that
is in `shard_rules.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ONCE",
    "PARTIAL",
    "WHOLE",
    "Coarse",
    "Pick",
    "Placement",
    "Strategy",
    "carried",
    "coarse",
    "part_of",
    "part_shape",
    "picks",
    "splits",
]

T = TypeVar("T", bound=np.generic)

Placement = int
"""An axis, or one of the constants below."""

WHOLE, PARTIAL, ONCE = -1, -2, -3
"""ONCE is an optional input that the first rank alone is given."""


class Strategy(NamedTuple):
    """One way to share a node: where its inputs have to be, and where its result then is."""

    inputs: tuple[Placement, ...]
    output: Placement


def splits(shape: Sequence[int], ranks: int) -> Iterator[int]:
    """The axes along which a tensor can be split."""
    return (a for a, size in enumerate(shape) if size % ranks == 0 and size)


def part_shape(shape: tuple[int, ...], placement: Placement, ranks: int) -> tuple[int, ...]:
    """The shape of what one rank has."""
    if placement < 0:
        return shape
    return (*shape[:placement], shape[placement] // ranks, *shape[placement + 1 :])


def part_of(array: NDArray[T], placement: Placement, rank: int, ranks: int) -> NDArray[T]:
    """What a rank has of an array: a view."""
    if placement < 0:
        return array
    size = array.shape[placement] // ranks
    return array[(slice(None),) * placement + (slice(rank * size, (rank + 1) * size),)]


def _owners(shape: tuple[int, ...], axis: int, ranks: int) -> NDArray[np.int64]:
    """The rank of every element of a tensor that is split along an axis."""
    own = np.arange(shape[axis]) * ranks // shape[axis]
    own = own.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.broadcast_to(own, shape)


Coarse = tuple[NDArray[np.int64], tuple[int, ...], int]
"""The index and the source's shape of a move, and how many neighbours count as one element."""


def coarse(index: NDArray[np.int64], shape: tuple[int, ...]) -> Coarse:
    """A move with the neighbours along the last axis that always stay together as one element.

    `index` says for each element of the result which one it is of a tensor of `shape`, negative
    where it is none of it; both as they are then, and how many elements are one.
    """
    if not index.size or not index.ndim or not shape:
        return index, shape, 1
    width = math.gcd(index.shape[-1], shape[-1])
    row = index.reshape(-1, index.shape[-1])[0]
    for size in (n for n in range(width, 1, -1) if width % n == 0):
        if row[0] >= 0 and not np.array_equal(row[:size], row[0] + np.arange(size)):
            continue  # most are told by that alone
        first = index[..., ::size]
        whole = first[..., None] + np.arange(size) * (first >= 0)[..., None]
        aligned = (first < 0) | (first % size == 0)
        if aligned.all() and np.array_equal(whole.reshape(index.shape), index):
            return np.where(first < 0, first, first // size), (*shape[:-1], shape[-1] // size), size
    return index, shape, 1


def carried(index: NDArray[np.int64], shape: tuple[int, ...], ranks: int, axis: int) -> Placement:
    """How a source of `shape` has to be split, that each rank has what it moves.

    `index` says for each element of the result, split along `axis`, which one of the source it is,
    negative where it is none of it. WHOLE if no axis will do.
    """
    wanted = _owners(index.shape, axis, ranks)
    inside = index >= 0
    wanted, chosen = wanted[inside], index[inside]
    for a in splits(shape, ranks):
        size = math.prod(shape[a:]) // ranks
        owner = chosen // size % ranks
        if np.array_equal(owner, wanted):
            return a
    return WHOLE


class Pick(NamedTuple):
    """What is taken of the part that rank `owner` has: `rows` of its matrix, a range of columns.

    `taken` are the places of the result's elements that it is for, flat, and `places` says of each
    which one it is of the part's elements.
    """

    owner: int
    rows: NDArray[np.int64]
    low: int
    high: int
    taken: NDArray[np.int64]
    places: NDArray[np.int64]


def picks(
    index: NDArray[np.int64], shape: tuple[int, ...], placement: Placement, ranks: int, rank: int
) -> Iterator[Pick]:
    """What a rank takes of the parts of a tensor; what all ranks have it takes of its own.

    `index` says for each element of its result which one it is of the tensor, negative where it is
    none of it.
    """
    taken = np.flatnonzero(index.ravel() >= 0)
    chosen = index.ravel()[taken]
    owners = np.full(len(chosen), rank)
    if placement >= 0:
        inner = math.prod(shape[placement:]) // ranks
        outer, rest = np.divmod(chosen, inner * ranks)
        owners, rest = np.divmod(rest, inner)
        chosen = outer * inner + rest
    columns = part_shape(shape, placement, ranks)[-1] if shape else 1
    for owner in np.unique(owners).tolist():
        own = owners == owner
        places = chosen[own]
        across = places % columns
        low, high = int(across.min()), int(across.max()) + 1
        yield Pick(owner, np.unique(places // columns), low, high, taken[own], places)
