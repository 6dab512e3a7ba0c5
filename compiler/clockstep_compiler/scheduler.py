"""The list scheduler: steps in order, each block's kernels at the earliest time that is free.

A block is computed run by run (rows whose sources advance regularly) and group by group (K tiles
that the planes take at once); partial sums go through SRAM. Whatever a kernel reads is brought to
its chip, and to slices of its own, first. Nothing here reasons about single cycles: bundles slide
in the calendars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.bundle import Bundle
from clockstep_compiler.calendar import Calendars, Reservation
from clockstep_compiler.causes import Trail
from clockstep_compiler.fit import fit, fit_settled, free_streams
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.kernel import (
    FromMem,
    FromMxm,
    Kernel,
    Origin,
    Rows,
    Spot,
    Target,
    build,
    draft,
    first_rows,
    has_wave,
    pieces,
)
from clockstep_compiler.placed import Placed
from clockstep_compiler.steps import Value
from clockstep_compiler.storage import Block, Copy, NoRoom, NoWave, Storage
from clockstep_compiler.sums import group_size
from clockstep_compiler.transfer import Arrival, Links, send_block
from clockstep_compiler.wave import NOTHING, Busy, Wave, WaveOp, WaveProgram, has_ranks, variants
from clockstep_isa.geometry import EAST, WEST, Unit, phase
from clockstep_isa.table import Type

__all__ = ["VARIANTS", "Part", "Place", "Scheduler", "move_program"]

VARIANTS = {"fast": 1, "standard": 3, "high": 16}
"""Waves tried for every kernel at each effort; the one that ends first is taken."""


def move_program(kind: Type) -> WaveProgram:
    """The wave that copies a block."""
    return WaveProgram((kind,), (WaveOp("mov", kind, (0,), kind),))


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """Where a kernel's result goes: rows start, start + stride, ... of some bytes of a copy."""

    copy: Copy
    start: int
    stride: int
    first_byte: int = 0
    bytes: int = 0  # 0: all
    since: int = 0
    also: tuple[Copy, ...] = ()
    """Further copies that are written at once, alike."""

    def moved(self, rows: int) -> Place:
        """The place `rows` rows on."""
        return replace(self, start=self.start + rows * self.stride)

    @property
    def copies(self) -> tuple[Copy, ...]:
        return (self.copy, *self.also)

    def spot(self, at: int, count: int) -> Spot:
        """Rows from `at` on of a kernel here."""
        last = self.first_byte + (self.bytes or len(self.copy.planes))
        planes = tuple(
            (queue, address + self.start, byte)
            for copy in self.copies
            for byte, (queue, address) in enumerate(copy.planes[self.first_byte : last])
        )
        return Spot(at, count, planes, self.stride)


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Rows `at`, at + 1, ... of a kernel's result, `count` of them, go to one place."""

    at: int
    count: int
    place: Place


def _target(parts: tuple[Part, ...]) -> Target:
    return Target(
        parts[0].place.copy.side,
        tuple(part.place.spot(part.at, part.count) for part in parts),
        max(part.place.since for part in parts),
    )


_SQUEEZES = 24
"""Times at which a kernel is tried beside others."""

_ALL_SQUEEZES = 1 << 15
"""Variants of all kernels of a program that are tried so: large ones cannot have more of them."""

_SOON = 12
"""Cycles until all ALUs of a wave are at work, about."""


class _Try(NamedTuple):
    """A variant of a kernel: when it ends and begins, its number, its wave and bundle."""

    end: int
    time: int
    attempt: int
    wave: Wave
    bundle: Bundle


_BACK = 65_536
"""Cycles before the last kernel of a step in which a gap for the next one is looked for."""


