"""Calendars: when a resource is taken, as sorted disjoint intervals, and sliding bundles into them.

A resource is anything that one bulk instruction at a time may hold: a queue (in cycles), a stream
on one stretch of the chip (in phases), the buffer or the array of an MXM plane. A rigid bundle
holds many at fixed offsets; `earliest` slides it to the first time at which all are free.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

__all__ = ["Calendars", "Reservation"]

Reservation = tuple[int, int, int]
"""(resource, offset from the bundle's time, length)."""


class Calendars:
    """The busy intervals of every resource, made on first use."""

    def __init__(self) -> None:
        self._starts: dict[int, list[int]] = {}
        self._ends: dict[int, list[int]] = {}

    def earliest(self, reservations: list[Reservation], not_before: int) -> int:
        """The smallest `t >= not_before` at which every `t + [offset, offset + length)` is free."""
        time = not_before
        pending = len(reservations)
        while pending:
            for resource, offset, length in reservations:
                start = self._first_free(resource, time + offset, length)
                if start != time + offset:
                    time = start - offset
                    pending = len(reservations)
                    continue
                pending -= 1
                if not pending:
                    break
        return time

    def reserve(self, reservations: Iterable[Reservation], time: int) -> None:
        """Take the intervals; the caller has made sure that they are free."""
        for resource, offset, length in reservations:
            start = time + offset
            end = start + length
            starts = self._starts.setdefault(resource, [])
            ends = self._ends.setdefault(resource, [])
            i = bisect_left(starts, start)
            joins_left = i > 0 and ends[i - 1] == start
            joins_right = i < len(starts) and starts[i] == end
            if joins_left and joins_right:
                ends[i - 1] = ends[i]
                del starts[i], ends[i]
            elif joins_left:
                ends[i - 1] = end
            elif joins_right:
                starts[i] = start
            else:
                starts.insert(i, start)
                ends.insert(i, end)

    def busy_until(self, resource: int) -> int:
        """The end of the last interval, 0 if there is none."""
        ends = self._ends.get(resource)
        return ends[-1] if ends else 0

    def _first_free(self, resource: int, start: int, length: int) -> int:
        ends = self._ends.get(resource)
        if not ends or ends[-1] <= start:
            return start
        starts = self._starts[resource]
        i = bisect_right(ends, start)
        while i < len(starts) and starts[i] < start + length:
            start = ends[i]
            i += 1
        return start
