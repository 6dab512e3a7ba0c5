"""The verifier: its arithmetic against brute force, its report, and hostile programs."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_isa.layout import Binding, Layout
from clockstep_isa.program import Image, Program
from clockstep_isa.table import TABLE, Type
from clockstep_runtime import verify
from clockstep_runtime.verifier.progressions import (
    Progressions,
    Segments,
    collisions,
    first_missing,
    intersect,
    match,
)
from tests.support.build import build, east
from tests.support.handmade import LANES, adder, matmul

Progression = tuple[int, int, int]
PROGRESSION = st.tuples(st.integers(-20, 20), st.integers(1, 6), st.integers(1, 9))
ROW = st.tuples(st.integers(0, 2), st.integers(0, 2), PROGRESSION)


def elements(progression: Progression) -> list[int]:
    start, step, count = progression
    return [start + i * step for i in range(count)]


def pack(rows: list[tuple[int, int, Progression]]) -> Progressions:
    flat = [(group, depth, *progression) for group, depth, progression in rows]
    columns = np.array(flat, np.int64).reshape(-1, 5).T
    return Progressions(*columns, np.arange(len(rows)))


def columns(progression: Progression) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    start, step, count = (np.array([value]) for value in progression)
    return start, step, count


def pairs(segments: Segments, row: int) -> list[tuple[int, int]]:
    """(element of the consumer, element of the producer) of one segment."""
    first, step, count, source, source_step = (
        int(getattr(segments, name)[row])
        for name in ("first", "step", "count", "source", "source_step")
    )
    return [(first + k * step, source + k * source_step) for k in range(count)]


@settings(max_examples=400, deadline=None)
@given(PROGRESSION, PROGRESSION)
def test_intersect_has_the_common_elements(a: Progression, b: Progression) -> None:
    one = np.zeros(1, np.int64)
    found = Segments(one, one, *intersect(columns(a), columns(b)))
    wanted = [
        (i, j)
        for i, value in enumerate(elements(a))
        for j, other in enumerate(elements(b))
        if value == other
    ]
    assert pairs(found, 0) == wanted


@settings(max_examples=400, deadline=None)
@given(st.lists(ROW, max_size=12), st.lists(ROW, max_size=6))
def test_match_finds_the_nearest_producer(
    producers: list[tuple[int, int, Progression]], consumers: list[tuple[int, int, Progression]]
) -> None:
    """Who has an element, against sets; two producers at one depth are another check's."""
    found = match(pack(producers), pack(consumers))
    assert found.consumer.tolist() == sorted(found.consumer.tolist())
    got: dict[tuple[int, int], tuple[int, int]] = {}
    for row, (consumer, producer) in enumerate(
        zip(found.consumer.tolist(), found.producer.tolist(), strict=True)
    ):
        for element, source in pairs(found, row):
            assert (consumer, element) not in got
            got[consumer, element] = (producer, source)
    missing = first_missing(found, pack(consumers).count).tolist()
    for number, (group, depth, progression) in enumerate(consumers):
        lacking = []
        for i, value in enumerate(elements(progression)):
            upstream = [
                (d, p, elements(q).index(value))
                for p, (g, d, q) in enumerate(producers)
                if g == group and d < depth and value in elements(q)
            ]
            if not upstream:
                lacking.append(i)
                assert (number, i) not in got
                continue
            nearest = max(d for d, _, _ in upstream)
            assert got[number, i] in [(p, j) for d, p, j in upstream if d == nearest]
        assert missing[number] == (lacking[0] if lacking else -1)


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(1, 30), st.integers(1, 4))
def test_match_among_many_short_producers(gap: int, count: int, step: int) -> None:
    """Single vectors, one of them left out."""
    missing = gap * 7 % count
    singles = [(0, 0, (i * step, 1, 1)) for i in range(count) if i != missing]
    consumer = pack([(0, 1, (0, step, count))])
    some = match(pack(singles), consumer)
    assert first_missing(some, consumer.count).tolist() == [missing]
    every = match(pack([*singles, (0, 0, (missing * step, 1, 1))]), consumer)
    assert first_missing(every, consumer.count).tolist() == [-1]


