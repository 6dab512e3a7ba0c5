"""Intervals of cycles, whole columns of them: joined where they meet, apart where they overlap."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

__all__ = ["lanes", "merged"]

Ints = NDArray[np.int64]


def merged(group: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """(group, start, end) of the union of the intervals [start, end) of each group, in order.

    Intervals that touch become one; empty ones count for nothing.
    """
    some = start < end
    group, start, end = group[some], start[some], end[some]
    if not len(group):
        return group, start, end
    order = np.lexsort((start, group))
    group, start, end = group[order], start[order], end[order]
    # Groups one after another on one axis: there are no more cycles than intervals have ends.
    cycles = np.unique(np.concatenate([start, end]))
    base = np.unique(group, return_inverse=True)[1].reshape(-1) * (len(cycles) + 1)
    reach = np.maximum.accumulate(base + np.searchsorted(cycles, end))
    begins = np.ones(len(group), np.bool_)
    begins[1:] = (base + np.searchsorted(cycles, start))[1:] > reach[:-1]
    at = np.flatnonzero(begins)
    return group[at], start[at], np.maximum.reduceat(end, at)


def lanes(group: Ints, start: Ints, end: Ints) -> Ints:
    """For each interval a lane of its group, so that none overlaps another in its lane.

    Lanes count from 0, and the first one free is taken, in order of the starts.
    """
    found = np.zeros(len(group), np.int64)
    free: list[int] = []
    held: list[tuple[int, int]] = []
    used, current = 0, None
    for index in np.lexsort((end, start, group)).tolist():
        if group[index] != current:
            free, held, used, current = [], [], 0, group[index]
        while held and held[0][0] <= start[index]:
            heapq.heappush(free, heapq.heappop(held)[1])
        if not free:
            free, used = [used], used + 1
        lane = heapq.heappop(free)
        heapq.heappush(held, (int(end[index]), lane))
        found[index] = lane
    return found
