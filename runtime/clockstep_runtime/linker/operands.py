"""Operands: streams joined to typed elements, and the values that their vectors are taken from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.table import TABLE, Kind, Type
from clockstep_runtime.linker.flow import Flow
from clockstep_runtime.verifier import Columns, Resolution, expand

__all__ = ["Operands", "Wanted", "join", "sampled", "value_widths"]

Ints = NDArray[np.int64]
_MOVERS = ("read", "write", "send", "receive", "acc", "mov", "iw")
_PRODUCT_BYTES = 4


_PER_OPERAND = ("owner", "column", "stride", "count", "width", "aligned")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Operands to be joined. Stream `slot` of operand `operand` is what the flow calls `key`.

    `owner` (an instruction, or past all of these an output) and `count`, the dispatches, are per
    operand, and so are `column` and `stride`, of weights.
    """

    key: Ints
    operand: Ints
    slot: Ints
    owner: Ints
    column: Ints
    stride: Ints
    count: Ints


@dataclass(frozen=True, slots=True)
class Operands:
    """Operand i has `count[i]` vectors of `width[i]` bytes a lane, from segments begin[i] on.

    `owner` samples it: an instruction or, past all of these, an output. A column of weights goes to
    columns `column` + k * `stride` of the array.

    An `aligned` operand takes whole elements of values as wide as itself. Of the others every
    segment fills one byte, `slot`, from the byte `part` of the value's elements. Vector
    `first + k * pitch` is vector `source + k * source_step` of `value`, for k < `length`.
    """

    owner: Ints
    column: Ints
    stride: Ints
    count: Ints
    width: Ints
    aligned: NDArray[np.bool_]
    begin: Ints  # one longer than those above
    slot: Ints
    value: Ints
    part: Ints
    first: Ints
    pitch: Ints
    length: Ints
    source: Ints
    source_step: Ints

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Operands that are, vector by vector, one stretch of one value."""
        one: NDArray[np.bool_] = self.aligned & (np.diff(self.begin) == 1)
        at = self.begin[:-1][one]
        one[one] = (self.length[at] == self.count[one]) & (self.first[at] == 0)
        return one

    def entire(self, columns: Columns) -> NDArray[np.bool_]:
        """Operands that are all vectors, in order, of what one instruction makes."""
        entire = self.whole
        at = self.begin[:-1][entire]
        inside = self.value[at] < len(columns)
        count = np.append(columns.vectors, 0)[np.minimum(self.value[at], len(columns))]
        straight = (self.length[at] == 1) | (self.source_step[at] == 1)
        entire[entire] = inside & straight & (self.source[at] == 0) & (self.length[at] == count)
        return entire

    def between(self, low: int, high: int) -> Operands:
        """The operands `low` to `high`, with their segments: views, whatever their number."""
        first, last = int(self.begin[low]), int(self.begin[high])
        columns = {
            item.name: getattr(self, item.name)[
                slice(low, high) if item.name in _PER_OPERAND else slice(first, last)
            ]
            for item in fields(self)
            if item.name != "begin"
        }
        return Operands(begin=self.begin[low : high + 1] - first, **columns)

    def take(self, index: Ints) -> Operands:
        """The operands at `index`, with their segments."""
        size = np.diff(self.begin)[index]
        begin = np.concatenate([[0], np.cumsum(size)])
        each, number = expand(size)
        segment = self.begin[:-1][index][each] + number
        columns = {
            item.name: getattr(self, item.name)[index if item.name in _PER_OPERAND else segment]
            for item in fields(self)
            if item.name != "begin"
        }
        return Operands(begin=begin, **columns)


def sampled(found: Resolution) -> Wanted:
    """The operands of all instructions that compute; `lw` has one for each column."""
    columns, samples = found.columns, found.slots.samples
    owner = samples.phases.owner
    moves = np.array([row.name in _MOVERS for row in TABLE])
    rows = np.flatnonzero(~moves[columns.row[owner]])
    owner, part = owner[rows], samples.part[rows]
    loads = np.zeros(len(columns), np.bool_)
    loads[columns.where("lw")] = True
    size = np.array([kind.bytes for kind in sorted(Type)])[columns.field("type")]
    slot = np.where(loads[owner], part % size[owner], part)
    begins = np.flatnonzero(slot == 0)
    operand = np.cumsum(slot == 0) - 1
    owner, part = owner[begins], part[begins]
    column = np.where(loads[owner], columns.field("column")[owner] + part // size[owner], 0)
    stride = np.where(loads[owner], columns.field("stride")[owner], 0)
    return Wanted(rows, operand, slot, owner, column, stride, columns.count[owner])


def join(wanted: Wanted, flow: Flow, widths: Ints) -> Operands:
    """Find for every operand the stretches of values it is made of. `widths`: see below."""
    keys = np.arange(int(wanted.key.max(initial=-1)) + 2)
    bounds = np.searchsorted(flow.key, keys)
    begin, end = bounds[wanted.key], bounds[wanted.key + 1]
    width = np.bincount(wanted.operand, minlength=len(wanted.owner)).astype(np.int64)
    lead = begin[np.cumsum(width) - width] if len(width) else width
    stream, rank = expand(end - begin)
    at = begin[stream] + rank
    operand = wanted.operand[stream]
    twin = lead[operand] + rank
    slot = wanted.slot[stream]
    alike = (flow.part[at] == slot) & (widths[flow.value[at]] == width[operand])
    for name in ("value", "first", "step", "count", "source", "source_step"):
        column = getattr(flow, name)
        alike &= column[at] == column[np.minimum(twin, len(column) - 1)]
    aligned = np.ones(len(width), np.bool_)
    aligned[operand[~alike]] = False
    # As many stretches in every stream.
    found = end - begin
    first = found[np.cumsum(width) - width] if len(width) else width
    aligned[wanted.operand[found != first[wanted.operand]]] = False
    keep = (slot == 0) | ~aligned[operand]
    at, operand, slot = at[keep], operand[keep], slot[keep]
    bounds = np.searchsorted(operand, np.arange(len(width) + 1))
    return Operands(
        wanted.owner,
        wanted.column,
        wanted.stride,
        wanted.count,
        width,
        aligned,
        bounds,
        slot,
        flow.value[at],
        flow.part[at],
        flow.first[at],
        flow.step[at],
        flow.count[at],
        flow.source[at],
        flow.source_step[at],
    )


def value_widths(columns: Columns, initial: int) -> Ints:
    """Bytes of an element of every value: of instructions, then of `initial` blocks."""
    widths = np.ones(len(columns) + initial, np.int64)
    for row in np.unique(columns.row).tolist():
        items = [f for f in TABLE[row].fields if f.kind is Kind.STREAM and f.role == "out"]
        where = np.flatnonzero(columns.row == row)
        if TABLE[row].name == "abc":
            widths[where] = _PRODUCT_BYTES
        elif items:
            widths[where] = columns.take(where).widths(items[0])
    return widths
