"""Small hand-made programs on `tiny`, against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.program import Image, Program
from clockstep_isa.table import Type
from clockstep_runtime import interpret, random_inputs, verify
from tests.support.build import build, east, west
from tests.support.handmade import LANES, adder, matmul, two_chips


def run(program: Program, inputs: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Verified, executed in exactly the promised cycles."""
    assert verify(program).violations == ()
    execution = interpret(program, inputs or {})
    assert execution.cycles == program.cycles
    return execution.outputs


def test_copy_a_word() -> None:
    """W0 is at 8 and E3 at 16: read in 0, on the stream in 1, at E3 in 9."""
    word = np.arange(LANES, dtype=np.uint8)[None]
    builder = build().store("c0.mem.W0", 7, word)
    builder.at("c0.mem.W0", 0, "read", address=7, out=east(2))
    builder.at("c0.mem.E3", 9, "write", address=1023, a=east(2))
    builder.bind("output", "y", "int8", Type.I8, (1, LANES), ["c0.mem.E3"], 1023)
    program = builder.program()
    assert program.cycles == 10
    np.testing.assert_array_equal(run(program)["y"], word.view(np.int8))


def test_nearest_producer_replaces_the_value() -> None:
    """W4 at 6 and W0 at 8 both drive E0: past 8, W0's word is seen."""
    builder = build()
    for queue, value in (("c0.mem.W4", 4), ("c0.mem.W0", 9)):
        builder.store(queue, 0, np.full((1, LANES), value, np.uint8))
    builder.at("c0.mem.W4", 0, "read", address=0, out=east(0))
    builder.at("c0.mem.W0", 2, "read", address=0, out=east(0))
    builder.at("c0.mem.E0", 10, "write", address=0, a=east(0))
    builder.at("c0.mem.W2", 2, "write", address=0, a=east(0))
    builder.bind("output", "far", "int8", Type.I8, (1, LANES), ["c0.mem.E0"])
    builder.bind("output", "near", "int8", Type.I8, (1, LANES), ["c0.mem.W2"])
    outputs = run(builder.program())
    assert outputs["far"].tolist() == [[9] * LANES]
    assert outputs["near"].tolist() == [[4] * LANES]


@pytest.mark.parametrize("interval", [1, 3])
def test_add_two_tensors(interval: int) -> None:
    program = adder(5, interval).program()
    inputs = random_inputs(program, 0)
    np.testing.assert_array_equal(run(program, inputs)["z"], inputs["x"] + inputs["y"])


def test_cycles_do_not_depend_on_data() -> None:
    program = adder(4, 2).program()
    cycles = set()
    for seed in range(5):
        cycles.add(interpret(program, random_inputs(program, seed)).cycles)
    for value in (0.0, np.nan, np.inf, np.finfo(np.float32).max):
        inputs = {name: np.full((4, LANES), value, np.float32) for name in "xy"}
        cycles.add(interpret(program, inputs).cycles)
    assert cycles == {program.cycles}


@pytest.mark.parametrize("rows", [1, 6])
def test_int8_matmul(rows: int) -> None:
    builder, weights = matmul(Type.I8, rows)
    program = builder.program()
    inputs = random_inputs(program, 1)
    wanted = inputs["x"].astype(np.int64) @ weights.astype(np.int64)
    np.testing.assert_array_equal(run(program, inputs)["y"], wanted)


@pytest.mark.parametrize("rows", [1, 6])
def test_fp16_matmul(rows: int) -> None:
    builder, weights = matmul(Type.F16, rows)
    program = builder.program()
    inputs = random_inputs(program, 1)
    exact = inputs["x"].astype(np.longdouble) @ weights.astype(np.longdouble)
    np.testing.assert_array_equal(run(program, inputs)["y"], exact.astype(np.float32))


def test_two_chips() -> None:
    """A vector goes to the other chip and comes back, each way 13 cycles on the link."""
    program = two_chips().program()
    inputs = random_inputs(program, 2)
    np.testing.assert_array_equal(run(program, inputs)["y"], inputs["x"])


def test_a_vector_nobody_receives_is_lost_silently() -> None:
    builder = build(chips=2).store("c0.mem.W0", 0, np.ones((1, LANES), np.uint8))
    builder.at("c0.mem.W0", 0, "read", address=0, out=west(0))
    builder.at("c0.c2c.0.send", 8, "send", a=west(0))
    run(builder.program())


def test_a_long_silence_is_passed_over() -> None:
    builder = build().store("c0.mem.W0", 0, np.ones((1, LANES), np.uint8))
    builder.at("c0.mem.W0", 2**40, "read", address=0, out=west(0))
    program = builder.program()
    assert interpret(program, {}).cycles == program.cycles == 2**40 + 1


def test_the_promise_is_not_what_is_executed() -> None:
    program = adder(4, 1).program(cycles=3)
    assert interpret(program, random_inputs(program, 0)).cycles == adder(4, 1).program().cycles


def test_an_empty_program_takes_no_cycle() -> None:
    assert interpret(build().program(), {}).cycles == 0
    assert verify(build().program()).ok


def test_without_weights_it_cannot_run() -> None:
    program = build().store("c0.mem.W0", 0, np.ones((1, LANES), np.uint8)).program()
    bare = replace(program, image=Image(program.image.regions, None))
    with pytest.raises(UsageError, match="program-no-weights"):
        interpret(bare, {})


def test_wrong_inputs() -> None:
    program = adder(2, 1).program()
    good = random_inputs(program, 0)
    with pytest.raises(UsageError, match=r"no value for input 'y'"):
        interpret(program, {"x": good["x"]})
    with pytest.raises(UsageError, match=r"no input is named 'w'.*inputs: x, y"):
        interpret(program, {**good, "w": good["x"]})
    with pytest.raises(UsageError, match="input-type"):
        interpret(program, {**good, "y": good["y"].astype(np.float64)})
    with pytest.raises(UsageError, match="input-type"):
        interpret(program, {**good, "y": good["y"][:1]})
