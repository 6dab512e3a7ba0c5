"""Rows in runs, and until when blocks of rows are read."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_compiler.liveness import read_until
from clockstep_compiler.runs import Span, regular_runs, spans
from clockstep_compiler.steps import Move, Value
from clockstep_isa.table import Type


def test_regular_runs() -> None:
    index = np.array([0, 1, 2, 10, 12, 14, 3])
    assert regular_runs([index], []) == [(0, 3), (3, 3), (6, 1)]
    assert regular_runs([index], [index // 2]) == [(0, 2), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]


def test_every_second_row() -> None:
    index = np.repeat(np.arange(40), 2)
    assert spans([index], []) == [Span(0, 40, 2), Span(1, 40, 2)]
    assert spans([np.arange(80)], []) == [Span(0, 80)]


@pytest.mark.parametrize("seed", range(20))
def test_spans_hold_every_row_once_and_advance_steadily(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pattern = np.repeat(np.arange(rng.integers(1, 30)), rng.integers(1, 6))
    index = np.concatenate([pattern, rng.integers(0, 50, rng.integers(0, 9)), pattern])
    found = spans([index, np.arange(len(index))], [index // 16])
    rows = np.concatenate([np.arange(len(index))[span.rows] for span in found])
    assert sorted(rows.tolist()) == list(range(len(index)))
    for span in found:
        taken = index[span.rows]
        assert len(taken) == span.length
        assert len(set(np.diff(taken).tolist())) <= 1
        assert len(set((taken // 16).tolist())) == 1


@pytest.mark.parametrize("seed", range(10))
def test_blocks_are_read_until_the_last_reader(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources = [
        Value(k, "", int(rng.integers(1, 9)), int(rng.integers(1, 4)), Type.I8, "step")
        for k in range(2)
    ]
    total = sum(value.rows * value.columns for value in sources)
    index = rng.integers(-1, total, (int(rng.integers(1, 12)), 3))
    out = Value(2, "", len(index), 3, Type.I8, "step")
    step, chunk, first = Move(out, tuple(sources), index, ()), 2, 0
    for value in sources:
        want = np.full(-(-value.rows // chunk), -1)
        for row, element in np.ndindex(index.shape):
            at = int(index[row, element]) - first
            if index[row, element] >= 0 and 0 <= at < value.rows * value.columns:
                block = at // value.columns // chunk
                want[block] = max(want[block], row // chunk)
        assert np.array_equal(read_until(step, value, chunk, chunk), want)
        first += value.rows * value.columns
