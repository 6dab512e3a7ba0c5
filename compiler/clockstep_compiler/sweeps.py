"""Sweeps: weights are held while every row of a step streams by, on all planes side by side.

A sweep reads its operands block after block without a pause, so weights are loaded once however
many blocks the rows are cut into, and layers follow each other row by row. What cannot be had
that way (too few slices, operands in both hemispheres) is left to `blocks.py`, run by run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.blocks import BlockMaker
from clockstep_compiler.expr import Acc, Source, flatten
from clockstep_compiler.kernel import FromMem, FromMxm, Origin, Piece, Rows, Track
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.partition import Group, find_product, inner_tiles
from clockstep_compiler.runs import regular_runs
from clockstep_compiler.scheduler import Part, Place, Scheduler
from clockstep_compiler.steps import Compute, Lowered, Product, Value, sources_of
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_compiler.sums import group_size, sum_program, with_sum
from clockstep_compiler.wave import WaveProgram
from clockstep_isa.table import Type

__all__ = ["Sweeper", "read_at_once"]

Ints = NDArray[np.int64]

_MOST_ROWS = 4096
"""Rows of a sweep: partial sums of so many have room beside all else."""

_LEAST_ROWS = 32
"""Rows that take about as long as loading an array, so worth a plane of their own."""

_LATENCY = 160
"""Cycles from reading a row to reading its partial sum, about."""


class _Operand(NamedTuple):
    """A matrix and the row of it that each row of the step reads; -1 is the row of `fill`."""

    value: Value
    index: Ints
    fill: Value | None = None


class _Run(NamedTuple):
    """`count` rows, the first at `at`, lie in one block from row `local` on, `stride` apart."""

    at: int
    count: int
    chunk: int
    local: int
    stride: int


def _runs(index: Ints, size: int) -> Iterator[_Run]:
    """Rows of a matrix that is cut into blocks of `size`, in regular runs; -1 apart."""
    for at, count in regular_runs([index], [index // size, index < 0]):
        first = int(index[at])
        stride = int(index[at + 1]) - first if count > 1 else 0
        yield _Run(at, count, first // size, first % size if first >= 0 else 0, stride)


@dataclass(slots=True)
class _Strip:
    """Partial sums of consecutive rows, in blocks of `size` rows."""

    copies: list[Copy]
    size: int
    since: int

    @property
    def slices(self) -> frozenset[int]:
        return frozenset().union(*(copy.slices for copy in self.copies))

    def _pieces(self, low: int, high: int) -> Iterator[tuple[int, int, Copy, int]]:
        row = low
        while row < high:
            number, local = divmod(row, self.size)
            count = min(high - row, self.size - local)
            yield row - low, count, self.copies[number], local
            row += count

    def track(self, low: int, high: int) -> Track:
        pieces = self._pieces(low, high)
        return tuple(Piece(at, count, Rows(copy, local, 1)) for at, count, copy, local in pieces)

    def parts(self, low: int, high: int) -> tuple[Part, ...]:
        pieces = self._pieces(low, high)
        return tuple(
            Part(at, count, Place(copy, local, 1, since=self.since))
            for at, count, copy, local in pieces
        )


@dataclass(slots=True)
class _Job:
    """What one call of `Sweeper.make` works on; `out` are the copies of each block."""

    step: Compute
    chip: int
    tile: int
    program: WaveProgram
    sources: tuple[Source, ...]
    operands: list[_Operand | None]
    out: dict[int, tuple[Copy, ...]] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)

    @property
    def taken(self) -> frozenset[int]:
        """Slices of the result."""
        return frozenset().union(*(c.slices for copies in self.out.values() for c in copies))


@dataclass(slots=True)
class Sweeper:
    """Schedules compute steps; `wanted` says of matrices how many copies are read at a time."""

    s: Scheduler
    maker: BlockMaker
    wanted: dict[int, int]

    def make(
        self, step: Compute, chunks: range, tile: int, chip: int, groups: Sequence[Group]
    ) -> bool:
        """Every kernel of some blocks of one tile of `step.out`; False if it cannot be done."""
        s = self.s
        if any(group.chip != chip for group in groups):
            return False
        product = find_product(step.expr)
        if product is not None and any(t.weights.value is not None for t in product.terms):
            return False
        size = s.storage.block_rows(step.out)
        rows = np.arange(chunks.start * size, min(chunks.stop * size, step.out.rows))
        program, sources = flatten(step.expr)
        operands = [self._operand(step, source) for source in sources]
        job = _Job(step, chip, tile, program, sources, operands)
        column = tile * s.plan.machine.vector
        end = column + s.storage.lanes_of(step.out, tile)
        s.begin(step.nodes, f"{step.out.name}[{rows[0]}:{rows[-1] + 1}, {column}:{end}]")
        if not self._make_room(job, chunks):
            return False
        try:
            self._run(job, product, groups, rows)
        except NoRoom:
            self._give_room(job)
            return False
        for chunk, copies in job.out.items():
            for copy in copies:
                s.storage.add((step.out.number, chunk, tile), chip, copy)
        return True

    def _operand(self, step: Compute, source: Source) -> _Operand | None:
        found = self.maker.operand(step, source, 0, step.out.rows)
        return None if found is None else _Operand(found.value, found.index)

    # -- room ---------------------------------------------------------------------------------

    def _make_room(self, job: _Job, chunks: range) -> bool:
        """Room for all blocks in one hemisphere, as many copies as will be read at a time."""
        s, value = self.s, job.step.out
        near = self._read(job)
        for copies in sorted({self.wanted.get(value.number, 1), 1}, reverse=True):
            for avoid in (near, frozenset[int]()):
                offers = [offer for side in "WE" if (offer := self._offer(job, side, avoid, copies))]
                if not offers:
                    continue
                _, side = min(offers)
                try:
                    self._take(job, chunks, side, avoid, copies)
                except NoRoom:
                    self._give_room(job)
                    continue
                return True
        return False

    def _offer(
        self, job: _Job, side: str, avoid: frozenset[int], copies: int
    ) -> tuple[tuple[int, int, int], str] | None:
        s, value = self.s, job.step.out
        rows = s.storage.block_rows(value)
        choice = s.storage.choose(job.chip, side, value.type.bytes * copies, rows, avoid)
        if choice is None:
            return None
        turn = int((side == "E") == bool(s.turn % 2))
        return (choice[0], choice[1], turn), side

    def _take(
        self, job: _Job, chunks: range, side: str, avoid: frozenset[int], copies: int
    ) -> None:
        s, value = self.s, job.step.out
        width = value.type.bytes
        for chunk in chunks:
            shun = job.taken | s.neighbours(value, chunk, job.tile, job.chip, [])
            rows = s.storage.rows_of(value, chunk)
            choice = s.storage.choose(job.chip, side, width * copies, rows, avoid, shun)
            if choice is None:
                raise NoRoom(job.chip, value.name, width * copies * rows)
            queues = choice[2]
            job.out[chunk] = tuple(
                s.storage.take(job.chip, queues[i : i + width], rows, side)
                for i in range(0, width * copies, width)
            )
            job.since[chunk] = choice[1]

    def _give_room(self, job: _Job) -> None:
        for copies in job.out.values():
            for copy in copies:
                self.s.storage.give(job.chip, copy, job.step.out.name, "scratch")
        job.out.clear()

    def _read(self, job: _Job) -> frozenset[int]:
        """Slices of all that the step reads, and of what is written beside it."""
        s, found = self.s, frozenset[int]()
        for value in sources_of(job.step):
            for chunk in range(s.storage.chunks(value)):
                for tile in range(s.storage.tiles(value)):
                    for copy in s.storage.copies.get(((value.number, chunk, tile), job.chip), ()):
                        found |= copy.slices
        return found

    # -- kernels ------------------------------------------------------------------------------

    def _run(
        self, job: _Job, product: Product | None, groups: Sequence[Group], rows: Ints
    ) -> None:
        if product is None:
            ways = max(1, 16 // max(4, len(job.program.ops)))
            for part in _cut(rows, ways):
                origins, _ = self._leaves(job, part, job.taken)
                self.s.run(job.chip, job.program, origins, len(part), 1, self._parts(job, part))
                self.s.wave += 1
            return
        sets = np.zeros(len(rows), np.int64) if product.w_set is None else product.w_set[rows]
        for w_set in np.unique(sets).tolist():
            chosen = rows[sets == w_set]
            for start in range(0, len(chosen), _MOST_ROWS):
                self._multiply(job, product, groups, chosen[start : start + _MOST_ROWS], w_set)

    def _multiply(
        self, job: _Job, product: Product, groups: Sequence[Group], rows: Ints, w_set: int
    ) -> None:
        """All groups for some rows: partial sums through SRAM, the last with what follows it.

        Every second or third group goes on with the same partial sums, so that short sweeps need
        not wait for those of the one before.
        """
        s, plan = self.s, self.s.plan
        kind = Type.I32 if product.type == Type.I8 else Type.F32
        interval = 1 if product.type == Type.I8 else plan.machine.mxm.fp16_interval
        chains = max(1, min(3, len(groups) - 1, 1 + _LATENCY // (len(rows) * interval + 1)))
        strips: list[_Strip] = []
        for number, group in enumerate(groups):
            last = number == len(groups) - 1
            count = chains if last else 1
            before, strips = (strips[:count], strips[count:]) if (
                last or len(strips) >= chains
            ) else ([], strips)
            if last:
                before, strips = [*before, *strips], []
            strip = None
            if not last:
                avoid = job.taken.union(*(b.slices for b in before))
                strip = self._strip(job.chip, kind, len(rows), avoid)
            for low, high, planes in self._ranges(group, product, len(rows)):
                part = rows[low:high]
                taken = job.taken.union(*(b.slices for b in before))
                if strip is not None:
                    taken |= strip.slices
                origins, taken = self._members(
                    job, product, group, planes, part, w_set, taken
                )
                origins += [FromMem(b.track(low, high)) for b in before]
                summed = len(origins)
                if strip is not None:
                    program, parts = sum_program(kind, summed), strip.parts(low, high)
                else:
                    leaves, taken = self._leaves(job, part, taken)
                    origins += leaves
                    position = next(i for i, e in enumerate(job.sources) if isinstance(e, Acc))
                    program = with_sum(job.program, position, summed)
                    parts = self._parts(job, part)
                s.run(job.chip, program, origins, high - low, interval, parts)
                s.wave += 1
            for b in before:
                self._release(job.chip, b)
            if strip is not None:
                strips.append(strip)

    def _ranges(
        self, group: Group, product: Product, rows: int
    ) -> Iterator[tuple[int, int, list[tuple[str, int]]]]:
        """Ranges of rows, each with arrays for all members of a group."""
        plan, size = self.s.plan, len(group.members)
        arrays = plan.planes if product.type == Type.I8 else plan.pairs
        if all(member.twins for member in group.members):
            ways = max(1, min(len(arrays) // size, rows // _LEAST_ROWS))
        else:
            yield 0, rows, [(member.side, member.plane) for member in group.members]
            return
        low = 0
        for part in _cut(np.arange(rows), ways):
            found = [arrays[(self.s.turn + k) % len(arrays)] for k in range(size)]
            yield low, low + len(part), found
            low += len(part)

    def _members(
        self,
        job: _Job,
        product: Product,
        group: Group,
        planes: list[tuple[str, int]],
        rows: Ints,
        w_set: int,
        taken: frozenset[int],
    ) -> tuple[list[Origin], frozenset[int]]:
        """The products of a group for some rows."""
        lanes = self.s.plan.machine.vector
        origins: list[Origin] = []
        for member, (side, plane) in zip(group.members, planes, strict=True):
            term = member.term
            index = rows if term.index is None else term.index[rows]
            operand = _Operand(term.a, index, term.fill)
            track = self._track(operand, member.k_tile, job.chip, taken, term.byte)
            taken |= frozenset().union(*(piece.rows.copy.slices for piece in track))
            depth = min(lanes, term.weights.depth - member.k_tile * lanes)
            array = self.maker.array(product, member, side, plane, job.tile, w_set)
            origins.append(FromMxm(track, product.type, depth, array))
        return origins, taken

    def _leaves(
        self, job: _Job, rows: Ints, taken: frozenset[int]
    ) -> tuple[list[Origin], frozenset[int]]:
        origins: list[Origin] = []
        for operand in job.operands:
            if operand is None:
                continue
            tile = job.tile if operand.value.columns > 1 else 0
            own = operand._replace(index=operand.index[rows])
            track = self._track(own, tile, job.chip, taken, None)
            taken |= frozenset().union(*(piece.rows.copy.slices for piece in track))
            origins.append(FromMem(track))
        return origins, taken

    def _parts(self, job: _Job, rows: Ints) -> tuple[Part, ...]:
        """Where rows of the result go."""
        size, found = self.s.storage.block_rows(job.step.out), []
        for run in _runs(rows, size):
            copy, *also = job.out[run.chunk]
            place = Place(copy, run.local, run.stride, since=job.since[run.chunk], also=(*also,))
            found.append(Part(run.at, run.count, place))
        return tuple(found)

    # -- operands -----------------------------------------------------------------------------

    def _track(
        self, operand: _Operand, tile: int, chip: int, taken: frozenset[int], byte: int | None
    ) -> Track:
        """The rows of an operand, all in one hemisphere and in no slice of `taken`."""
        s, value = self.s, operand.value
        runs = list(_runs(operand.index, s.storage.block_rows(value)))
        wanted = sorted({(value, run.chunk) if run.chunk >= 0 else (operand.fill, 0) for run in runs},
                        key=lambda pair: (pair[0].number, pair[1]))
        side = self._side(wanted, tile, chip, taken)
        copies = {
            (v.number, chunk): s.fetch(v, chunk, tile, chip, taken, side) for v, chunk in wanted
        }
        found = []
        for run in runs:
            key = (value.number, run.chunk) if run.chunk >= 0 else (operand.fill.number, 0)
            stride = run.stride if run.chunk >= 0 else 0
            found.append(Piece(run.at, run.count, Rows(copies[key], run.local, stride, byte)))
        return tuple(found)

    def _side(
        self, wanted: list[tuple[Value, int]], tile: int, chip: int, taken: frozenset[int]
    ) -> str:
        """The hemisphere that has most of some blocks outside of `taken`."""
        def had(side: str) -> int:
            return sum(
                self.s.storage.find((v.number, chunk, tile), chip, taken, side) is not None
                for v, chunk in wanted
            )
        turn = "WE" if self.s.turn % 2 else "EW"
        return max(turn, key=had)

    def _strip(self, chip: int, kind: Type, rows: int, avoid: frozenset[int]) -> _Strip:
        """Room for partial sums, in one hemisphere."""
        s = self.s
        size = min(rows, s.plan.machine.words_per_slice // 8)
        copies: list[Copy] = []
        latest = 0
        side = "WE"
        for first in range(0, rows, size):
            taken = avoid.union(*(copy.slices for copy in copies))
            count = min(size, rows - first)
            copy, since = s.room(chip, kind, count, taken, "partial sums", sides=side)
            copies.append(copy)
            side, latest = copy.side, max(latest, since)
        return _Strip(copies, size, latest)

    def _release(self, chip: int, strip: _Strip) -> None:
        for copy in strip.copies:
            self.s.storage.give(chip, copy, "partial sums", "partial")


def read_at_once(plan: Floorplan, lowered: Lowered) -> dict[int, int]:
    """Of how many copies of a matrix kernels may read at a time, where it is more than one.

    K tiles that are summed in one wave may be the same rows moved a little, as those under the
    taps of a convolution are; tiles of the result may be computed side by side.
    """
    found: dict[int, int] = {}
    lanes = plan.machine.vector
    for step in lowered.steps:
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None:
            continue
        arrays = len(plan.planes if product.type == Type.I8 else plan.pairs)
        size, tiles = group_size(plan, product.type), -(-product.columns // lanes)
        for tile in range(tiles):
            inner = inner_tiles(product, tile, lanes)
            for start in range(0, len(inner), size):
                group = inner[start : start + size]
                beside = min(tiles, arrays // len(group))
                taps = Counter((term.a.number, k) for term, k in group)
                for (number, _), count in taps.items():
                    found[number] = max(found.get(number, 1), min(arrays, count * beside))
    return found


def _cut(rows: Ints, ways: int) -> list[Ints]:
    """Rows in at most `ways` parts of nearly the same size, none of few rows."""
    return np.array_split(rows, max(1, min(ways, len(rows) // _LEAST_ROWS)))
