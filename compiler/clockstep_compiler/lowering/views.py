"""Inputs as the host loads them: in longer rows, where what is taken then comes out of fewer.

A camera's pixel has three channels. A kernel of stride two takes its pixels out of rows of two
pixels each time in the same way, and of those there are half as many.
"""

from __future__ import annotations

from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.lowering.lower import Lowering
from clockstep_compiler.steps import Value

__all__ = ["in_longer_rows"]

Ints = NDArray[np.int64]

_LONGEST = 64
"""Elements."""


def in_longer_rows(state: Lowering, value: Value, index: Ints) -> Value:
    """An input that only a move with this index reads, in rows of 2, 4, ... of its own if better.

    Better are fewer rows for each row of the result, while no more of these differ in which lanes
    they take.
    """
    if value.origin != "input" or state.uses[value.source] != 1 or not index.size:
        return value
    forms, rows = _forms(index, value.columns), _rows_taken(index, value.columns)
    best = value.columns
    longer = (value.columns << k for k in range(1, value.rows.bit_length()))
    for columns in takewhile(lambda n: n <= _LONGEST, longer):
        taken = _rows_taken(index, columns)
        whole = value.rows * value.columns % columns == 0
        if whole and taken < rows and _forms(index, columns) <= forms:
            best, rows = columns, taken
    count = value.rows * value.columns // best
    return state.input_view(value.source, value.axes, count, best, value.type)


def _rows_taken(index: Ints, columns: int) -> int:
    """Rows that all rows of the result are made of, counted anew for each."""
    rows = np.sort(np.where(index < 0, -1, index // columns), axis=1)
    begins = np.diff(rows, axis=1) != 0
    return int(begins.sum() + (rows[:, 0] >= 0).sum())


def _forms(index: Ints, columns: int) -> int:
    """Rows of the result that differ in the lanes they take."""
    lanes = np.ascontiguousarray(np.where(index < 0, -1, index % columns).astype(np.int16))
    return len(np.unique(lanes.view(np.dtype((np.void, lanes.strides[0])))))
