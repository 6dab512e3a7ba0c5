"""Operators that only move elements: each, as a Move, does what onnx's evaluator says it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from clockstep_compiler.frontend.infer import infer, schema_of
from clockstep_compiler.frontend.inline import Step
from clockstep_compiler.frontend.movers import MOVES
from clockstep_compiler.frontend.moves import is_move, moves
from clockstep_compiler.frontend.settle import Moved
from clockstep_compiler.graph import Tensor
from clockstep_compiler.operators import OPERATORS
from tests.support.moving import CASES, Case, apply_move, random_array

Array = NDArray[np.generic]
DTYPES = ("float32", "int8", "bool")
LIFTED = {"Scatter", "Upsample"}
"""Removed from ONNX: the converter replaces them in whole models."""


@pytest.fixture(autouse=True, scope="module")
def _all_operators() -> Iterator[None]:
    """Also those that have a lowering of their own."""
    with pytest.MonkeyPatch.context() as patch:
        name = "clockstep_compiler.frontend.moves._LOWERED_ELSEWHERE"
        patch.setattr(name, frozenset(), raising=False)
        yield


def _moves(case: Case, dtype: str) -> tuple[Moved, ...] | None:
    """The moves of a case on data of type `dtype`; None if it is not made into moves."""
    step = Step(case.node, "node", {"": case.opset})
    types = {name: Tensor(name, shape, dtype) for name, shape in case.data.items()}
    for name, array in case.constants.items():
        types[name] = Tensor(name, array.shape, array.dtype.name)
    schema = schema_of(case.node, case.opset)
    assert schema is not None
    outputs = infer(case.node, schema, step.opsets, types, case.constants)
    return moves(step, outputs, types, case.constants) if is_move(step, case.constants) else None


def _applied(moved: Moved, data: Mapping[str, Array]) -> Array:
    move, dtype = moved.move, data[next(iter(data))].dtype
    assert (move.index.shape, dtype.name) == (moved.output.shape, moved.output.dtype)
    assert len(frozenset(moved.inputs)) == len(moved.inputs)
    return apply_move(move.index, move.fill, [data[name] for name in moved.inputs], dtype)


def _evaluated(case: Case, data: Mapping[str, Array]) -> list[Array]:
    arrays = {**data, **case.constants}
    if case.node.op_type == "GatherElements":  # onnx's evaluator knows but some of them
        (axis,) = (attribute.i for attribute in case.node.attribute)
        return [_gathered(arrays["x"], arrays["i"], axis % arrays["x"].ndim)]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in arrays.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in case.node.output]
    graph = helper.make_graph([case.node], "case", infos, outputs)
    imports = [helper.make_opsetid("", case.opset)]
    found = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, arrays)
    return [np.asarray(value) for value in found]


def _gathered(data: Array, indices: Array, axis: int) -> Array:
    out = np.zeros(indices.shape, data.dtype)
    for place in np.ndindex(indices.shape):
        out[place] = data[(*place[:axis], indices[place], *place[axis + 1 :])]
    return out


def _same_bits(found: Array, wanted: Array) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()


def _allowed(case: Case) -> list[str]:
    """Element types that the operator's data may have."""
    schema = schema_of(case.node, case.opset)
    assert schema is not None
    place = min(i for i, name in enumerate(case.node.input) if name in case.data)
    kinds = schema.inputs[min(place, len(schema.inputs) - 1)].types
    onnx_names = {"float32": "tensor(float)"}
    if case.node.op_type == "Resize":  # which onnx's evaluator cannot do on bool
        return ["float32", "int8"]
    return [name for name in DTYPES if onnx_names.get(name, f"tensor({name})") in kinds]


def test_every_operator_has_a_case() -> None:
    assert set(MOVES) - LIFTED == set(CASES)


def test_the_operators_that_only_move_are_said_to_be_supported() -> None:
    assert {row.name for row in OPERATORS if row.moved} <= set(MOVES)
    assert set(MOVES) - LIFTED <= {row.name for row in OPERATORS}


