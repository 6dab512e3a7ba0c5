"""Small hand-made programs on `tiny`, against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.program import Image, Program
from clockstep_isa.table import Type
from clockstep_runtime import interpret, random_inputs, verify
from tests.support.build import Builder, build, east, west

LANES = 16


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


def adder(rows: int, interval: int) -> Builder:
    """z = x + y, float32, a vector every `interval` cycles."""
    builder = build()
    shape = (rows, LANES)
    x, y, z = (
        [f"c0.mem.{side}{i}" for i in range(first, first + 4)]
        for side, first in (("W", 0), ("W", 4), ("E", 0))
    )
    builder.bind("input", "x", "float32", Type.F32, shape, x)
    builder.bind("input", "y", "float32", Type.F32, shape, y)
    builder.bind("output", "z", "float32", Type.F32, shape, z, 100)

    def every(queue: str, cycle: int, mnemonic: str, **fields: int) -> None:
        builder.at(queue, cycle, mnemonic, repeat=rows, interval=interval, **fields)

    # Slices 0 and 1 are at 8, 2 and 3 at 7, 4 and 5 at 6, 6 and 7 at 5; ALU 0 is at 10.
    for first, queues in ((0, x), (4, y)):
        for i, queue in enumerate(queues):
            start = 3 - (first + i) // 2
            every(queue, start, "read", stride=1, out=east(first + i))
    every("c0.vxm.0", 6, "add.f32", a=east(0), b=east(4), out=east(8))
    for i, queue in enumerate(z):
        every(queue, 8 + 5 + i // 2, "write", address=100, stride=1, a=east(8 + i))
    return builder


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


def matmul(kind: Type, rows: int) -> tuple[Builder, np.ndarray]:
    """y = x @ w for one plane: w transposed in the image, x read row by row."""
    width, total = kind.bytes, Type.I32 if kind is Type.I8 else Type.F32
    builder = build()
    generator = np.random.default_rng(3)
    if kind is Type.I8:
        weights = generator.integers(-128, 128, (LANES, LANES)).astype(np.int8)
    else:
        weights = generator.standard_normal((LANES, LANES)).astype(np.float16)
    columns = np.ascontiguousarray(weights.T).view(np.uint8).reshape(LANES, LANES, width)
    # Weights come from W8 and on, at 4 and 3: four streams, so 4 / width columns a cycle.
    each = 4 // width
    for stream in range(4):
        column, byte = divmod(stream, width)
        queue = f"c0.mem.W{8 + stream}"
        builder.store(queue, 0, columns[column::each, :, byte])
        lead = 1 if stream >= 2 else 0
        loads = LANES // each
        builder.at(queue, lead, "read", stride=1, out=west(stream), repeat=loads)
    lw = "c0.mxm.W0.lw"
    fields = {"a": west(0), "count": 4, "column": 0, "stride": each}
    builder.at(lw, 5, f"lw.{kind.text}", repeat=LANES // each, **fields)
    done = 5 + LANES // each
    builder.at(lw, done, f"iw.{kind.text}")
    # Activations from W0 and W1, at 8; sampled from done + 2 on.
    interval = 1 if kind is Type.I8 else 2
    slices = [f"c0.mem.W{byte}" for byte in range(width)]
    for byte, queue in enumerate(slices):
        builder.at(
            queue, done + 2 - 9, "read", stride=1, out=west(byte), repeat=rows, interval=interval
        )
    abc, acc = "c0.mxm.W0.abc", "c0.mxm.W0.acc"
    builder.at(
        abc, done + 1, f"abc.{kind.text}", a=west(0), rows=LANES, repeat=rows, interval=interval
    )
    builder.at(acc, done + 5, f"acc.{total.text}", out=east(4), repeat=rows, interval=interval)
    results = [f"c0.mem.E{byte}" for byte in range(4)]
    for byte, queue in enumerate(results):
        at = done + 9 + 15 + byte // 2
        builder.at(queue, at, "write", stride=1, a=east(4 + byte), repeat=rows, interval=interval)
    dtype = "int8" if kind is Type.I8 else "float16"
    builder.bind("input", "x", dtype, kind, (rows, LANES), slices)
    out = "int32" if kind is Type.I8 else "float32"
    builder.bind("output", "y", out, total, (rows, LANES), results)
    return builder, weights


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
    builder = build(chips=2)
    builder.bind("input", "x", "int8", Type.I8, (3, LANES), ["c0.mem.W0"])
    builder.at("c0.mem.W0", 0, "read", stride=1, out=west(0), repeat=3, interval=3)
    builder.at("c0.c2c.0.send", 8, "send", a=west(0), repeat=3, interval=3)
    builder.at("c1.c2c.0.receive", 21, "receive", out=east(5), repeat=3, interval=3)
    # On the stream at 1 in cycle 22, at W0 (8) in cycle 29.
    builder.at("c1.mem.W0", 29, "write", address=50, stride=1, a=east(5), repeat=3, interval=3)
    builder.bind("output", "y", "int8", Type.I8, (3, LANES), ["c1.mem.W0"], 50)
    program = builder.program()
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
