"""Calendars and the room of a chip, beside what they promise counted out cycle by cycle."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_compiler.calendar import Calendars, Reservation
from clockstep_compiler.memory import ChipMemory

RESERVATIONS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(-4, 4), st.integers(1, 5)), min_size=1, max_size=4
)


def cycles(bundle: list[Reservation], time: int) -> list[tuple[int, int]]:
    return [(r, time + offset + i) for r, offset, length in bundle for i in range(length)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(RESERVATIONS, st.integers(0, 30)), max_size=12))
def test_a_bundle_takes_the_first_time_that_is_free(
    bundles: list[tuple[list[Reservation], int]],
) -> None:
    calendars = Calendars()
    taken: set[tuple[int, int]] = set()
    for number, (bundle, not_before) in enumerate(bundles):
        if len(set(cycles(bundle, 0))) < len(cycles(bundle, 0)):
            continue  # no kernel wants a resource twice at a time
        time = calendars.earliest(bundle, not_before)
        wanted = not_before
        while not taken.isdisjoint(cycles(bundle, wanted)):
            wanted += 1
        assert time == wanted
        calendars.reserve(bundle, time, number)
        taken.update(cycles(bundle, time))


def test_words_that_are_kept_go_to_what_is_there_from_the_start() -> None:
    memory = ChipMemory([0, 1], 64)
    memory.keep(16)
    assert memory.untouched() == 2 * 64
    assert memory.take(0, 48, 0) == 0
    assert memory.offer(0, 1, 0) is None
    assert memory.virgin_room(0) == 16
    addresses = [memory.take_virgin(0, 8), memory.take_virgin(0, 8)]
    assert sorted(addresses) == [48, 56]
    assert memory.virgin_room(0) == 0
    memory.give(0, 0, 48, 100)
    assert memory.virgin_room(0) == 0
    assert memory.offer(0, 48, 0) is not None
    assert memory.untouched() == 64
