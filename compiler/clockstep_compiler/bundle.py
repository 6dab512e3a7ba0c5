"""A rigid bundle: the bulk instructions of one kernel at fixed offsets, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from clockstep_compiler.calendar import Reservation
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.storage import Copy
from clockstep_isa.program import ARGS
from clockstep_isa.table import BY_NAME

__all__ = ["Bundle", "Choice", "Load", "Row"]


Row = tuple[int, ...]
"""One bulk instruction as columns of `Code`: its queue, counted over all chips, its cycle, opcode,
repeat and interval, then `ARGS` fields."""


class Choice(NamedTuple):
    """Streams base..base+width-1 on some stretches, for which others would do as well.

    `first` and `last` are those of the `Way`. They are taken for `length` phases from `phase` on.
    `own` are streams, as bits, that the bundle takes there by itself.
    """

    chip: int
    direction: int
    first: int
    last: int
    stretches: tuple[int, ...]
    width: int
    base: int
    phase: int
    length: int
    own: int


@dataclass(slots=True)
class Bundle:
    """Cycles are offsets from the bundle's time; `not_before` bounds that time from below.

    `first` and `end` are the first dispatch and one past the last latency, as offsets.
    """

    plan: Floorplan
    rows: list[Row] = field(default_factory=list)
    reservations: list[Reservation] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    """Weights of the arrays that it installs, which are loaded whenever there is time before."""
    loaded: list[int] = field(default_factory=list)
    """When, once that is settled."""
    written: list[int] = field(default_factory=list)
    """For each part of the result, when its first row may be read."""
    not_before: int = 0
    first: int = 1 << 60
    end: int = -(1 << 60)
    due: int = 0
    """What `not_before` comes from: the cycle in which a row, or room for the result, is there."""
    source: Copy | None = None
    """The copy whose row that is; None if it is room."""
    blocked: tuple[int, int] | None = None
    """What else kept it from an earlier time: a resource, and the number of who holds it."""
    late: int | None = None
    """The load that kept it from an earlier time, if it was one."""

    def issue(
        self,
        chip: int,
        queue: int,
        name: str,
        cycle: int,
        args: tuple[int, ...],
        repeat: int = 1,
        interval: int = 1,
        busy: int = 1,
    ) -> None:
        """Add an instruction by its row's name and hold its queue for the whole repeat."""
        plan, span = self.plan, (repeat - 1) * interval
        number, opcode = chip * len(plan.queues) + queue, BY_NAME[name].opcode
        self.rows.append(
            (number, cycle, opcode, repeat, interval, *args, *(0,) * (ARGS - len(args)))
        )
        self.reservations.append((plan.queue_resource(chip, queue), cycle, span + busy))
        end = cycle + span + plan.latency[name]
        if cycle < self.first:
            self.first = cycle
        if end > self.end:
            self.end = end

    def after(self, offset: int, cycle: int, source: Copy | None = None) -> None:
        """What happens at `offset` must not happen before `cycle`, as `source` is there then."""
        if cycle - offset > self.not_before:
            self.not_before, self.due, self.source = cycle - offset, cycle, source

    def held(self, choice: Choice, base: int) -> list[Reservation]:
        """What a choice takes with streams from `base` on."""
        return [
            (
                self.plan.stream_resource(choice.chip, choice.direction, stretch, stream),
                choice.phase,
                choice.length,
            )
            for stretch in choice.stretches
            for stream in range(base, base + choice.width)
        ]

    def settled(self) -> list[Reservation]:
        """All that the bundle takes, its choices as they stand."""
        return self.reservations + [r for c in self.choices for r in self.held(c, c.base)]

    def clashes(self) -> bool:
        """Whether the bundle wants one resource twice at a time."""
        last: dict[int, int] = {}
        for resource, start, length in sorted(self.settled()):
            if last.get(resource, start) > start:
                return True
            last[resource] = start + length
        return False


@dataclass(frozen=True, slots=True)
class Load:
    """Weights on their way to the buffer of a plane, as a bundle of its own.

    `bundle` counts from the first `lw`, of `cycles` in all; the `iw` is `due` cycles after the time
    of the kernel that multiplies. `buffers` are held from the one to the other.
    """

    bundle: Bundle
    cycles: int
    due: int
    buffers: tuple[int, ...]

    def holding(self, time: int, kernel: int) -> list[Reservation]:
        """All that it takes from `time` on, if the kernel is at time `kernel`."""
        length = kernel + self.due - time
        return self.bundle.reservations + [(buffer, 0, length) for buffer in self.buffers]
