"""Collectives: blocks that chips send to one another and add, as parts of one schedule.

A collective takes the blocks of a message where they lie and leaves the result in new copies. Its
algorithms (`collective_algorithms.py`) are generators: what stands between two `yield`s is one
phase, and the next part of a long message begins while the one before is in its later phases
(`run`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clockstep_compiler.kernel import FromMem, Rows
from clockstep_compiler.scheduler import Part, Place, Scheduler
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_compiler.transfer import Arrival
from clockstep_compiler.wave import WaveOp, WaveProgram
from clockstep_isa.table import Type

__all__ = ["Collective", "Held", "Phases", "run", "sum_tree"]

Held = dict[tuple[int, int], Copy]
"""The copy that a chip has of a block, by (chip, block)."""

Phases = Generator[None, None, Held]
"""A collective under way; what it returns are the result's blocks."""

_LATE = 1 << 40
"""Later than any cycle of a program."""

_FAN = 8
"""Most blocks that one wave adds."""


def _apart(first: Copy, others: Sequence[Copy]) -> int:
    """How many of `others` share no slice with the first or one another."""
    slices = first.slices
    for count, copy in enumerate(others):
        if copy.slices & slices:
            return count
        slices |= copy.slices
    return len(others)


def sum_tree(count: int, kind: Type) -> WaveProgram:
    """Neighbours are added, then neighbours among these sums, and so on."""
    ops: list[WaveOp] = []
    level = list(range(count))
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=False))
        ops += [WaveOp("add", kind, pair, kind) for pair in pairs]
        first = count + len(ops) - len(pairs)
        level = [*range(first, first + len(pairs)), *level[2 * len(pairs) :]]
    return WaveProgram((kind,) * count, tuple(ops))


@dataclass(slots=True)
class Collective:
    """What the algorithms are made of, on the chips and the calendars of one schedule."""

    s: Scheduler
    chips: Sequence[int]
    kind: Type
    sources: frozenset[int] = frozenset()
    """Slices that hold what is yet to be sent."""
    _taken: dict[int, frozenset[int]] = field(default_factory=dict)
    """By chip: slices of blocks that are going to be added together."""

    # -- moving -------------------------------------------------------------------------------

    def deliver(self, copy: Copy, origin: int, targets: Iterable[int]) -> dict[int, Copy]:
        """Copies of a block on other chips, over the shortest routes; relays pass it on at once."""
        found = {origin: copy}
        wanted = [chip for chip in targets if chip != origin]
        for chip, nexts in self.s.links.tree(origin, wanted):
            arrivals = [Arrival(to, *self._room(chip, to, len(copy.ready))) for to in nexts]
            sent = self.s.spread(found[chip], chip, arrivals)
            found.update(zip(nexts, sent, strict=True))
        for chip in [c for c in found if c not in wanted and c != origin]:
            self.free(chip, found.pop(chip))
        return {chip: found[chip] for chip in wanted}

    def _room(self, origin: int, target: int, rows: int) -> tuple[Copy, int]:
        """Room on the side of the chip where a link enters, beside what it will be added to."""
        _, port = self.s.links.ports[origin, target][0]
        avoid = self._taken.get(target, frozenset())
        try:
            room = self._slices(target, rows, avoid, "WE"[port % 2])
        except NoRoom:  # so many blocks that some are in the same slices
            room = self._slices(target, rows, frozenset(), "WE")
        self._taken[target] = avoid | room[0].slices
        return room

    def _slices(self, chip: int, rows: int, avoid: frozenset[int], side: str) -> tuple[Copy, int]:
        """Room in slices that are idle soonest: whatever writes to a slice holds it to the end.

        Not where something lies that is yet to be sent, if there is any other.
        """
        plan, busy = self.s.plan, self.s.calendars.busy_until
        latency, pace = plan.machine.link_latency, plan.machine.c2c.cycles_per_vector
        # Where little is sent, any that is idle before it arrives is as good as another.
        soon = latency if rows * pace < latency else 1
        shun = {
            queue: busy(plan.queue_resource(chip, queue)) // soon + (queue in self.sources) * _LATE
            for queue in (*plan.slices["W"], *plan.slices["E"])
        }
        try:
            return self.s.room(chip, self.kind, rows, avoid, "a message", shun, side)
        except NoRoom:
            return self.s.room(chip, self.kind, rows, avoid, "a message", shun)

    def free(self, chip: int, copy: Copy) -> None:
        """Give the room of a copy back, once it has been read."""
        self.s.storage.give(chip, copy, "message", "copy")

    def meet(self, chip: int, copies: Iterable[Copy]) -> None:
        """What arrives on a chip from here on is added to these copies."""
        self._taken[chip] = frozenset[int]().union(*(copy.slices for copy in copies))

    # -- adding -------------------------------------------------------------------------------

    def add(self, chip: int, copies: Sequence[Copy]) -> Copy:
        """The sum of blocks on one chip: of as many at a time as a wave takes, in their order."""
        total, rest = copies[0], list(copies[1:])
        made: list[Copy] = []
        while rest:
            count = _apart(total, rest[: _FAN - 1])
            if not count:
                avoid = total.slices
                rest[0] = self.s.duplicate(rest[0], chip, self.kind, avoid, "a message")
                made.append(rest[0])
                continue
            while (added := self._add(chip, [total, *rest[:count]])) is None:
                count = max(1, count // 2)
            total, rest = added, rest[count:]
            made.append(total)
        for copy in made:
            if copy is not total:
                self.free(chip, copy)
        return total

    def _add(self, chip: int, copies: Sequence[Copy]) -> Copy | None:
        """The sum of blocks in one wave; None if they are more than two, and too many for it."""
        rows = len(copies[0].ready)
        avoid = frozenset[int]().union(*(copy.slices for copy in copies))
        try:
            new, since = self._slices(chip, rows, avoid, "WE")
        except NoRoom:
            if len(copies) > 2:
                return None
            raise
        origins = [FromMem(Rows(copy, 0, 1)) for copy in copies]
        parts = (Part(0, rows, Place(new, 0, 1, since=since)),)
        program = sum_tree(len(copies), self.kind)
        if len(copies) > 2 and not self.s.has_wave(chip, program, origins, rows, 1, parts):
            self.free(chip, new)
            return None
        self.s.run(chip, program, origins, rows, 1, parts)
        return new

    def sum_up(
        self, chip: int, own: Copy | None, got: Mapping[int, Copy], order: Sequence[int]
    ) -> Copy:
        """The sum of a chip's own block, if it has one, and of what it got, in an order."""
        every = got if own is None else {**got, chip: own}
        total = self.add(chip, [every[other] for other in order])
        for copy in got.values():
            if copy is not total:
                self.free(chip, copy)
        return total


def run(parts: Iterable[Phases]) -> list[Held]:
    """Schedule the parts of a message one phase apart, the newest part first; their results."""
    results: list[Held] = []
    active: list[Phases] = []
    waiting = iter(parts)
    following = next(waiting, None)
    while following is not None or active:
        if following is not None:
            active.append(following)
            following = next(waiting, None)
        for part in reversed(list(active)):
            try:
                next(part)
            except StopIteration as done:
                results.append(done.value)
                active.remove(part)
    return results
