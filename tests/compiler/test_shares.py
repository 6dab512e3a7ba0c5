"""Units dealt to chips: in order, each chip with room for its weights and its matrices."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clockstep_compiler.shares import shares

_WORDS = st.integers(0, 6)
_UNITS = st.lists(st.tuples(_WORDS, _WORDS), max_size=9)


def _full(units: list[tuple[int, int]], room: int) -> bool:
    """Whether a chip has more than it holds; one unit it takes in any case."""
    return len(units) > 1 and sum(u[0] for u in units) + max(u[1] for u in units) > room


def _possible(units: list[tuple[int, int]], chips: int, room: int) -> bool:
    """Whether some division holds everything, by trying them all."""
    if not chips:
        return not units
    ends = range(len(units) + 1)
    return any(
        not _full(units[:end], room) and _possible(units[end:], chips - 1, room) for end in ends
    )


@given(_UNITS, st.integers(1, 4), st.integers(0, 20))
def test_no_chip_holds_more_than_its_room_if_that_can_be(
    units: list[tuple[int, int]], chips: int, room: int
) -> None:
    homes = shares([u[0] for u in units], [u[1] for u in units], chips, room)
    assert len(homes) == len(units)
    assert all(a <= b for a, b in pairwise(homes))
    assert all(0 <= home < chips for home in homes)
    dealt = [[u for u, h in zip(units, homes, strict=True) if h == c] for c in range(chips)]
    assert any(_full(some, room) for some in dealt) != _possible(units, chips, room)


def test_where_there_is_room_weights_are_level() -> None:
    assert shares([1, 1, 1, 1, 1, 1], [0] * 6, 3, 100) == [0, 0, 1, 1, 2, 2]
    assert shares([4, 1, 1, 1, 1], [9] * 5, 2, 100) == [0, 1, 1, 1, 1]
    assert shares([0, 0, 0, 0], [0] * 4, 2, 100) == [0, 0, 1, 1]


def test_large_images_take_the_room_of_weights() -> None:
    assert shares([1] * 8, [9] + [0] * 7, 3, 10) == [0, 1, 1, 1, 2, 2, 2, 2]
    assert shares([1] * 8, [0] * 7 + [9], 3, 10) == [0, 0, 0, 1, 1, 1, 1, 2]


def test_what_cannot_be_divided_is_level() -> None:
    assert shares([5] * 4, [0] * 4, 2, 7) == [0, 0, 1, 1]
