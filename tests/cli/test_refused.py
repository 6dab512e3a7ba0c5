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
    "perhaps": helper.make_node("Optional", ["x"], ["d"], "perhaps"),
    "own": helper.make_node("Twist", ["x"], ["e"], "own", domain="own.domain"),
}
"""None of these will ever be supported."""

FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3])


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
                helper.make_value_info("d", helper.make_optional_type_proto(FLOATS)),
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
    operators = ("RandomNormalLike", "Bernoulli", "Relu", "RandomUniformLike")
    names = ["x", *(f"t{i}" for i in range(len(operators) - 1)), "y"]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]], op.lower())
        for i, op in enumerate(operators)
    ]
    path = tmp_path / "chain.onnx"
    kinds = ({"x": ("float32", [4, 3, 3])}, {"y": ("float32", [4, 3, 3])})
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


def _check(tmp_path: Path, model: onnx.ModelProto) -> list[dict[str, object]]:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    done = command("check", path, "--machine", "tiny", "--precision", "exact", "--json")
    assert done.status == 3
    listed: list[dict[str, object]] = done.json()["unsupported"]
    return listed


def test_what_lowering_refuses_stands_beside_what_the_frontend_does(tmp_path: Path) -> None:
    """Forms and types before, beside and behind nodes that cannot even be read."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], "widen", to=TensorProto.DOUBLE),
        helper.make_node("Exp", ["wide"], ["w"], "double"),
        helper.make_node("NonZero", ["x"], ["a"], "where"),
        helper.make_node("RandomNormalLike", ["x"], ["noise"], "noise"),
        helper.make_node("LpNormalization", ["noise"], ["n"], "norm", p=1),
        helper.make_node("GlobalLpPool", ["image"], ["p"], "pool", p=99),
        helper.make_node("Twist", ["n"], ["t"], "twist", domain="own.domain"),
        helper.make_node("Relu", ["t"], ["r"], "behind"),
        helper.make_node("Bernoulli", ["r"], ["b"], "coin"),
    ]
    kinds = {"x": (1, [2, 3]), "image": (1, [1, 2, 4, 4])}
    outs = {"w": 11, "a": 7, "p": 1, "b": 1}
    graph = helper.make_graph(
        nodes,
        "many",
        [helper.make_tensor_value_info(n, *kind) for n, kind in kinds.items()],
        [helper.make_tensor_value_info(n, kind, None) for n, kind in outs.items()],
    )
    imports = [helper.make_opsetid("", 19), helper.make_opsetid("own.domain", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    listed = _check(tmp_path, model)
    named = [problem["node"] for problem in listed]
    assert sorted(map(str, named)) == ["coin", "double", "noise", "pool", "twist", "where"]
    opsets = {problem["node"]: problem["opset"] for problem in listed}
    assert opsets["pool"] == 19
    assert opsets["twist"] == 1


def test_what_follows_a_refused_node_is_not_refused_for_it(tmp_path: Path) -> None:
    """Nothing is known of its integers, which is no fault of those who add to them."""
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["u"], "random", dtype=1),
        helper.make_node("Cast", ["u"], ["i"], "to_int", to=TensorProto.INT64),
        helper.make_node("Add", ["i", "i"], ["d"], "double"),
        helper.make_node("Cast", ["d"], ["y"], "back", to=TensorProto.FLOAT),
    ]
    model = build(nodes, {"x": ("float32", [2, 3])}, {"y": ("float32", [2, 3])})
    assert [problem["node"] for problem in _check(tmp_path, model)] == ["random"]


def test_a_node_that_became_many_is_named_once(tmp_path: Path) -> None:
    node = helper.make_node("Einsum", ["x", "x"], ["y"], "sum", equation="nchw,nchw->nc")
    kinds = {"x": ("float64", [1, 2, 3, 3])}
    model = build([node], kinds, {"y": ("float64", [1, 2])})
    (problem,) = _check(tmp_path, model)
    assert (problem["node"], problem["op"]) == ("sum", "Einsum")


def test_operators_are_judged_though_a_dimension_is_open(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "fine"),
        helper.make_node("RandomNormalLike", ["a"], ["b"], "noise"),
        helper.make_node("NonZero", ["b"], ["c"], "where"),
        helper.make_node("Twist", ["x"], ["d"], "twist", domain="own.domain"),
    ]
    graph = helper.make_graph(
        nodes,
        "open",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info(n, k, None) for n, k in (("c", 7), ("d", 1))],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own.domain", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    listed = _check(tmp_path, model)
    assert [problem["node"] for problem in listed] == ["input 'x'", "twist", "noise"]