@pytest.mark.parametrize("op", sorted(CASES))
@settings(max_examples=50, deadline=None, derandomize=True)
@given(draw=st.data())
def test_a_move_is_what_the_operator_does(op: str, draw: st.DataObject) -> None:
    case = draw.draw(CASES[op])
    seed, dtype = draw.draw(st.integers(0, 999)), draw.draw(st.sampled_from(_allowed(case)))
    data = {n: random_array(s, dtype, seed + i) for i, (n, s) in enumerate(case.data.items())}
    if (
        op == "Resize" and dtype == "float32"
    ):  # the evaluator interpolates: NaN and the sign of zero do not survive
        data = {n: np.nan_to_num(a, posinf=2, neginf=-2) + a.dtype.type(0) for n, a in data.items()}
    found = _moves(case, dtype)
    assert found is not None
    for moved, wanted in zip(found, _evaluated(case, data), strict=True):
        _same_bits(_applied(moved, data), wanted)


def _case(
    node: NodeProto, opset: int, data: dict[str, tuple[int, ...]], **constants: Array
) -> Case:
    return Case(node, opset, data, constants)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_negative_padding_removes_elements_first(mode: str) -> None:
    node = helper.make_node("Pad", ["x", "p"], ["y"], mode=mode)
    data = {"x": random_array((5, 4), "float32", 1)}
    case = _case(node, 21, {"x": (5, 4)}, p=np.array([-2, 1, 1, -1]))
    found = _moves(case, "float32")
    assert found is not None
    wanted = np.pad(data["x"][2:, :-1], ((0, 1), (1, 0)), mode=mode)
    _same_bits(_applied(found[0], data), wanted)


def test_slicing_backwards_starts_at_the_first_element_at_the_least() -> None:
    node = helper.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])
    parts = {"s": np.array([-9]), "e": np.array([-99]), "a": np.array([1]), "t": np.array([-1])}
    data = {"x": random_array((2, 3), "float32", 1)}
    found = _moves(_case(node, 13, {"x": (2, 3)}, **parts), "float32")
    assert found is not None
    _same_bits(_applied(found[0], data), data["x"][:, :1])


def test_gathering_along_a_long_axis() -> None:
    """Where onnx's evaluator takes other elements than asked for."""
    indices = np.random.default_rng(2).integers(-100, 100, (100, 1))
    case = _case(
        helper.make_node("GatherElements", ["x", "i"], ["y"], axis=0),
        13,
        {"x": (100, 1)},
        i=indices,
    )
    data = {"x": random_array((100, 1), "float32", 3)}
    found = _moves(case, "float32")
    assert found is not None
    _same_bits(_applied(found[0], data), data["x"][indices[:, 0]])


def test_a_constant_of_one_value_becomes_fill_and_unused_operands_go() -> None:
    flags = np.array([True, False])
    node = helper.make_node("Where", ["c", "a", "b"], ["y"])
    low = np.full((2, 2), -np.inf, np.float32)
    (moved,) = _moves(_case(node, 16, {"a": (2, 2)}, c=flags, b=low), "float32") or ()
    assert moved.inputs == ("a",)
    assert moved.move.index.tolist() == [[0, -1], [2, -1]]
    assert moved.move.fill == -np.inf
    (moved,) = (
        _moves(_case(node, 16, {"a": (2, 2), "b": (2, 2)}, c=~flags & False), "float32") or ()
    )
    assert moved.inputs == ("b",)
    mixed = np.array([[0.0, -0.0], [-0.0, 0.0]], np.float32)
    (moved,) = _moves(_case(node, 16, {"a": (2, 2)}, c=flags[:, None], b=mixed), "float32") or ()
    assert moved.inputs == ("a", "b")


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (helper.make_node("Gather", ["x", "i"], ["y"]), {"i": np.array([3])}),
        (helper.make_node("GatherElements", ["x", "i"], ["y"]), {"i": np.array([[3]])}),
        (
            helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1),
            {"i": np.zeros((4, 1), int)},
        ),
        (helper.make_node("GatherND", ["x", "i"], ["y"]), {"i": np.array([[-4]])}),
        (helper.make_node("ScatterND", ["x", "i", "u"], ["y"]), {"i": np.array([[5]])}),
        (helper.make_node("ScatterElements", ["x", "i", "u"], ["y"]), {"i": np.array([[9, 0]])}),
        (
            helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"),
            {"i": np.array([[0]])},
        ),
        (
            helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear"),
            {"s": np.ones(2, np.float32)},
        ),
        (helper.make_node("Gather", ["x", "u"], ["y"]), {}),
    ],
)
def test_what_does_not_fit_or_computes_is_left_alone(
    node: NodeProto, constants: dict[str, Array]
) -> None:
    kind = "int64" if node.input[1] == "u" else "float32"
    assert _moves(Case(node, 18, {"x": (3, 2), "u": (1, 2)}, constants), kind) is None
