"""Steps dealt to chips in their order, so that the longest that a chip takes is least."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.driver import Schedule
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.liveness import last_readers, words_of
from clockstep_compiler.partition import step_words
from clockstep_compiler.steps import Lowered
from clockstep_isa.geometry import geometry
from clockstep_isa.table import TABLE, figure

__all__ = ["busiest", "by_time"]


def busiest(plan: Floorplan, done: Schedule) -> int:
    """The most cycles that a chip takes from its first dispatch to its last result."""
    first, end = _spans(plan, done)
    return int((end - first)[end > first].max(initial=0))


def _spans(plan: Floorplan, done: Schedule) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[chips]: the first dispatch of each chip, and one past the cycle of its last result."""
    machine, chips = plan.machine, done.scheduler.chips
    latency = np.ones(256, np.int64)
    for row in TABLE:
        latency[row.opcode] = max(1, figure(machine, row.latency))
    first, end = np.full(chips, np.iinfo(np.int64).max), np.zeros(chips, np.int64)
    for rows in done.scheduler.rows:
        queue, cycle, opcode, repeat, interval = rows.T[:5]
        chip = queue // len(geometry(machine).queues)
        np.minimum.at(first, chip, cycle)
        np.maximum.at(end, chip, cycle + (repeat - 1) * interval + latency[opcode])
    return first, end


def by_time(plan: Floorplan, lowered: Lowered, done: Schedule, chips: int) -> dict[int, int] | None:
    """The chip of every step, by the number of the matrix that it makes, from what each takes in
    a schedule; None if that leaves a chip without weights."""
    words = step_words(plan, lowered)
    room = plan.machine.words_per_chip
    homes = _deal(_times(done), words, _crossings(plan, lowered), chips, room)
    used = {home for home, held in zip(homes or (), words, strict=False) if held}
    if homes is None or len(used) < chips:
        return None
    return {step.out.number: home for step, home in zip(lowered.steps, homes, strict=True)}


def _times(done: Schedule) -> list[int]:
    """By how many cycles the results of each step come after those of all before it."""
    ends = done.scheduler.trail.table()[:, 1]
    starts = [0, *done.bundles]
    latest = [int(ends[a:b].max(initial=0)) for a, b in pairwise(starts)]
    reached = np.maximum.accumulate(np.array([0, *latest]))
    return [int(n) for n in np.diff(reached)]


def _crossings(plan: Floorplan, lowered: Lowered) -> list[int]:
    """Before each step, the cycles that a link takes for what later steps read of earlier."""
    found = np.zeros(len(lowered.steps) + 1, np.int64)
    readers = last_readers(lowered)
    for index, step in enumerate(lowered.steps):
        last = readers.get(step.out.number, index)
        found[index + 1 : last + 1] += words_of(step.out, plan.machine.vector)
    return [int(words) * plan.machine.c2c.cycles_per_vector for words in found]


def _deal(
    costs: list[int], words: list[int], crossing: list[int], chips: int, room: int
) -> list[int] | None:
    """The chip of every step: parts in their order, `chips` at most, that take the least cycles.

    A part takes as many as its steps cost, or as the `crossing` before it if that is more; none
    has more `words` than `room`. None if that cannot be.
    """
    low, high = max(costs, default=0), max(sum(costs), *crossing, 0)
    best = None
    while low <= high:
        middle = (low + high) // 2
        found = _parts(costs, words, crossing, middle, room)
        if found is not None and found[-1] < chips:
            best, high = found, middle - 1
        else:
            low = middle + 1
    return best


def _parts(
    costs: list[int], words: list[int], crossing: list[int], most: int, room: int
) -> list[int] | None:
    """Steps to one chip after the other, as many as each may take; None if one takes none."""
    homes: list[int] = []
    start, size = 0, len(costs)
    while start < size:
        end, cost, held = start, 0, 0
        cut = start
        while end < size and cost + costs[end] <= most and held + words[end] <= room:
            cost, held, end = cost + costs[end], held + words[end], end + 1
            cut = end if end == size or crossing[end] <= most else cut
        if cut == start:
            return None
        homes += [homes[-1] + 1 if homes else 0] * (cut - start)
        start = cut
    return homes or None
