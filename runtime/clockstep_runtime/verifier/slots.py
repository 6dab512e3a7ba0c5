"""Streams: every sample finds a slot that a producer upstream filled, no slot has two at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import EAST
from clockstep_isa.table import TABLE, Kind
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.progressions import (
    Progressions,
    Segments,
    collisions,
    expand,
    first_missing,
    match,
)
from clockstep_runtime.verifier.report import Findings

__all__ = ["Operands", "Slots", "check_slots"]

Ints = NDArray[np.int64]
_STREAMS = 256
"""Stream numbers of a direction: those that a STREAM field can name."""


@dataclass(frozen=True, slots=True)
class Operands:
    """All stream operands of one role, a row for each of their streams.

    `field` numbers the operand in its row of the table, `part` the stream in the operand.
    Operands stand in the order of their instructions, and their streams in order.
    """

    phases: Progressions
    field: Ints
    part: Ints

    def __len__(self) -> int:
        return len(self.part)


@dataclass(frozen=True, slots=True)
class Slots:
    """Every sample and where it comes from: `segments` join rows of `samples` and `results`."""

    samples: Operands
    results: Operands
    segments: Segments


def check_slots(columns: Columns, findings: Findings) -> Slots:
    """Match all samples with all results, per chip, direction and stream, by phase."""
    results = _touched(columns, "out")
    samples = _touched(columns, "in")
    findings.count("slots", int(samples.phases.count.sum()))
    segments = match(results.phases, samples.phases)
    _check_samples(columns, samples.phases, segments, findings)
    _check_producers(columns, results.phases, findings)
    return Slots(samples, results, segments)


def _touched(columns: Columns, role: str) -> Operands:
    """The phases of all stream operands of one role, a progression a stream."""
    parts = [tuple(np.zeros(0, np.int64) for _ in range(8))]
    for row in np.unique(columns.row).tolist():
        items = [f for f in TABLE[row].fields if f.kind is Kind.STREAM and f.role == role]
        if not items:
            continue
        where = np.flatnonzero(columns.row == row)
        these = columns.take(where)
        delay = these.latency if role == "out" else these.skew
        for number, item in enumerate(items):
            value = these.args[:, TABLE[row].field(item.name)]
            parts.append(_streams(these, where, number, value, these.widths(item), delay))
    table = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((table[7], table[6], table[5]))
    *phases, field, part = (column[order] for column in table)
    return Operands(Progressions(*phases), field, part)


def _streams(
    these: Columns, owner: Ints, number: int, value: Ints, width: Ints, delay: Ints
) -> tuple[Ints, ...]:
    """The columns of `Progressions`, field and part for operands `value` of `width` streams."""
    direction = value >> 8
    position = np.where(direction == EAST, these.x, -these.x)
    # cycle - x eastward, cycle + x westward: also the depth, hops from the upstream edge.
    phase = these.start + delay - position
    group = (these.chip * 2 + direction) * _STREAMS + (value & 255)
    each, stream = expand(width)
    return (
        group[each] + stream,
        position[each],
        phase[each],
        these.step[each],
        these.count[each],
        owner[each],
        np.full(len(each), number),
        stream,
    )


def _check_samples(
    columns: Columns, consumers: Progressions, segments: Segments, findings: Findings
) -> None:
    missing = first_missing(segments, consumers.count)
    bad = np.flatnonzero(missing >= 0)
    # Phase plus depth is the cycle, in either direction.
    cycles = consumers.start + consumers.depth + missing * consumers.step

    def add(index: int, cycle: int) -> None:
        owner = int(consumers.owner[index])
        unit, chip = columns.unit(owner), int(columns.chip[owner])
        name = TABLE[int(columns.row[owner])].name
        stream = _stream_name(int(consumers.group[index]))
        message = f"{name}: nothing is on {stream} at position {unit.x}"
        findings.add("slot-empty", chip, unit.name, cycle, message)

    findings.add_all(bad, cycles[bad], add)


def _check_producers(columns: Columns, producers: Progressions, findings: Findings) -> None:
    for first, second, phase in collisions(producers):
        owners = (int(producers.owner[first]), int(producers.owner[second]))
        owner = max(owners, key=lambda index: int(columns.queue[index]))
        unit, chip = columns.unit(owner), int(columns.chip[owner])
        stream = _stream_name(int(producers.group[first]))
        cycle = phase + int(producers.depth[first])
        message = f"{stream} has two producers at position {unit.x}"
        findings.add("slot-two-producers", chip, unit.name, cycle, message)


def _stream_name(group: int) -> str:
    return f"{'EW'[group // _STREAMS % 2]}{group % _STREAMS}"