def test_match_far_apart() -> None:
    """Groups and starts so large that they do not fit in one number together."""
    rows = [(group, 0, (group * 2**40, 2, 5)) for group in range(0, 2**20, 2**13)]
    consumers = [(group, 1, (start + 4, 2, 2)) for group, _, (start, _, _) in rows]
    found = match(pack(rows), pack(consumers))
    assert found.producer.tolist() == found.consumer.tolist() == list(range(len(rows)))
    assert set(zip(found.first, found.source, found.count, strict=True)) == {(0, 2, 2)}


@settings(max_examples=300, deadline=None)
@given(st.lists(ROW, max_size=10))
def test_collisions_against_sets(rows: list[tuple[int, int, Progression]]) -> None:
    wanted = set()
    for i, (group, depth, a) in enumerate(rows):
        for j in range(i + 1, len(rows)):
            common = set(elements(a)) & set(elements(rows[j][2]))
            if rows[j][:2] == (group, depth) and common:
                wanted.add((frozenset((i, j)), min(common)))
    assert {(frozenset((i, j)), at) for i, j, at in collisions(pack(rows))} == wanted


def test_report_of_a_right_program() -> None:
    report = verify(matmul(Type.F16, 5)[0].program())
    assert report.ok
    assert report.violations == ()
    assert report.instructions == 14
    assert report.checks["activations"] == report.checks["products"] == 5
    assert report.checks["words"] == 4 * 8 + 2 * 5 + 4 * 5


@pytest.mark.parametrize("off", [-1, 1, 10**6])
def test_a_broken_promise(off: int) -> None:
    right = adder(3, 1).program()
    report = verify(adder(3, 1).program(cycles=right.cycles + off))
    assert [v.code for v in report.violations] == ["cycles-promise"]
    assert str(right.cycles) in report.violations[0].message


def test_violations_are_sorted_and_capped() -> None:
    builder = build()
    for i in range(150):
        builder.at("c0.vxm.0", 1000 - i, "mov.i8", a=east(0), out=east(1))
        builder.at("c0.mem.W0", 1000 - i, "read", address=i, out=east(2))
    report = verify(builder.program())
    assert not report.ok
    assert len(report.violations) == 100
    keys = [(v.cycle, v.chip, v.unit, v.code) for v in report.violations]
    assert keys == sorted(keys)
    assert keys[0] == (851, 0, "mem.W0", "word-unwritten")


def test_all_faults_are_reported_not_only_the_first() -> None:
    builder = build()
    builder.at("c0.vxm.0", 5, "mov.i8", a=east(0), out=east(1))
    builder.at("c0.vxm.1", 3, "max.i8", a=east(0), b=east(1), out=east(1))
    builder.at("c0.mem.W0", 9, "read", address=0, out=east(2))
    codes = [v.code for v in verify(builder.program()).violations]
    assert codes == ["alu-kind", "slot-empty", "word-unwritten"]


def with_output(pieces: list[list[int]]) -> Program:
    layout = Layout(Type.I8, 0, (0, 1), 2, LANES, np.array(pieces, np.int64))
    program = build().program()
    return dataclasses.replace(
        program, outputs=(Binding("y", "int8", (2, LANES), (layout,)),), image=program.image
    )


