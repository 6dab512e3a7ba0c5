"""Shape operators, and graphs with odd ends: outputs that are inputs, nothing at all, scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from clockstep_compiler import Options
from clockstep_isa import Machine
from tests.support.endtoend import assert_close, assert_equal, expected, fp16_inputs, run_checked
from tests.support.machines import MACHINES
from tests.support.machines import machine as machine_of
from tests.support.models import build, elementwise, random_inputs, reshapes
from tests.support.quantized import full_range

TINY = MACHINES["tiny"]


def check(model: ModelProto, machine: Machine = TINY, rtol: float = 5e-3) -> None:
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(1)))
    outputs = run_checked(model, machine, inputs).outputs
    assert_close(outputs, expected(model, inputs), rtol)


def between(
    nodes: Sequence[NodeProto],
    before: Sequence[int],
    after: Sequence[int],
    constants: Mapping[str, NDArray[np.int64]],
    dtype: str = "float32",
) -> ModelProto:
    """Neg, then `nodes` from "computed" to "moved", then Abs: all tensors are computed ones."""
    chain = [
        helper.make_node("Neg", ["x"], ["computed"], "neg"),
        *nodes,
        helper.make_node("Abs", ["moved"], ["y"], "abs"),
    ]
    return build(chain, {"x": (dtype, before)}, {"y": (dtype, after)}, constants)


def reshape(before: Sequence[int], after: Sequence[int], dtype: str = "float32") -> ModelProto:
    node = helper.make_node("Reshape", ["computed", "shape"], ["moved"], "reshape")
    return between([node], before, after, {"shape": np.array(after, np.int64)}, dtype)


RESHAPES = [
    ((7, 31), (31, 7)),
    ((31, 7), (7, 31)),
    ((5, 16), (16, 5)),
    ((4, 20), (80,)),
    ((80,), (20, 4)),
    ((2, 3, 20), (6, 20)),
    ((6, 20), (2, 3, 20)),
    ((2, 3, 20), (3, 40)),
    ((12, 1), (1, 12)),
    ((1, 35), (35, 1)),
    ((35, 1), (5, 7)),
    ((33, 2), (2, 33)),
    ((1,), ()),
    ((), (1, 1)),
    ((2, 2, 2, 2, 2), (32,)),
    ((3, 48), (9, 16)),
    ((9, 16), (3, 48)),
]


@pytest.mark.parametrize(("before", "after"), RESHAPES)
def test_reshape_across_lanes(before: Sequence[int], after: Sequence[int]) -> None:
    check(reshape(before, after), rtol=0)


@pytest.mark.parametrize("dtype", ["int8", "int32"])
@pytest.mark.parametrize(("before", "after"), [((7, 31), (31, 7)), ((31, 7), (7, 31))])
def test_reshape_integers(before: Sequence[int], after: Sequence[int], dtype: str) -> None:
    model = reshape(before, after, dtype)
    inputs = random_inputs(model, np.random.default_rng(2))
    assert_equal(run_checked(model, TINY, inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize("name", ["ring", "narrow", "wide", "odd"])
def test_reshape_on_other_machines(name: str) -> None:
    lanes = MACHINES[name].vector
    check(reshape((lanes - 1, lanes + 1), (lanes + 1, lanes - 1)), MACHINES[name], rtol=0)


def test_reshape_where_slices_are_few() -> None:
    """Four-byte results moved across lanes take four slices for each of source, place and room."""
    machine = machine_of("tiny", lanes__superlanes=9, mem__slices_per_hemisphere=8)
    rng = np.random.default_rng(5)
    constants = {"w": full_range(rng, (16, 29), "int8"), "shape": np.array([2, 638], np.int64)}
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["product"], "product"),
        helper.make_node("Reshape", ["product", "shape"], ["y"], "reshape"),
    ]
    model = build(nodes, {"x": ("int8", (44, 16))}, {"y": ("int32", (2, 638))}, constants)
    inputs = random_inputs(model, rng)
    assert_equal(run_checked(model, machine, inputs).outputs, expected(model, inputs))


def test_reshape_of_inputs_and_constants() -> None:
    """What need not move at run time does not."""
    constants = {"shape": np.array([31, 7], np.int64), "c": np.arange(217, dtype=np.float32) / 64}
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"], "input"),
        helper.make_node("Reshape", ["c", "shape"], ["b"], "constant"),
        helper.make_node("Sub", ["a", "b"], ["y"], "sub"),
    ]
    check(build(nodes, {"x": ("float32", (7, 31))}, {"y": ("float32", (31, 7))}, constants))


@pytest.mark.parametrize("wanted", [(0, -1), (-1, 0, 2), (0, 0, 0), (1, -1), (0, 2, -1, 1)])
def test_reshape_with_zero_and_minus_one(wanted: Sequence[int]) -> None:
    before = (3, 4, 10)
    kept = [before[i] if n == 0 else n for i, n in enumerate(wanted)]
    after = np.zeros(before).reshape(kept).shape
    node = helper.make_node("Reshape", ["computed", "shape"], ["moved"], "reshape")
    check(between([node], before, after, {"shape": np.array(wanted, np.int64)}), rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(axis: int) -> None:
    before = (3, 4, 10)
    split = axis if axis >= 0 else axis + 3
    after = (int(np.prod(before[:split])), int(np.prod(before[split:])))
    node = helper.make_node("Flatten", ["computed"], ["moved"], "flatten", axis=axis)
    check(between([node], before, after, {}), rtol=0)


@pytest.mark.parametrize("axes", [(0,), (-1,), (0, 2), (1, 3), (0, 1, 4)])
def test_unsqueeze_and_squeeze(axes: Sequence[int]) -> None:
    before = (5, 20)
    constants = {"axes": np.array(axes, np.int64)}
    after = np.expand_dims(np.zeros(before), axes).shape
    unsqueeze = helper.make_node("Unsqueeze", ["computed", "axes"], ["moved"], "unsqueeze")
    check(between([unsqueeze], before, after, constants), rtol=0)
    squeeze = helper.make_node("Squeeze", ["computed", "axes"], ["moved"], "squeeze")
    check(between([squeeze], after, before, constants), rtol=0)


def test_squeeze_of_every_axis() -> None:
    node = helper.make_node("Squeeze", ["computed"], ["moved"], "squeeze")
    check(between([node], (1, 5, 1, 20, 1), (5, 20), {}), rtol=0)


def test_symbolic_dimension() -> None:
    model = reshapes(np.random.default_rng(3))
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(4), {"N": 5}))
    run = run_checked(model, TINY, inputs, Options(dims={"N": 5}))
    assert_close(run.outputs, expected(model, inputs))


# -- odd ends -----------------------------------------------------------------------------------


def test_output_that_is_an_input() -> None:
    """By Identity, twice, and beside a tensor that is computed from it."""
    nodes = [
        helper.make_node("Identity", ["x"], ["same"], "identity"),
        helper.make_node("Identity", ["same"], ["again"], "identity2"),
        helper.make_node("Neg", ["x"], ["y"], "neg"),
    ]
    shape = (3, 20)
    outputs = {name: ("float32", shape) for name in ("same", "y", "again")}
    check(build(nodes, {"x": ("float32", shape)}, outputs), rtol=0)


def test_output_that_is_an_input_itself() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"], "neg")]
    shape = (3, 20)
    outputs = {name: ("float32", shape) for name in ("x", "y")}
    check(build(nodes, {"x": ("float32", shape)}, outputs), rtol=0)


def test_output_that_is_a_constant() -> None:
    constants = {"c": np.arange(40, dtype=np.float32).reshape(2, 20)}
    nodes = [
        helper.make_node("Identity", ["c"], ["same"], "identity"),
        helper.make_node("Neg", ["c"], ["folded"], "fold"),
        helper.make_node("Add", ["x", "c"], ["y"], "add"),
    ]
    shape = (2, 20)
    outputs = {name: ("float32", shape) for name in ("same", "folded", "y")}
    check(build(nodes, {"x": ("float32", shape)}, outputs, constants), rtol=0)


def test_output_that_is_used_again() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["first"], "relu"),
        helper.make_node("Sub", ["first", "x"], ["second"], "sub"),
        helper.make_node("Mul", ["first", "second"], ["third"], "mul"),
    ]
    shape = (3, 20)
    outputs = {name: ("float32", shape) for name in ("first", "second", "third")}
    check(build(nodes, {"x": ("float32", shape)}, outputs))


def test_operand_used_twice_by_one_node() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"], "square"),
        helper.make_node("Add", ["square", "square"], ["y"], "double"),
    ]
    shape = (3, 20)
    check(build(nodes, {"x": ("float32", shape)}, {"y": ("float32", shape)}))


def test_unused_input() -> None:
    shapes = {"x": ("float32", (3, 20)), "unused": ("float32", (5,))}
    model = build([helper.make_node("Neg", ["x"], ["y"])], shapes, {"y": ("float32", (3, 20))})
    check(model, rtol=0)


def test_node_that_nobody_reads() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["dead"]), helper.make_node("Neg", ["x"], ["y"])]
    check(build(nodes, {"x": ("float32", (3, 20))}, {"y": ("float32", (3, 20))}), rtol=0)


def test_no_inputs_at_all() -> None:
    constants = {"c": np.arange(40, dtype=np.float32).reshape(2, 20)}
    nodes = [helper.make_node("Neg", ["c"], ["y"], "neg")]
    check(build(nodes, {}, {"y": ("float32", (2, 20))}, constants), rtol=0)


@pytest.mark.parametrize("shapes", [[(0,), (0,)], [(0, 20), (20,)], [(3, 0), (3, 1)], [(0,), ()]])
def test_elementwise_of_nothing(shapes: list[Sequence[int]]) -> None:
    check(elementwise("Add", shapes), rtol=0)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("a", "b"), [((0, 5), (5, 3)), ((4, 0), (0, 3)), ((4, 5), (5, 0)), ((0, 4, 5), (5, 3))]
)
def test_product_of_nothing(a: Sequence[int], b: Sequence[int], constant: bool) -> None:
    """Over no elements a sum is zero; of no rows or columns there is nothing."""
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["product"], "matmul"),
        helper.make_node("Add", ["product", "c"], ["y"], "add"),
    ]
    constants = {"c": np.array([1.5], np.float32)}
    inputs = {"a": ("float32", a), "b": ("float32", b)}
    if constant:
        constants["b"] = np.ones(inputs.pop("b")[1], np.float32)
    check(build(nodes, inputs, {"y": ("float32", shape)}, constants), rtol=0)


def test_scalars_all_the_way() -> None:
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["product"], "mul"),
        helper.make_node("Add", ["product", "c"], ["sum"], "add"),
        helper.make_node("Tanh", ["sum"], ["y"], "tanh"),
    ]
    inputs = {name: ("float32", ()) for name in "ab"}
    constants = {"c": np.array(0.25, np.float32)}
    check(build(nodes, inputs, {"y": ("float32", ())}, constants))


def test_scalar_from_a_product_meets_a_matrix() -> None:
    nodes = [
        helper.make_node("MatMul", ["v", "v"], ["norm"], "dot"),
        helper.make_node("Mul", ["x", "norm"], ["y"], "scale"),
    ]
    inputs = {"v": ("float32", (20,)), "x": ("float32", (3, 20))}
    check(build(nodes, inputs, {"y": ("float32", (3, 20))}))
