"""Patterns of movement: whatever the index, joins and turns put every element where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_compiler.patterns import Join, Part, Source, Turn, filled, patterns

LANES = 4


def applied(
    found: list[Join | Turn], sources: list[np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    """What a block becomes; every row is set once."""
    block = np.full(shape, -7)

    def element(source: int, tile: int, row: int, lane: int) -> int:
        return int(sources[source][row, tile * LANES + lane])

    for pattern in found:
        for r, into in enumerate(pattern.into.tolist()):
            assert (block[into] == -7).all(), "a row is set twice"
            block[into] = -1
            if isinstance(pattern, Turn):
                lane = int(pattern.lanes[r])
                picked = [(c, int(row), lane) for c, row in enumerate(pattern.columns)]
                parts = [(pattern.source, pattern.tile, picked)]
            else:
                parts = [
                    (
                        part.source,
                        part.tile,
                        [(c, int(part.rows[r]), int(k)) for c, k in enumerate(part.lanes)],
                    )
                    for part in pattern.parts
                ]
            for source, tile, picked in parts:
                for c, row, lane in picked:
                    if lane >= 0:
                        assert block[into, c] == -1, "two parts have one lane"
                        block[into, c] = element(source, tile, row, lane)
    return block


def check(index: np.ndarray, shapes: list[tuple[int, int]]) -> list[Join | Turn]:
    sources, table, first = [], [], 0
    for rows, columns in shapes:
        sources.append(np.arange(first, first + rows * columns).reshape(rows, columns))
        table.append(Source(rows, columns, first))
        first += rows * columns
    found = patterns(index, tuple(table), LANES)
    np.testing.assert_array_equal(applied(found, sources, index.shape), index)
    return found


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_index(data: st.DataObject) -> None:
    sizes = st.tuples(st.integers(1, 6), st.integers(1, 10))
    shapes = data.draw(st.lists(sizes, min_size=1, max_size=3))
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, LANES))
    total = sum(r * c for r, c in shapes)
    flat = data.draw(st.lists(st.integers(-1, total - 1), min_size=rows * columns))
    check(np.array(flat[: rows * columns]).reshape(rows, columns), shapes)


def test_rows_that_stay_rows_are_one_join() -> None:
    (join,) = check(np.arange(12).reshape(3, 4)[::-1], [(3, 4)])
    assert isinstance(join, Join)
    (part,) = join.parts
    assert part.lanes.tolist() == [0, 1, 2, 3]
    assert part.rows.tolist() == [2, 1, 0]


def test_a_transposition_is_turned_at_once() -> None:
    index = np.arange(16).reshape(4, 4).T
    (turn,) = check(index, [(4, 4)])
    assert isinstance(turn, Turn)
    assert turn.columns.tolist() == turn.lanes.tolist() == [0, 1, 2, 3]


def test_rows_of_nothing() -> None:
    (join,) = check(np.full((2, 3), -1), [(1, 1)])
    assert isinstance(join, Join)
    assert join.parts == ()


def test_rows_cut_and_joined_alike_are_together() -> None:
    """Rows of six become rows of four: every third row is cut alike."""
    found = check(np.arange(24).reshape(6, 4), [(4, 6)])
    assert sorted(len(p.parts) for p in found if isinstance(p, Join)) == [1, 2, 2]
    assert sum(len(p.into) for p in found) == 6


def lined(rows: range, gaps: set[int], source_rows: list[int]) -> Join:
    into = np.array([r for r in rows if r not in gaps])
    return Join(into, (Part(0, 0, np.array(source_rows), np.arange(4)),))


def test_gaps_are_filled_where_parts_go_on_over_them() -> None:
    gaps = {20, 40}
    join = lined(range(2, 50), gaps, [100 + 3 * r for r in range(2, 50) if r not in gaps])
    whole = filled(join, 64)
    assert whole is not None
    np.testing.assert_array_equal(whole.into, np.arange(2, 50))
    np.testing.assert_array_equal(whole.parts[0].rows, 100 + 3 * np.arange(2, 50))


@pytest.mark.parametrize("why", ["no gap", "many gaps", "another line", "an unread block"])
def test_gaps_that_stay(why: str) -> None:
    rows, gaps = range(50), {10, 20, 30}
    step, chunk = (20 if why == "an unread block" else 1), 16
    if why == "no gap":
        gaps = set()
    if why == "many gaps":
        gaps = set(range(1, 49, 3))
    sources = [step * r for r in rows if r not in gaps]
    if why == "another line":
        sources = [r + (r > 10) for r in rows if r not in gaps]
    assert filled(lined(rows, gaps, sources), chunk) is None