@dataclass(slots=True)
class Scheduler:
    """The state of one schedule; kernels commit their rows to `rows`, notes beside them."""

    plan: Floorplan
    chips: int
    effort: str
    calendars: Calendars = field(default_factory=Calendars)
    trail: Trail = field(default_factory=Trail)
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    """For every bundle its instructions, the fields of `Row` side by side."""
    row_notes: list[int] = field(default_factory=list)
    """For every bundle the note of all its instructions."""
    instructions: int = 0
    notes: dict[tuple[int, str], int] = field(default_factory=dict)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    nodes: tuple[int, ...] = ()
    tile: str = ""
    turn: int = 0
    """Counts kernels, for whatever is dealt out in turn."""
    wave: int = 0
    """The first variant to try: one for all kernels of a step, another for the next step.

    Kernels of a step on the same ALUs leave the others to what runs beside it, undivided.
    """
    pinned: set[Copy] = field(default_factory=set)
    """Copies that are about to be read: not to be given back for the room of others."""
    scratch: list[tuple[int, Copy]] = field(default_factory=list)
    """Copies made for one block alone, given back with the next."""
    squeezes: int = 0
    """Variants that have been tried beside other kernels."""
    reached: dict[int, int] = field(default_factory=dict)
    """By chip: the time of the last kernel of the step at hand."""
    names: dict[int, str] = field(default_factory=dict)
    storage: Storage = field(init=False)
    links: Links = field(init=False)
    chunk: int = 1
    placed: Placed | None = None

    def __post_init__(self) -> None:
        self.storage = Storage(self.plan, self.chips, self.calendars, self.chunk, self.placed)
        self.links = Links(self.plan.machine, self.chips, self.plan.system)

    # -- committing ---------------------------------------------------------------------------

    def commit(self, bundle: Bundle, time: int) -> None:
        """Fix a bundle at `time`, after the loads of its weights."""
        for number, (load, at) in enumerate(zip(bundle.loads, bundle.loaded, strict=True)):
            self._fix(load.bundle, load.holding(at, time), at)
            if number == bundle.late:
                bundle.blocked = (load.buffers[0], self.trail.last)
        self._fix(bundle, bundle.settled(), time)

    def _fix(self, bundle: Bundle, reservations: list[Reservation], time: int) -> None:
        number = self.trail.add(bundle, time, self.nodes[0])
        self.calendars.reserve(reservations, time, number)
        self.storage.now = time + bundle.first
        note = self.notes.setdefault((self.nodes[0], self.tile), len(self.notes))
        rows = np.array(bundle.rows, np.int64)
        rows[:, 1] += time
        self.rows.append(rows)
        self.row_notes.append(note)
        self.instructions += len(rows)
        start, end = time + bundle.first, time + bundle.end
        for node in self.nodes:
            low, high = self.spans.get(node, (start, end))
            self.spans[node] = (min(low, start), max(high, end))

    @property
    def makespan(self) -> int:
        """One past the last cycle of what is scheduled so far."""
        return max((end for _, end in self.spans.values()), default=0)

    def earliest(self, chip: int, bundle: Bundle) -> int:
        """The first time for a kernel; long before the last one of its step nobody looks.

        Gaps in which that one found no room have none for the next of its kind.
        """
        floor = self.reached.get(chip, 0) - _BACK
        not_before = max(bundle.not_before, -bundle.first, floor)
        time = self.calendars.earliest(bundle.reservations, not_before)
        bundle.blocked = self.calendars.blocked
        return time

    # -- kernels ------------------------------------------------------------------------------

    def run(
        self,
        chip: int,
        program: WaveProgram,
        origins: Sequence[Origin],
        count: int,
        interval: int,
        place: Place | tuple[Part, ...],
    ) -> None:
        """Schedule one kernel: the best of a few variants, at its earliest time."""
        kernel = Kernel(chip, program, tuple(origins), count, interval)
        parts = (Part(0, count, place),) if isinstance(place, Place) else place
        target = _target(parts)
        found = self._tries(kernel, target)
        if not found:
            kernel = self._turned(kernel, target)
            found = self._tries(kernel, target)
        if not found:
            raise NoWave(chip, len(program.ops))
        self.turn += 1
        _, time, _, wave, bundle = min(found, key=lambda f: f[:3])
        time, bundle = self._bound(kernel, target, wave, bundle, time)
        self.reached[chip] = time
        self.commit(bundle, time)
        self._settle(bundle, time, kernel, parts)

    def has_wave(
        self,
        chip: int,
        program: WaveProgram,
        origins: Sequence[Origin],
        count: int,
        interval: int,
        parts: tuple[Part, ...],
    ) -> bool:
        """Whether some variant of a kernel has a wave, wherever else it might fail."""
        kernel = Kernel(chip, program, tuple(origins), count, interval)
        return has_wave(self.plan, kernel, _target(parts), {})

    def _tries(self, kernel: Kernel, target: Target) -> list[_Try]:
        """The first variants that work, as many as the effort.

        If all must wait, more are looked for among the ALUs that are idle while they would.
        """
        found: list[_Try] = []
        for variant in self._order():
            if self._try(kernel, target, variant, NOTHING, found):
                return found
            if len(found) >= VARIANTS[self.effort]:
                break
        blocked = min(found).bundle.blocked if found else None
        if blocked is not None and self._elsewhere(kernel, blocked[0]):
            self._squeeze(kernel, target, found)
        return found

    def _elsewhere(self, kernel: Kernel, resource: int) -> bool:
        """Whether a kernel that waits for a resource might not among other ALUs, which take other
        streams; of streams short ones hold none for long."""
        if resource in self._alus(kernel.chip):
            return True
        long = kernel.count * kernel.interval > _SOON
        return long and self.plan.resource_name(resource)[0] == "stream"

    def _try(
        self,
        kernel: Kernel,
        target: Target,
        variant: int,
        busy: Busy,
        found: list[_Try],
    ) -> bool:
        """Add a variant beside what is `busy`, if there is one; whether none can be earlier."""
        wave = draft(self.plan, kernel, target, variant, busy)
        bundle = None if wave is None else build(self.plan, kernel, target, wave)
        if wave is None or bundle is None:
            return False
        time = fit(self.plan, self.calendars, bundle, self.earliest(kernel.chip, bundle))
        found.append(_Try(time + bundle.end, time, len(found), wave, bundle))
        return time <= max(bundle.not_before, -bundle.first)

    def _squeeze(self, kernel: Kernel, target: Target, found: list[_Try]) -> None:
        """Variants beside other kernels, from whenever some of these end."""
        best = min(found)
        first = max(best.bundle.not_before, -best.bundle.first)
        tried: set[Busy] = set()
        for time in sorted(self._ends(kernel.chip, first, best.time)):
            if self.squeezes >= _ALL_SQUEEZES:
                return
            busy = self._busy(kernel, time)
            if busy is None or busy in tried:
                continue
            if len(tried) >= _SQUEEZES:
                return
            tried.add(busy)
            before = len(found)
            for variant in self._starts(len(kernel.program.ops)):
                if not has_ranks(self.plan.machine, kernel.program, variant, busy):
                    continue
                self._try(kernel, target, variant, busy, found)
                self.squeezes += 1
                if min(found).time < best.time:
                    return
                if len(found) > before + 1:
                    break

    def _order(self) -> list[int]:
        """Variants, those first of which several fit side by side; steps begin with different."""
        near, count = 2 * self.plan.machine.vxm.rows, variants(self.plan.machine)
        turned = [(self.wave + i) % count for i in range(count)]
        return [(self.wave + i) % near for i in range(near)] + [v for v in turned if v >= near]

    def _starts(self, operations: int) -> list[int]:
        """Variants that begin in every row of every rank, either way; those that are longer than
        the ranks also round and round."""
        vxm = self.plan.machine.vxm
        near = self._order()[: 2 * vxm.rows]
        starts = [4 * vxm.rows * rank + variant for rank in range(vxm.ranks) for variant in near]
        others = variants(self.plan.machine)
        return starts + ([others + v for v in starts] if operations > vxm.ranks else [])

    def _alus(self, chip: int) -> list[int]:
        """The resources that the queues of ALUs are."""
        plan = self.plan
        count = plan.machine.vxm.rows * plan.machine.vxm.ranks
        queues = [plan.queue(Unit.VXM, "", alu).id for alu in range(count)]
        return [plan.queue_resource(chip, queue) for queue in queues]

    def _ends(self, chip: int, first: int, end: int) -> set[int]:
        """Times between two others when an ALU becomes idle."""
        found = {first}
        for resource in self._alus(chip):
            found.update(self.calendars.ends(resource, first, end))
        return found

    def _busy(self, kernel: Kernel, time: int) -> Busy | None:
        """ALUs and streams of the VXM that are taken while a kernel from about a time on is.

        None if fewer ALUs are idle than it has operations.
        """
        plan, chip, soon = self.plan, kernel.chip, time + _SOON
        length = kernel.count * kernel.interval
        taken, queues = self.calendars.taken, self._alus(chip)
        alus = [alu for alu, queue in enumerate(queues) if taken(queue, 1, soon, length)]
        if len(queues) - len(alus) < len(kernel.program.ops):
            return None
        ranks, streams_each_way = plan.machine.vxm.ranks, plan.machine.streams.per_direction
        streams = []
        for way in (EAST, WEST):
            for stretch in range(ranks + 1):
                at = phase(way, soon, plan.geometry.rank_x[min(stretch, ranks - 1)])
                bits = 0
                for part in plan.crossed(stretch, stretch):
                    first = plan.stream_resource(chip, way, part, 0)
                    bits |= taken(first, streams_each_way, at, length)
                streams.append((way, stretch, bits))
        return Busy(frozenset(alus), tuple(streams))

    def _bound(
        self, kernel: Kernel, target: Target, wave: Wave, bundle: Bundle, time: int
    ) -> tuple[int, Bundle]:
        """The bundle with the streams that are free at its time; if these are in its own way,
        with those of the wave as it was planned, at the first time for them."""
        bases, _ = free_streams(self.plan, self.calendars, bundle, time)
        if bases == [choice.base for choice in bundle.choices]:
            return time, bundle
        bound = None
        if len(bases) == len(bundle.choices):
            bound = build(self.plan, kernel, target, wave.bound(bases[0], tuple(bases[1:])))
        if bound is not None and bound.end == bundle.end:
            bound.blocked, bound.late, bound.loaded = bundle.blocked, bundle.late, bundle.loaded
            return time, bound
        bundle.blocked = bundle.late = None
        return fit_settled(self.calendars, bundle, max(bundle.not_before, -bundle.first)), bundle

    def _turned(self, kernel: Kernel, target: Target) -> Kernel:
        """The kernel with blocks copied to hemispheres from which some wave can take them.

        `sums.fits` has promised a wave for blocks from either hemisphere alike, or in turn.
        """
        blocks = [k for k, origin in enumerate(kernel.origins) if isinstance(origin, FromMem)]
        taken = frozenset(q for spot in target.spots for q, _, _ in spot.planes)
        taken = taken.union(*(first_rows(origin).copy.slices for origin in kernel.origins))
        for pattern in ("WWWWWWWW", "EEEEEEEE", "WEWEWEWE", "EWEWEWEW"):
            sides = dict(zip(blocks, pattern * len(blocks), strict=False))
            if not has_wave(self.plan, kernel, target, sides):
                continue
            origins = list(kernel.origins)
            for k, side in sides.items():
                rows = origins[k].rows
                if isinstance(rows, Rows) and rows.copy.side != side:
                    kind = kernel.program.leaves[k]
                    copy = self.duplicate(rows.copy, kernel.chip, kind, taken, "a block", side)
                    self.scratch.append((kernel.chip, copy))
                    taken |= copy.slices
                    origins[k] = FromMem(replace(rows, copy=copy))
            return replace(kernel, origins=tuple(origins))
        return kernel

    def _settle(self, bundle: Bundle, time: int, kernel: Kernel, parts: tuple[Part, ...]) -> None:
        """Record when the result's rows are ready and until when the sources are read."""
        end = time + bundle.end
        for origin in kernel.origins:
            for piece in pieces(origin.rows, kernel.count):
                left = (kernel.count - piece.at - piece.count) * kernel.interval
                piece.rows.copy.used(end - left)
            if isinstance(origin, FromMxm):
                for run in origin.array.runs:
                    for source in (*run.rows, *([run.numbers] if run.numbers else [])):
                        source.copy.used(end)
        for part, written in zip(parts, bundle.written, strict=True):
            steps = np.arange(part.count)
            rows = part.place.start + part.place.stride * steps
            done = time + written + steps * kernel.interval
            for copy in part.place.copies:
                copy.writers.append(self.trail.last)
                copy.ready[rows] = np.maximum(copy.ready[rows], done)

    # -- room ---------------------------------------------------------------------------------

    def room(
        self,
        chip: int,
        kind: Type,
        rows: int,
        avoid: frozenset[int],
        what: str,
        shun: frozenset[int] | Mapping[int, int] = frozenset(),
        sides: str = "WE",
    ) -> tuple[Copy, int]:
        """A new copy of a block, in the hemisphere where it can be written first.

        Never in the slices `avoid`; in those of `shun` only if there are no others, or by penalty.
        """
        for _ in range(2):
            offers = []
            for order, side in enumerate(sides if self.turn % 2 else sides[::-1]):
                choice = self.storage.choose(chip, side, kind.bytes, rows, avoid, shun)
                if choice is not None:
                    shunned, since, queues = choice
                    offers.append((shunned, since, order, side, queues))
            if offers:
                _, since, _, side, queues = min(offers)
                return self.storage.take(chip, queues, rows, side), since
            if not self.storage.evict(chip, self.pinned, self.names):
                break
        raise NoRoom(chip, what, kind.bytes * rows)

    def neighbours(
        self, value: Value, chunk: int, tile: int, chip: int, sources: list[Value]
    ) -> frozenset[int]:
        """Slices of the blocks that are read together with one, or while it is read or written.

        `sources` are the matrices that the step reads: its later chunks read them while the
        next step reads this one.
        """
        found: frozenset[int] = frozenset()
        span = group_size(self.plan, value.type) if value.type in (Type.I8, Type.F16) else 2
        near = [(chunk, t) for t in range(max(0, tile - span + 1), tile)]
        near += [(c, t) for c in range(chunk - 3, chunk) for t in (tile, tile + 1)]
        for source in sources:
            for c in range(chunk + 1, min(chunk + 4, self.storage.chunks(source))):
                for copy in self.storage.copies.get(((source.number, c, tile), chip), ()):
                    found |= copy.slices
        for c, t in near:
            for copy in self.storage.copies.get(((value.number, c, t), chip), ()):
                found |= copy.slices
        return found

    def begin(self, nodes: tuple[int, ...], tile: str) -> None:
        """What is scheduled from here on serves this tile; nothing fetched before is wanted."""
        if nodes != self.nodes:
            self.reached.clear()
        self.nodes, self.tile = nodes, tile
        self.pinned.clear()
        for chip, copy in self.scratch:
            self.storage.give(chip, copy, "copy", "scratch")
        self.scratch.clear()

    def fetch(
        self,
        value: Value,
        chunk: int,
        tile: int,
        chip: int,
        avoid: frozenset[int],
        sides: str = "WE",
    ) -> Copy:
        """A copy of a block on `chip` that shares no slice with `avoid`, made if there is none.

        It is in one of the hemispheres `sides`.
        """
        copy = self._fetch(value, (value.number, chunk, tile), chip, avoid, sides)
        self.pinned.add(copy)
        return copy

    def _fetch(
        self, value: Value, block: Block, chip: int, avoid: frozenset[int], sides: str
    ) -> Copy:
        copy = self.storage.find(block, chip, avoid, sides)
        if copy is not None:
            return copy
        if value.origin != "step":
            try:
                return self.storage.load(value, block, chip, avoid, sides)
            except NoRoom:
                if not self.storage.holders(block):
                    raise
        here = self.storage.find(block, chip, frozenset())
        if here is None:
            here = self._bring(value, block, chip, avoid)
            if here.side in sides:
                return here
        copy = self.duplicate(here, chip, value.type, avoid, value.name, sides)
        self.storage.add(block, chip, copy)
        return copy

    def duplicate(
        self,
        copy: Copy,
        chip: int,
        kind: Type,
        avoid: frozenset[int],
        what: str,
        side: str = "WE",
    ) -> Copy:
        """Copy a block into other slices of its chip, in one of the hemispheres `side`."""
        self.pinned.add(copy)
        rows = len(copy.ready)
        new, since = self.room(chip, kind, rows, avoid | copy.slices, what, sides=side)
        self.run(
            chip,
            move_program(kind),
            [FromMem(Rows(copy, 0, 1))],
            rows,
            1,
            Place(new, 0, 1, since=since),
        )
        return new

    def send(
        self, copy: Copy, origin: int, target: int, kind: Type, avoid: frozenset[int], what: str
    ) -> Copy:
        """Copy a block to a chip that a link leads to, one byte of its elements after another."""
        room = self.room(target, kind, len(copy.ready), avoid, what)
        return self.spread(copy, origin, [Arrival(target, *room)])[0]

    def spread(self, copy: Copy, origin: int, arrivals: Sequence[Arrival]) -> list[Copy]:
        """Copy a block to chips that links lead to, all at once where it may be; their copies."""
        pace = self.plan.machine.c2c.cycles_per_vector
        steps = pace * np.arange(len(copy.ready))
        for bundle, reached in send_block(
            self.plan, self.links, self.calendars, origin, copy, arrivals
        ):
            time = self.earliest(origin, bundle)
            self.commit(bundle, time)
            copy.used(time + bundle.end)
            for k, written in zip(reached, bundle.written, strict=True):
                new = arrivals[k].copy
                np.maximum(new.ready, time + written + steps, out=new.ready)
                new.writers.append(self.trail.last)
        return [arrival.copy for arrival in arrivals]

    def _bring(self, value: Value, block: Block, chip: int, avoid: frozenset[int]) -> Copy:
        """Send a block from the nearest chip that has it, hop by hop."""

        def when(origin: int) -> int:
            senders = [port for port, _ in self.links.ports[origin, chip]]
            queues = [self.plan.queue(Unit.SEND, "", port).id for port in senders]
            resources = [self.plan.queue_resource(origin, queue) for queue in queues]
            free = min(self.calendars.busy_until(resource) for resource in resources)
            return max(free, int(self.storage.copies[block, origin][0].ready.max()))

        route = self.links.route(self.storage.holders(block), chip, when)
        copy = self.storage.copies[block, route[0]][0]
        for a, b in pairwise(route):
            avoided = avoid if b == chip else frozenset()
            copy = self.send(copy, a, b, value.type, avoided, value.name)
            self.storage.add(block, b, copy)
        return copy
