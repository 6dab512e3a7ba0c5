"""What lowering spares: exact quotients nobody needs, windows of whole images, enlarged images."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from clockstep_compiler.expr import size
from clockstep_compiler.options import Options
from clockstep_compiler.problems import lowered_model
from clockstep_compiler.steps import Compute, Lowered, Move
from clockstep_isa import load_machine
from tests.support.endtoend import assert_close, assert_equal, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

LPU = load_machine("lpu-v1")

TINY = MACHINES["tiny"]


def lowered(model: ModelProto) -> Lowered:
    return lowered_model(model, Options(), LPU)[1]


def divided(reader: str, divisor: float) -> ModelProto:
    """A quotient by a constant, and what reads it."""
    nodes = [helper.make_node("Div", ["x", "c"], ["q"]), helper.make_node(reader, ["q"], ["y"])]
    if reader in ("Add", "Mul"):
        nodes[1] = helper.make_node(reader, ["q", "x"], ["y"])
    shapes = {"x": ("float32", (5, 20))}, {"y": ("float32", (5, 20))}
    return build(nodes, *shapes, {"c": np.array(divisor, np.float32)})


def operations(model: ModelProto) -> int:
    return sum(size(step.expr) for step in lowered(model).steps if isinstance(step, Compute))


@pytest.mark.parametrize("reader", ["Add", "Mul", "Relu", "Tanh"])
def test_a_quotient_by_a_constant_is_a_product(reader: str) -> None:
    model = divided(reader, 6.0)
    exact = operations(divided("Floor", 6.0)) - operations(divided("Floor", 8.0))
    assert exact > 5
    assert operations(model) == operations(divided(reader, 8.0))
    x = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float16).astype(np.float32)
    assert_close(run_checked(model, TINY, {"x": x}).outputs, expected(model, {"x": x}), 1e-6)


@pytest.mark.parametrize("divisor", [3.0, 41.0, 47.0, 49.0, 55.0])
def test_a_quotient_that_is_rounded_is_exact(divisor: float) -> None:
    """49 times the nearest number to 1/49 is less than 1."""
    model = divided("Floor", divisor)
    x = (np.arange(100).reshape(5, 20) - 50).astype(np.float32) * np.float32(divisor)
    x = np.clip(x, -2048, 2048)
    assert_equal(run_checked(model, TINY, {"x": x}).outputs, expected(model, {"x": x}))


@pytest.mark.parametrize(("shape", "steps"), [((2, 3, 20), 1), ((6, 1, 20), 1), ((3, 40), 2)])
def test_a_reshape_that_keeps_rows_stores_nothing(shape: tuple[int, ...], steps: int) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "c"], ["m"]),
        helper.make_node("Reshape", ["m", "s"], ["r"]),
        helper.make_node("Tanh", ["r"], ["y"]),
    ]
    constants = {"c": np.linspace(-2, 2, 20, dtype=np.float32), "s": np.array(shape)}
    model = build(nodes, {"x": ("float32", (6, 20))}, {"y": ("float32", shape)}, constants)
    found = [step for step in lowered(model).steps if isinstance(step, Compute)]
    assert len(found) == steps
    x = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float16).astype(np.float32)
    assert_close(run_checked(model, TINY, {"x": x}).outputs, expected(model, {"x": x}), 1e-3)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_the_window_of_a_whole_image_takes_steps_by_its_logarithm(op: str) -> None:
    node = helper.make_node(op, ["x"], ["y"])
    shapes = {"x": ("float32", (1, 3, 40, 50))}, {"y": ("float32", (1, 3, 1, 1))}
    assert len(lowered(build([node], *shapes)).steps) <= 25


def test_an_enlarged_image_beside_another() -> None:
    """Enlarged along its lines first, so that both are read as regularly."""
    enlarge = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=(2, 2)),
        helper.make_node("MaxPool", ["b"], ["q"], kernel_shape=(2, 2)),
        helper.make_node("Resize", ["p", "", "scales"], ["large"], mode="nearest", **enlarge),
        helper.make_node("Concat", ["large", "q"], ["c"], axis=1),
        helper.make_node("Conv", ["c", "w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 5, 1, 1)).astype(np.float16).astype(np.float32)
    scales = np.array([1, 1, 4, 4], np.float32)
    inputs = {
        name: rng.normal(size=shape).astype(np.float16).astype(np.float32)
        for name, shape in (("a", (1, 2, 5, 6)), ("b", (1, 3, 17, 21)))
    }
    shapes = {name: ("float32", x.shape) for name, x in inputs.items()}
    result = {"y": ("float32", (1, 3, 16, 20))}
    model = build(nodes, shapes, result, {"w": weights, "scales": scales})
    steps = lowered(model).steps
    (joined,) = (step for step in steps if isinstance(step, Move) and len(step.sources) == 2)
    assert [source.rows for source in joined.sources] == [4 * 20, 16 * 20]
    assert_close(run_checked(model, TINY, inputs).outputs, expected(model, inputs), 1e-3)


def test_an_input_comes_in_rows_of_as_many_pixels_as_the_stride() -> None:
    """Three taps of stride two see two rows of two pixels, and not three of one."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 3, 10, 40)).astype(np.float16).astype(np.float32)
    weights = rng.normal(size=(4, 3, 3, 3)).astype(np.float16).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=(2, 2), pads=(1, 1, 1, 1))
    shapes = {"x": ("float32", image.shape)}, {"y": ("float32", (1, 4, 5, 20))}
    model = build([node], *shapes, {"w": weights})
    (gathered,) = (step for step in lowered(model).steps if isinstance(step, Move))
    assert (gathered.sources[0].rows, gathered.sources[0].columns) == (10 * 40 // 2, 6)
    inputs = {"x": image}
    assert_close(run_checked(model, TINY, inputs).outputs, expected(model, inputs), 1e-3)
