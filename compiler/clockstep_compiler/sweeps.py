"""Sweeps: weights are held while every row of a step streams by, on all planes side by side.

A sweep reads its operands block after block without a pause, so weights are loaded once however
many blocks the rows are cut into, and layers follow each other row by row. What cannot be had
that way (too few slices, operands in both hemispheres) is left to `blocks.py`, run by run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.blocks import BlockMaker
from clockstep_compiler.expr import Acc, flatten
from clockstep_compiler.kernel import FromMem, FromMxm, Origin
from clockstep_compiler.partition import MANY_ROWS, Group, busy_groups, find_product
from clockstep_compiler.scheduler import Part, Scheduler
from clockstep_compiler.steps import Compute, Product, Term
from clockstep_compiler.storage import NoRoom, NoWave
from clockstep_compiler.sums import fits, sum_program, with_sum
from clockstep_compiler.sweep_parts import APART, Busy, Job, Operand, Strip, places
from clockstep_compiler.sweep_reader import Reader
from clockstep_compiler.sweep_room import Room
from clockstep_compiler.wave import WaveProgram
from clockstep_isa.table import Type

__all__ = ["Sweeper"]

Ints = NDArray[np.int64]

_MOST_ROWS = 4096
"""Rows of a sweep: partial sums of so many have room beside all else."""

_LEAST_ROWS = 32
"""Rows that take about as long as loading an array, so worth a plane of their own."""


_Range = tuple[int, int, list[tuple[str, int]]]
"""Rows low to high - 1, and a plane for each member of a group."""


@dataclass(slots=True)
class _Making:
    """A tile at work: its kernels, which pause where those of another tile may come between."""

    job: Job
    note: str
    kernels: Iterator[None]
    over: bool = False


@dataclass(slots=True)
class Sweeper:
    """Schedules compute steps."""

    s: Scheduler
    maker: BlockMaker
    room: Room
    reader: Reader
    next_array: int = 0
    """Arrays dealt out so far, which go in turn."""

    @property
    def flight(self) -> int:
        """Cycles from reading an activation to its product at the VXM, about."""
        machine = self.s.plan.machine
        mxm = machine.mxm
        way = self.s.plan.geometry.positions + mxm.multiply_latency + mxm.accumulate_latency
        return way - self.s.plan.geometry.positions // 4

    def make(
        self, step: Compute, chunks: range, places: Sequence[tuple[int, int, Sequence[Group]]]
    ) -> set[int]:
        """Every kernel of some blocks of tiles of `step.out`; those for which it can be done.

        `places` are tiles with their chips and groups. The last kernel of a tile comes after the
        first of the next tile, if it takes less time than the sums that it waits for, or if they
        are first kernels of floats that arrays have room for together.
        """
        made: set[int] = set()
        together = self._together(step, places)
        if together == 1:
            self._in_line(step, chunks, places, made)
        for first in range(0, len(places), together) if together > 1 else ():
            started = [self._begin(step, chunks, *p) for p in places[first : first + together]]
            begun = [making for making in started if making is not None]
            for making in begun:
                self._go_on(making, made)
            for making in begun:
                while not making.over:
                    self._go_on(making, made)
        return made

    def _in_line(
        self,
        step: Compute,
        chunks: range,
        places: Sequence[tuple[int, int, Sequence[Group]]],
        made: set[int],
    ) -> None:
        """Tiles one after the other; where one stops, the next begins before it goes on."""
        waiting: _Making | None = None
        for tile, chip, groups in places:
            making = self._begin(step, chunks, tile, chip, groups)
            if making is None:
                continue
            self._go_on(making, made)
            if waiting is not None:
                self._go_on(waiting, made)
            if not making.over:
                self._go_on(making, made)
            waiting = None if making.over else making
        if waiting is not None:
            self._go_on(waiting, made)

    def _together(self, step: Compute, places: Sequence[tuple[int, int, Sequence[Group]]]) -> int:
        """Tiles whose first kernels have arrays beside each other; the others follow them."""
        product, groups = find_product(step.expr), places[0][2]
        if product is None or not self._shares_arrays(product, groups, step.out.rows):
            return 1
        return len(self.s.plan.pairs) // len(groups[0].members)

    def _shares_arrays(self, product: Product, groups: Sequence[Group], rows: int) -> bool:
        """Whether the first group of a tile of floats takes few of the arrays, and rows are many.

        Of bytes, whose rows are shorter, the next tile's first kernel often fits beside anyway.
        """
        if product.type == Type.I8 or len(groups) < 2 or product.w_set is not None:
            return False
        first = groups[0].members
        return 2 * len(first) <= len(self.s.plan.pairs) and rows >= _LEAST_ROWS

    def _begin(
        self,
        step: Compute,
        chunks: range,
        tile: int,
        chip: int,
        groups: Sequence[Group],
    ) -> _Making | None:
        """Room for some blocks of one tile, and what is to be done; None if it cannot be."""
        s = self.s
        if any(group.chip != chip for group in groups):
            return None
        product = find_product(step.expr)
        size = s.storage.block_rows(step.out)
        rows = np.arange(chunks.start * size, min(chunks.stop * size, step.out.rows))
        program, sources = flatten(step.expr)
        operands = [self.maker.operand(step, source, 0, step.out.rows) for source in sources]
        job = Job(step, chip, tile, program, sources, operands)
        column = tile * s.plan.machine.vector
        end = column + s.storage.lanes_of(step.out, tile)
        note = f"{step.out.name}[{rows[0]}:{rows[-1] + 1}, {column}:{end}]"
        s.begin(step.nodes, note)
        if not self.room.make(job, chunks):
            return None
        return _Making(job, note, self._run(job, product, groups, rows))

    def _go_on(self, making: _Making, made: set[int]) -> None:
        """Schedule kernels up to where others may come between; enter the blocks at the end."""
        job = making.job
        self.s.begin(job.step.nodes, making.note)
        try:
            next(making.kernels)
            return
        except StopIteration:
            made.add(job.tile)
            self.room.enter(job)
        except NoRoom:
            self.room.give(job)
        making.over = True

    # -- kernels ------------------------------------------------------------------------------

    def _run(
        self, job: Job, product: Product | None, groups: Sequence[Group], rows: Ints
    ) -> Iterator[None]:
        if product is None:
            busy, parts = Busy(1), self._parts(job, rows)
            busy.parts(parts, APART)
            self._start(job, job.program, [], rows, 1, parts, busy, True)
            return
        sets = np.zeros(len(rows), np.int64) if product.w_set is None else product.w_set[rows]
        for w_set in self._in_turn(job, product, sets):
            chosen = rows[sets == w_set]
            for start in range(0, len(chosen), _MOST_ROWS):
                part = chosen[start : start + _MOST_ROWS]
                stops = self._multiply(job, product, busy_groups(groups, w_set), part, w_set)
                if len(part) == len(rows):
                    yield from stops
                else:
                    deque(stops, 0)

    def _in_turn(self, job: Job, product: Product, sets: Ints) -> list[int]:
        """The sets of weights; of those that are computed neighbours are of different blocks."""
        found: list[int] = np.unique(sets).tolist()
        if not _is_computed(product.terms):
            return found
        beside = max(1, self.s.storage.block_rows(job.step.out) * len(found) // len(sets))
        return [w_set for first in range(beside) for w_set in found[first::beside]]

    def _multiply(
        self, job: Job, product: Product, groups: Sequence[Group], rows: Ints, w_set: int
    ) -> Iterator[None]:
        """All groups for some rows: partial sums through SRAM, the last with what follows it.

        Short sweeps would wait for the partial sums of the one before; so there are several
        chains of them, which the last adds up. Others may come after the first and before the last.
        """
        kind = Type.I32 if product.type == Type.I8 else Type.F32
        pace = 1 if product.type == Type.I8 else self.s.plan.machine.mxm.fp16_interval
        behind = -(-(self.flight + APART) // (len(rows) * pace))
        chains = max(1, min(3, len(groups) - 1, 1 + behind))
        while chains > 1 and not self._adds_up(job, product, groups[-1], chains):
            chains -= 1
        strips: list[Strip] = []
        few = len(groups) > 1 and len(rows) * pace < _LEAST_ROWS
        stops = few or self._shares_arrays(product, groups, len(rows))
        for number, group in enumerate(groups[:-1]):
            if stops and number == 1:
                yield
            avoid = job.taken.union(*(strip.slices for strip in strips))
            before = [strips.pop(0)] if len(strips) == chains else []
            ranges = list(self._ranges(group, product, len(rows), 2 if before else 4))
            strip = self.room.strip(job, kind, len(rows), self._blocks(rows, ranges), avoid)
            self._group(job, product, group, rows, w_set, before, strip, ranges)
            strips.append(strip)
        if stops and len(groups) == 2:
            yield
        if stops:
            yield
        ranges = list(self._ranges(groups[-1], product, len(rows), 2 if strips else 4))
        self._group(job, product, groups[-1], rows, w_set, strips, None, ranges)

    def _blocks(self, rows: Ints, ranges: list[_Range]) -> int:
        """Blocks of partial sums: ranges are written side by side, and one is read meanwhile."""
        return max(len(ranges), 2 if len(rows) > self.flight else 1)

    def _adds_up(self, job: Job, product: Product, group: Group, chains: int) -> bool:
        """Whether a wave adds the products of the last group and so many partial sums."""
        members = len(group.members)
        position = next(i for i, e in enumerate(job.sources) if isinstance(e, Acc))
        program = with_sum(job.program, position, members + chains)
        return fits(self.s.plan, program, members, product.type, ())

    def _group(
        self,
        job: Job,
        product: Product,
        group: Group,
        rows: Ints,
        w_set: int,
        before: list[Strip],
        strip: Strip | None,
        ranges: list[_Range],
    ) -> None:
        """The products of one group plus the sums `before`: to `strip`, at last to the result."""
        s = self.s
        kind = Type.I32 if product.type == Type.I8 else Type.F32
        pace = 1 if product.type == Type.I8 else s.plan.machine.mxm.fp16_interval
        for low, high, planes in ranges:
            busy, part = Busy(pace), rows[low:high]
            parts = self._parts(job, part) if strip is None else strip.parts(low, high)
            busy.parts(parts, self.flight + APART)
            sums = [FromMem(busy.track(b.track(low, high), self.flight)) for b in before]
            origins = self._members(job, product, group, planes, part, w_set, busy)
            origins += sums
            program = sum_program(kind, len(origins))
            if strip is None:
                position = next(i for i, e in enumerate(job.sources) if isinstance(e, Acc))
                program = with_sum(job.program, position, len(origins))
            self._start(job, program, origins, part, pace, parts, busy, strip is None)
        for b in before:
            self.room.release(job.chip, b)

    def _start(
        self,
        job: Job,
        program: WaveProgram,
        origins: list[Origin],
        rows: Ints,
        pace: int,
        parts: tuple[Part, ...],
        busy: Busy,
        last: bool,
    ) -> None:
        """One kernel; the last of a product also reads the leaves, from where a wave takes them."""
        s = self.s
        for sides in ("", "W", "E", "WE", "EW"):
            beside = Busy(pace, list(busy.spans))
            after = self.flight if origins else 0
            try:
                every = origins + (self._leaves(job, rows, beside, sides, after) if last else [])
            except NoRoom:
                continue
            if s.has_wave(job.chip, program, every, len(rows), pace, parts):
                s.run(job.chip, program, every, len(rows), pace, parts)
                return
            if not last:
                break
        raise NoWave(job.chip, len(program.ops))

    def _ranges(self, group: Group, product: Product, rows: int, most: int) -> Iterator[_Range]:
        """Ranges of rows, each with arrays for all members of a group."""
        plan, size = self.s.plan, len(group.members)
        arrays = plan.planes if product.type == Type.I8 else plan.pairs
        if all(member.anywhere for member in group.members):
            tiles = -(-product.columns // plan.machine.vector)
            beside = group.beside or size * min(tiles, len(arrays) // size)
            beside = beside if rows < MANY_ROWS else size
            least = self._least_rows(group, product)
            ways = max(1, min(len(arrays) // beside, rows // least, most))
        else:
            yield 0, rows, [(member.side, member.plane) for member in group.members]
            return
        low = 0
        for part in _cut(np.arange(rows), ways):
            found = [arrays[(self.next_array + k) % len(arrays)] for k in range(size)]
            self.next_array += size
            yield low, low + len(part), found
            low += len(part)

    def _least_rows(self, group: Group, product: Product) -> int:
        """Rows that are worth loading the weights of a group once more: of those that are computed
        a column takes a cycle, and where there are several sets planes have other work."""
        if not _is_computed([member.term for member in group.members]):
            return _LEAST_ROWS
        if product.terms[0].weights.sets > 1:
            return product.rows
        return max(_LEAST_ROWS, min(product.columns, self.s.plan.machine.vector))

    def _members(
        self,
        job: Job,
        product: Product,
        group: Group,
        planes: list[tuple[str, int]],
        rows: Ints,
        w_set: int,
        busy: Busy,
    ) -> list[Origin]:
        """The products of a group for some rows."""
        lanes = self.s.plan.machine.vector
        origins: list[Origin] = []
        for member, (side, plane) in zip(group.members, planes, strict=True):
            term = member.term
            index = rows if term.index is None else term.index[rows]
            operand = Operand(term.a, index, term.fill)
            near = "" if term.a.origin == "step" else side  # what is loaded need not cross the chip
            track = self.reader.track(operand, member.k_tile, job.chip, busy, term.byte, near)
            depth = min(lanes, term.weights.depth - member.k_tile * lanes)
            place = side, plane
            array = self.maker.array(product, member, place, job.chip, job.tile, w_set)
            origins.append(FromMxm(track, product.type, depth, array))
        return origins

    def _leaves(self, job: Job, rows: Ints, busy: Busy, sides: str, after: int) -> list[Origin]:
        """The other matrices of the expression, for some rows, from hemispheres `sides` in turn.

        They are read `after` the kernel's first row is.
        """
        origins: list[Origin] = []
        shun = job.taken | self.room.near(job, moving=True)
        for operand in job.operands:
            if operand is not None:
                tile = operand.tile_for(job.tile)
                own = replace(operand, index=operand.index[rows])
                side = sides[len(origins) % len(sides)] if sides else ""
                origins.append(
                    FromMem(self.reader.track(own, tile, job.chip, busy, None, side, after, shun))
                )
        return origins

    def _parts(self, job: Job, rows: Ints) -> tuple[Part, ...]:
        """Where rows of the result go."""
        return places(job, rows, self.s.storage.block_rows(job.step.out))

    def next_plane(self) -> tuple[str, int]:
        """A plane for one more product of bytes, all in turn."""
        planes = self.s.plan.planes
        self.next_array += 1
        return planes[(self.next_array - 1) % len(planes)]


def _is_computed(terms: Sequence[Term]) -> bool:
    """Whether any weights are computed."""
    return any(term.weights.matrices for term in terms)


def _cut(rows: Ints, ways: int) -> list[Ints]:
    """Rows in at most `ways` parts of nearly the same size, none of few rows."""
    return np.array_split(rows, max(1, min(ways, len(rows) // _LEAST_ROWS)))
