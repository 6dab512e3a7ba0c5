"""Rows of a constant table by number, from addresses that are known when the program runs.

All bytes of several tiles are taken by as many `gather` at once. Numbers and words go the same way:
from the outer slices of a hemisphere, past those of the table, to wherever the result is. Time does
not depend on the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from clockstep_compiler.bundle import Bundle
from clockstep_compiler.in_place import confined, quiet
from clockstep_compiler.partition import Partition
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import Lookup
from clockstep_compiler.storage import Copy
from clockstep_isa.geometry import Queue, phase

__all__ = ["look_up"]

_Tiles = dict[int, Copy]
"""Tables by tile, on one chip, in one hemisphere, no two in one slice."""


def look_up(s: Scheduler, step: Lookup, chunk: int, parts: Partition) -> None:
    """The blocks of a chunk of rows, several tiles from one reading of the numbers."""
    tiles = range(s.storage.tiles(step.out))
    chips = [parts.tables[step.table.number, tile] for tile in tiles]
    for chip in sorted(set(chips)):
        tables = {t: s.storage.table(step.table, t, chip) for t in tiles if chips[t] == chip}
        for together in _together(s, step, tables):
            _look_up(s, step, chunk, chip, together)


def _together(s: Scheduler, step: Lookup, tables: _Tiles) -> Iterator[_Tiles]:
    """Tiles that are looked up at once: half of the streams take all of their bytes."""
    most = max(1, s.plan.machine.streams.per_direction // (2 * step.out.type.bytes))
    for side in "WE":
        found: _Tiles = {}
        for tile, table in tables.items():
            if table.side != side:
                continue
            taken = frozenset(q for other in found.values() for q in other.slices)
            if len(found) == most or table.slices & taken:
                yield found
                found = {}
            found[tile] = table
        if found:
            yield found


def _look_up(s: Scheduler, step: Lookup, chunk: int, chip: int, tables: _Tiles) -> None:
    """Some tiles of a chunk of rows."""
    storage, side = s.storage, next(iter(tables.values())).side
    rows, first = storage.rows_of(step.out, chunk), chunk * storage.block_rows(step.out)
    s.begin(step.nodes, f"{step.out.name}[{first}:{first + rows}, tiles {[*tables]}] looked up")
    above, below = _beyond(s, side, tables)
    numbers = confined(s, step.place, chunk, chip, _sources(s, step, side) - above, side)
    taken, results = below | numbers.slices, list[tuple[Copy, int]]()
    for tile in tables:
        shun = s.neighbours(step.out, chunk, tile, chip, [])
        for value in step.beside:
            for copy in storage.copies.get(((value.number, chunk, tile), chip), ()):
                shun |= copy.slices
        what = f"tensor {step.out.name!r}"
        results.append(s.room(chip, step.out.type, rows, taken, what, shun))
        taken |= results[-1][0].slices
    maker = _Maker(s, step, chip, numbers, rows)
    maker.bring([plane for table in tables.values() for plane in table.planes], results[0][0])
    for table, (out, since) in zip(tables.values(), results, strict=True):
        maker.gather(table, out, since)
    bundle = maker.bundle
    time = s.earliest(chip, bundle)
    s.commit(bundle, time)
    for copy in (numbers, *tables.values()):
        copy.used(time + bundle.end)
    for tile, (out, _), done in zip(tables, results, bundle.written, strict=True):
        out.ready[:] = time + done + np.arange(rows)
        out.writers.append(s.trail.last)
        storage.add((step.out.number, chunk, tile), chip, out)


def _sources(s: Scheduler, step: Lookup, side: str) -> frozenset[int]:
    """Slices that numbers come from: of every other part of a table others, if there are any."""
    rim = sorted(s.plan.rim[side])
    turn = 2 * (len(step.beside) % max(1, len(rim) // 2))
    return frozenset(rim[turn : turn + 2])


def _beyond(s: Scheduler, side: str, tables: _Tiles) -> tuple[frozenset[int], frozenset[int]]:
    """Slices of a hemisphere where numbers cannot come from, and where results cannot go: all words
    move inward, and those of a slice are seen by the next."""
    queues, own = s.plan.queues, s.plan.slices[side]
    inner = queues[own[0]].x
    places = [abs(queues[q].x - inner) for table in tables.values() for q in table.slices]
    above = frozenset(q for q in own if abs(queues[q].x - inner) <= max(places))
    below = frozenset(q for q in own if abs(queues[q].x - inner) >= min(places))
    return above, below


@dataclass(slots=True)
class _Maker:
    """Makes a bundle that moves words inward.

    Its offsets count from the cycle in which the first number is on its stream at `origin`.
    """

    s: Scheduler
    step: Lookup
    chip: int
    numbers: Copy
    rows: int
    bundle: Bundle = field(init=False)
    origin: Queue = field(init=False)
    map: int = 0
    """The streams of the numbers, as an operand."""
    taken: set[tuple[int, int]] = field(default_factory=set)
    """Streams that are spoken for: direction and number."""

    def __post_init__(self) -> None:
        self.bundle = Bundle(self.s.plan)

    def _after(self, queue: Queue) -> int:
        """When what is at the origin in cycle 0 is at a slice."""
        return abs(queue.x - self.origin.x)

    def bring(self, tables: list[tuple[int, int]], target: Copy) -> None:
        """Numbers past the slices of all tables, on the way to where a result goes."""
        plan, numbers = self.s.plan, self.numbers
        sources = [plan.queues[queue] for queue, _ in numbers.planes]
        end = plan.queues[target.planes[0][0]].x
        self.origin = max(sources, key=lambda q: abs(q.x - end))
        last = max((plan.queues[queue] for queue, _ in tables), key=self._after)
        ways = [plan.way(source, last) for source in sources]
        base, direction = quiet(self.s, self.chip, ways, self.taken), ways[0].direction
        self.map = direction << 8 | base
        row = int((numbers.ready - np.arange(self.rows)).argmax())
        for i, (way, (queue, address)) in enumerate(zip(ways, numbers.planes, strict=True)):
            self.taken.add((direction, base + i))
            at = self._after(plan.queues[queue]) - plan.machine.mem.read_latency
            operand = (address, 1, direction << 8 | base + i)
            self.bundle.issue(self.chip, queue, "read", at, operand, self.rows)
            self._hold(way.stretches, direction, base + i, self._after(last), last)
            self.bundle.after(at + row, int(numbers.ready[row]), numbers)

    def gather(self, table: Copy, out: Copy, since: int) -> None:
        """What the numbers say of a table, to room that is free from a cycle on."""
        plan = self.s.plan
        planes = list(zip(table.planes, out.planes, strict=True))
        ways = [plan.way(plan.queues[a], plan.queues[b]) for (a, _), (b, _) in planes]
        base, direction = quiet(self.s, self.chip, ways, self.taken), ways[0].direction
        written = []
        for byte, (way, ((here, address), (there, to))) in enumerate(
            zip(ways, planes, strict=True)
        ):
            self.taken.add((direction, base + byte))
            stream, size = direction << 8 | base + byte, self.step.table.rows
            fields = (self.map, self.step.first, address, 0, size, stream)
            at = self._after(plan.queues[here])
            self.bundle.issue(self.chip, here, "gather", at, fields, self.rows)
            at = self._after(plan.queues[there]) + plan.machine.mem.read_latency
            self._hold(way.stretches, direction, base + byte, at, plan.queues[there])
            self.bundle.issue(self.chip, there, "write", at, (stream, to, 1), self.rows)
            self.bundle.after(at, since)
            written.append(at + plan.latency["write"])
        self.bundle.written.append(max(written))

    def _hold(
        self, stretches: tuple[int, ...], direction: int, stream: int, cycle: int, at: Queue
    ) -> None:
        """A stream whose first word is at a slice in a cycle."""
        plan, first = self.s.plan, phase(direction, cycle, at.x)
        self.bundle.reservations += [
            (plan.stream_resource(self.chip, direction, stretch, stream), first, self.rows)
            for stretch in stretches
        ]
