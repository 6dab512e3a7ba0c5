"""The instructions that the checks work on: columns with what the table says of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Geometry, Queue, Unit, geometry
from clockstep_isa.machine import Machine
from clockstep_isa.table import BY_NAME, TABLE, Field, Kind, Type, figure

__all__ = ["STREAM_WIDTHS", "Columns", "row_number"]

Ints = NDArray[np.int64]

STREAM_WIDTHS = np.array([kind.bytes for kind in sorted(Type)], np.int64)
"""Streams of a type, by its code."""


def row_number(name: str) -> int:
    """Index in `TABLE` of the row `name`."""
    return TABLE.index(BY_NAME[name])


@dataclass(frozen=True, slots=True)
class Columns:
    """Instructions as arrays of one length, sorted by queue and start.

    `queue` counts over all chips, `local` is the queue's id on its chip and `x` its position;
    `row` indexes `TABLE`. Dispatch i is in cycle `start + i * step`, for i < `count`.
    """

    machine: Machine
    queue: Ints
    row: Ints
    start: Ints
    count: Ints
    step: Ints
    args: Ints

    def __len__(self) -> int:
        return len(self.queue)

    def take(self, index: NDArray[Any]) -> Columns:
        """The instructions at `index` (a mask or positions)."""
        return Columns(
            self.machine,
            self.queue[index],
            self.row[index],
            self.start[index],
            self.count[index],
            self.step[index],
            self.args[index],
        )

    def cut(self, count: Ints) -> Columns:
        """The same instructions with fewer dispatches."""
        return replace(self, count=count)

    def only(self, *units: Unit) -> Columns:
        """The instructions of some kinds of queue."""
        wanted = np.array([row.unit in units for row in TABLE])
        return self.take(wanted[self.row])

    def where(self, *names: str) -> Ints:
        """Which instructions are of some rows."""
        wanted = np.array([row.name in names for row in TABLE])
        return np.flatnonzero(wanted[self.row])

    def named(self, *names: str) -> Columns:
        """The instructions of some rows."""
        return self.take(self.where(*names))

    def field(self, name: str) -> Ints:
        """A field by name, 0 for instructions whose row has none."""
        held = [[item.name for item in row.fields] for row in TABLE]
        at = np.array([names.index(name) if name in names else -1 for names in held])[self.row]
        return np.where(at < 0, 0, self.args[np.arange(len(self)), at])

    @property
    def geometry(self) -> Geometry:
        return geometry(self.machine)

    @property
    def chip(self) -> Ints:
        return self.queue // len(self.geometry.queues)

    @property
    def local(self) -> Ints:
        return self.queue % len(self.geometry.queues)

    @property
    def x(self) -> Ints:
        return np.array([q.x for q in self.geometry.queues], np.int64)[self.local]

    @property
    def last(self) -> Ints:
        """Cycle of the last dispatch."""
        return self.start + (self.count - 1) * self.step

    @property
    def vectors(self) -> Ints:
        """Vectors of what an instruction makes: one a dispatch, of `scatter` all of its words."""
        return np.where(self.row == row_number("scatter"), self.field("words"), self.count)

    @property
    def reach(self) -> tuple[Ints, Ints]:
        """The lowest word that an access with a map may touch, and how many from it on.

        Those of `scatter` and `gather`, whatever the map says.
        """
        way = (self.count - 1) * self.field("stride")
        return self.field("address") + np.minimum(0, way), self.field("words") + np.abs(way)

    @property
    def skew(self) -> Ints:
        return self._figures([row.skew for row in TABLE])

    @property
    def latency(self) -> Ints:
        return self._figures([row.latency for row in TABLE])

    @property
    def busy(self) -> Ints:
        """Cycles that a dispatch holds its unit; an int8 activation only one."""
        cycles = self._figures([row.busy for row in TABLE])
        kind = self.args[:, BY_NAME["abc"].field("type")]
        light = (self.row == row_number("abc")) & (kind == Type.I8)
        return np.where(light, 1, cycles)

    def _figures(self, names: list[int | str]) -> Ints:
        return np.array([figure(self.machine, name) for name in names], np.int64)[self.row]

    def unit(self, index: int) -> Queue:
        """The queue of one instruction."""
        return self.geometry.queues[int(self.queue[index]) % len(self.geometry.queues)]

    def widths(self, item: Field) -> Ints:
        """Streams of a STREAM field of instructions that all have one row."""
        if isinstance(item.width, int):
            return np.full(len(self), item.width, np.int64)
        row = TABLE[int(self.row[0])]
        at = row.field(item.width)
        values = self.args[:, at]
        if row.fields[at].kind is not Kind.TYPE:
            return values
        return STREAM_WIDTHS[np.clip(values, 0, len(STREAM_WIDTHS) - 1)]
