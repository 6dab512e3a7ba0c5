"""Until when a step reads each block of rows of its sources, and the least room that all take
while each step runs.

To tell the same of a new kind of step, add it to `_rows_read`; without, its sources stay whole
until the step is done.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Expr, Leaf, Op
from clockstep_compiler.steps import (
    Broadcast,
    Compute,
    Lookup,
    Lowered,
    Move,
    Relayout,
    Step,
    Value,
    sources_of,
)

__all__ = ["last_readers", "live_words", "peak_words", "read_until", "words_of"]

Ints = NDArray[np.int64]


def last_readers(lowered: Lowered) -> dict[int, int]:
    """The number of the last step that reads each matrix."""
    return {v.number: i for i, step in enumerate(lowered.steps) for v in sources_of(step)}


def read_until(step: Step, value: Value, size: int, made: int) -> Ints:
    """For each block of `size` rows of a source, the last block of the result that reads it.

    Blocks of the result have `made` rows.

    -1 where none does.
    """
    blocks, last = -(-value.rows // size), -(-step.out.rows // made) - 1
    found = np.full(blocks, -1, np.int64)
    for pair in _rows_read(step, value):
        if pair is None:
            return np.full(blocks, last, np.int64)
        rows, readers = (side[pair[0] >= 0] for side in pair)  # -1: a row of border
        np.maximum.at(found, rows // size, readers // made)
    return found


def _rows_read(step: Step, value: Value) -> Iterator[tuple[Ints, Ints] | None]:
    """Rows of a source and the rows of the result that read them; None where any reads any."""
    every = np.arange(step.out.rows)
    if isinstance(step, Compute):
        for index in _indices(step.expr, value):
            yield None if index is None else (index, every[: len(index)])
    elif isinstance(step, Broadcast | Lookup):
        yield every, every
    elif isinstance(step, Relayout):
        ends = np.arange(1, value.rows + 1) * value.columns - 1
        yield np.arange(value.rows), ends // step.out.columns
    elif isinstance(step, Move):
        yield from _moved(step, value)
    else:
        yield None


def _moved(step: Move, value: Value) -> Iterator[tuple[Ints, Ints]]:
    first = 0
    for source in step.sources:
        count = source.rows * source.columns
        if source is value:
            inside = (step.index >= first) & (step.index < first + count)
            readers = np.nonzero(inside)[0]
            yield (step.index[inside] - first) // source.columns, readers
        first += count


def _indices(expr: Expr, value: Value) -> Iterator[Ints | None]:
    """The row index of every operand that is `value`; None for weights."""
    seen: set[int] = set()
    waiting = [expr]
    while waiting:
        e = waiting.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, Op):
            waiting += e.args
        elif isinstance(e, Leaf) and e.value is value:
            yield np.arange(value.rows) if e.index is None else e.index
        elif isinstance(e, Acc):
            for term in e.product.terms:
                if term.a is value:
                    yield np.arange(value.rows) if term.index is None else term.index
                if value in term.weights.read:
                    yield None


def live_words(lowered: Lowered, lanes: int) -> list[int]:
    """Words that the matrices take while each step runs.

    The blocks of its result may take the place of those of its sources.
    """
    last = last_readers(lowered)
    kept = {value.number for _, value in lowered.outputs}
    live: dict[int, int] = {}
    found = []
    for i, step in enumerate(lowered.steps):
        sources = {v.number: v for v in sources_of(step)}
        live.update((n, words_of(v, lanes)) for n, v in sources.items())
        ending = [n for n in sources if last[n] == i and n not in kept]
        going = sum(live.pop(n) for n in ending)
        made = words_of(step.out, lanes)
        found.append(sum(live.values()) + max(going, made))
        live[step.out.number] = made
    return found


def peak_words(lowered: Lowered, lanes: int) -> int:
    """Words that the matrices take when they take most."""
    return max(live_words(lowered, lanes), default=0)


def words_of(value: Value, lanes: int) -> int:
    """Words that a matrix takes."""
    return value.rows * -(-value.columns // lanes) * value.type.bytes
