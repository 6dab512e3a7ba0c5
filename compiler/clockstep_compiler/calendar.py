"""Calendars: when a resource is taken, as sorted disjoint intervals, and sliding bundles into them.

A resource is anything that one bulk instruction at a time may hold: a queue (in cycles), a stream
on one stretch of the chip (in phases), the buffer or the array of an MXM plane. A rigid bundle
holds many at fixed offsets; `earliest` slides it to the first time at which all are free.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Calendars", "Reservation"]

Reservation = tuple[int, int, int]
"""(resource, offset from the bundle's time, length)."""


class Calendars:
    """The busy intervals of every resource, made on first use."""

    def __init__(self) -> None:
        self._starts: dict[int, list[int]] = {}
        self._ends: dict[int, list[int]] = {}
        self._owners: dict[int, list[int]] = {}
        """Who reserved the last part of each interval."""
        self.blocked: tuple[int, int] | None = None
        """Why `earliest` last said more than `not_before`: a resource, and its owner till then."""

    def earliest(self, reservations: list[Reservation], not_before: int) -> int:
        """The smallest `t >= not_before` at which every `t + [offset, offset + length)` is free."""
        waiting = []
        for resource, offset, length in reservations:
            ends = self._ends.get(resource)
            if ends and ends[-1] > not_before + offset:
                waiting.append(_Wish(self._starts[resource], ends, offset, length, resource))
        time, checked = not_before, 0
        while checked < len(waiting):
            wish = waiting[checked]
            free = time if time <= wish.until else wish.earliest(time)
            if free == time:
                checked += 1
                continue
            # Whatever was in the way is in the way again, more likely than others: ask it first.
            time = free
            waiting.insert(0, waiting.pop(checked))
            checked = 1
        self.blocked = None
        if time > not_before:
            ends, offset, resource = waiting[0].ends, waiting[0].offset, waiting[0].resource
            owner = self._owners[resource][bisect_left(ends, time + offset)]
            self.blocked = (resource, owner)
        return time

    def reserve(self, reservations: Iterable[Reservation], time: int, owner: int) -> None:
        """Take the intervals for `owner`, a number; the caller has made sure that they are free."""
        for resource, offset, length in reservations:
            start = time + offset
            end = start + length
            starts = self._starts.setdefault(resource, [])
            ends = self._ends.setdefault(resource, [])
            owners = self._owners.setdefault(resource, [])
            if not ends or start > ends[-1]:  # as most are
                starts.append(start)
                ends.append(end)
                owners.append(owner)
                continue
            i = bisect_left(starts, start)
            joins_left = i > 0 and ends[i - 1] == start
            joins_right = i < len(starts) and starts[i] == end
            if joins_left and joins_right:
                ends[i - 1], owners[i - 1] = ends[i], owners[i]
                del starts[i], ends[i], owners[i]
            elif joins_left:
                ends[i - 1], owners[i - 1] = end, owner
            elif joins_right:
                starts[i] = start
            else:
                starts.insert(i, start)
                ends.insert(i, end)
                owners.insert(i, owner)

    def ends(self, resource: int, first: int, end: int) -> list[int]:
        """When intervals end that do so from `first` on and before `end`."""
        ends = self._ends.get(resource, [])
        return ends[bisect_left(ends, first) : bisect_left(ends, end)]

    def free_since(self, resource: int, time: int) -> int:
        """The end of the last interval that begins before a time, 0 if there is none."""
        at = bisect_left(self._starts.get(resource, []), time)
        return self._ends[resource][at - 1] if at else 0

    def taken(self, first: int, count: int, time: int, length: int) -> int:
        """Which of `count` resources, `first` the lowest, are not free for so long, as bits."""
        bits = 0
        for number in range(count):
            ends = self._ends.get(first + number)
            if not ends or ends[-1] <= time:
                continue
            if self._starts[first + number][bisect_right(ends, time)] < time + length:
                bits |= 1 << number
        return bits

    def busy_until(self, resource: int) -> int:
        """The end of the last interval, 0 if there is none."""
        ends = self._ends.get(resource)
        return ends[-1] if ends else 0


@dataclass(slots=True)
class _Wish:
    """A reservation that may have to wait; it fits from the time last asked for to `until`."""

    starts: list[int]
    ends: list[int]
    offset: int
    length: int
    resource: int
    until: int = -(1 << 60)

    def earliest(self, time: int) -> int:
        """The first time from `time` on with `length` free cycles at the offset."""
        starts, ends, length = self.starts, self.ends, self.length
        start = time + self.offset
        i = bisect_right(ends, start)
        while i < len(starts) and starts[i] < start + length:
            start = ends[i]
            i += 1
        self.until = starts[i] - length - self.offset if i < len(starts) else 1 << 60
        return start - self.offset
