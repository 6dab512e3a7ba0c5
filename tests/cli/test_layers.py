"""`run --compare` names the layer that is wrong: one thing broken at a time, in every layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

import clockstep as face
from clockstep.compare import Comparison
from clockstep.layers import Layer, layers_as_data, layers_text
from clockstep_isa import BY_NAME, Program, geometry
from tests.support.command import clockstep
from tests.support.models import mlp, random_inputs
from tests.support.quantized import quantize

WIDTHS = (20, 24, 18, 30, 10)
LAYERS = len(WIDTHS) - 1


def model_of(kind: str) -> ModelProto:
    """Four layers of Gemm and Tanh, in fp32 or quantized."""
    rng = np.random.default_rng(11)
    model = mlp(rng, WIDTHS, 5, ("Tanh",), ("linear",), residual=False)
    if kind == "float":
        return model
    return quantize(model, [random_inputs(model, rng) for _ in range(8)])


@pytest.fixture(scope="module", params=["float", "qdq"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    model = model_of(request.param)
    onnx.save(model, folder / "model.onnx")
    program = face.compile(model, machine="tiny", effort="fast")
    return folder, program


def gemm(program: Program, layer: int) -> int:
    """The index of the node that multiplies in a layer."""
    return [i for i, node in enumerate(program.nodes) if node.op == "Gemm"][layer]


def serving(program: Program, node: int, name: str) -> Any:
    """Positions in the code of the instructions `name` that serve a node."""
    owner = np.array([note.node for note in program.notes])[program.code.note]
    return np.flatnonzero((owner == node) & (program.code.opcode == BY_NAME[name].opcode))


def with_broken_weights(program: Program, node: int) -> Program:
    """The image words that the first reads for a node's array want, with other exponents or signs.

    Reads of one `lw` stand in the slices whose order is that of its streams: both bytes of fp16.
    """
    code, image = program.code, program.image
    data = np.array(image.data)
    starts = np.cumsum([0, *image.regions[:-1, 3].tolist()])
    queues = len(geometry(program.machine).queues)
    broken = 0
    for i in serving(program, node, "read"):
        chip, queue = divmod(int(code.queue[i]), queues)
        address = int(code.args[i, 0])
        for region, start in zip(image.regions.tolist(), starts.tolist(), strict=True):
            inside = region[:2] == [chip, queue] and 0 <= address - region[2] < region[3]
            if inside and code.repeat[i] > 1:
                data[start + address - region[2]] ^= 0x44
                broken += 1
    assert broken
    return replace(program, image=replace(image, data=data))


def with_other_immediate(program: Program, node: int) -> Program:
    """The first constant factor of a node, doubled."""
    args, row = program.code.args.copy(), BY_NAME["muli"]
    args[serving(program, node, "muli")[0], row.field("imm")] += 1 << 23
    return replace(program, code=replace(program.code, args=args))


def compared(folder: Path, program: Program) -> dict[str, Any]:
    program.save(folder / "broken.lpu")
    flags = ("--compare", folder / "model.onnx", "--json")
    done = clockstep("run", folder / "broken.lpu", *flags)
    assert done.status in (0, 1), done
    said: dict[str, Any] = done.json()
    assert said["match"] == (done.status == 0)
    return said


def test_an_honest_program_has_no_divergence(made: Any) -> None:
    folder, program = made
    said = compared(folder, program)
    assert said["match"]
    assert "layers" not in said


@pytest.mark.parametrize("layer", range(LAYERS))
def test_broken_weights(made: Any, layer: int) -> None:
    folder, program = made
    node = gemm(program, layer)
    said = compared(folder, with_broken_weights(program, node))
    first = said["first_divergence"]
    assert program.nodes[node].name in first["nodes"]
    assert [row for row in said["layers"] if row["diverges"]] == [first]
    assert said["layers"].index(first) >= layer
    assert first["mismatched"] > 0


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_broken_immediate(layer: int, tmp_path: Path) -> None:
    """The factor that takes the sums of one layer to the integers of the next."""
    model = model_of("qdq")
    onnx.save(model, tmp_path / "model.onnx")
    program = face.compile(model, machine="tiny", effort="fast")
    node = gemm(program, layer)
    said = compared(tmp_path, with_other_immediate(program, node))
    assert program.nodes[node].name in said["first_divergence"]["nodes"]
    assert sum(row["diverges"] for row in said["layers"]) == 1


def test_rounding_that_adds_up_is_no_layers_fault() -> None:
    small, large = (Comparison(size, size, 1, 0, 4) for size in (0.01, 0.02))
    layers = [
        Layer("h", "fc1", "Gemm", ("fc1",), "float32", 8.0, small),
        Layer("y", "fc2", "Gemm", ("fc2", "act"), "float32", 2.0, large),
    ]
    text = layers_text(layers)
    assert text.endswith("no layer diverges by itself; the least exact is fc2 (Gemm)")
    assert layers_as_data(layers)["first_divergence"] is None
    assert layers[1].of_range == 0.01


def test_a_tensor_that_was_not_written_in_time(made: Any) -> None:
    folder, program = made
    first, *rest = program.probes
    early = replace(first, ready=first.ready * 0)
    broken = with_broken_weights(replace(program, probes=(early, *rest)), gemm(program, 0))
    said = compared(folder, broken)
    assert said["first_divergence"]["tensor"] == first.binding.name
    assert said["first_divergence"]["max_abs"] is None


def test_a_batch_of_runs(made: Any, tmp_path: Path) -> None:
    """The layers are those of the first run that does not match."""
    folder, program = made
    shape = program.inputs[0].shape
    x = np.random.default_rng(2).normal(size=(3, *shape)).astype(np.float32)
    x[0] = 0
    np.savez(tmp_path / "in.npz", x=x)
    with_broken_weights(program, gemm(program, 1)).save(tmp_path / "b.lpu")
    flags = ("--compare", folder / "model.onnx", "--inputs", tmp_path / "in.npz", "--json")
    said = clockstep("run", tmp_path / "b.lpu", *flags).json()
    assert program.nodes[gemm(program, 1)].name in said["first_divergence"]["nodes"]


def test_external_data(tmp_path: Path) -> None:
    model = model_of("float")
    program = face.compile(model, machine="tiny", effort="fast")
    for tensor in model.graph.initializer:
        assert tensor.data_type == TensorProto.FLOAT
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    said = compared(tmp_path, with_broken_weights(program, gemm(program, 2)))
    assert program.nodes[gemm(program, 2)].name in said["first_divergence"]["nodes"]


def test_for_people(made: Any) -> None:
    folder, program = made
    with_broken_weights(program, gemm(program, 2)).save(folder / "b.lpu")
    done = clockstep("run", folder / "b.lpu", "--compare", folder / "model.onnx")
    assert done.status == 1
    last = done.out.splitlines()[-3:]
    assert any(line.startswith("the first to diverge is ") for line in last), done.out
    assert any(program.nodes[gemm(program, 2)].name in line for line in last)
    assert last[-1].startswith("largest error before it: ")


def test_programs_too_long_to_interpret(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, program = made
    monkeypatch.setattr("clockstep.verdict.MOST_CYCLES", program.cycles - 1)
    said = compared(folder, with_broken_weights(program, gemm(program, 0)))
    assert (said["match"], said["layers"], said["first_divergence"]) == (False, None, None)
    done = clockstep("run", folder / "broken.lpu", "--compare", folder / "model.onnx")
    assert "layers not compared: " in done.out
