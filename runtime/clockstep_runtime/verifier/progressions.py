"""Arithmetic progressions: which elements of one are covered by others, and where two meet.

A bulk instruction touches phases (or cycles) start, start + step, ... `count` of them. All checks
of who meets whom come down to two questions asked here of whole arrays of progressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Progressions", "collisions", "first_missing", "meet"]

Ints = NDArray[np.int64]

TRIES = 6
"""Candidates looked at for all consumers at once, before the rest is settled one by one."""


@dataclass(frozen=True, slots=True)
class Progressions:
    """Arrays of one length. Only members of one `group` can meet.

    `depth` counts hops downstream: a producer is seen only at a greater depth than its own.
    `owner` is the instruction a progression belongs to.
    """

    group: Ints
    depth: Ints
    start: Ints
    step: Ints
    count: Ints
    owner: Ints

    def __len__(self) -> int:
        return len(self.group)

    @property
    def last(self) -> Ints:
        return self.start + (self.count - 1) * self.step

    def take(self, index: NDArray[Any]) -> Progressions:
        """The progressions at `index` (a mask or positions)."""
        columns = (self.group, self.depth, self.start, self.step, self.count, self.owner)
        return Progressions(*(column[index] for column in columns))


def first_missing(producers: Progressions, consumers: Progressions) -> Ints:
    """Per consumer the number of its first element that no producer upstream has, or -1."""
    ordered = producers.take(np.lexsort((producers.start, producers.group)))
    missing = np.full(len(consumers), -1, np.int64)
    unsettled = np.arange(len(consumers))
    nearest = _count_before(ordered, consumers) - 1
    for back in range(TRIES):
        if not len(unsettled) or not len(ordered):
            break
        candidate = nearest[unsettled] - back
        covered = _covers(ordered, np.maximum(candidate, 0), consumers.take(unsettled))
        unsettled = unsettled[~(covered & (candidate >= 0))]
    index = _Index(ordered)
    for consumer in unsettled.tolist():
        missing[consumer] = index.first_missing(consumers, consumer)
    return missing


def _count_before(ordered: Progressions, consumers: Progressions) -> Ints:
    """Per consumer how many producers come before it by group and start, equal ones included."""
    kind = np.repeat([0, 1], [len(ordered), len(consumers)])
    start = np.concatenate([ordered.start, consumers.start])
    group = np.concatenate([ordered.group, consumers.group])
    order = np.lexsort((kind, start, group))
    before = np.cumsum(kind[order] == 0)
    result = np.empty(len(kind), np.int64)
    result[order] = before
    return result[len(ordered) :]


def _covers(producers: Progressions, candidate: Ints, consumers: Progressions) -> NDArray[np.bool_]:
    """Whether producer `candidate[i]` has all elements of consumer i, and lies upstream."""
    p = producers.take(candidate)
    inside = (p.start <= consumers.start) & (consumers.last <= p.last)
    aligned = (consumers.start - p.start) % p.step == 0
    in_step = (consumers.count == 1) | (consumers.step % p.step == 0)
    near = (p.group == consumers.group) & (p.depth < consumers.depth)
    covered: NDArray[np.bool_] = inside & aligned & in_step & near
    return covered


class _Index:
    """Producers sorted by group and start, to find those that overlap a consumer."""

    def __init__(self, ordered: Progressions) -> None:
        self._all = ordered
        self._groups: dict[int, tuple[Progressions, Ints]] = {}

    def first_missing(self, consumers: Progressions, index: int) -> int:
        """The first element of one consumer that no producer upstream has, or -1."""
        start, step, count = (
            int(c[index]) for c in (consumers.start, consumers.step, consumers.count)
        )
        last = start + (count - 1) * step
        group, reach = self._group(int(consumers.group[index]))
        begin = int(np.searchsorted(reach, start, "left"))
        end = int(np.searchsorted(group.start, last, "right"))
        near = group.take(np.arange(begin, max(begin, end)))
        near = near.take((near.last >= start) & (near.depth < consumers.depth[index]))
        filled = np.zeros(count, np.bool_)
        _fill_singles(filled, near.take(near.count == 1), start, step)
        several = near.take(near.count > 1)
        for p in zip(
            several.start.tolist(), several.step.tolist(), several.count.tolist(), strict=True
        ):
            _fill(filled, start, step, p)
        return -1 if filled.all() else int(np.argmin(filled))

    def _group(self, group: int) -> tuple[Progressions, Ints]:
        """The producers of a group, and the furthest element among each and those before it."""
        if group not in self._groups:
            begin, end = np.searchsorted(self._all.group, [group, group + 1]).tolist()
            members = self._all.take(np.arange(begin, end))
            self._groups[group] = members, np.maximum.accumulate(members.last)
        return self._groups[group]


def _fill_singles(filled: NDArray[np.bool_], singles: Progressions, start: int, step: int) -> None:
    offset = singles.start - start
    number = offset // step
    hit = (offset % step == 0) & (number >= 0) & (number < len(filled))
    filled[number[hit]] = True


def _fill(filled: NDArray[np.bool_], start: int, step: int, producer: tuple[int, int, int]) -> None:
    """Mark the elements start + i * step that a producer (start, step, count) has."""
    first = meet((start, step, len(filled)), producer)
    if first is None:
        return
    p_start, p_step, p_count = producer
    stop = min(len(filled), (p_start + (p_count - 1) * p_step - start) // step + 1)
    filled[(first - start) // step : stop : p_step // gcd(step, p_step)] = True


def meet(a: tuple[int, int, int], b: tuple[int, int, int]) -> int | None:
    """The least common element of two progressions (start, step, count), or None."""
    (a0, da, na), (b0, db, nb) = a, b
    divisor = gcd(da, db)
    if (b0 - a0) % divisor:
        return None
    modulus = db // divisor
    i = (b0 - a0) // divisor * pow(da // divisor, -1, modulus) % modulus
    value = a0 + i * da
    period = da * modulus
    if value < b0:
        value += -(-(b0 - value) // period) * period
    return value if value <= min(a0 + (na - 1) * da, b0 + (nb - 1) * db) else None


def collisions(producers: Progressions) -> list[tuple[int, int, int]]:
    """Pairs that meet in one group and depth: (position, later position, least element)."""
    order = np.lexsort((producers.start, producers.depth, producers.group))
    p = producers.take(order)
    same = (p.group[1:] == p.group[:-1]) & (p.depth[1:] == p.depth[:-1])
    # Where nobody starts before the one before it has ended, nobody can meet.
    overlapping = np.flatnonzero(same & (p.start[1:] <= p.last[:-1]))
    begins = np.flatnonzero(np.concatenate([[True], ~same]))
    ends = np.concatenate([begins[1:], [len(p)]])
    pairs: list[tuple[int, int, int]] = []
    for run in np.unique(np.searchsorted(begins, overlapping, "right") - 1).tolist():
        members = np.arange(begins[run], ends[run])
        pairs += [
            (int(order[members[i]]), int(order[members[j]]), at)
            for i, j, at in _meetings(p.take(members))
        ]
    return pairs


def _meetings(p: Progressions) -> list[tuple[int, int, int]]:
    """All pairs of one run, sorted by start, that meet: (i, j, least common element)."""
    rows = list(zip(p.start.tolist(), p.step.tolist(), p.count.tolist(), strict=True))
    found = []
    active: list[int] = []
    for j, (start, step, count) in enumerate(rows):
        active = [i for i in active if rows[i][0] + (rows[i][2] - 1) * rows[i][1] >= start]
        for i in active:
            at = meet(rows[i], (start, step, count))
            if at is not None:
                found.append((i, j, at))
        active.append(j)
    return found
