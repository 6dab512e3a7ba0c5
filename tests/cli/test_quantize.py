"""The verb quantize: the model comes out in int8, compiles, and answers nearly the same."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import clockstep
from tests.support.command import clockstep as command
from tests.support.endtoend import expected
from tests.support.models import build, mlp

Array = np.ndarray[Any, Any]


def _convolutions() -> ModelProto:
    """Two convolutions, a pooling, a classifier."""
    rng = np.random.default_rng(5)
    weights = {
        "a": (rng.normal(size=(6, 3, 3, 3)) / 4).astype(np.float32),
        "b": (rng.normal(size=(8, 6, 3, 3)) / 6).astype(np.float32),
        "w": (rng.normal(size=(8, 5)) / 2).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["d"], strides=[2, 2]),
        helper.make_node("Relu", ["d"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    return build(nodes, {"x": ("float32", (1, 3, 8, 8))}, {"y": ("float32", (1, 5))}, weights)


def _files(tmp_path: Path, model: ModelProto, data: dict[str, Any]) -> tuple[Path, Path, Path]:
    paths = tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "int8.onnx"
    paths[0].write_bytes(model.SerializeToString())
    np.savez(paths[1], **data)
    return paths


@pytest.mark.parametrize("options", [(), ("--per-channel", "--activations", "uint8")])
@pytest.mark.parametrize("network", ["convolutions", "mlp"])
def test_a_quantized_network(tmp_path: Path, network: str, options: tuple[str, ...]) -> None:
    rng = np.random.default_rng(6)
    model = _convolutions() if network == "convolutions" else mlp(rng, [12, 20, 7], 1)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    samples = rng.normal(size=[16, *shape]).astype(np.float32)
    name = model.graph.input[0].name
    path, data, out = _files(tmp_path, model, {name: samples})
    done = command("quantize", path, "--calibration", data, "-o", out, *options, "--json")
    assert done.status == 0, done.err
    said = done.json()
    assert said["quantize_nodes"] > 0
    made = onnx.load(out)
    kinds = {tensor.data_type for tensor in made.graph.initializer if len(tensor.dims) > 1}
    assert onnx.TensorProto.FLOAT not in kinds
    program = clockstep.compile(out, machine="tiny")
    session = clockstep.Session(program)
    (output,) = (value.name for value in model.graph.output)
    exact = [expected(model, {name: sample})[output] for sample in samples[:6]]
    span = max(float(np.abs(value).max()) for value in exact)
    for sample, want in zip(samples[:6], exact, strict=True):
        (found,) = session.run({name: sample}).values()
        theirs = expected(made, {name: sample})[output]
        assert np.abs(found - theirs).max() <= 0.02 * span
        assert 0 < np.abs(found - want).max() <= 0.1 * span


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    samples = np.random.default_rng(7).normal(size=(4, 1, 3, 8, 8))
    path, data, _ = _files(tmp_path, _convolutions(), {"x": samples})
    first = clockstep.quantize(path, data, method="percentile")
    labelled = {"x": samples, "labels": np.zeros(4)}
    assert first == clockstep.quantize(path, labelled, method="percentile")
    assert first != clockstep.quantize(path, {"x": 3 * samples}, method="percentile")
    along = clockstep.quantize(path, {"x": samples[:, 0]}, method="percentile")
    assert first == along, "samples may as well lie along the model's own first axis"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({}, "calibration-input"),
        ({"labels": np.zeros(2)}, "calibration-input"),
        ({"x": np.zeros((2, 1, 3, 8, 9))}, "calibration-shape"),
        ({"x": np.zeros((0, 1, 3, 8, 8))}, "calibration-shape"),
        ({"x": np.zeros(3)}, "calibration-shape"),
        ({"x": np.zeros((2, 1, 3, 8, 8), complex)}, "calibration-type"),
    ],
)
def test_data_that_do_not_suit(tmp_path: Path, data: dict[str, Array], code: str) -> None:
    path, file, out = _files(tmp_path, _convolutions(), data)
    done = command("quantize", path, "--calibration", file, "-o", out, "--json")
    assert done.status == 2
    assert done.json()["error"]["code"] == code
    assert not out.exists()


def test_different_counts_of_samples(tmp_path: Path) -> None:
    kinds = {"x": ("float32", (2, 3)), "z": ("float32", (3, 4))}
    node = helper.make_node("MatMul", ["x", "z"], ["y"])
    model = build([node], kinds, {"y": ("float32", (2, 4))})
    data = {"x": np.zeros((2, 2, 3)), "z": np.zeros((3, 3, 4))}
    path, file, out = _files(tmp_path, model, data)
    done = command("quantize", path, "--calibration", file, "-o", out)
    assert done.status == 2
    assert "x 2, z 3" in done.error()


def test_files_that_are_not_there_or_no_models(tmp_path: Path) -> None:
    path, data, out = _files(tmp_path, _convolutions(), {"x": np.zeros((2, 1, 3, 8, 8))})
    words = ("--calibration", data, "-o", out)
    assert command("quantize", tmp_path / "none.onnx", *words).status == 2
    assert command("quantize", path, "--calibration", "none.npz", "-o", out).status == 2
    assert command("quantize", data, *words).status == 5
    assert command("quantize", path, "--calibration", path, "-o", out).status == 5
    assert command("quantize", path, *words, "--activations", "int3").status == 2
    assert command("quantize", path, *words, "--method", "guess").status == 2
    assert not out.exists()


def test_a_model_that_onnxruntime_does_not_know(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Twist", ["x"], ["y"], domain="own.domain")],
        "twist",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own.domain", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    path, data, out = _files(tmp_path, model, {"x": np.zeros((3, 2))})
    done = command("quantize", path, "--calibration", data, "-o", out)
    assert done.status == 5
    assert "onnxruntime" in done.error()
    assert not out.exists()


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    path, data, out = _files(tmp_path, _convolutions(), {"x": np.zeros((2, 1, 3, 8, 8))})
    done = command("quantize", path, "--calibration", data, "-o", out)
    assert done.status == 2
    assert "pip install" in done.error()
