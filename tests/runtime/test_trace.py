"""Traces: opened by Perfetto's own trace processor, and compared with the words of the program."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockstep_isa import Program, ScheduleViolation, UsageError, load_machine
from clockstep_isa.listing_print import instruction_texts
from clockstep_isa.program import Node, Note, queue_name
from clockstep_isa.table import BY_OPCODE, Type, busy
from clockstep_runtime.trace import Cause, draw
from clockstep_runtime.trace.spans import lanes, merged
from clockstep_runtime.trace.wire import constant, double, message, number
from tests.support.build import Builder, build, east
from tests.support.handmade import LANES, adder, matmul, two_chips
from tests.support.perfetto import TraceProcessor, needs_perfetto

CYCLE = 1000
"""Nanoseconds of a cycle of `tiny`, whose clock has 1 MHz."""

SLICES = """
    select s.ts, s.dur, s.name, s.category, t.name as track, p.name as parent,
           extract_arg(s.arg_set_id, 'debug.cycle') as cycle,
           extract_arg(s.arg_set_id, 'debug.dispatches') as dispatches,
           extract_arg(s.arg_set_id, 'debug.address') as address,
           extract_arg(s.arg_set_id, 'debug.instruction') as instruction,
           extract_arg(s.arg_set_id, 'debug.tile') as tile,
           extract_arg(s.arg_set_id, 'debug.node') as node,
           extract_arg(s.arg_set_id, 'debug.detail') as detail
    from slice s join track t on t.id = s.track_id left join track p on p.id = t.parent_id
    order by s.ts, t.id
"""


def opened(program: Program, **options: Any) -> TraceProcessor:
    """The trace as Perfetto understands it; it must have nothing to object to."""
    processor = TraceProcessor(b"".join(draw(program, **options).chunks()))
    problems = "select name, value from stats where value > 0 and severity != 'info'"
    assert processor.query(problems) == []
    odd = "select count(*) as odd from slice where depth > 0 or dur < 0"
    assert processor.query(odd) == [{"odd": 0}]
    return processor


def noted(builder: Builder) -> Program:
    """A program whose instructions serve two nodes in turn, with tiles; the first serves none."""
    program = builder.program()
    notes = (Note(0, "z[0:3]"), Note(1, ""), Note(-1, "copy"))
    note = (np.arange(len(program.code)) % 4 - 1).astype(np.int32)
    nodes = (Node("first", "Add", 0, 9), Node("", "Relu", 5, program.cycles))
    code = dataclasses.replace(program.code, note=note)
    return dataclasses.replace(program, code=code, nodes=nodes, notes=notes)


def counter(processor: TraceProcessor, name: str, chip: str = "chip 0") -> list[tuple[int, float]]:
    """(cycle, value) of every change of one counter."""
    rows = processor.query(f"""
        select c.ts, c.value from counter c join track t on t.id = c.track_id
        join track p on p.id = t.parent_id where t.name = '{name}' and p.name = '{chip}'
        order by c.ts
    """)
    return [(row["ts"] // CYCLE, row["value"]) for row in rows]


def busy_cycles(changes: list[tuple[int, float]], end: int) -> float:
    """The sum of a counter's values over all cycles."""
    following = [cycle for cycle, _ in changes[1:]] + [end]
    return sum(
        value * (then - cycle) for (cycle, value), then in zip(changes, following, strict=True)
    )


@needs_perfetto
@pytest.mark.parametrize("builder", [adder(3, 2), matmul(Type.F16, 4)[0], two_chips()])
def test_every_instruction_is_a_slice_of_its_unit(builder: Builder) -> None:
    program = noted(builder)
    machine, code = program.machine, program.code
    got = [
        (row["ts"], row["dur"], row["name"], row["category"], row["track"], row["instruction"])
        for row in opened(program).query(SLICES)
        if row["instruction"]
    ]
    names = {-1: None, 0: "first", 1: "Relu #1"}
    want = []
    for i, text in enumerate(instruction_texts(code)):
        row = BY_OPCODE[int(code.opcode[i])]
        unit = queue_name(machine, int(code.queue[i])).partition(".")[2]
        note = code.note[i]
        node = names[program.notes[note].node if note >= 0 else -1]
        span = int((code.repeat[i] - 1) * code.interval[i])
        cycles = span + busy(row, machine, tuple(code.args[i].tolist()))
        mnemonic = text.split()[0]
        start = int(code.cycle[i]) * CYCLE
        want.append((start, cycles * CYCLE, node or mnemonic, mnemonic, unit, text))
    assert sorted(got) == sorted(want)


