"""Models larger than one chip: on the fewest that hold them, all used, with the same answers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import ModelProto

from benchmarks.builder import Net
from clockstep_compiler import Options, check_model, compile_model
from clockstep_isa import DoesNotFit, Machine, Program, load_machine
from clockstep_isa.table import BY_NAME
from tests.support.endtoend import assert_close, assert_equal, expected, fp16_inputs, run_checked
from tests.support.machines import MACHINES, with_words
from tests.support.models import ACTIVATIONS, mlp, random_inputs
from tests.support.quantized import matmul_integer, qdq_mlp


def model_of(widths: tuple[int, ...], batch: int = 3) -> ModelProto:
    rng = np.random.default_rng(1)
    return mlp(rng, widths, batch, ("Relu", "Tanh", ""), forms=("matmul", "linear"))


def chip_bytes(program: Program, kind: str) -> list[int]:
    return [int(chip[kind]) for chip in program.info["chip_bytes"]]


def smaller(chips: int, model: ModelProto, machine: Machine) -> DoesNotFit:
    """The refusal of one chip less."""
    with pytest.raises(DoesNotFit) as refused:
        compile_model(model.SerializeToString(), machine, Options(chips=chips))
    return refused.value


CASES = [
    # machine, words of a bank, widths
    ("tiny", 32, (60, 90, 90, 20)),
    ("tiny", 64, (100, 200, 100)),
    ("ring", 32, (60, 90, 90, 20)),
    ("wide", 64, (300, 300, 300)),
    ("narrow", 64, (60, 90, 90, 20)),
]


@pytest.mark.parametrize(("name", "words", "widths"), CASES)
def test_the_fewest_chips_and_all_of_them_used(
    name: str, words: int, widths: tuple[int, ...]
) -> None:
    machine, model = with_words(name, words), model_of(widths)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(2)))
    run = run_checked(model, machine, inputs)
    chips = run.program.chips
    assert chips > 1
    assert_close(run.outputs, expected(model, inputs))
    assert len(run.program.info["chip_bytes"]) == chips
    assert all(used > 0 for used in chip_bytes(run.program, "weights"))
    assert all(used <= machine.sram_bytes for used in chip_bytes(run.program, "total"))
    refusal = smaller(chips - 1, model, machine)
    assert refusal.exit_code == 4
    assert refusal.diagnostic.help == f"{chips} chips would do: --chips {chips}"
    assert f"{(chips - 1) * machine.sram_bytes:,}" in refusal.diagnostic.message
    assert re.search(r"weights take [\d,]+", refusal.diagnostic.message)


def test_weights_are_counted_once() -> None:
    """The bytes of all chips add up to the model's weights, padded to whole vectors."""
    model = model_of((64, 128, 64))
    counts = []
    for chips in (1, 2, 3):
        program = compile_model(
            model.SerializeToString(),
            MACHINES["tiny"],
            Options(chips=chips, objective="throughput", copies=1),
        )
        counts.append(sum(chip_bytes(program, "weights")))
    assert counts == [2 * (64 * 128 + 128 * 64)] * 3


@pytest.mark.parametrize("name", ["tiny", "ring", "wide"])
def test_same_answers_on_any_number_of_chips(name: str) -> None:
    machine, model = MACHINES[name], model_of((40, 70, 70, 70, 20), batch=7)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(3)))
    runs = {
        n: run_checked(model, machine, inputs, chips=n, objective="throughput", copies=1)
        for n in (1, 2, 3, 5)
    }
    for chips, run in runs.items():
        assert run.program.chips == chips
        assert all(used > 0 for used in chip_bytes(run.program, "weights"))
        assert_equal(run.outputs, runs[1].outputs)
    assert_close(runs[1].outputs, expected(model, inputs))


def test_same_integers_on_any_number_of_chips() -> None:
    rng = np.random.default_rng(4)
    product = matmul_integer(rng, (9, 100), (100, 70), "uint8", "int8", "column")
    network = qdq_mlp(rng, (40, 60, 60, 20), 7, ACTIVATIONS)
    for model in (product, network):
        inputs = random_inputs(model, rng)
        one = run_checked(model, MACHINES["tiny"], inputs, chips=1).outputs
        for chips in (2, 3, 5):
            assert_equal(
                run_checked(
                    model, MACHINES["tiny"], inputs, chips=chips, objective="throughput", copies=1
                ).outputs,
                one,
            )


