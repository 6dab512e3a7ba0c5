"""Which inputs count as parameters: shapes, axes, indices and scales, never data."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper

from clockstep_compiler.frontend import parameters_of
from clockstep_compiler.frontend.parameters import INDICES, QUANTIZATION, STRUCTURE
from tests.support.models import build

Kinds = dict[str, tuple[str, list[int | str]]]


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def _model(nodes: list[NodeProto], inputs: Kinds, constants: tuple[str, ...] = ()) -> ModelProto:
    """A model nobody has checked, whose output is that of the last node."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(_dtype(kind)), shape)
        for name, (kind, shape) in inputs.items()
    ]
    out = helper.make_tensor_value_info(nodes[-1].output[0], 1, None)
    kept = [helper.make_tensor(name, 7, [1], [0]) for name in constants]
    graph = helper.make_graph(nodes, "test", values, [out], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name)


X: Kinds = {"x": ("float32", [2, 3])}


@pytest.mark.parametrize("table", [STRUCTURE, INDICES, QUANTIZATION])
def test_every_row_names_operands_of_its_operator(table: dict[str, tuple[str, ...]]) -> None:
    assert list(table) == sorted(table)
    for op, operands in table.items():
        versions = [s for s in onnx.defs.get_all_schemas_with_history() if s.name == op]
        formals = {formal.name for schema in versions for formal in schema.inputs}
        assert set(operands) <= formals, op


def test_operands_that_decide_a_shape() -> None:
    nodes = [_node("Slice", ["x", "starts", "ends", "", "steps"], ["y"])]
    kinds: Kinds = {**X, **{n: ("int64", [1]) for n in ("starts", "ends", "steps")}}
    assert parameters_of(_model(nodes, kinds)) == ("starts", "ends", "steps")
    assert parameters_of(_model(nodes, kinds, constants=("ends",))) == ("starts", "steps")


def test_data_and_weights_are_no_parameters() -> None:
    kinds: Kinds = {**X, "w": ("float32", [3, 3, 1]), "i": ("int64", [2, 3])}
    nodes = [_node("Conv", ["x", "w"], ["c"]), _node("Add", ["i", "i"], ["y"])]
    assert parameters_of(_model(nodes, kinds)) == ()


def test_indices_and_scales() -> None:
    kinds: Kinds = {**X, "i": ("int64", [2, 2]), "s": ("float32", [3]), "z": ("int8", [3])}
    nodes = [_node("Gather", ["x", "i"], ["g"]), _node("QuantizeLinear", ["g", "s", "z"], ["y"])]
    assert parameters_of(_model(nodes, kinds)) == ("i", "s", "z")


def test_what_a_parameter_is_computed_from() -> None:
    kinds: Kinds = {**X, "n": ("int64", [2]), "k": ("float32", []), "v": ("float32", [4])}
    nodes = [
        _node("Cast", ["k"], ["kk"], to=7),
        _node("Cast", ["v"], ["vv"], to=7),
        _node("Shape", ["x"], ["s"]),
        _node("Concat", ["n", "kk", "vv", "s"], ["shape"], axis=0),
        _node("Reshape", ["x", "shape"], ["y"]),
    ]
    # "v" is a vector of floats: data, whatever becomes of it; of "x" only the shape is used.
    assert parameters_of(_model(nodes, kinds)) == ("n", "k")


def test_scales_computed_from_data_stay_dynamic() -> None:
    nodes = [
        _node("ReduceMax", ["x"], ["s"], keepdims=0),
        _node("QuantizeLinear", ["x", "s"], ["y"]),
    ]
    assert parameters_of(_model(nodes, {"x": ("float32", [6])})) == ()


def test_subgraphs_and_other_domains() -> None:
    inner = helper.make_graph(
        [_node("Reshape", ["x", "shape"], ["r"])],
        "then",
        [],
        [helper.make_tensor_value_info("r", 1, None)],
    )
    nodes = [_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    kinds: Kinds = {**X, "shape": ("int64", [2]), "c": ("bool", [])}
    assert parameters_of(_model(nodes, kinds)) == ("shape", "c")
    foreign = [_node("Reshape", ["x", "shape"], ["y"], domain="custom")]
    assert parameters_of(_model(foreign, kinds)) == ()


def test_operands_of_another_opset_are_not_mistaken() -> None:
    model = build(
        [_node("Squeeze", ["x"], ["y"], axes=[0])],
        {"x": ("float32", [1, 3])},
        {"y": ("float32", [3])},
        opset=11,
    )
    assert parameters_of(model) == ()