@needs_perfetto
def test_arguments_say_what_the_time_does_not() -> None:
    program = noted(adder(3, 2))
    rows = [row for row in opened(program).query(SLICES) if row["instruction"]]
    assert Counter(row["cycle"] for row in rows) == Counter(program.code.cycle.tolist())
    assert {row["dispatches"] for row in rows} == {3}
    tiles = [program.notes[i].tile if i >= 0 else "" for i in program.code.note.tolist()]
    assert Counter(row["tile"] or "" for row in rows) == Counter(tiles)
    assert all(row["ts"] == row["cycle"] * CYCLE for row in rows)


@needs_perfetto
def test_a_clock_faster_than_a_nanosecond() -> None:
    machine = load_machine("tiny", ["clock.hz=7000000000"])
    program = dataclasses.replace(adder(3, 2).program(), machine=machine)
    rows = [row for row in opened(program).query(SLICES) if row["instruction"]]
    assert len(rows) == len(program.code)
    assert all(row["ts"] == row["cycle"] // 7 for row in rows)


@needs_perfetto
@pytest.mark.parametrize(
    ("address", "stride", "repeat"),
    [(0, 1, 4), (6, 1, 5), (9, -1, 5), (0, 3, 5), (31, -7, 5), (2, 8, 4), (3, 0, 4), (1, 20, 2)],
)
def test_accesses_lie_on_the_tracks_of_their_banks(address: int, stride: int, repeat: int) -> None:
    machine = load_machine("tiny", ["mem.words_per_bank=8", "mem.banks=4"])
    builder = Builder(machine).store("c0.mem.W0", 0, np.zeros((32, LANES), np.uint8))
    fields = {"address": address, "stride": stride, "out": east(0)}
    builder.at("c0.mem.W0", 4, "read", repeat=repeat, interval=3, **fields)
    got = [
        (row["track"], row["parent"], row["ts"] // CYCLE, row["dispatches"], row["address"])
        for row in opened(builder.program()).query(SLICES)
        if row["track"].startswith("bank")
    ]
    banks = [(address + i * stride) // 8 for i in range(repeat)]
    want = [
        (f"bank {bank}", "mem.W0", 4 + 3 * first, banks.count(bank), address + first * stride)
        for bank in sorted(set(banks))
        for first in [banks.index(bank)]
    ]
    assert sorted(got) == sorted(want)


@needs_perfetto
def test_streams_carry_vectors_from_their_producer_to_the_last_sample() -> None:
    rows = [
        (row["track"], row["parent"], row["ts"] // CYCLE, row["dur"] // CYCLE)
        for row in opened(adder(3, 2).program()).query(SLICES)
        if row["category"] == "stream"
    ]
    # x enters from W0 to W3 in cycles 4 and 3, y from W4 to W7 in 2 and 1; all are sampled by
    # ALU 0 in 6, 8 and 10. Its results enter in 8 and are written by E2 and E3 last, 14 to 18.
    east, last = "streams eastward", 6 + 2 * 2 + 1
    assert sorted(rows) == [
        ("E0-3", east, 3, last - 3),
        ("E4-7", east, 1, last - 1),
        ("E8-11", east, 8, 14 + 2 * 2 + 1 - 8),
    ]


@needs_perfetto
def test_what_crosses_on_a_group_goes_to_further_tracks() -> None:
    """Two nodes have vectors on E0 at the same time, at different places."""
    builder = build().store("c0.mem.W0", 0, np.zeros((1, LANES), np.uint8))
    for side in ("W0", "E0"):
        builder.store(f"c0.mem.{side}", 1, np.zeros((1, LANES), np.uint8))
        builder.at(f"c0.mem.{side}", 0, "read", address=1, repeat=5, out=east(0))
    program = builder.program()
    nodes = tuple(Node(name, "Add", 0, 5) for name in ("west", "east"))
    code = dataclasses.replace(program.code, note=np.array([0, 1], np.int32))
    notes = (Note(0, ""), Note(1, ""))
    program = dataclasses.replace(program, code=code, nodes=nodes, notes=notes)
    rows = [row for row in opened(program).query(SLICES) if row["category"] == "stream"]
    assert sorted((row["name"], row["track"], row["ts"]) for row in rows) == [
        ("east", "E0-3", CYCLE),
        ("west", "E0-3", CYCLE),
    ]


@needs_perfetto
@pytest.mark.parametrize(("kind", "interval"), [(Type.I8, 1), (Type.I8, 3), (Type.F16, 2)])
def test_counters_add_up_to_the_work(kind: Type, interval: int) -> None:
    program = matmul(kind, 6, interval)[0].program()
    processor, code = opened(program), program.code

    def work(*names: str) -> int:
        return sum(
            int(code.repeat[i])
            for i in range(len(code))
            if BY_OPCODE[int(code.opcode[i])].name in names
        )

    planes = program.machine.mxm.fp16_planes * program.machine.mxm.fp16_interval
    used = busy_cycles(counter(processor, "MXM planes busy"), program.cycles)
    assert used == pytest.approx(work("abc") * (planes if kind is Type.F16 else 1), abs=1e-4)
    used = busy_cycles(counter(processor, "SRAM accesses"), program.cycles)
    assert used == pytest.approx(work("read", "write"), abs=1e-4)
    assert counter(processor, "ALUs busy") == []


@needs_perfetto
def test_counters_of_the_adder() -> None:
    program = adder(3, 1).program()
    processor = opened(program)
    assert counter(processor, "ALUs busy") == [(6, 1), (9, 0)]
    # y's last two bytes enter in 1, its first in 2, x's likewise; the results in 8.
    streams = [(1, 2), (2, 4), (3, 6), (4, 8), (8, 12), (9, 4), (16, 2)]
    assert counter(processor, "streams in use") == streams
    # Three words a slice: of x and y until their third reads, of z from the first write on.
    words = [(0, 24), (3, 18), (4, 12), (5, 6), (6, 0), (13, 6), (14, 12)]
    assert counter(processor, "SRAM words live") == words


@needs_perfetto
def test_weights_stay() -> None:
    program = matmul(Type.I8, 2)[0].program()
    words = counter(opened(program), "SRAM words live")
    assert words[0] == (0, 16 + 2)
    assert min(value for _, value in words) >= 16


@needs_perfetto
def test_one_chip_and_a_part_of_the_cycles() -> None:
    program = two_chips().program()
    processor = opened(program, chip=1, cycles=(30, 33))
    chips = processor.query("select name from track where name glob 'chip *'")
    assert chips == [{"name": "chip 1"}]
    rows = [row for row in processor.query(SLICES) if row["instruction"]]
    # The write is dispatched in 29, 32 and 35.
    assert [(row["track"], row["ts"], row["dur"], row["cycle"]) for row in rows] == [
        ("mem.W0", 30 * CYCLE, 3 * CYCLE, 29)
    ]


@needs_perfetto
def test_tracks_of_all_chips_in_order() -> None:
    program = two_chips().program()
    rows = opened(program).query("""
        select t.name, p.name as parent from track t left join track p on p.id = t.parent_id
    """)
    tree = {(row["parent"], row["name"]) for row in rows}
    assert {("program", "chip 0"), ("program", "chip 1"), (None, "program")} <= tree
    assert {("chip 0", "C2C"), ("C2C", "c2c.0.send"), ("C2C", "c2c.0.receive")} <= tree
    assert {("chip 1", "MEM"), ("MEM", "mem.W0"), ("mem.W0", "bank 0")} <= tree


@needs_perfetto
def test_arrows_lead_over_links() -> None:
    rows = opened(two_chips().program()).query("""
        select o.category as sent, i.category as received, i.ts - o.ts as after
        from flow join slice o on o.id = slice_out join slice i on i.id = slice_in
    """)
    latency = two_chips().machine.link_latency
    assert rows == [{"sent": "send", "received": "receive", "after": latency * CYCLE}]


@needs_perfetto
def test_nodes_and_causes() -> None:
    program = noted(adder(3, 2))
    end = program.cycles
    causes = [Cause(0, 4, 0, "latency", ""), Cause(4, end, 1, "unit", "c0.vxm.0")]
    rows = opened(program, causes=causes).query(SLICES)
    drawn = [row for row in rows if row["track"] in ("ONNX nodes", "causes")]
    assert {
        (row["track"], row["ts"] // CYCLE, row["dur"] // CYCLE, row["name"], row["category"])
        for row in drawn
    } == {
        ("ONNX nodes", 0, 9, "first", "Add"),
        ("ONNX nodes", 5, end - 5, "Relu #1", "Relu"),
        ("causes", 0, 4, "latency", "cause"),
        ("causes", 4, end - 4, "unit", "cause"),
    }
    details = [(row["node"], row["detail"]) for row in drawn if row["category"] == "cause"]
    assert details == [("first", None), ("Relu #1", "c0.vxm.0")]


@needs_perfetto
@pytest.mark.parametrize("name", ["\udc80", "\x1b[31m", "a\nb", "é", "x" * 5000])
def test_names_of_any_kind(name: str) -> None:
    program = noted(adder(1, 1))
    nodes = (Node(name, name, 0, 9), *program.nodes[1:])
    shown = {row["name"] for row in opened(dataclasses.replace(program, nodes=nodes)).query(SLICES)}
    assert name.encode("utf-8", "backslashreplace").decode() in shown


@needs_perfetto
def test_a_program_without_instructions() -> None:
    assert opened(build().program()).query(SLICES) == []


def test_same_program_same_bytes(tmp_path: Path) -> None:
    program = noted(matmul(Type.I8, 5)[0])
    drawn = draw(program).save(tmp_path / "a")
    draw(program).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert drawn.bytes == (tmp_path / "a").stat().st_size > 0
    assert drawn.tracks > 0
    assert drawn.counts > 0
    assert drawn.slices > len(program.code)


def test_what_breaks_a_rule_is_refused() -> None:
    program = adder(3, 2).program()
    code = program.code.take(np.arange(len(program.code)) != 0)
    with pytest.raises(ScheduleViolation) as caught:
        draw(dataclasses.replace(program, code=code))
    assert caught.value.diagnostic.code == "slot-empty"


def test_chips_and_times_that_are_none() -> None:
    program = two_chips().program()
    for chip in (-1, 2):
        with pytest.raises(UsageError) as caught:
            draw(program, chip=chip)
        assert caught.value.diagnostic.code == "trace-chip"
    machine = load_machine("tiny", ["clock.hz=1"])
    builder = Builder(machine).store("c0.mem.W0", 0, np.zeros((1, LANES), np.uint8))
    builder.at("c0.mem.W0", 2**47, "read", out=east(0))
    with pytest.raises(UsageError) as caught:
        draw(builder.program())
    assert caught.value.diagnostic.code == "trace-time"


INTERVALS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 12)))


@given(INTERVALS)
def test_merged_intervals_are_a_union(table: list[tuple[int, int, int]]) -> None:
    group, start, length = np.array(table, np.int64).reshape(-1, 3).T
    joined = list(
        zip(*(part.tolist() for part in merged(group, start, start + length)), strict=True)
    )
    want = {(g, c) for g, a, n in table for c in range(a, a + n)}
    assert [(g, c) for g, a, b in joined for c in range(a, b)] == sorted(want)
    for (g, _, b), (h, a, _) in itertools.pairwise(joined):
        assert g < h or b < a


@given(INTERVALS)
def test_lanes_are_free_and_few(table: list[tuple[int, int, int]]) -> None:
    group, start, length = np.array(table, np.int64).reshape(-1, 3).T
    end = start + length + 1
    lane = lanes(group, start, end)
    held = Counter(
        (g, at, c)
        for g, at, a, b in zip(
            group.tolist(), lane.tolist(), start.tolist(), end.tolist(), strict=True
        )
        for c in range(a, b)
    )
    assert set(held.values()) <= {1}
    most = Counter((g, c) for g, _, c in held)
    for g in set(group.tolist()):
        deepest = max(count for (h, _), count in most.items() if h == g)
        assert lane[group == g].max() + 1 == deepest


@needs_perfetto
@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_numbers_survive(table: list[tuple[int, int]]) -> None:
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as messages

    times, values = np.array(table, np.int64).T
    floats = values / 7
    annotation = message(4, number(4, values)).only(values != 3)
    event = message(11, annotation, double(44, floats))
    packets = message(1, number(8, times), event, constant(len(times), bytes([10 << 3, 5])))
    trace = messages.Trace()
    trace.ParseFromString(packets.pack())
    assert [packet.timestamp for packet in trace.packet] == times.tolist()
    assert {packet.trusted_packet_sequence_id for packet in trace.packet} == {5}
    events = [packet.track_event for packet in trace.packet]
    assert [event.double_counter_value for event in events] == floats.tolist()
    kept = [[a.int_value for a in event.debug_annotations] for event in events]
    assert kept == [[] if value == 3 else [value] for value in values.tolist()]
