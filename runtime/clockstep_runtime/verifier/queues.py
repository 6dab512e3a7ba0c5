"""Queues and banks: one instruction at a time, and no unit used faster than it works."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.table import BY_NAME, TABLE
from clockstep_runtime.verifier.columns import STREAM_WIDTHS, Columns
from clockstep_runtime.verifier.progressions import intersect
from clockstep_runtime.verifier.report import Findings

__all__ = ["check_addresses", "check_queues"]

Ints = NDArray[np.int64]


def check_addresses(columns: Columns, findings: Findings) -> Ints:
    """Per instruction how many dispatches come before one whose address is out of range.

    Words of a slice for what accesses memory, columns of the weight buffer for `lw`.
    """
    count = columns.count.copy()
    machine = columns.machine
    for name, low, size in (
        ("read", "address", machine.words_per_slice),
        ("write", "address", machine.words_per_slice),
        ("scatter", "address", machine.words_per_slice),
        ("gather", "address", machine.words_per_slice),
        ("lw", "column", machine.vector),
    ):
        row = BY_NAME[name]
        where = np.flatnonzero(columns.row == TABLE.index(row))
        these = columns.take(where)
        first = these.args[:, row.field(low)]
        stride = these.field("stride")
        reach = _columns_loaded(these) if name == "lw" else np.maximum(1, these.field("words"))
        # Dispatches before the first one out of range: none, or as far as the stride carries.
        room = np.where(stride > 0, size - reach - first, first) // np.maximum(np.abs(stride), 1)
        inside = (first >= 0) & (first + reach <= size)
        legal: Ints = np.where(inside, np.where(stride == 0, these.count, room + 1), 0)
        count[where] = np.minimum(these.count, legal)
        bad = np.flatnonzero(legal < these.count)
        cycles: Ints = these.start[bad] + legal[bad] * these.step[bad]

        def add(index: int, cycle: int, these: Columns = these, what: str = low) -> None:
            unit, chip = these.unit(index), int(these.chip[index])
            findings.add("address-range", chip, unit.name, cycle, f"{what} does not exist")

        findings.add_all(bad, cycles, add)
    return count


def _columns_loaded(loads: Columns) -> Ints:
    row = BY_NAME["lw"]
    width = STREAM_WIDTHS[loads.args[:, row.field("type")]]
    columns: Ints = loads.args[:, row.field("count")] // width
    return columns


def check_queues(columns: Columns, findings: Findings) -> NDArray[np.bool_]:
    """Which instructions do not begin while an earlier one of their queue is dispatched."""
    findings.count("queues", len(np.unique(columns.queue)))
    held = _held_until(columns)
    overlapping = columns.start < held
    bad = np.flatnonzero(overlapping)

    def add(index: int, cycle: int) -> None:
        unit, chip = columns.unit(index), int(columns.chip[index])
        row = TABLE[int(columns.row[index])]
        message = f"{row.name}: its queue is held until cycle {int(held[index])}"
        findings.add("queue-overlap", chip, unit.name, cycle, message)
        if row.unit is Unit.MEM:
            _check_bank(columns, index, findings)

    findings.add_all(bad, columns.start[bad], add)
    _check_busy(columns.take(~overlapping), findings)
    return ~overlapping


def _held_until(columns: Columns) -> Ints:
    """Per instruction the end of the longest span among those before it in its queue, or 0."""
    held = np.zeros(len(columns), np.int64)
    if not len(columns):
        return held
    end = columns.last + 1
    first = np.concatenate([[True], columns.queue[1:] != columns.queue[:-1]])
    held[1:] = np.where(first[1:], 0, end[:-1])
    # Where spans of a queue overlap, the longest span so far decides: rare, so one by one.
    late = np.unique(columns.queue[columns.start < held])
    for queue in late.tolist():
        begin, stop = np.searchsorted(columns.queue, [queue, queue + 1]).tolist()
        held[begin + 1 : stop] = np.maximum.accumulate(end[begin : stop - 1])
    return held


def _check_bank(columns: Columns, index: int, findings: Findings) -> None:
    """Two accesses of one bank in one cycle, by an instruction and the one before it."""
    pair = (index - 1, index)
    earlier, later = ((columns.start[[i]], columns.step[[i]], columns.count[[i]]) for i in pair)
    first, _, common, other, _ = intersect(earlier, later)
    if not common[0]:
        return
    banks = [
        _address(columns, i, int(number[0])) // columns.machine.mem.words_per_bank
        for i, number in zip(pair, (first, other), strict=True)
    ]
    if banks[0] == banks[1]:
        cycle = int(columns.start[index] + other[0] * columns.step[index])
        unit, chip = columns.unit(index), int(columns.chip[index])
        findings.add("bank-conflict", chip, unit.name, cycle, f"bank {banks[0]} is accessed twice")


def _address(columns: Columns, index: int, step: int) -> int:
    one = columns.take(np.array([index]))
    return int(one.field("address")[0] + step * one.field("stride")[0])


def _check_busy(columns: Columns, findings: Findings) -> None:
    """Successive dispatches at least `busy` apart: within a repeat, and from one to the next."""
    busy = columns.busy

    def add(index: int, cycle: int) -> None:
        unit, chip = columns.unit(index), int(columns.chip[index])
        name = TABLE[int(columns.row[index])].name
        code = "link-busy" if unit.unit is Unit.SEND else "unit-busy"
        findings.add(code, chip, unit.name, cycle, f"{name}: the unit is still busy")

    within = np.flatnonzero((columns.count > 1) & (columns.step < busy))
    findings.add_all(within, (columns.start + columns.step)[within], add)
    same = columns.queue[1:] == columns.queue[:-1]
    early = columns.start[1:] < (columns.last + busy)[:-1]
    after = np.flatnonzero(same & early) + 1
    findings.add_all(after, columns.start[after], add)