def test_a_batch_that_one_chip_cannot_hold() -> None:
    """Activations need room too, and are given it."""
    machine, model = with_words("tiny", 64), model_of((30, 30, 10), batch=200)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(5)))
    assert_close(run_checked(model, machine, inputs).outputs, expected(model, inputs))


def test_chips_of_several_nodes() -> None:
    """More chips than one node has: what crosses takes the links between nodes."""
    machine = with_words("tiny", 16)
    model = model_of((60, 120, 120, 20))
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(6)))
    run = run_checked(model, machine, inputs)
    assert run.program.chips > machine.system.chips_per_node
    assert_close(run.outputs, expected(model, inputs))


def test_two_lpus() -> None:
    model = model_of((500, 700, 300), batch=2)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(7)))
    one, two = (
        run_checked(
            model, load_machine("lpu-v1"), inputs, chips=n, objective="throughput", copies=1
        )
        for n in (1, 2)
    )
    assert_equal(two.outputs, one.outputs)


def test_too_large_for_every_chip_there_is() -> None:
    machine, model = with_words("odd", 16), model_of((200, 400, 200))
    with pytest.raises(DoesNotFit) as refused:
        compile_model(model.SerializeToString(), machine, Options())
    assert f"{machine.max_chips} chips of {machine.sram_bytes:,} bytes" in str(refused.value)


def test_check_says_how_many_chips() -> None:
    machine, model = with_words("tiny", 32), model_of((60, 90, 90, 20))
    program = compile_model(model.SerializeToString(), machine, Options())
    assert check_model(model.SerializeToString(), machine, Options()).chips_needed == program.chips


def test_norms_stay_on_the_chip_of_their_layers() -> None:
    """Every LayerNormalization multiplies by the same ones, which are on both chips.

    So no more is sent than at the border, where a layer may be on both: not twice a layer.
    """
    layers, rows, columns = 8, 8, 64
    rng = np.random.default_rng(3)
    net = Net("norms")
    x = net.input("x", (rows, columns))
    for _ in range(layers):
        x = net.op("MatMul", x, net.normal((columns, columns), 0.1))
        x = net.op("LayerNormalization", x, net.constant(np.ones(columns)), axis=-1)
    net.output(x, "y", (rows, columns))
    model, machine = net.model(), load_machine("tiny")
    inputs = {"x": rng.standard_normal((rows, columns)).astype(np.float32)}
    run = run_checked(model, machine, inputs, Options(chips=2, objective="throughput", copies=1))
    code = run.program.code
    sent = int(code.repeat[code.opcode == BY_NAME["send"].opcode].sum())
    matrix = rows * 4 * columns // machine.vector  # vectors of float32
    assert 0 < sent <= layers // 2 * matrix
    assert_close(run.outputs, expected(model, inputs))


def test_a_row_cut_in_heads_stays_on_its_chip() -> None:
    """One row as a row for each head, behind every product: sent once, at the border."""
    layers, columns, heads = 8, 64, 4
    rng = np.random.default_rng(4)
    net = Net("heads")
    x = net.input("x", (1, columns))
    for _ in range(layers):
        x = net.op("MatMul", x, net.normal((columns, columns), 0.1))
        x = net.op("Reshape", x, net.constant([heads, columns // heads], dtype="int64"))
        x = net.op("Softmax", x, axis=-1)
        x = net.op("Reshape", x, net.constant([1, columns], dtype="int64"))
    net.output(x, "y", (1, columns))
    model, machine = net.model(), load_machine("tiny")
    inputs = {"x": rng.standard_normal((1, columns)).astype(np.float32)}
    run = run_checked(model, machine, inputs, Options(chips=2, objective="throughput", copies=1))
    code = run.program.code
    sent = int(code.repeat[code.opcode == BY_NAME["send"].opcode].sum())
    row = 4 * columns // machine.vector  # vectors of float32
    assert 0 < sent <= 2 * row
    assert_close(run.outputs, expected(model, inputs))
