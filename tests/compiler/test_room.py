"""Calendars and the room of a chip, beside what they promise counted out cycle by cycle."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_compiler.blocks import dynamic_runs
from clockstep_compiler.calendar import Calendars, Reservation
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.memory import ChipMemory
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import Value
from clockstep_isa.table import Type
from tests.support.machines import MACHINES

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


def _fill(s: Scheduler, chip: int) -> None:
    """Take every word that a chip has left."""
    memory = s.storage.memories[chip]
    for queue in memory.free:
        while memory.offer(queue, 1, 0) is not None:
            memory.take(queue, 1, 0)


def test_a_block_is_not_given_back_while_it_is_copied() -> None:
    s = Scheduler(Floorplan(MACHINES["tiny"]), 1, "fast", chunk=16)
    a, b = (Value(number, "x", 16, 8, Type.I8, "input") for number in range(2))
    nothing = frozenset[int]()
    s.begin((0,), "copies")
    first = s.fetch(a, 0, 0, 0, nothing)
    source = s.duplicate(first, 0, Type.I8, nothing, "a")
    s.storage.add((a.number, 0, 0), 0, source)
    s.duplicate(first, 0, Type.I8, source.slices, "so that the first is busier")
    spare = s.duplicate(s.fetch(b, 0, 0, 0, nothing), 0, Type.I8, first.slices | source.slices, "b")
    s.storage.add((b.number, 0, 0), 0, spare)
    _fill(s, 0)
    s.begin((1,), "no room but for what is had twice")
    moved = s.fetch(a, 0, 0, 0, first.slices | source.slices)
    assert moved.slices == spare.slices
    assert spare.given
    assert not source.given


def test_copies_on_other_chips_are_given_back_before_room_is_wanting() -> None:
    s = Scheduler(Floorplan(MACHINES["tiny"]), 2, "fast", chunk=16)
    a, b = (Value(number, "x", 16, 8, Type.I8, "input") for number in range(2))
    nothing = frozenset[int]()
    s.begin((0,), "copies")
    home = s.fetch(a, 0, 0, 0, nothing)
    sent = s.send(home, 0, 1, Type.I8, nothing, "a")
    s.storage.add((a.number, 0, 0), 1, sent)
    own = s.fetch(b, 0, 0, 1, nothing)
    _fill(s, 1)
    s.begin((1,), "no room but for what another chip has as well")
    s.duplicate(own, 1, Type.I8, own.slices, "b")
    assert sent.given
    assert not home.given
    assert not own.given
    assert s.storage.holders((a.number, 0, 0)) == [0]


def test_weights_that_are_computed_stay_until_they_are_loaded() -> None:
    s = Scheduler(Floorplan(MACHINES["tiny"]), 1, "fast", chunk=16)
    a = Value(0, "x", 16, 8, Type.I8, "input")
    s.begin((0,), "copies")
    first = s.fetch(a, 0, 0, 0, frozenset())
    other = "E" if first.side == "W" else "W"
    s.storage.add((0, 0, 0), 0, s.duplicate(first, 0, Type.I8, frozenset(), "a", other))
    s.begin((1,), "weights from the other hemisphere")
    (run,) = dynamic_runs(s, a, 0, 16, 0, 0, other)
    s.storage.evict(0, s.pinned, {})
    assert run.rows[0].copy.side == other
    assert not run.rows[0].copy.given
