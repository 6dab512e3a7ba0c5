"""Where every operand comes from, through all that moves vectors and computes nothing.

`read`, `write`, `send`, `receive`, `acc` and `mov` hand on what they get. A chain of them, over
memory and links, is one join of segments after the other; what is left at the end are values: of
instructions that compute, and of words that are there from the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.verifier import Resolution, Segments, Table, expand, intersect

__all__ = ["Flow", "trace"]

Ints = NDArray[np.int64]
_ON_STREAMS = ("write", "send", "mov")
"""Movers whose vectors come from a stream; those of the others come from words, links, arrays."""

_ROWS = 1 << 16
"""Segments that are followed to their ends at a time: memory stays near that of the result."""


@dataclass(frozen=True, slots=True)
class Flow(Table):
    """Segments of stream parts. `key` is who wants them, `value` whose they are.

    Elements are numbered as in `Segments`; `part` is the byte of the value's elements. Values are
    instructions by index, and after these the initial blocks.
    """

    key: Ints
    value: Ints
    part: Ints
    first: Ints
    step: Ints
    count: Ints
    source: Ints
    source_step: Ints

    @staticmethod
    def joined(tables: list[Flow]) -> Flow:
        """Several tables as one, sorted by key and first element; empties the list."""
        whole = Flow.stacked(tables)
        return whole.take(np.lexsort((whole.first, whole.key)))


def trace(found: Resolution, wanted: Ints) -> Flow:
    """The values behind stream parts.

    Keys `wanted` are rows of `slots.samples`, or, after these and as many as there are
    instructions, blocks of `words.outputs`.
    """
    table, target = _hops(found)
    begins = np.searchsorted(table.key, np.arange(int(table.key.max(initial=-1)) + 2))
    asked = np.zeros(len(begins), np.bool_)
    asked[wanted] = True
    rows = np.flatnonzero(asked[table.key])
    done: list[Flow] = []
    for start in range(0, max(1, len(rows)), _ROWS):
        rest = table.take(rows[start : start + _ROWS])
        while len(rest):
            behind = target.of(rest)
            done.append(rest.take(behind < 0))
            moving = behind >= 0
            rest = _compose(rest.take(moving), behind[moving], table, begins)
    return Flow.joined([*done, table.take(rows[:0])])


@dataclass(frozen=True, slots=True)
class _Targets:
    """Per value the key of what is behind it; `per_part` adds the part.

    -1 stands for values of instructions that compute, and at the end once for all initial blocks.
    """

    key: Ints
    per_part: NDArray[np.bool_]

    def of(self, flow: Flow) -> Ints:
        value = np.minimum(flow.value, len(self.key) - 1)
        behind: Ints = self.key[value] + np.where(self.per_part[value], flow.part, 0)
        return behind


def _hops(found: Resolution) -> tuple[Flow, _Targets]:
    """One hop back of every sample and every mover; and which key stands for a mover's value.

    A part of -1 means: the same part as of what is asked for.
    """
    columns, slots = found.columns, found.slots
    rows, total = len(slots.samples), len(columns)
    result = slots.segments.producer
    tables = [
        _flow(
            slots.segments,
            slots.segments.consumer,
            slots.results.phases.owner[result],
            slots.results.part[result],
        )
    ]
    for segments in (found.words.segments, found.links, found.products):
        part = -1 if segments is found.products else 0
        tables.append(
            _flow(
                segments,
                rows + segments.consumer,
                segments.producer,
                np.full(len(segments), part),
            )
        )
    key = np.full(total + 1, -1, np.int64)
    per_part = np.zeros(total + 1, np.bool_)
    of_streams = columns.where(*_ON_STREAMS)
    owner = slots.samples.phases.owner
    key[of_streams] = np.searchsorted(owner, of_streams)
    per_part[of_streams] = True
    others = columns.where("read", "receive", "acc")
    key[others] = rows + others
    return Flow.joined(tables), _Targets(key, per_part)


def _flow(segments: Segments, key: Ints, value: Ints, part: Ints) -> Flow:
    s = segments
    return Flow(key, value, part, s.first, s.step, s.count, s.source, s.source_step)


def _compose(flow: Flow, key: Ints, table: Flow, begins: Ints) -> Flow:
    """Replace movers' elements by what the mover had them from."""
    each, offset = expand(begins[key + 1] - begins[key])
    outer, inner = flow.take(each), table.take(begins[key[each]] + offset)
    still: NDArray[np.bool_] = (outer.source_step == 0) | (outer.count == 1)
    backward = outer.source_step < 0
    count = np.where(still, 1, outer.count)
    lowest = np.where(backward, outer.source + (outer.count - 1) * outer.source_step, outer.source)
    pitch = np.where(still, 1, np.abs(outer.source_step))
    first, step, common, number, number_step = intersect(
        (lowest, pitch, count), (inner.first, inner.step, inner.count)
    )
    # Backward: the last of the common elements is the first one asked for.
    last = (common - 1) * step
    begin: Ints = np.where(backward & ~still, outer.count - 1 - first - last, first)
    at: Ints = np.where(backward & ~still, number + (common - 1) * number_step, number)
    onward: Ints = np.where(backward, -number_step, number_step) * inner.source_step
    whole: Ints = np.where(still, outer.count, common)
    joined = Flow(
        outer.key,
        inner.value,
        np.where(inner.part < 0, outer.part, inner.part),
        outer.first + begin * outer.step,
        np.where(still, outer.step, step * outer.step),
        whole,
        inner.source + at * inner.source_step,
        np.where(still, 0, onward),
    )
    return joined.take(common > 0)
