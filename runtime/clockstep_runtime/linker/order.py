"""An order in which every value is there before it is used, near the order of the schedule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["order", "tangled"]

Ints = NDArray[np.int64]
_ROUNDS = 64
"""Rounds of moving consumers behind their producers, before levels are counted instead."""


def order(time: Ints, producer: Ints, consumer: Ints) -> Ints | None:
    """The nodes sorted so that each `producer[i]` stands before `consumer[i]`; None if none is.

    `time` says when a node begins. An operation of many vectors may begin before the one that
    gives it its last vectors, so nodes are pushed behind their producers as far as it takes.
    """
    rank = time.copy()
    for _ in range(_ROUNDS):
        late = rank[producer] >= rank[consumer]
        if not late.any():
            return np.argsort(rank, kind="stable")
        np.maximum.at(rank, consumer[late], rank[producer[late]] + 1)
    level = _levels(len(time), producer, consumer)
    return None if (level < 0).any() else np.lexsort((time, level))


def tangled(nodes: int, producer: Ints, consumer: Ints) -> Ints:
    """The nodes that lie on a cycle, or between two."""
    after = _levels(nodes, producer, consumer) < 0
    before = _levels(nodes, consumer, producer) < 0
    return np.flatnonzero(after & before)


def _levels(nodes: int, producer: Ints, consumer: Ints) -> Ints:
    """Per node the length of the longest path to it, -1 if a cycle leads there."""
    sort = np.argsort(producer, kind="stable")
    begin = np.searchsorted(producer[sort], np.arange(nodes + 1))
    target = consumer[sort]
    waiting = np.bincount(consumer, minlength=nodes)
    level = np.full(nodes, -1, np.int64)
    ready = np.flatnonzero(waiting == 0)
    depth = 0
    while len(ready):
        level[ready] = depth
        depth += 1
        size = begin[ready + 1] - begin[ready]
        each = np.repeat(begin[ready] - np.cumsum(size) + size, size) + np.arange(size.sum())
        reached = target[each]
        np.subtract.at(waiting, reached, 1)
        reached = np.unique(reached)
        ready = reached[waiting[reached] == 0]
    return level
