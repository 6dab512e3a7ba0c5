"""Copies of a model that take runs in turn: as many runs at a time, each as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from benchmarks.builder import Net
from clockstep_compiler import Options, compile_model
from clockstep_isa import DoesNotFit, MalformedFile, UsageError, load_machine, load_program
from clockstep_isa.container import program_bytes
from clockstep_isa.listing import parse_listing, print_listing
from clockstep_runtime import interval
from tests.support.endtoend import assert_close, expected, fp16_inputs, run_checked
from tests.support.machines import MACHINES, with_words
from tests.support.models import mlp, random_inputs

TINY = MACHINES["tiny"]


def _model() -> ModelProto:
    return mlp(np.random.default_rng(1), (40, 70, 70, 20), 3, ("Relu", "Tanh", ""))


@pytest.mark.parametrize("chips", [2, 3, 8])
def test_a_copy_a_chip(chips: int) -> None:
    """Runs start as many times as soon as on one chip, take as long, and give the same."""
    model = _model()
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(2)))
    alone = run_checked(model, TINY, inputs, chips=1).program
    run = run_checked(model, TINY, inputs, chips=chips, objective="throughput")
    assert (run.program.copies, run.program.chips) == (chips, 1)
    assert run.program.cycles == alone.cycles
    assert interval(run.program) == -(-interval(alone) // chips)
    assert_close(run.outputs, expected(model, inputs))


def test_copies_of_several_chips() -> None:
    """What one chip does not hold is in copies on as few chips as divide them."""
    machine, model = with_words("tiny", 32), _model()
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(3)))
    least = run_checked(model, machine, inputs).program.chips
    assert least > 1
    run = run_checked(model, machine, inputs, chips=3 * least, objective="throughput")
    assert (run.program.copies, run.program.chips) == (3, least)
    assert_close(run.outputs, expected(model, inputs))
    asked = Options(chips=3 * least, objective="throughput", copies=3 * least)
    with pytest.raises(DoesNotFit):
        compile_model(model.SerializeToString(), machine, asked)


def test_latency_asks_for_no_copies() -> None:
    program = compile_model(_model().SerializeToString(), TINY, Options(chips=2))
    assert (program.copies, program.chips) == (1, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(chips=3, objective="throughput", copies=2), "--copies 2: 3 chips cannot"),
        (Options(objective="throughput", copies=2), "--copies 2: 1 chip cannot"),
        (Options(chips=2, objective="throughput", copies=0), "--copies 0"),
        (Options(chips=2, copies=2), "takes as long on one"),
    ],
)
def test_numbers_without_sense(options: Options, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compile_model(_model().SerializeToString(), TINY, options)


def test_a_state_is_in_one_place() -> None:
    """A run goes on from the one before it, which left its state where it ran."""
    net = Net("sums")
    net.output(net.op("Add", net.input("sum", (4, 8)), net.input("x", (4, 8))), "total", (4, 8))
    model = net.model().SerializeToString()
    options = Options(chips=2, objective="throughput", states={"sum": "total"})
    assert compile_model(model, TINY, options).copies == 1
    with pytest.raises(UsageError, match="the one before"):
        compile_model(model, TINY, replace(options, copies=2))


def test_files_and_listings_say_how_many(tmp_path: Path) -> None:
    net = Net("small")
    net.output(net.op("Relu", net.input("x", (4, 8))), "y", (4, 8))
    options = Options(chips=4, objective="throughput")
    program = compile_model(net.model().SerializeToString(), load_machine("tiny"), options)
    assert program.copies == 4
    program.save(tmp_path / "p.lpu")
    loaded = load_program(tmp_path / "p.lpu")
    assert loaded.copies == 4
    listed = parse_listing(print_listing(program))
    assert program_bytes(listed) == program_bytes(program) == program_bytes(loaded)
    most = program.machine.max_chips
    replace(program, copies=most + 1).save(tmp_path / "q.lpu")
    with pytest.raises(MalformedFile, match="copies"):
        load_program(tmp_path / "q.lpu")


def test_parts_are_dealt_by_time() -> None:
    """Few weights of many rows take most of the time: by weights one chip would have them all."""
    rng, net = np.random.default_rng(4), Net("uneven")
    x = net.input("x", (160, 16))
    for _ in range(6):
        x = net.op("Relu", net.op("MatMul", x, net.normal((16, 16), 0.2)))
    x = net.op("ReduceMax", x, net.constant([0], dtype="int64"), keepdims=1)
    x = net.op(
        "MatMul", net.op("MatMul", x, net.normal((16, 200), 0.1)), net.normal((200, 16), 0.1)
    )
    net.output(x, "y", (1, 16))
    model = net.model()
    inputs = fp16_inputs(random_inputs(model, rng))
    alone, parts = (
        run_checked(model, TINY, inputs, chips=n, objective="throughput", copies=1) for n in (1, 2)
    )
    assert_close(parts.outputs, expected(model, inputs))
    assert (parts.program.chips, parts.program.copies) == (2, 1)
    assert interval(parts.program) < 0.9 * interval(alone.program)
