"""What a step computes from its operands, by the row of its instruction."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import ENUMS, TABLE, Instruction, Kind, Type
from clockstep_runtime.engine.gather import UNSIGNED, as_bytes, as_value
from clockstep_runtime.semantics import EXECUTES

__all__ = ["Compute", "compute_of", "gathered", "scattered"]

Array = NDArray[Any]
Compute = Callable[..., Array]
"""The operands of an instruction to the value it makes."""

_SETTINGS = tuple(
    tuple(at for at, item in enumerate(row.fields) if item.kind is not Kind.STREAM) for row in TABLE
)
"""By row, the fields that say what is computed."""

_EXCHANGES = (Unit.PERMUTE, Unit.TRANSPOSE, Unit.DISTRIBUTE)


def compute_of(row: int, fields: list[int], per_superlane: int) -> Compute:
    """What an instruction of the VXM or SXM computes: its row of the table, and its fields."""
    return _compute(row, tuple(fields[at] for at in _SETTINGS[row]), per_superlane)


def scattered(first: int, vector: Array, place: Array, words: Array) -> Array:
    """Words [n, batch, lanes] with a vector [1, batch, lanes] where lane 0 of its `place` says,
    counted from `first`."""
    batch = max(vector.shape[1], place.shape[1], words.shape[1])
    whole = np.broadcast_to(words, (len(words), batch, words.shape[2])).copy()
    where = np.broadcast_to(place[0, :, 0] - np.uint16(first), batch)
    inside = np.flatnonzero(where < len(words))
    whole[where[inside], inside] = np.broadcast_to(vector[0], (batch, vector.shape[2]))[inside]
    return whole


def gathered(first: int, stride: int, words: int, place: Array, table: Array) -> Array:
    """Vectors [n, batch, lanes] of a table [any, batch, lanes]: of `words` that begin `stride`
    further on each time, the one that lane 0 of `place` [n, batch, lanes] says, counted from
    `first`; zeros where it is none of them."""
    count, batch = len(place), max(place.shape[1], table.shape[1])
    where = (place[:, :, 0] - np.uint16(first)).astype(np.int64)
    inside = where < words
    start = np.arange(count) * stride - min(0, (count - 1) * stride)
    where = np.broadcast_to(np.where(inside, where + start[:, None], 0), (count, batch))
    run = np.arange(batch) if table.shape[1] > 1 else np.zeros(batch, np.int64)
    found: Array = table[where, run]
    found[~np.broadcast_to(inside, (count, batch))] = 0
    return found


@lru_cache(1 << 12)
def _compute(index: int, settings: tuple[int, ...], per_superlane: int) -> Compute:
    row = TABLE[index]
    named = {row.fields[at].name: v for at, v in zip(_SETTINGS[index], settings, strict=True)}
    if row.unit in _EXCHANGES:
        return _exchange(row, named, per_superlane)
    assert row.unit is Unit.VXM, f"{row.name} is no instruction that computes from its operands"
    return _elementwise(row, named)


def _elementwise(row: Instruction, settings: dict[str, int]) -> Compute:
    """A VXM row: its function in `semantics`, on typed elements."""
    dtype = numpy_type(Type(settings["type"]))
    immediates = []
    named: dict[str, Any] = {}
    for item in row.fields:
        if item.kind is Kind.IMMEDIATE:
            immediates.append(np.array([settings[item.name]], "<u4").view(dtype)[:1])
        elif item.kind is Kind.TYPE and item.name != "type":
            named[item.name] = Type(settings[item.name])
        elif item.kind in ENUMS:
            named[item.name] = ENUMS[item.kind][settings[item.name]]
    function = partial(EXECUTES[row.name], **named) if named else EXECUTES[row.name]

    def compute(*operands: Array) -> Array:
        result = function(*[operand.view(dtype) for operand in operands], *immediates)
        return result.view(UNSIGNED[result.itemsize])

    return compute


def _exchange(row: Instruction, settings: dict[str, int], per_superlane: int) -> Compute:
    """An SXM row: its function in `semantics`, on bytes [..., lanes, streams]."""
    named = {name: value for name, value in settings.items() if name != "width"}
    if row.unit is not Unit.PERMUTE:
        named["per_superlane"] = per_superlane
    function = partial(EXECUTES[row.name], **named)
    return lambda *operands: as_value(function(*map(as_bytes, operands)))
