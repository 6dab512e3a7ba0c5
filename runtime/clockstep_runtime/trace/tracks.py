"""The tracks of a trace, in the order in which a person looks at them.

A tree: the program with its nodes, then every chip with its counters, its units by kind, its
streams, and its slices with their banks. Units that do nothing have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_isa import Program
from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.machine import Machine
from clockstep_runtime.trace.counters import COUNTERS
from clockstep_runtime.trace.sheet import Sheet

__all__ = ["ChipTracks", "lay_out"]

Ints = NDArray[np.int64]

_BEFORE = (
    ("MXM", (Unit.LW, Unit.ABC, Unit.ACC)),
    ("VXM", (Unit.VXM,)),
    ("SXM", (Unit.PERMUTE, Unit.TRANSPOSE, Unit.DISTRIBUTE)),
    ("C2C", (Unit.SEND, Unit.RECEIVE)),
)
"""Kinds of units shown above the streams; the slices are below them."""


@dataclass(frozen=True, slots=True)
class ChipTracks:
    """Tracks by queue (0: none), by queue and bank, by side, and counters by chip and name."""

    queues: Ints
    banks: Ints
    sides: dict[int, int] = field(default_factory=dict)
    counters: dict[int, dict[str, int]] = field(default_factory=dict)


def lay_out(
    sheet: Sheet, program: Program, chips: Sequence[int], used: Ints, parent: int
) -> ChipTracks:
    """Make the tracks of `chips` below `parent`; of the units those whose queues are `used`."""
    machine = program.machine
    total = program.chips * len(geometry(machine).queues)
    tracks = ChipTracks(np.zeros(total, np.int64), np.zeros((total, machine.mem.banks), np.int64))
    busy = set(used.tolist())
    for chip in chips:
        _lay_out_chip(sheet, machine, sheet.track(f"chip {chip}", parent), chip, busy, tracks)
    return tracks


def _lay_out_chip(
    sheet: Sheet, machine: Machine, root: int, chip: int, busy: set[int], tracks: ChipTracks
) -> None:
    queues = geometry(machine).queues
    base = chip * len(queues)
    tracks.counters[chip] = {
        c.name: sheet.track(c.name, root, unit=c.unit, description=c.doc) for c in COUNTERS
    }

    def units(title: str, kinds: tuple[Unit, ...]) -> list[int]:
        mine = [q for q in queues if q.unit in kinds and base + q.id in busy]
        parent = sheet.track(title, root) if mine else 0
        for q in mine:
            tracks.queues[base + q.id] = sheet.track(q.name, parent)
        return [base + q.id for q in mine]

    for title, kinds in _BEFORE:
        units(title, kinds)
    for direction, side in enumerate(("eastward", "westward")):
        tracks.sides[2 * chip + direction] = sheet.track(f"streams {side}", root)
    for queue in units("MEM", (Unit.MEM,)):
        for bank in range(machine.mem.banks):
            tracks.banks[queue, bank] = sheet.track(f"bank {bank}", int(tracks.queues[queue]))
