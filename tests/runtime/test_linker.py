"""The linker and the engine against the reference interpreter, on programs made to be awkward.

Compiled programs are compared in `tests/end_to_end`, mutated ones by the mutation tests; here are
those that no compiler would write.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_isa.program import Program
from clockstep_isa.table import BY_NAME, Type
from clockstep_runtime import Session, interpret, link, random_inputs, verify
from tests.support.build import Builder, build, east, west
from tests.support.endtoend import assert_same_bits
from tests.support.handmade import LANES, matmul

WORDS = 40
"""Words of every slice that the random programs use; all are there from the start."""

SLICES = {"W0": 8, "W1": 8, "W2": 7, "E0": 15, "E1": 15, "E2": 16}
"""Slices and their positions on `tiny`."""


def assert_engines_agree(program: Program) -> None:
    inputs = random_inputs(program, 1)
    assert_same_bits(Session(program).execute(inputs), interpret(program, inputs))


@dataclass(frozen=True)
class Move:
    """`count` vectors read from one slice and written to another, on the other side."""

    start: int
    source: str
    target: str
    read: tuple[int, int]  # address, stride
    write: tuple[int, int]
    count: int
    interval: int
    stream: int
    adds: int  # what an ALU adds on the way; 0: nothing is on the way

    def put(self, builder: Builder) -> None:
        eastward = self.source[0] == "W"
        stream = (east if eastward else west)(self.stream)
        every = {"repeat": self.count, "interval": self.interval}
        (address, stride), (into, pitch) = self.read, self.write
        queue = f"c0.mem.{self.source}"
        builder.at(queue, self.start, "read", address=address, stride=stride, out=stream, **every)
        # A hop a cycle from the cycle after the read; an ALU takes two cycles more.
        cycle = self.start + 1 + abs(SLICES[self.target] - SLICES[self.source])
        if self.adds:
            at_alu = self.start + 1 + abs(10 - SLICES[self.source])
            fields = {"a": stream, "imm": self.adds, "out": stream}
            builder.at("c0.vxm.0", at_alu, "addi.i8", **fields, **every)
            cycle += 2
        builder.at(
            f"c0.mem.{self.target}", cycle, "write", a=stream, address=into, stride=pitch, **every
        )


@st.composite
def moves(draw: st.DrawFn) -> Move:
    count, interval = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    sides = draw(st.permutations("WE"))
    stride, pitch = draw(st.integers(-3, 3)), draw(st.integers(-3, 3))

    def address(step: int) -> int:
        reach = step * (count - 1)
        return draw(st.integers(max(0, -reach), WORDS - 1 - max(0, reach)))

    source, target = (f"{side}{draw(st.integers(0, 2))}" for side in sides)
    return Move(
        draw(st.integers(0, 120)),
        source,
        target,
        (address(stride), stride),
        (address(pitch), pitch),
        count,
        interval,
        draw(st.integers(0, 2)),
        draw(st.sampled_from([0, 0, 3])),
    )


def moving(chosen: list[Move]) -> Program:
    """Slices of random words, moved about; every word of every slice is an output."""
    builder = build()
    generator = np.random.default_rng(0)
    for name in SLICES:
        words = generator.integers(0, 256, (WORDS, LANES)).astype(np.uint8)
        builder.store(f"c0.mem.{name}", 0, words)
        builder.bind("output", name, "int8", Type.I8, (WORDS, LANES), [f"c0.mem.{name}"])
    builder.bind("input", "x", "int8", Type.I8, (9, LANES), ["c0.mem.W0"], 5)
    for move in chosen:
        move.put(builder)
    return builder.program()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(moves(), min_size=1, max_size=12))
def test_words_moved_about(wanted: list[Move]) -> None:
    """Chains of copies with any strides: over each other, backwards, one word again and again."""
    chosen: list[Move] = []
    for move in wanted:
        if verify(moving([*chosen, move])).ok:
            chosen.append(move)
    assert_engines_agree(moving(chosen))


def running_sum(count: int, interval: int = 6) -> Program:
    """z[i] = x[i] + z[i - 1] + 1: two ALUs that feed each other, a vector every six cycles."""
    builder = build()
    builder.bind("input", "x", "int8", Type.I8, (count, LANES), ["c0.mem.W0"])
    builder.bind("input", "start", "int8", Type.I8, (1, LANES), ["c0.mem.E0"])
    builder.bind("output", "z", "int8", Type.I8, (count, LANES), ["c0.mem.E2"])
    every = {"repeat": count, "interval": interval}
    # To ALU 0 the start needs six cycles from its slice, x three.
    builder.at("c0.mem.E0", 0, "read", out=west(4))
    builder.at("c0.mem.W0", 3, "read", stride=1, out=east(0), **every)
    builder.at("c0.vxm.0", 6, "add.i8", a=east(0), b=west(4), out=east(8), **every)
    builder.at("c0.vxm.1", 9, "addi.i8", a=east(8), imm=1, out=west(4), **every)
    builder.at("c0.mem.E2", 14, "write", a=east(8), stride=1, **every)
    return builder.program()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_instructions_that_feed_each_other(count: int) -> None:
    program = running_sum(count)
    assert verify(program).ok, verify(program).violations
    assert_engines_agree(program)


@pytest.mark.parametrize("kind", [Type.I8, Type.F16])
def test_an_array_changed_under_a_run_of_activations(kind: Type) -> None:
    """The second installation finds the buffer empty: from there on all products are zero."""
    rows, interval = 6, 4
    builder, _ = matmul(kind, rows, interval)
    installed = 5 + LANES // (4 // kind.bytes)
    sampled = installed + 2
    builder.at("c0.mxm.W0.lw", sampled + 2 * interval + 1, f"iw.{kind.text}")
    program = builder.program()
    assert verify(program).ok, verify(program).violations
    assert_engines_agree(program)
    y = Session(program).run(random_inputs(program, 1))["y"]
    assert (y[3:] == 0).all()
    assert (y[:3] != 0).any(axis=1).all()


@pytest.mark.parametrize(("kind", "stride"), [(Type.I8, 3), (Type.I8, 1), (Type.F16, 1)])
def test_columns_loaded_anew_by_one_instruction(kind: Type, stride: int) -> None:
    builder, _ = matmul(kind, 4)
    index = next(i for i, row in enumerate(builder.rows) if row[2] == BY_NAME["lw"].opcode)
    builder.rows[index][5][BY_NAME["lw"].field("stride")] = stride
    assert_engines_agree(builder.program())


def test_a_repeated_installation() -> None:
    builder, _ = matmul(Type.I8, 4, 6)
    # The weights' own installation, once more two samples later.
    index = next(
        i
        for i, row in enumerate(builder.rows)
        if row[1] == 5 + 4 and row[2] == BY_NAME["iw"].opcode
    )
    queue, cycle, opcode, _, _, args = builder.rows[index]
    builder.rows[index] = (queue, cycle, opcode, 2, 15, args)
    program = builder.program()
    assert verify(program).ok, verify(program).violations
    assert_engines_agree(program)


def test_steps_are_what_computes() -> None:
    """Reads, writes, links and the accumulator cost the engine nothing."""
    linked = link(matmul(Type.I8, 5)[0].program())
    assert len(linked.steps) == 2  # iw and abc
    assert link(moving([])).steps.tolist() == []


def test_many_links_of_one_program_are_one() -> None:
    program = running_sum(4)
    first, second = link(program), link(program)
    assert first.steps.tolist() == second.steps.tolist()
    assert first.operands.value.tolist() == second.operands.value.tolist()
