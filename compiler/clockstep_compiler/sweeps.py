"""Sweeps: weights are held while every row of a step streams by, on all planes side by side.

A sweep reads its operands block after block without a pause, so weights are loaded once however
many blocks the rows are cut into, and layers follow each other row by row. What cannot be had
that way (too few slices, operands in both hemispheres) is left to `blocks.py`, run by run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.blocks import BlockMaker
from clockstep_compiler.expr import Acc, Leaf, Source, flatten
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.kernel import FromMem, FromMxm, Origin, Piece, Rows, Track
from clockstep_compiler.partition import (
    Group,
    busy_groups,
    find_product,
    in_groups,
    inner_tiles,
)
from clockstep_compiler.runs import regular_runs
from clockstep_compiler.scheduler import Part, Place, Scheduler
from clockstep_compiler.steps import Compute, Lowered, Product, Value, sources_of
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_compiler.sums import fits, group_size, sum_program, with_sum
from clockstep_compiler.wave import WaveProgram
from clockstep_isa.table import Type

__all__ = ["Sweeper", "read_at_once"]

Ints = NDArray[np.int64]

_MOST_ROWS = 4096
"""Rows of a sweep: partial sums of so many have room beside all else."""

_LEAST_ROWS = 32
"""Rows that take about as long as loading an array, so worth a plane of their own."""


@dataclass(frozen=True, eq=False, slots=True)
class _Operand:
    """A matrix and the row of it that each row of the step reads; -1 is the row of `fill`."""

    value: Value
    index: Ints
    fill: Value | None = None


@dataclass(frozen=True, eq=False, slots=True)
class _Run:
    """`count` rows, the first at `at`, lie in one block from row `local` on, `stride` apart."""

    at: int
    count: int
    chunk: int
    local: int
    stride: int


def _runs(index: Ints, size: int) -> Iterator[_Run]:
    """Rows of a matrix that is cut into blocks of `size`, in regular runs; -1 apart."""
    for at, count in regular_runs([index], [index // size, (index < 0).astype(np.int64)]):
        first = int(index[at])
        stride = int(index[at + 1]) - first if count > 1 else 0
        yield _Run(at, count, first // size, first % size if first >= 0 else 0, stride)


_APART = 48
"""Cycles by which units that work on the same row may be apart, more or less than is said here."""

_SHORT = 4
"""Rows of a constant of which every kernel may have a copy to itself."""

_COPIES = 12


@dataclass(slots=True)
class _Busy:
    """Slices that a kernel reads or writes, and when: cycles from about its first read."""

    pace: int
    spans: list[tuple[frozenset[int], int, int]] = field(default_factory=list)

    def parts(self, parts: tuple[Part, ...], after: int) -> None:
        """What is written, so long after the kernel's first read."""
        for part in parts:
            start = part.at * self.pace + after
            for copy in part.place.copies:
                self.spans.append((copy.slices, start, start + part.count * self.pace))

    def track(self, track: Track, after: int) -> Track:
        """What is read."""
        for piece in track:
            start = piece.at * self.pace + after
            slices = frozenset(queue for queue, _ in piece.rows.planes)
            self.spans.append((slices, start, start + piece.count * self.pace))
        return track

    def during(self, at: int, count: int, after: int) -> frozenset[int]:
        """Slices that are not free for some rows of the kernel."""
        low = at * self.pace + after - _APART
        high = (at + count) * self.pace + after + _APART
        return frozenset[int]().union(
            *(slices for slices, first, end in self.spans if first < high and low < end)
        )


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

    @property
    def flight(self) -> int:
        """Cycles from reading an activation to its product at the VXM, about."""
        machine = self.s.plan.machine
        mxm = machine.mxm
        way = self.s.plan.geometry.positions + mxm.multiply_latency + mxm.accumulate_latency
        return way - self.s.plan.geometry.positions // 4

    next_array: int = 0
    """Arrays dealt out so far, which go in turn."""

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
        wanted, rows = self.wanted.get(value.number, 1), s.storage.block_rows(value)
        near = self._penalties(self._near(job))
        for copies in sorted({wanted, 1}, reverse=True):
            offers = []
            before = s.storage.copies.get(((value.number, chunks[0] - 1, job.tile), job.chip), ())
            for turn, side in enumerate("WE" if s.turn % 2 else "EW"):
                width = value.type.bytes * copies
                choice = s.storage.choose(job.chip, side, width, rows, frozenset(), near)
                if choice is not None:
                    apart = any(copy.side != side for copy in before)
                    offers.append((apart, choice[0], choice[1], turn, side))
            for *_, side in sorted(offers):
                try:
                    self._take(job, chunks, side, self._near(job), copies)
                except NoRoom:
                    self._give_room(job)
                    continue
                return True
        return False

    def _take(self, job: _Job, chunks: range, side: str, near: frozenset[int], copies: int) -> None:
        s, value = self.s, job.step.out
        width = value.type.bytes
        for chunk in chunks:
            last = job.out.get(chunk - 1, ())
            avoid = frozenset[int]().union(*(copy.slices for copy in last))
            shun = self._penalties(near, job.taken, self._beside(job, chunk))
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

    def _beside(self, job: _Job, chunk: int) -> frozenset[int]:
        """Slices of blocks that may be read together with one: of the tiles before, about there."""
        s, value, found = self.s, job.step.out, frozenset[int]()
        for tile in range(max(0, job.tile - 3), job.tile):
            for near in range(chunk - 1, chunk + 2):
                for copy in s.storage.copies.get(((value.number, near, tile), job.chip), ()):
                    found |= copy.slices
        return found

    def _give_room(self, job: _Job) -> None:
        for copies in job.out.values():
            for copy in copies:
                self.s.storage.give(job.chip, copy, job.step.out.name, "scratch")
        job.out.clear()

    def _near(self, job: _Job) -> frozenset[int]:
        """Slices of all that the step reads."""
        s, found = self.s, frozenset[int]()
        for value in sources_of(job.step):
            for chunk in range(s.storage.chunks(value)):
                for tile in range(s.storage.tiles(value)):
                    for copy in s.storage.copies.get(((value.number, chunk, tile), job.chip), ()):
                        found |= copy.slices
        return found

    def _penalties(self, *shunned: frozenset[int]) -> dict[int, int]:
        """How much slices should be avoided: those of weights a little, then each set more."""
        plan = self.s.plan
        found = {q: int(q not in plan.inner) for side in "WE" for q in plan.slices[side]}
        for power, slices in enumerate(shunned):
            for q in slices:
                found[q] += 2 << power
        return found

    # -- kernels ------------------------------------------------------------------------------

    def _run(self, job: _Job, product: Product | None, groups: Sequence[Group], rows: Ints) -> None:
        if product is None:
            busy, parts = _Busy(1), self._parts(job, rows)
            busy.parts(parts, _APART)
            self._start(job, job.program, [], rows, 1, parts, busy, True)
            return
        sets = np.zeros(len(rows), np.int64) if product.w_set is None else product.w_set[rows]
        for w_set in np.unique(sets).tolist():
            chosen = rows[sets == w_set]
            for start in range(0, len(chosen), _MOST_ROWS):
                part = chosen[start : start + _MOST_ROWS]
                self._multiply(job, product, busy_groups(groups, w_set), part, w_set)

    def _multiply(
        self, job: _Job, product: Product, groups: Sequence[Group], rows: Ints, w_set: int
    ) -> None:
        """All groups for some rows: partial sums through SRAM, the last with what follows it.

        Short sweeps would wait for the partial sums of the one before; so there are several
        chains of them, which the last adds up.
        """
        kind = Type.I32 if product.type == Type.I8 else Type.F32
        pace = 1 if product.type == Type.I8 else self.s.plan.machine.mxm.fp16_interval
        behind = -(-(self.flight + _APART) // (len(rows) * pace))
        chains = max(1, min(3, len(groups) - 1, 1 + behind))
        while chains > 1 and not self._adds_up(job, product, groups[-1], chains):
            chains -= 1
        strips: list[_Strip] = []
        for group in groups[:-1]:
            avoid = job.taken.union(*(strip.slices for strip in strips))
            before = [strips.pop(0)] if len(strips) == chains else []
            ranges = list(self._ranges(group, product, len(rows), 2 if before else 4))
            strip = self._strip(job, kind, len(rows), len(ranges), avoid)
            self._group(job, product, group, rows, w_set, before, strip, ranges)
            strips.append(strip)
        ranges = list(self._ranges(groups[-1], product, len(rows), 2 if strips else 4))
        self._group(job, product, groups[-1], rows, w_set, strips, None, ranges)

    def _adds_up(self, job: _Job, product: Product, group: Group, chains: int) -> bool:
        """Whether a wave adds the products of the last group and so many partial sums."""
        members = len(group.members)
        position = next(i for i, e in enumerate(job.sources) if isinstance(e, Acc))
        program = with_sum(job.program, position, members + chains)
        return fits(self.s.plan, program, members, product.type, ())

    def _group(
        self,
        job: _Job,
        product: Product,
        group: Group,
        rows: Ints,
        w_set: int,
        before: list[_Strip],
        strip: _Strip | None,
        ranges: list[tuple[int, int, list[tuple[str, int]]]],
    ) -> None:
        """The products of one group plus the sums `before`: to `strip`, at last to the result."""
        s = self.s
        kind = Type.I32 if product.type == Type.I8 else Type.F32
        pace = 1 if product.type == Type.I8 else s.plan.machine.mxm.fp16_interval
        for low, high, planes in ranges:
            busy, part = _Busy(pace), rows[low:high]
            parts = self._parts(job, part) if strip is None else strip.parts(low, high)
            busy.parts(parts, self.flight + _APART)
            sums = [FromMem(busy.track(b.track(low, high), self.flight)) for b in before]
            origins = self._members(job, product, group, planes, part, w_set, busy)
            origins += sums
            program = sum_program(kind, len(origins))
            if strip is None:
                position = next(i for i, e in enumerate(job.sources) if isinstance(e, Acc))
                program = with_sum(job.program, position, len(origins))
            self._start(job, program, origins, part, pace, parts, busy, strip is None)
        for b in before:
            self._release(job.chip, b)

    def _start(
        self,
        job: _Job,
        program: WaveProgram,
        origins: list[Origin],
        rows: Ints,
        pace: int,
        parts: tuple[Part, ...],
        busy: _Busy,
        last: bool,
    ) -> None:
        """One kernel; the last of a product also reads the leaves, from where a wave takes them."""
        s = self.s
        for sides in ("", "W", "E", "WE", "EW"):
            beside = _Busy(pace, list(busy.spans))
            after = self.flight if origins else 0
            try:
                every = origins + (self._leaves(job, rows, beside, sides, after) if last else [])
            except NoRoom:
                continue
            if s.has_wave(job.chip, program, every, len(rows), pace, parts):
                s.run(job.chip, program, every, len(rows), pace, parts)
                s.wave += 1
                return
            if not last:
                break
        raise NoRoom(job.chip, f"a wave of {len(program.ops)} operations", 0)

    def _ranges(
        self, group: Group, product: Product, rows: int, most: int
    ) -> Iterator[tuple[int, int, list[tuple[str, int]]]]:
        """Ranges of rows, each with arrays for all members of a group."""
        plan, size = self.s.plan, len(group.members)
        arrays = plan.planes if product.type == Type.I8 else plan.pairs
        if all(member.twins for member in group.members):
            tiles = -(-product.columns // plan.machine.vector)
            beside = min(tiles, len(arrays) // size)  # tiles computed side by side
            ways = max(1, min(len(arrays) // (size * beside), rows // _LEAST_ROWS, most))
        else:
            yield 0, rows, [(member.side, member.plane) for member in group.members]
            return
        low = 0
        for part in _cut(np.arange(rows), ways):
            found = [arrays[(self.next_array + k) % len(arrays)] for k in range(size)]
            self.next_array += size
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
        busy: _Busy,
    ) -> list[Origin]:
        """The products of a group for some rows."""
        lanes = self.s.plan.machine.vector
        origins: list[Origin] = []
        for member, (side, plane) in zip(group.members, planes, strict=True):
            term = member.term
            index = rows if term.index is None else term.index[rows]
            operand = _Operand(term.a, index, term.fill)
            near = (
                "" if term.a.origin == "step" else side
            )  # loaded where it does not cross the chip
            track = self._track(operand, member.k_tile, job.chip, busy, term.byte, near)
            depth = min(lanes, term.weights.depth - member.k_tile * lanes)
            array = self.maker.array(product, member, side, plane, job.tile, w_set)
            origins.append(FromMxm(track, product.type, depth, array))
        return origins

    def _leaves(self, job: _Job, rows: Ints, busy: _Busy, sides: str, after: int) -> list[Origin]:
        """The other matrices of the expression, for some rows, from hemispheres `sides` in turn.

        They are read `after` the kernel's first row is.
        """
        origins: list[Origin] = []
        for operand in job.operands:
            if operand is not None:
                tile = job.tile if operand.value.columns > 1 else 0
                own = replace(operand, index=operand.index[rows])
                side = sides[len(origins) % len(sides)] if sides else ""
                origins.append(FromMem(self._track(own, tile, job.chip, busy, None, side, after)))
        return origins

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
        self,
        operand: _Operand,
        tile: int,
        chip: int,
        busy: _Busy,
        byte: int | None,
        side: str = "",
        after: int = 0,
    ) -> Track:
        """The rows of an operand, all in one hemisphere and in slices that are free for them."""
        s, value, fill = self.s, operand.value, operand.fill
        runs = list(_runs(operand.index, s.storage.block_rows(value)))
        blocks: dict[int, tuple[int, int]] = {}  # the first and last row of the kernel in each
        for run in runs:
            low, high = blocks.get(run.chunk, (run.at, 0))
            blocks[run.chunk] = (min(low, run.at), max(high, run.at + run.count))
        wanted = []
        for chunk, (low, high) in sorted(blocks.items()):
            source = value if chunk >= 0 else fill
            assert source is not None
            wanted.append((source, chunk, busy.during(low, high - low, after)))
        side = side or self._side(wanted, tile, chip)
        copies = {
            chunk: self._copy(source, max(0, chunk), tile, chip, avoid, side)
            for source, chunk, avoid in wanted
        }
        found = []
        for run in runs:
            stride = run.stride if run.chunk >= 0 else 0
            found.append(Piece(run.at, run.count, Rows(copies[run.chunk], run.local, stride, byte)))
        return busy.track(tuple(found), after)

    def _copy(
        self, value: Value, chunk: int, tile: int, chip: int, avoid: frozenset[int], side: str
    ) -> Copy:
        """A copy of a block; of a short constant one that no other kernel is reading, if any."""
        s, block = self.s, (value.number, chunk, tile)
        if value.origin == "const" and value.rows <= _SHORT:
            free = s.storage.find(block, chip, avoid, side)
            if free is None or s.storage.busy_until(chip, free) > s.storage.now:
                copies = s.storage.copies.get((block, chip), ())
                for others in (avoid | self._at_work(chip), avoid):
                    if len(copies) < _COPIES:
                        try:
                            return s.storage.load(value, block, chip, others, side)
                        except NoRoom:
                            pass
        return s.fetch(value, chunk, tile, chip, avoid, side)

    def _at_work(self, chip: int) -> frozenset[int]:
        """Slices that are taken beyond the first read of the last kernel."""
        s, plan = self.s, self.s.plan
        return frozenset(
            q
            for q in plan.slices["W"] + plan.slices["E"]
            if s.calendars.busy_until(plan.queue_resource(chip, q)) > s.storage.now
        )

    def _side(self, wanted: list[tuple[Value, int, frozenset[int]]], tile: int, chip: int) -> str:
        """The hemisphere that has most of some blocks outside of the slices to avoid."""
        find = self.s.storage.find

        def had(side: str) -> int:
            return sum(
                find((source.number, max(0, chunk), tile), chip, avoid, side) is not None
                for source, chunk, avoid in wanted
            )

        return max("WE" if self.s.turn % 2 else "EW", key=had)

    def _strip(
        self, job: _Job, kind: Type, rows: int, ranges: int, avoid: frozenset[int]
    ) -> _Strip:
        """Room for partial sums, in one hemisphere, in blocks that are written side by side."""
        s, shun = self.s, self._near(job)
        blocks = max(ranges, 2 if rows > self.flight else 1)  # one is read, another written
        size = -(-rows // blocks)
        size = min(size, s.plan.machine.words_per_slice // 8)
        copies: list[Copy] = []
        latest = 0
        side = "WE"
        for first in range(0, rows, size):
            taken = avoid.union(*(copy.slices for copy in copies))
            count = min(size, rows - first)
            copy, since = s.room(job.chip, kind, count, taken, "partial sums", shun, sides=side)
            copies.append(copy)
            side, latest = copy.side, max(latest, since)
        return _Strip(copies, size, latest)

    def _release(self, chip: int, strip: _Strip) -> None:
        for copy in strip.copies:
            self.s.storage.give(chip, copy, "partial sums", "partial")


_MOST_BESIDE = 3
"""Copies of a matrix whose rows are read beside each other element by element."""


def read_at_once(plan: Floorplan, lowered: Lowered) -> dict[int, int]:
    """Of how many copies of a matrix kernels may read at a time, where it is more than one.

    K tiles that are summed in one wave may be the same rows moved a little, as those under the
    taps of a convolution or under a window are; tiles of the result may be computed side by side.
    """
    found: dict[int, int] = {}
    lanes = plan.machine.vector
    for step in lowered.steps:
        if not isinstance(step, Compute):
            continue
        product = find_product(step.expr)
        if product is None:
            _, sources = flatten(step.expr)
            beside = Counter(s.value.number for s in sources if isinstance(s, Leaf))
            for number, count in beside.items():
                found[number] = max(found.get(number, 1), min(count, _MOST_BESIDE))
            continue
        arrays = len(plan.planes if product.type == Type.I8 else plan.pairs)
        size, tiles = group_size(plan, product.type), -(-product.columns // lanes)
        for tile in range(tiles):
            inner = inner_tiles(product, tile, lanes)
            for group in in_groups(inner, size):
                ways = min(tiles, arrays // len(group))
                taps = Counter((term.a.number, k) for term, k in group)
                for (number, _), count in taps.items():
                    found[number] = max(found.get(number, 1), min(arrays, count * ways))
    return found


def _cut(rows: Ints, ways: int) -> list[Ints]:
    """Rows in at most `ways` parts of nearly the same size, none of few rows."""
    return np.array_split(rows, max(1, min(ways, len(rows) // _LEAST_ROWS)))
