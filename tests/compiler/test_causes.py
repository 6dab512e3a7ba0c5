"""Causes: every cycle has one, and it is what kept the next bundle from starting earlier."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_compiler import Options, compile_model
from clockstep_compiler.bundle import Bundle
from clockstep_compiler.calendar import Calendars, Reservation
from clockstep_compiler.causes import Cause, Trail, attribute
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.storage import Copy
from clockstep_isa.geometry import Unit
from tests.support.bounds import assert_sound, causes_of
from tests.support.machines import MACHINES
from tests.support.models import ACTIVATIONS, mlp

PLAN = Floorplan(MACHINES["tiny"])
SLICE, ALU = PLAN.queue(Unit.MEM, "E", 0).id, PLAN.queue(Unit.VXM, "", 0).id


# -- calendars --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_calendar_names_who_is_in_the_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    calendars, taken = Calendars(), list[list[Reservation]]()

    def busy(wanted: list[Reservation], time: int) -> set[tuple[int, int]]:
        """(resource, owner) of all that stands in the way."""
        return {
            (resource, owner)
            for resource, offset, length in wanted
            for owner, held in enumerate(taken)
            for other, start, span in held
            if other == resource and start < time + offset + length and time + offset < start + span
        }

    for number in range(60):
        resources = rng.choice(6, size=int(rng.integers(1, 4)), replace=False).tolist()
        wanted = [(r, int(rng.integers(-5, 20)), int(rng.integers(1, 9))) for r in resources]
        floor = int(rng.integers(5, 60))
        time = calendars.earliest(wanted, floor)
        assert not busy(wanted, time)
        assert all(busy(wanted, earlier) for earlier in range(floor, time))
        assert (calendars.blocked is None) == (time == floor)
        if calendars.blocked is not None:
            assert calendars.blocked in busy(wanted, time - 1)
        calendars.reserve(wanted, time, number)
        taken.append([(r, time + offset, length) for r, offset, length in wanted])


# -- by hand ----------------------------------------------------------------------------------


class Hand:
    """Commits bundles of one read and one operation: `rows` rows, the second 10 cycles later.

    As laid out, every node that has a bound takes one cycle more.
    """

    def __init__(self) -> None:
        self.calendars, self.trail = Calendars(), Trail()

    def commit(self, rows: int, node: int, *, source: Copy | None = None, alu: int = ALU) -> int:
        bundle = Bundle(PLAN)
        bundle.issue(0, SLICE if source is None else SLICE + 1, "read", 0, (0, 1, 0), rows)
        bundle.issue(0, alu, "mov", 10, (0, 0, 0), rows)
        if source is not None:
            bundle.after(0, int(source.ready[0]), source)
        bundle.not_before = max(0, bundle.not_before)
        time = self.calendars.earliest(bundle.reservations, bundle.not_before)
        bundle.blocked = self.calendars.blocked
        number = self.trail.add(bundle, time, node)
        self.calendars.reserve(bundle.reservations, time, number)
        return time + bundle.end

    def causes(self, cycles: int, bounds: dict[int, int]) -> list[Cause]:
        return attribute(
            PLAN, self.trail, cycles, bounds, {node: n + 1 for node, n in bounds.items()}
        )


def test_one_bundle_fills_and_streams() -> None:
    hand = Hand()
    end = hand.commit(8, 0)
    assert end == 10 + 7 + 2
    assert hand.causes(end, {0: 5}) == [
        Cause(0, 11, 0, "latency", ""),
        Cause(11, 16, 0, "compute", ""),
        Cause(16, 17, 0, "layout", ""),
        Cause(17, 19, 0, "operands", ""),
    ]


def test_a_slice_that_two_bundles_read() -> None:
    """The first counts as long as it holds the slice, the second from its start on."""
    hand = Hand()
    hand.commit(8, 0)
    end = hand.commit(4, 1, alu=ALU + 1)
    assert end == 8 + 10 + 3 + 2
    assert hand.causes(end, {1: 9}) == [
        Cause(0, 8, 0, "bank", "c0.mem.E0"),
        Cause(8, 19, 1, "latency", ""),
        Cause(19, 23, 1, "compute", ""),
    ]


def test_rows_that_another_bundle_writes() -> None:
    """The first counts until the row that is waited for is there, the pipeline's way included."""
    hand = Hand()
    end = hand.commit(8, 0)
    copy = Copy("E", ((SLICE, 0),), np.array([end - 7]), writers=[0])
    end = hand.commit(8, 1, source=copy, alu=ALU + 1)
    assert end == 12 + 10 + 7 + 2
    assert hand.causes(end, {0: 2, 1: 8}) == [
        Cause(0, 4, 0, "latency", ""),
        Cause(4, 6, 0, "compute", ""),
        Cause(6, 7, 0, "layout", ""),
        Cause(7, 12, 0, "operands", ""),
        Cause(12, 23, 1, "latency", ""),
        Cause(23, 31, 1, "compute", ""),
    ]


def test_a_unit_that_is_busy() -> None:
    hand = Hand()
    hand.commit(8, 0)
    end = hand.commit(4, 0, source=Copy("E", ((SLICE, 0),), np.array([0])))
    (first, *_) = hand.causes(end, {})
    assert first == Cause(0, 8, 0, "unit", "c0.vxm.0")


def test_rows_on_a_link_are_put_down_to_it() -> None:
    """Whatever the bound of their node."""
    hand, bundle = Hand(), Bundle(PLAN)
    bundle.issue(0, PLAN.queue(Unit.SEND, "", 0).id, "send", 0, (0,), 4, 3, 3)
    hand.trail.add(bundle, 0, 0)
    cycles = bundle.end
    assert hand.causes(cycles, {0: 99})[-1] == Cause(cycles - 10, cycles, 0, "link", "")


def test_room_that_is_given_back() -> None:
    """The one that ended then had it, not one that was committed later."""
    hand = Hand()
    end = hand.commit(8, 0)
    bundle = Bundle(PLAN)
    bundle.issue(0, SLICE + 3, "write", 0, (0, 0, 1), 2)
    bundle.after(0, end)
    hand.trail.add(bundle, end, 1)
    assert hand.causes(end + 2, {})[-2:] == [
        Cause(end - 8, end, 0, "bank", "room"),
        Cause(end, end + 2, 1, "operands", ""),
    ]


def test_what_nobody_recorded_still_adds_up() -> None:
    """A bundle at a time of which no reason is known."""
    hand, late = Hand(), Bundle(PLAN)
    hand.commit(8, 0)
    late.issue(0, SLICE, "read", 0, (0, 1, 0), 4)
    hand.trail.add(late, 100, 1)
    found = hand.causes(104, {})
    assert (found[0].first, found[-1].end) == (0, 104)
    assert sum(cause.end - cause.first for cause in found) == 104


def test_no_cycles_have_no_cause() -> None:
    assert Hand().causes(0, {}) == []


# -- whole programs ---------------------------------------------------------------------------


@pytest.mark.parametrize("chips", [1, 3])
def test_programs(chips: int) -> None:
    model = mlp(np.random.default_rng(2), (40, 60, 60, 10), 16, ACTIVATIONS)
    options = Options(chips=chips, objective="throughput", copies=1, effort="fast")
    program = compile_model(model.SerializeToString(), MACHINES["tiny"], options)
    assert_sound(program)
    found = causes_of(program)
    kinds = {cause for _, cause in found}
    assert {"compute", "latency"} <= kinds
    assert kinds & {"bank", "unit", "stream"}
    assert ("link" in kinds) == (chips > 1)
