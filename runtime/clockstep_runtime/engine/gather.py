"""Operands put together from values.

A value is an array [vectors, batch, lanes] of unsigned integers as wide as its elements, or uint8
[vectors, batch, lanes, streams] where no integer is that wide. What no input has a part in has a
batch of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.linker import Operands

__all__ = ["SEGMENT", "UNSIGNED", "Gatherer", "as_bytes", "as_value"]

Array = NDArray[Any]
SEGMENT = ("slot", "value", "part", "first", "pitch", "length", "source", "source_step")
"""Columns of `Operands` that have a row for each segment."""

UNSIGNED: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
}
"""The type of a value by the bytes of its elements."""


def as_bytes(value: Array) -> Array:
    """A value as uint8 [vectors, batch, lanes, streams]."""
    return value if value.ndim == 4 else value[..., None].view(np.uint8)


def as_value(raw: Array) -> Array:
    """uint8 [vectors, batch, lanes, streams] as a value."""
    whole = UNSIGNED.get(raw.shape[-1])
    return raw if whole is None else raw.view(whole)[..., 0]


class Gatherer:
    """Operands `begin` to `end` of a table, by their number in it."""

    def __init__(self, operands: Operands, begin: int, end: int) -> None:
        self._begin = begin
        bounds = operands.begin[begin : end + 1]
        low, high = int(bounds[0]), int(bounds[-1])
        self.owner = operands.owner[begin:end].tolist()
        self.column = operands.column[begin:end].tolist()
        self.stride = operands.stride[begin:end].tolist()
        self.count = operands.count[begin:end].tolist()
        self._width = operands.width[begin:end].tolist()
        self._aligned = operands.aligned[begin:end].tolist()
        self._bounds = (bounds - low).tolist()
        self._segments = list(
            zip(
                *(getattr(operands, name)[low:high].tolist() for name in SEGMENT),
                strict=True,
            )
        )

    def value(self, number: int, values: Sequence[Array | None]) -> Array:
        """The operand as a value; a view wherever it is one stretch of another value."""
        segments = self._segments[self._bounds[number] : self._bounds[number + 1]]
        count = self.count[number]
        if self._aligned[number]:
            _, value, _, first, _, length, source, step = segments[0]
            if length == count and first == 0:
                return _stretch(values[value], source, step, length)
            return self._joined(segments, count, values)
        return self._by_byte(segments, count, self._width[number], values)

    def _joined(
        self, segments: list[tuple[int, ...]], count: int, values: Sequence[Array | None]
    ) -> Array:
        parts = [_stretch(values[s[1]], s[6], s[7], s[5]) for s in segments]
        batch = max(part.shape[1] for part in parts)
        out = np.empty((count, batch, *parts[0].shape[2:]), parts[0].dtype)
        for (_, _, _, first, pitch, length, _, _), part in zip(segments, parts, strict=True):
            out[_range(first, pitch, length)] = part
        return out

    def _by_byte(
        self,
        segments: list[tuple[int, ...]],
        count: int,
        width: int,
        values: Sequence[Array | None],
    ) -> Array:
        parts = []
        for _, value, part, _, _, length, source, step in segments:
            whole = values[value]
            assert whole is not None
            parts.append(as_bytes(whole[_range(source, step, length)])[..., part])
        if width == 1 and len(parts) == 1 and segments[0][5] == count:
            only, length = parts[0], segments[0][5]
            return np.broadcast_to(only, (length, *only.shape[1:]))
        batch = max(part.shape[1] for part in parts)
        raw = np.empty((count, batch, parts[0].shape[2], width), np.uint8)
        for (slot, _, _, first, pitch, length, _, _), plane in zip(segments, parts, strict=True):
            raw[_range(first, pitch, length), ..., slot] = plane
        return as_value(raw)


def _stretch(value: Array | None, source: int, step: int, length: int) -> Array:
    assert value is not None, "a value is used after its death"
    if length == 1 or step:
        return value[_range(source, step, length)]
    return np.broadcast_to(value[source : source + 1], (length, *value.shape[1:]))


def _range(first: int, step: int, length: int) -> slice:
    """`length` places from `first` on, `step` apart; one place if the step is 0."""
    if step == 0 or length == 1:
        return slice(first, first + 1)
    stop = first + step * length
    return slice(first, stop if stop >= 0 else None, step)
