"""Watching a run: events of hand-made programs on `tiny`, cycle by cycle."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_isa.diagnostics import Fault, UsageError
from clockstep_isa.program import Program
from clockstep_isa.table import TABLE, Type
from clockstep_runtime.debug import watch
from clockstep_runtime.debug.values import elements, result_type
from clockstep_runtime.interpreter import Issue, Observer, observe
from tests.support.build import build, east, west
from tests.support.handmade import LANES, adder


def told(program: Program, *places: str, until: int | None = None) -> list[tuple[object, ...]]:
    """(cycle, unit, kind, place, first element) of every event."""
    return [
        (e.cycle, e.unit, e.kind, e.place, None if e.values is None else e.values[0, 0].item())
        for e in watch(program, {}, places, until)
    ]


def two_producers() -> Program:
    """W4 at 6 and W0 at 8 both drive E0 on one diagonal; W5 at 6 drives W0 in cycle 0."""
    builder = build()
    for queue, value in (("c0.mem.W4", 4), ("c0.mem.W0", 5), ("c0.mem.W5", 6)):
        builder.store(queue, 0, np.full((1, LANES), value, np.uint8))
    builder.at("c0.mem.W4", 0, "read", address=0, out=east(0))
    builder.at("c0.mem.W0", 2, "read", address=0, out=east(0))
    builder.at("c0.mem.W5", 0, "read", address=0, out=west(0))
    return builder.at("c0.mem.E3", 11, "write", address=3, a=east(0)).program()


def test_the_nearest_producer_is_seen() -> None:
    """W4's word passes 8, where W0's takes its place."""
    program = two_producers()
    assert told(program, "E0@8") == [
        (3, "mem.W4", "pass", "E0@8", 4),
        (3, "mem.W0", "result", "E0@8", 5),
    ]
    assert told(program, "E0@9") == [(4, "mem.W0", "pass", "E0@9", 5)]
    assert told(program, "E0@5") == []
    assert told(program, "W0@5") == [(2, "mem.W5", "pass", "W0@5", 6)]
    assert told(program, "E0@9", until=3) == []


def test_a_stream_wherever_it_is_touched() -> None:
    assert told(two_producers(), "E0") == [
        (1, "mem.W4", "result", "E0@6", 4),
        (3, "mem.W0", "result", "E0@8", 5),
        (11, "mem.E3", "sample", "E0@16", 5),
    ]


def test_a_word_is_told_once() -> None:
    found = told(two_producers(), "mem.E3:3", "c0.mem.E3:3", "mem.E3")
    assert found == [
        (11, "mem.E3", "dispatch", "", None),
        (11, "mem.E3", "sample", "E0@16", 5),
        (11, "mem.E3", "write", "mem.E3:3", 5),
    ]


def test_what_an_input_puts_into_a_word() -> None:
    """Row 1 of x, byte 3 of its elements; the image has another slice."""
    program = adder(2, 1).store("c0.mem.E9", 5, np.full((2, LANES), 8, np.uint8)).program()
    x = np.array([[1.0] * LANES, [-2.0] * LANES], np.float32)
    events = watch(program, {"x": x, "y": x}, ["mem.W3:1", "mem.E9:6"], until=0)
    assert [(e.kind, e.place, e.origin) for e in events] == [
        ("initial", "mem.E9:6", "image"),
        ("initial", "mem.W3:1", "input 'x'"),
    ]
    assert [e.values[0, 0].item() for e in events if e.values is not None] == [8, -64]


def test_nothing_runs_after_the_last_cycle() -> None:
    """A fault that comes later is not met."""
    builder = build().store("c0.mem.W0", 0, np.zeros((1, LANES), np.uint8))
    builder.at("c0.mem.W0", 0, "read", address=0, out=east(0))
    program = builder.at("c0.vxm.0", 50, "mov.i8", a=east(0), out=east(4)).program()
    assert len(told(program, "mem.W0", until=49)) == 3
    with pytest.raises(Fault, match="nothing is on E0"):
        told(program, "mem.W0", until=50)


def test_idle_cycles_are_skipped_and_still_end() -> None:
    """The next dispatch is far beyond the last cycle."""
    seen: list[int] = []

    class Listener(Observer):
        def dispatched(self, issue: Issue, step: int, cycle: int) -> None:
            seen.append(cycle)

    builder = build().store("c0.mem.W0", 0, np.zeros((1, LANES), np.uint8))
    for cycle in (0, 10**9):
        builder.at("c0.mem.W0", cycle, "read", address=0, out=east(0))
    observe(builder.program(), {}, Listener(), until=10**8)
    assert seen == [0]
    observe(builder.program(), {}, Listener())
    assert seen == [0, 0, 10**9]


def test_missing_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="no value for input"):
        watch(adder(1, 1).program(), {}, ["vxm.0"])


def test_every_result_has_a_type() -> None:
    """A comparison gives integers of the width of what it compares."""
    for row in TABLE:
        names = [item.name for item in row.fields]
        if "out" in names:
            fields = {**dict.fromkeys(names, 0), "type": row.types[-1], "to": Type.I16}
            kind = result_type(row, fields)
            assert kind in Type
            if row.name in ("eq", "lti", "le"):
                assert (row.types[-1], kind) == (Type.F32, Type.I32)
            if row.name == "cast":
                assert kind is Type.I16


def test_elements_of_groups() -> None:
    vectors = np.arange(8, dtype=np.uint8).reshape(4, 2)
    assert elements(vectors, Type.I8).tolist() == vectors.tolist()
    assert elements(vectors, Type.I16).tolist() == [[0x0200, 0x0301], [0x0604, 0x0705]]
    assert elements(vectors, Type.I32).tolist() == [[0x06040200, 0x07050301]]
