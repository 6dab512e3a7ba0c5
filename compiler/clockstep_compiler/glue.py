"""What travels between programs that run one after another: words of one to words of the next.

Nothing else runs meanwhile, so every unit and every stream is free; on chips in between, vectors
lie in words that no program uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.bundle import Bundle
from clockstep_compiler.calendar import Calendars
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_compiler.transfer import Arrival, Links, send_block
from clockstep_isa.geometry import Unit
from clockstep_isa.layout import Binding, Layout
from clockstep_isa.machine import Machine
from clockstep_isa.program import Program
from clockstep_isa.table import BY_NAME

__all__ = ["Glue", "Unlike", "Words", "free_words", "journeys"]


class Unlike(Exception):
    """A tensor lies in one form where it is made, and in another where it is read."""


@dataclass(frozen=True, slots=True)
class Words:
    """`count` words of a slice from `address` on."""

    chip: int
    queue: int
    address: int
    count: int


def journeys(made: Binding, read: Binding) -> Iterator[tuple[Words, Words]]:
    """From where and to where the words of a tensor travel: all copies that are read.

    Raises `Unlike` if elements are not kept in the same type, or not in the same words.
    """
    source = made.layouts[0]
    for layout in read.layouts:
        if _form(layout) != _form(source):
            raise Unlike(f"{made.name!r} is made as {source.stored}, read as {layout.stored}")
        for byte, row, rows, column, columns, chip, queue, address in layout.pieces.tolist():
            done = 0
            for piece in source.pieces.tolist():
                low, high = max(row, piece[1]), min(row + rows, piece[1] + piece[2])
                if piece[0] != byte or piece[3] != column or low >= high:
                    continue
                if piece[4] < columns:
                    raise Unlike(f"{made.name!r} lies in fewer lanes than are read")
                start = Words(piece[5], piece[6], piece[7] + low - piece[1], high - low)
                yield start, Words(chip, queue, address + low - row, high - low)
                done += high - low
            if done != rows:
                raise Unlike(f"{made.name!r}: {done} of {rows} rows are where they are read")


def _form(layout: Layout) -> tuple[object, ...]:
    return (layout.stored, layout.offset, layout.axes, layout.rows, layout.columns, layout.windows)


def free_words(program: Program, chip: int) -> NDArray[np.bool_]:
    """[queue, word]: the words of one chip that a program never touches."""
    words = program.machine.words_per_slice
    queues = Floorplan(program.machine).queues
    free = np.zeros((len(queues), words), np.bool_)
    free[[q.id for q in queues if q.unit == Unit.MEM]] = True
    held = [program.image.regions]
    for binding in (*program.inputs, *program.outputs):
        held += [layout.pieces[:, [5, 6, 7, 2]] for layout in binding.layouts]
    for _, queue, address, count in np.concatenate(held)[np.concatenate(held)[:, 0] == chip]:
        free[queue, address : address + count] = False
    code = program.code
    here = code.queue // len(queues) == chip
    for name in ("read", "write"):
        row = BY_NAME[name]
        some = code.take(here & (code.opcode == row.opcode))
        first = some.args[:, row.field("address")]
        stride = some.args[:, row.field("stride")]
        each = np.repeat(np.arange(len(some)), some.repeat)
        step = np.arange(len(each)) - np.repeat(np.cumsum(some.repeat) - some.repeat, some.repeat)
        free[(some.queue % len(queues))[each], first[each] + step * stride[each]] = False
    return free


@dataclass
class Glue:
    """Transfers between `chips` chips; `rows` are instructions, with absolute cycles."""

    plan: Floorplan
    chips: int
    free: Callable[[int], NDArray[np.bool_] | None]
    """The words of a chip that its program does not touch; None where none runs."""
    rows: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._links = Links(self.plan.machine, self.chips)
        self._routes: dict[tuple[tuple[int, ...], int], list[int]] = {}

    def send(self, travels: list[tuple[Words, Words]], since: int) -> int:
        """Transfer everything from cycle `since` on; the cycle from which all of it is there.

        What several chips read goes to each from the nearest that has it by then.
        """
        calendars, end = Calendars(), since
        used: dict[int, NDArray[np.bool_]] = {}
        held: dict[Words, dict[int, Copy]] = {}
        for start, goal in travels:
            if start.chip == goal.chip:
                continue
            copies = held.setdefault(start, {start.chip: _copy(start, since)})
            route = self._route(tuple(sorted(copies.keys() - {goal.chip})), goal.chip)
            copy = copies[route[0]]
            for a, b in pairwise(route):
                target = _copy(goal, since) if b == goal.chip else self._room(used, b, goal.count)
                arrivals = [Arrival(b, target, since)]
                for sent in send_block(self.plan, self._links, calendars, a, copy, arrivals):
                    end = max(end, self._commit(calendars, sent.bundle, target))
                copies.setdefault(b, target)
                copy = target
        return end

    def _route(self, origins: tuple[int, ...], target: int) -> list[int]:
        if (origins, target) not in self._routes:
            self._routes[origins, target] = self._links.route(list(origins), target)
        return self._routes[origins, target]

    def _commit(self, calendars: Calendars, bundle: Bundle, target: Copy) -> int:
        time = calendars.earliest(bundle.reservations, bundle.not_before)
        calendars.reserve(bundle.reservations, time, 0)
        for row in bundle.rows:
            self.rows.append((row[0], row[1] + time, *row[2:]))
        pace = self.plan.machine.c2c.cycles_per_vector
        end = time + bundle.end
        target.ready[:] = end - pace * np.arange(len(target.ready))[::-1]
        return end

    def _room(self, used: dict[int, NDArray[np.bool_]], chip: int, count: int) -> Copy:
        """Words on a chip on the way."""
        if chip not in used:
            free = self.free(chip)
            used[chip] = _all_free(self.plan) if free is None else free
        free = used[chip]
        width = free.shape[1]
        for queue in np.flatnonzero(free.any(axis=1)).tolist():
            ends = np.flatnonzero(np.diff(np.concatenate([[0], free[queue], [0]])))
            for low, high in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True):
                if high - low >= count:
                    free[queue, low : low + count] = False
                    return _copy(Words(chip, queue, low, count), 0)
        raise NoRoom(chip, "what is sent through it", count - width)


def _copy(words: Words, ready: int) -> Copy:
    return Copy("", ((words.queue, words.address),), np.full(words.count, ready, np.int64))


def _all_free(plan: Floorplan) -> NDArray[np.bool_]:
    machine: Machine = plan.machine
    free = np.zeros((len(plan.queues), machine.words_per_slice), np.bool_)
    free[[q.id for q in plan.queues if q.unit == Unit.MEM]] = True
    return free
