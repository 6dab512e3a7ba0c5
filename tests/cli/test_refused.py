"""All that is wrong with a model is said in one run; parameters left to the caller are bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import clockstep
from tests.support.command import clockstep as command
from tests.support.models import build

NODES = {
    "where": helper.make_node("NonZero", ["x"], ["a"], "where"),
    "once": helper.make_node("Unique", ["x"], ["b"], "once"),
    "noise": helper.make_node("RandomNormalLike", ["x"], ["c"], "noise"),
    "list": helper.make_node("SequenceConstruct", ["x", "x"], ["d"], "list"),
    "own": helper.make_node("Twist", ["x"], ["e"], "own", domain="own.domain"),
}
"""None of these will ever be supported."""


def _five() -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            list(NODES.values()),
            "five",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
            [
                helper.make_tensor_value_info("a", TensorProto.INT64, None),
                helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
                helper.make_tensor_value_info("c", TensorProto.FLOAT, None),
                helper.make_tensor_sequence_value_info("d", TensorProto.FLOAT, None),
                helper.make_tensor_value_info("e", TensorProto.FLOAT, [2, 3]),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("own.domain", 1)],
        ir_version=10,
    )


def test_check_lists_five_different_unsupported_nodes(tmp_path: Path) -> None:
    path = tmp_path / "five.onnx"
    path.write_bytes(_five().SerializeToString())
    done = command("check", path, "--machine", "tiny", "--json")
    assert done.status == 3
    said = done.json()
    assert not said["supported"]
    listed = [(problem["node"], problem["op"]) for problem in said["unsupported"]]
    assert sorted(listed) == sorted((name, node.op_type) for name, node in NODES.items())
    assert all(problem["reason"] for problem in said["unsupported"])
    text = command("check", path, "--machine", "tiny")
    assert text.status == 3
    assert all(f"{name} ({node.op_type}" in text.out for name, node in NODES.items())


def test_check_lists_a_chain_of_unsupported_nodes(tmp_path: Path) -> None:
    """What comes after an unsupported node is looked at nevertheless."""
    operators = ("RandomNormalLike", "Det", "Bernoulli", "Relu", "RandomUniformLike")
    names = ["x", *(f"t{i}" for i in range(len(operators) - 1)), "y"]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]], op.lower())
        for i, op in enumerate(operators)
    ]
    path = tmp_path / "chain.onnx"
    kinds = ({"x": ("float32", [4, 3, 3])}, {"y": ("float32", [4])})
    path.write_bytes(build(nodes, *kinds).SerializeToString())
    said = command("check", path, "--machine", "tiny", "--json").json()
    listed = [problem["op"] for problem in said["unsupported"]]
    assert listed == [op for op in operators if op != "Relu"]


def test_the_backend_binds_parameters_and_compiles_again_when_they_change() -> None:
    model = build(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": ("float32", [2, 6]), "shape": ("int64", [2])},
        {"y": ("float32", ["a", "b"])},
    )
    prepared = clockstep.backend.prepare(model, machine="tiny")
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    for shape in ([3, 4], [4, 3], [3, 4], [-1, 2]):
        (y,) = prepared.run([x, np.array(shape, np.int64)])
        assert np.array_equal(y, x.reshape(shape))
    wide = prepared.run({"x": -x, "shape": np.array([12, 1], np.int64)})
    assert np.array_equal(wide.y, -x.reshape(12, 1))


def test_the_backend_leaves_data_alone() -> None:
    model = build(
        [helper.make_node("NonZero", ["x"], ["y"])],
        {"x": ("int64", [4])},
        {"y": ("int64", [1, "n"])},
    )
    with pytest.raises(clockstep.UnsupportedModel):
        clockstep.backend.prepare(model, machine="tiny").run([np.arange(4)])


def test_no_other_device() -> None:
    kinds = {"x": ("float32", [2])}
    model = build([helper.make_node("Relu", ["x"], ["y"])], kinds, {"y": ("float32", [2])})
    with pytest.raises(clockstep.UsageError, match="CUDA"):
        clockstep.backend.prepare(model, device="CUDA")