@pytest.mark.parametrize(
    ("piece", "code"),
    [
        ([0, 0, 2, 0, LANES, 0, 0, 0], "word-unwritten"),
        ([0, 0, 2, 0, LANES, 1, 0, 0], "unit-missing"),
        ([0, 0, 2, 0, LANES, 0, -1, 0], "unit-missing"),
        ([0, 0, 2, 0, LANES, 0, 12, 0], "unit-row"),
        ([0, 0, 2, 0, LANES, 0, 0, 1023], "address-range"),
        ([0, 0, 2, 0, LANES, 0, 0, -1], "address-range"),
        ([1, 0, 2, 0, LANES, 0, 0, 0], "binding-range"),
        ([0, 1, 2, 0, LANES, 0, 0, 0], "binding-range"),
        ([0, 0, 2, 1, LANES, 0, 0, 0], "binding-range"),
        ([0, 0, -2, 0, LANES, 0, 0, 0], "binding-range"),
    ],
)
def test_outputs_that_lie_nowhere(piece: list[int], code: str) -> None:
    assert [v.code for v in verify(with_output([piece])).violations] == [code]


@pytest.mark.parametrize(
    ("region", "code"),
    [
        ((0, 0, 1000, 25), "address-range"),
        ((0, 0, -1, 2), "address-range"),
        ((0, 0, 5, -2), "address-range"),
        ((9, 0, 0, 1), "unit-missing"),
        ((0, 99, 0, 1), "unit-missing"),
        ((0, 20, 0, 1), "unit-row"),
    ],
)
def test_image_regions_that_lie_nowhere(region: tuple[int, ...], code: str) -> None:
    image = Image(np.array([region], np.int64), None)
    program = dataclasses.replace(build().program(), image=image)
    assert [v.code for v in verify(program).violations] == [code]


def test_image_of_the_wrong_size() -> None:
    image = Image(np.array([(0, 0, 0, 3)], np.int64), np.zeros((2, LANES), np.uint8))
    program = dataclasses.replace(build().program(), image=image)
    assert [v.code for v in verify(program).violations] == ["image-size"]


EXTREMES = (0, 1, -1, 3, 255, 256, 511, 2**15, 2**19, 2**31 - 1, -(2**31), 2**62, -(2**63))


@st.composite
def hostile(draw: st.DrawFn) -> Program:
    """A right program with many columns overwritten by anything their types can hold."""
    program = draw(st.sampled_from((Type.I8, Type.F16)).map(lambda k: matmul(k, 3)[0].program()))
    code = program.code
    columns = {f.name: getattr(code, f.name).copy() for f in dataclasses.fields(code)}
    for _ in range(draw(st.integers(1, 8))):
        name = draw(st.sampled_from(("queue", "cycle", "opcode", "repeat", "interval", "args")))
        column = columns[name]
        info = np.iinfo(column.dtype)
        known = st.sampled_from(TABLE).map(lambda row: row.opcode)
        value = draw(known if name == "opcode" else st.sampled_from(EXTREMES) | st.integers(0, 99))
        row = draw(st.integers(0, len(code) - 1))
        at = (row, draw(st.integers(0, column.shape[1] - 1))) if name == "args" else row
        column[at] = min(max(value, info.min), info.max)
    return dataclasses.replace(program, code=dataclasses.replace(code, **columns))


@settings(max_examples=300, deadline=None)
@given(hostile())
def test_hostile_columns_never_crash(program: Program) -> None:
    report = verify(program)
    assert report.ok == (not report.violations)


def test_chips_out_of_range() -> None:
    for chips in (0, -3, 10**9):
        program = dataclasses.replace(build().program(), chips=chips)
        assert [v.code for v in verify(program).violations] == ["unit-missing"]


def test_many_long_repeats_take_little_time() -> None:
    """100 million dispatches in 2,000 instructions: nothing grows with the cycles."""
    builder = build(settings={"icu.repeat_max": 65535})
    builder.store("c0.mem.W0", 0, np.ones((1, LANES), np.uint8))
    for i in range(1000):
        start = i * 200_000
        builder.at("c0.mem.W0", start, "read", address=0, out=east(0), repeat=65535, interval=3)
        builder.at(
            "c0.vxm.0", start + 3, "mov.i8", a=east(0), out=east(1), repeat=65535, interval=3
        )
    program = builder.program()
    begin = time.process_time()
    assert verify(program).ok
    assert time.process_time() - begin < 2
