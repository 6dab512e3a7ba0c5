"""Rows in runs over which everything advances by constant steps: what one kernel can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Span", "regular_runs", "spans"]

Ints = NDArray[np.int64]

_SHORT = 16
"""Rows of a run on average below which it is tried to take every second row, every third, ..."""

_MOST_APART = 8


class Span(NamedTuple):
    """Rows start, start + step, ..., `length` of them."""

    start: int
    length: int
    step: int = 1

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + (self.length - 1) * self.step + 1, self.step)


def regular_runs(indices: Sequence[Ints], fixed: Sequence[Ints]) -> list[tuple[int, int]]:
    """Split rows into (start, count) over which every index advances by a constant step.

    `fixed` are arrays that must not change within a run (the chunk an index falls in).
    """
    total = len(indices[0]) if indices else len(fixed[0])
    breaks = np.zeros(max(total - 1, 0), bool)
    for array in fixed:
        breaks |= np.diff(array) != 0
    steps = [np.diff(index) for index in indices]
    runs, start = [], 0
    for end in [*np.flatnonzero(breaks) + 1, total]:
        while start < end:
            stop = int(end)
            for step in steps:
                changed = np.flatnonzero(step[start : stop - 1] != step[start : start + 1])
                if changed.size:
                    stop = start + int(changed[0]) + 1
            runs.append((start, stop - start))
            start = stop
    return runs


def spans(indices: Sequence[Ints], fixed: Sequence[Ints]) -> list[Span]:
    """`regular_runs`, of rows that are apart by a constant number where that makes fewer.

    An image enlarged by two reads each row twice: every second row goes on regularly.
    """
    best = [Span(start, count) for start, count in regular_runs(indices, fixed)]
    total = sum(span.length for span in best)
    if total >= _SHORT * len(best):
        return best
    for step in range(2, min(_MOST_APART, total // 2) + 1):
        found = [
            Span(first + start * step, count, step if count > 1 else 1)
            for first in range(step)
            for start, count in regular_runs(
                [index[first::step] for index in indices], [array[first::step] for array in fixed]
            )
        ]
        if 2 * len(found) < len(best):
            best = found
    return best
