"""Elementwise operators in fp16: every one, broadcasting in every way, alone and in graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto, helper

from clockstep_isa import Machine
from tests.support.endtoend import assert_close, expected, fp16_inputs, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build, elementwise, elementwise_graph, random_inputs

TINY = MACHINES["tiny"]
BINARY = ("Add", "Sub", "Mul", "Max", "Min")

SHAPES: list[tuple[Sequence[int], Sequence[int]]] = [
    ((), ()),
    ((5,), ()),
    ((), (5,)),
    ((1,), (17,)),
    ((20,), (20,)),
    ((3, 20), (20,)),
    ((3, 20), (1,)),
    ((3, 20), ()),
    ((3, 20), (3, 1)),
    ((3, 1), (1, 20)),
    ((1, 1), (3, 20)),
    ((33, 1), (1, 33)),
    ((2, 3, 20), (3, 1)),
    ((2, 1, 20), (3, 20)),
    ((2, 3, 1), (1, 1, 20)),
    ((2, 3, 4), (2, 1, 1)),
    ((2, 3, 4, 5), (3, 1, 5)),
    ((2, 1, 4, 1), (3, 1, 5)),
    ((2, 1, 3, 1, 5), (1, 2, 1, 4, 1)),
    ((2, 2, 3, 2, 17), (2, 1, 2, 1)),
]


def assert_accurate(
    model: ModelProto, inputs: dict[str, np.ndarray], machine: Machine = TINY
) -> None:
    """Every element within two units in the last place of fp16: inputs are exact, one result."""
    have, want = run_checked(model, machine, inputs).outputs, expected(model, inputs)
    for name, array in want.items():
        assert have[name].shape == array.shape
        assert have[name].dtype == array.dtype
        np.testing.assert_allclose(have[name], array, rtol=2**-10, atol=2**-23, err_msg=name)


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_broadcasting(op: str, a: Sequence[int], b: Sequence[int]) -> None:
    rng = np.random.default_rng(1)
    model = elementwise(op, [a, b])
    assert_accurate(model, fp16_inputs(random_inputs(model, rng)))


@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_broadcasting_constants(index: int, constant: int) -> None:
    rng = np.random.default_rng(2)
    a, b = SHAPES[index]
    value = rng.normal(size=(a, b)[constant]).astype(np.float32)
    for op in ("Sub", BINARY[index % len(BINARY)]):
        model = elementwise(op, [a, b], constants={constant: value})
        assert_accurate(model, fp16_inputs(random_inputs(model, rng)))


@pytest.mark.parametrize("name", ["ring", "narrow", "wide", "odd"])
def test_broadcasting_on_other_machines(name: str) -> None:
    rng = np.random.default_rng(3)
    lanes = MACHINES[name].vector
    for a, b in (((3, lanes + 1), (3, 1)), ((lanes, 1), (1, 2 * lanes)), ((lanes - 1,), ())):
        model = elementwise("Sub", [a, b])
        assert_accurate(model, fp16_inputs(random_inputs(model, rng)), MACHINES[name])


@pytest.mark.parametrize("shape", [(), (1,), (17,), (3, 50), (2, 3, 4, 5)])
@pytest.mark.parametrize("op", ["Neg", "Abs", "Relu", "Sigmoid", "Tanh", "Identity"])
def test_unary(op: str, shape: Sequence[int]) -> None:
    rng = np.random.default_rng(4)
    model = elementwise(op, [shape])
    assert_accurate(model, fp16_inputs(random_inputs(model, rng)))


@pytest.mark.parametrize("alpha", [-1.5, -0.25, 0.0, 0.01, 0.5, 1.0, 1.5])
def test_leaky_relu(alpha: float) -> None:
    rng = np.random.default_rng(5)
    model = elementwise("LeakyRelu", [(7, 20)], alpha=alpha)
    assert_accurate(model, fp16_inputs(random_inputs(model, rng)))


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh"])
def test_saturating_functions_far_out(op: str) -> None:
    """At both ends of fp16 and where the functions flatten."""
    x = np.array([0, 1, 2, 4, 6, 8, 11, 15, 20, 90, 1e3, 65504, 2**-14, 2**-24], np.float32)
    model = elementwise(op, [(2 * len(x),)])
    assert_accurate(model, {"x0": np.concatenate([x, -x])})


@pytest.mark.parametrize("low", [None, -0.5, -np.inf])
@pytest.mark.parametrize("high", [None, 0.25, np.inf, -2.0])
def test_clip(low: float | None, high: float | None) -> None:
    rng = np.random.default_rng(6)
    bounds = {"low": low, "high": high}
    constants = {k: np.array(v, np.float32) for k, v in bounds.items() if v is not None}
    node = helper.make_node("Clip", ["x", *(k if k in constants else "" for k in bounds)], ["y"])
    shape = (4, 20)
    model = build([node], {"x": ("float32", shape)}, {"y": ("float32", shape)}, constants)
    assert_accurate(model, fp16_inputs(random_inputs(model, rng)))


@pytest.mark.parametrize("bounds", [("low", "high"), ("", "high"), ("low", "")])
def test_clip_to_computed_bounds(bounds: tuple[str, str]) -> None:
    rng = np.random.default_rng(8)
    kinds = {
        name: ("float32", shape) for name, shape in (("x", (4, 20)), ("low", ()), ("high", ()))
    }
    node = helper.make_node("Clip", ["x", *bounds], ["y"])
    model = build([node], {n: kinds[n] for n in ("x", *bounds) if n}, {"y": kinds["x"]})
    for low, high in ((-0.5, 0.25), (0.75, -0.25)):
        given = {"low": np.array(low, np.float32), "high": np.array(high, np.float32)}
        drawn = fp16_inputs(random_inputs(model, rng))
        assert_accurate(model, {name: given.get(name, value) for name, value in drawn.items()})


@pytest.mark.parametrize("op", ["Max", "Min"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_variadic(op: str, count: int) -> None:
    rng = np.random.default_rng(7)
    shapes = [(3, 20), (20,), (3, 1), (1, 20), ()][:count]
    model = elementwise(op, shapes)
    assert_accurate(model, fp16_inputs(random_inputs(model, rng)))


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("column", [(5, 1), (2, 5, 1), (2, 1, 1), (1,)])
def test_columns_computed_at_run_time(op: str, column: Sequence[int]) -> None:
    """One number a row, made by the program itself, meets every lane of it."""
    rng = np.random.default_rng(8)
    full = (2, 5, 35)
    nodes = [
        helper.make_node("Relu", ["c"], ["one"]),
        helper.make_node(op, ["x", "one"], ["left"]),
        helper.make_node(op, ["one", "left"], ["y"]),
    ]
    inputs = {"x": ("float32", full), "c": ("float32", column)}
    model = build(nodes, inputs, {"y": ("float32", np.broadcast_shapes(full, column))})
    inputs_ = fp16_inputs(random_inputs(model, rng))
    assert_close(run_checked(model, TINY, inputs_).outputs, expected(model, inputs_))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rank", range(6))
def test_graphs(rank: int, seed: int) -> None:
    rng = np.random.default_rng([rank, seed])
    model = elementwise_graph(rng, rank, count=10)
    inputs = fp16_inputs(random_inputs(model, rng))
    assert_close(run_checked(model, TINY, inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("op", BINARY)
def test_other_float_types(op: str, dtype: str) -> None:
    rng = np.random.default_rng(9)
    model = elementwise(op, [(4, 20), (4, 1)], dtype)
    assert_accurate(model, fp16_inputs(random_inputs(model, rng)))


@pytest.mark.parametrize("op", BINARY)
def test_infinities_and_nan(op: str) -> None:
    """IEEE arithmetic, through memory and back."""
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, 60000.0], np.float32)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(special, special))
    model = elementwise(op, [a.shape, b.shape])
    inputs = {"x0": a, "x1": b}
    have, want = run_checked(model, TINY, inputs).outputs["y"], expected(model, inputs)["y"]
    np.testing.assert_array_equal(have[np.abs(want) != 120000], want[np.abs(want) != 120000])
    assert not np.isnan(have[np.abs(want) == 120000]).any()
