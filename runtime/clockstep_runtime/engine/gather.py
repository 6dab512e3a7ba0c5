"""Operands put together from values.

A value is an array [vectors, batch, lanes] of unsigned integers as wide as its elements, or uint8
[vectors, batch, lanes, streams] where no integer is that wide. What no input has a part in has a
batch of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.engine.joined import joined
from clockstep_runtime.linker import Linked, Operands

__all__ = [
    "SEGMENT",
    "UNSIGNED",
    "Gatherer",
    "Known",
    "Rows",
    "as_bytes",
    "as_value",
    "byte_of",
    "places",
]

Array = NDArray[Any]
_Segment = tuple[int, ...]

SEGMENT = ("slot", "value", "part", "first", "pitch", "length", "source", "source_step")
"""Columns of `Operands` that have a row for each segment."""

UNSIGNED: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
}
"""The type of a value by the bytes of its elements."""

_KEPT_BYTES = 16 << 20
"""Operands that no input changes are kept from run to run up to this much."""


def as_bytes(value: Array) -> Array:
    """A value as uint8 [vectors, batch, lanes, streams]."""
    return value if value.ndim == 4 else value[..., None].view(np.uint8)


def as_value(raw: Array) -> Array:
    """uint8 [vectors, batch, lanes, streams] as a value."""
    whole = UNSIGNED.get(raw.shape[-1])
    return raw if whole is None else np.ascontiguousarray(raw).view(whole)[..., 0]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of every value before a run: its vectors, and whether it is of the image."""

    vectors: NDArray[np.int64]
    constant: NDArray[np.bool_]

    @staticmethod
    def of(linked: Linked) -> Known:
        """The values of a linked program."""
        blocks = linked.initial
        words = np.array([block.words for block in blocks], np.int64)
        constant = np.zeros(len(linked.columns) + len(blocks), np.bool_)
        constant[len(linked.columns) :] = [block.source == "image" for block in blocks]
        return Known(np.concatenate([linked.columns.vectors, words]), constant)


@dataclass(frozen=True, slots=True)
class Rows:
    """An operand with all its vectors, of which some can be had at a time.

    `batch` is how many runs they differ between; `some` gives the vectors of a slice.
    """

    batch: int
    some: Callable[[slice], Array]


class Gatherer:
    """Some operands of a linked program, by their number among these.

    An operand that is one stretch of one value is a view of it. Others are put together from bytes
    or vectors, each time anew unless all of them are words of the image.
    """

    def __init__(self, known: Known, operands: Operands) -> None:
        self._count = operands.count.tolist()
        self._width = operands.width.tolist()
        self._bounds = operands.begin.tolist()
        columns = [getattr(operands, name).tolist() for name in SEGMENT]
        self._segments: list[_Segment] = list(zip(*columns, strict=True))
        self._views = _views(known, operands)
        self._joined = joined(operands, [view is None for view in self._views])
        self._constant = _constant(known, operands)
        self._kept: dict[int, Array] = {}
        self._room = _KEPT_BYTES

    def __len__(self) -> int:
        return len(self._count)

    def count(self, number: int) -> int:
        """The vectors of the operand."""
        count: int = self._count[number]
        return count

    def value(self, number: int, values: Sequence[Array | None]) -> Array:
        """The operand as a value, with all its vectors."""
        view = self._views[number]
        if view is not None:
            whole = values[view[0]]
            assert whole is not None, "a value is used after its death"
            return whole if view[1] is None else whole[view[1]]
        kept = self._kept.get(number)
        return self._assembled(number, values) if kept is None else kept

    def rows(self, number: int, values: Sequence[Array | None]) -> Rows:
        """The operand to be had a few vectors at a time, put together only then if it has to be."""
        source = self._joined.get(number)
        if source is None or self._constant[number] or source.uniform:
            whole = self.value(number, values)
            return Rows(whole.shape[1], whole.__getitem__)
        return Rows(source.batch(values), partial(source.rows, values))

    def _assembled(self, number: int, values: Sequence[Array | None]) -> Array:
        count = self._count[number]
        source = self._joined.get(number)
        if source is not None:
            made = source.rows(values, slice(1 if source.uniform else count))
        else:
            segments = self._segments[self._bounds[number] : self._bounds[number + 1]]
            if count > 1 and all(s[5] == count and s[7] == 0 for s in segments):
                count = 1  # all vectors are the same
            made = _by_byte(segments, count, self._width[number], values)
        size = made.nbytes
        if len(made) != self._count[number]:
            made = np.broadcast_to(made, (self._count[number], *made.shape[1:]))
        if self._constant[number] and size <= self._room:
            self._room -= size
            self._kept[number] = made
        return made


def _views(known: Known, operands: Operands) -> list[tuple[int, slice | None] | None]:
    """Of which value an operand is a view, and which vectors of it; None for all of them."""
    at = np.flatnonzero(operands.whole)
    first = operands.begin[:-1][at]
    value, source = operands.value[first], operands.source[first]
    step, count = operands.source_step[first], operands.count[at]
    every = (source == 0) & (count == known.vectors[value]) & ((step == 1) | (count == 1))
    result: list[tuple[int, slice | None] | None] = [None] * len(operands)
    table = (at, value, source, step, count, every)
    for n, v, s, d, c, all_ in zip(*(column.tolist() for column in table), strict=True):
        if all_:
            result[n] = (v, None)
        elif d or c == 1:
            result[n] = (v, places(s, d, c))
    return result


def _constant(known: Known, operands: Operands) -> list[bool]:
    """Whether an operand is made of words of the image and nothing else."""
    changing = np.concatenate([[0], np.cumsum(~known.constant[operands.value])])
    result: list[bool] = (np.diff(changing[operands.begin]) == 0).tolist()
    return result


def _by_byte(
    segments: list[_Segment], count: int, width: int, values: Sequence[Array | None]
) -> Array:
    """Elements of `width` bytes, each byte from a stretch of its own."""
    parts = []
    for _, value, part, _, _, length, source, step in segments:
        whole = values[value]
        assert whole is not None, "a value is used after its death"
        parts.append(byte_of(whole[places(source, step, length)], part))
    if width == len(parts) == 1 and len(parts[0]) == count:
        return parts[0]
    batch = max(part.shape[1] for part in parts)
    raw = np.empty((count, batch, parts[0].shape[2], width), np.uint8)
    for (slot, _, _, first, pitch, length, _, _), plane in zip(segments, parts, strict=True):
        raw[places(first, pitch, length), ..., slot] = plane
    return as_value(raw)


def byte_of(value: Array, part: int) -> Array:
    """One byte of all elements, uint8 [vectors, batch, lanes]."""
    if value.itemsize == 1 and value.ndim == 3:
        return value
    return as_bytes(value)[..., part]


def places(first: int, step: int, length: int) -> slice:
    """`length` places from `first` on, `step` apart; one place if the step is 0."""
    if step == 0 or length == 1:
        return slice(first, first + 1)
    stop = first + step * length
    return slice(first, stop if stop >= 0 else None, step)
