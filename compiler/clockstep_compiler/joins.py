"""Moves of whole matrices, tile by tile over all rows: what advances regularly in long runs.

Rows are joined and turned as `patterns.py` says. What is not regular is left to `movement.py`,
block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.kernel import FromMem, FromMxm, Origin, Piece, Rows
from clockstep_compiler.movement import TRUNCATE, Mover, chosen, kept
from clockstep_compiler.patterns import Join, Source, Turn, patterns
from clockstep_compiler.patterns import Part as Lanes
from clockstep_compiler.scheduler import Part, Place, move_program
from clockstep_compiler.steps import Move
from clockstep_compiler.storage import Copy
from clockstep_compiler.sums import group_size
from clockstep_compiler.sweep_parts import APART, Busy, Job, Operand, places, runs_of
from clockstep_compiler.turns import Turner, Window
from clockstep_isa.table import Type

__all__ = ["Joiner"]

_MOST = 1 << 20
"""Elements of a tile of the result whose patterns are found at once."""

_LONG = 8
"""Rows of a run on average from which on a kernel takes all of them."""


@dataclass(slots=True)
class Joiner:
    """Schedules moves."""

    turner: Turner
    mover: Mover

    def make(self, step: Move, tile: int, chip: int) -> bool:
        """Every block of one tile of `step.out`; False if it cannot be done."""
        sweeper = self.turner.sweeper
        s, vector = sweeper.s, sweeper.s.plan.machine.vector
        lanes = s.storage.lanes_of(step.out, tile)
        if step.out.rows * lanes > _MOST:
            return False
        column, first, sources = tile * vector, 0, []
        for value in step.sources:
            sources.append(Source(value.rows, value.columns, first))
            first += value.rows * value.columns
        found = patterns(step.index[:, column : column + lanes], tuple(sources), vector)
        if not all(self._is_regular(step, pattern) for pattern in found):
            return False
        job = Job(step, chip, tile, TRUNCATE, (), [])
        s.begin(step.nodes, f"{step.out.name}[0:{step.out.rows}, {column}:{column + lanes}]")
        chunks = range(s.storage.chunks(step.out))
        return sweeper.room.fill(job, chunks, lambda: self._run(job, step, found))

    def _is_regular(self, step: Move, pattern: Join | Turn) -> bool:
        """Whether a pattern is of few long runs, in the result and in every source."""
        if isinstance(pattern, Turn):
            return all(
                bool((np.diff(rows) == 1).all())
                for rows in (pattern.into, pattern.columns, pattern.lanes)
            )
        size = self.turner.sweeper.s.storage.block_rows
        read = [(pattern.into, size(step.out))]
        read += [(part.rows, size(step.sources[part.source])) for part in pattern.parts]
        return bool(pattern.parts) and all(
            _LONG * sum(1 for _ in runs_of(rows, block)) <= len(rows) for rows, block in read
        )

    def _run(self, job: Job, step: Move, found: list[Join | Turn]) -> None:
        for pattern in found:
            if isinstance(pattern, Turn):
                into, lane, first = (
                    int(rows[0]) for rows in (pattern.into, pattern.lanes, pattern.columns)
                )
                window = Window(into, len(pattern.into), pattern.tile, lane, first)
                self.turner.turn(job, step.sources[pattern.source], window)
            elif len(pattern.parts) == 1 and kept(pattern.parts[0].lanes):
                self._copy(job, step, pattern)
            else:
                for byte in range(step.out.type.bytes):
                    self._choose(job, step, pattern, byte)

    def _copy(self, job: Job, step: Move, join: Join) -> None:
        """Rows whose lanes stay where they are."""
        sweeper = self.turner.sweeper
        s, part = sweeper.s, join.parts[0]
        parts, busy = places(job, join.into, s.storage.block_rows(step.out)), Busy(1)
        busy.parts(parts, APART)
        operand = Operand(step.sources[part.source], part.rows)
        track = sweeper.reader.track(operand, part.tile, job.chip, busy, None)
        kind, count = step.out.type, len(join.into)
        s.run(job.chip, move_program(kind), [FromMem(track)], count, 1, parts)

    def _choose(self, job: Job, step: Move, join: Join, byte: int) -> None:
        """One byte of joined rows: products with arrays of zeros and ones, added up."""
        sweeper = self.turner.sweeper
        s, count = sweeper.s, len(join.into)
        joined: Copy | None = None
        groups = self._groups(step, join)
        for k, group in enumerate(groups):
            busy, room = Busy(1), None
            if k < len(groups) - 1:
                avoid = job.taken | (joined.slices if joined else frozenset())
                near = sweeper.room.near(job)
                room, since = s.room(job.chip, Type.I8, count, avoid, step.out.name, near)
                parts: tuple[Part, ...] = (Part(0, count, Place(room, 0, 1, since=since)),)
            else:
                parts = places(job, join.into, s.storage.block_rows(step.out), byte)
            busy.parts(parts, sweeper.flight + APART)
            before = () if joined is None else (Piece(0, count, Rows(joined, 0, 1)),)
            last = [FromMem(busy.track(before, sweeper.flight))] if before else []
            origins: list[Origin] = [self._chosen(job, step, part, byte, busy) for part in group]
            program = chosen(len(group), joined is not None)
            s.run(job.chip, program, [*origins, *last], count, 1, parts)
            if joined is not None:
                s.storage.give(job.chip, joined, step.out.name, "scratch")
            joined = room

    def _chosen(self, job: Job, step: Move, part: Lanes, byte: int, busy: Busy) -> FromMxm:
        """The lanes of a part where the result wants them."""
        sweeper, value = self.turner.sweeper, step.sources[part.source]
        side, plane = sweeper.next_plane()
        array = self.mover.chooser(job.chip, side, plane, part.lanes)
        operand = Operand(value, part.rows)
        track = sweeper.reader.track(operand, part.tile, job.chip, busy, byte)
        depth = sweeper.s.storage.lanes_of(value, part.tile)
        return FromMxm(track, Type.I8, depth, array)

    def _groups(self, step: Move, join: Join) -> list[list[Lanes]]:
        """Parts that are read at once, from different blocks."""
        s = self.turner.sweeper.s
        most = group_size(s.plan, Type.I8)
        groups: list[tuple[list[Lanes], set[tuple[int, int, int]]]] = []
        for part in join.parts:
            size = s.storage.block_rows(step.sources[part.source])
            read: NDArray[np.int64] = np.unique(part.rows // size)
            blocks = {(part.source, part.tile, block) for block in read.tolist()}
            for parts, taken in groups:
                if len(parts) < most and not taken & blocks:
                    parts.append(part)
                    taken |= blocks
                    break
            else:
                groups.append(([part], blocks))
        return [parts for parts, _ in groups]
