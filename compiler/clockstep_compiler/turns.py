"""Transposes of whole matrices: source rows fill arrays, the rows of an identity pick from these.

A tile of the result is made for all its rows at once, so that an array is loaded once; the bytes of
an element are products of their own, side by side on the planes, so every bit pattern passes
exactly. What cannot be had that way is left to `movement.py`, block by block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from clockstep_compiler.blocks import dynamic_runs
from clockstep_compiler.kernel import Array, FromMxm
from clockstep_compiler.movement import TRUNCATE
from clockstep_compiler.steps import Transpose, Value
from clockstep_compiler.sweep_parts import APART, Busy, Job, Operand, places
from clockstep_compiler.sweeps import Sweeper
from clockstep_isa.table import Type

__all__ = ["Turner", "Window"]


class Window(NamedTuple):
    """`height` rows from `into` on are the lanes from `lane` on of tile `tile` of source rows from
    `first` on."""

    into: int
    height: int
    tile: int
    lane: int
    first: int


@dataclass(slots=True)
class Turner:
    """Schedules transposes, tile by tile; each plane has an identity of its own to read."""

    sweeper: Sweeper
    identities: dict[tuple[str, int], Value] = field(default_factory=dict)

    def make(self, step: Transpose, tile: int, chip: int) -> bool:
        """Every block of one tile of `step.out`; False if it cannot be done."""
        s = self.sweeper.s
        job = Job(step, chip, tile, TRUNCATE, (), [])
        lanes = s.storage.lanes_of(step.out, tile)
        column = tile * s.plan.machine.vector
        text = f"{step.out.name}[0:{step.out.rows}, {column}:{column + lanes}]"
        s.begin(step.nodes, text)
        chunks = range(s.storage.chunks(step.out))
        return self.sweeper.room.fill(job, chunks, lambda: self._run(job, step))

    def _run(self, job: Job, step: Transpose) -> None:
        """Each matrix of the batch, a tile of its columns after the other."""
        lanes, source = self.sweeper.s.plan.machine.vector, step.source
        height = source.rows // step.batch
        for batch in range(step.batch):
            for block in range(-(-source.columns // lanes)):
                count = min(lanes, source.columns - block * lanes)
                into = batch * source.columns + block * lanes
                first = batch * height + job.tile * lanes
                self.turn(job, source, Window(into, count, block, 0, first))

    def turn(self, job: Job, source: Value, window: Window) -> None:
        """A kernel for each byte of a window."""
        sweeper, out = self.sweeper, job.step.out
        s = sweeper.s
        rows = np.arange(window.into, window.into + window.height)
        columns, depth = s.storage.lanes_of(out, job.tile), s.storage.lanes_of(source, window.tile)
        for byte in range(out.type.bytes):
            side, plane = sweeper.next_plane()
            runs = dynamic_runs(s, source, window.first, columns, window.tile, job.chip, side)
            array = Array(side, plane, tuple(run.byte(byte) for run in runs))
            busy, parts = Busy(1), places(job, rows, s.storage.block_rows(out), byte)
            busy.parts(parts, sweeper.flight + APART)
            picked = np.arange(window.lane, window.lane + window.height)
            ones = Operand(self._identity(side, plane), picked)
            track = sweeper.reader.track(ones, 0, job.chip, busy, None, side)
            origin = FromMxm(track, Type.I8, depth, array)
            s.run(job.chip, TRUNCATE, [origin], window.height, 1, parts)

    def _identity(self, side: str, plane: int) -> Value:
        """Ones along the diagonal, for one plane."""
        if (side, plane) not in self.identities:
            size = self.sweeper.s.plan.machine.vector
            number = -(1 << 30) - 2 - len(self.identities)
            eye = np.eye(size, dtype=np.int8)
            self.identities[side, plane] = Value(
                number, "identity", size, size, Type.I8, "const", eye
            )
        return self.identities[side, plane]
