"""Operators of order and of place: ArgMax, Hardmax, TopK, CumSum, LRN, and logarithms of sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import assert_equal, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
Array = NDArray[Any]
Shape = tuple[int, ...]


def sample(dtype: str, shape: Shape, seed: int = 0) -> Array:
    """Few different values, so that there are ties."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.integers(-6, 6, shape) / 2).astype(dtype)
    low = 0 if np.dtype(dtype).kind == "u" else -4
    return rng.integers(low, 5, shape).astype(dtype)


def one(
    op: str,
    x: Array,
    outputs: dict[str, tuple[str, Shape]],
    constants: dict[str, Array] | None = None,
    **attributes: Any,
) -> ModelProto:
    constants = constants or {}
    node = helper.make_node(op, ["x", *constants], list(outputs), **attributes)
    return build([node], {"x": (x.dtype.name, x.shape)}, outputs, constants)


def reference(model: ModelProto, x: Array) -> dict[str, Array]:
    names = [output.name for output in model.graph.output]
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(model).run(names, {"x": x})
    return dict(zip(names, found, strict=True))


def reduced(shape: Shape, axis: int, keepdims: int) -> Shape:
    if keepdims:
        return tuple(1 if i == axis % len(shape) else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i != axis % len(shape))


SHAPES = [((5,), 0), ((3, 20), 1), ((7, 3), 0), ((2, 3, 5), 1), ((2, 3, 4, 5), -1), ((4, 1), 1)]


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_places(op: str, shape: Shape, axis: int, last: int) -> None:
    x = sample("float32", shape)
    out = {"y": ("int64", reduced(shape, axis, last))}
    model = one(op, x, out, axis=axis, keepdims=last, select_last_index=last)
    assert_equal(run_checked(model, TINY, {"x": x}).outputs, reference(model, x))


@pytest.mark.parametrize("dtype", ["float16", "int32", "int8", "uint8"])
def test_places_of_other_types(dtype: str) -> None:
    for shape, axis in SHAPES[1:3]:
        x = sample(dtype, shape)
        model = one("ArgMax", x, {"y": ("int64", reduced(shape, axis, 0))}, axis=axis, keepdims=0)
        assert_equal(run_checked(model, TINY, {"x": x}).outputs, reference(model, x))


AWKWARD = np.array(
    [[0.0, -0.0, -1.0], [np.nan, np.inf, 1], [-np.inf] * 3, [1, np.nan, np.nan], [1, 2, 2]],
    np.float32,
)


def test_places_of_awkward_values() -> None:
    for op in ("ArgMax", "ArgMin"):
        model = one(op, AWKWARD, {"y": ("int64", (5, 1))}, axis=1)
        assert_equal(run_checked(model, TINY, {"x": AWKWARD}).outputs, reference(model, AWKWARD))


def test_close_inputs_are_told_apart() -> None:
    """In fp16 they would be equal."""
    x = np.array([[1.0, 1.00001, 1.00002, 1.0]], np.float32)
    model = one("ArgMax", x, {"y": ("int64", (1, 1))}, axis=1)
    assert run_checked(model, TINY, {"x": x}).outputs["y"].item() == 2


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_hardmax(shape: Shape, axis: int) -> None:
    x = sample("float32", shape)
    model = one("Hardmax", x, {"y": ("float32", shape)}, axis=axis)
    assert_equal(run_checked(model, TINY, {"x": x}).outputs, expected(model, {"x": x}))


TOPS = [((5,), 0, 2), ((3, 20), 1, 3), ((7, 3), 0, 7), ((2, 5, 3), 1, 2), ((4, 1), 1, 1)]


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
@pytest.mark.parametrize(("shape", "axis", "k"), TOPS)
def test_top(shape: Shape, axis: int, k: int, dtype: str, largest: int) -> None:
    x = sample(dtype, shape)
    if dtype == "int32":
        x[x == -4] = -(2**31)
        x[x == 4] = 2**31 - 1
    out = tuple(k if i == axis else d for i, d in enumerate(shape))
    kinds = {"y": (dtype, out), "i": ("int64", out)}
    model = one("TopK", x, kinds, {"k": np.array([k])}, axis=axis, largest=largest)
    order = np.argsort(
        x if not largest else ~x if x.dtype.kind in "iu" else -x, axis, kind="stable"
    )
    want = np.take(order, np.arange(k), axis)
    have = run_checked(model, TINY, {"x": x}).outputs
    np.testing.assert_array_equal(have["i"], want)
    np.testing.assert_array_equal(have["y"], np.take_along_axis(x, want, axis))


def test_top_of_awkward_values() -> None:
    kinds = {"y": ("float32", (5, 3)), "i": ("int64", (5, 3))}
    for largest in (0, 1):
        model = one("TopK", AWKWARD, kinds, {"k": np.array([3])}, largest=largest)
        have = run_checked(model, TINY, {"x": AWKWARD}).outputs
        order = np.argsort(AWKWARD, axis=1, kind="stable")
        values = np.sort(AWKWARD, axis=1)
        np.testing.assert_array_equal(have["y"], values[:, ::-1] if largest else values)
        if not largest:
            np.testing.assert_array_equal(have["i"], order)


def test_top_of_too_many() -> None:
    x = sample("float32", (100,))
    kinds = {"y": ("float32", (65,)), "i": ("int64", (65,))}
    model = one("TopK", x, kinds, {"k": np.array([65])})
    with pytest.raises(UnsupportedModel) as refusal:
        compile_model(model.SerializeToString(), TINY, Options())
    assert refusal.value.diagnostic.code == "unsupported-form"


@pytest.mark.parametrize(("reverse", "exclusive"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(("shape", "axis"), [((5,), 0), ((3, 20), 1), ((7, 3), 0), ((2, 3, 5), 1)])
def test_sums_so_far(shape: Shape, axis: int, reverse: int, exclusive: int) -> None:
    for dtype in ("float32", "int32"):
        x = sample(dtype, shape)
        attributes = {"reverse": reverse, "exclusive": exclusive}
        model = one("CumSum", x, {"y": (dtype, shape)}, {"a": np.array(axis)}, **attributes)
        assert_equal(run_checked(model, TINY, {"x": x}).outputs, expected(model, {"x": x}))


def test_positions() -> None:
    """Sums of 64-bit integers whose range is known: a mask as positions and as a length."""
    nodes = [
        helper.make_node("Cast", ["x"], ["m"], to=7),
        helper.make_node("CumSum", ["m", "a"], ["y"], exclusive=1),
        helper.make_node("ReduceSum", ["m", "a"], ["n"], keepdims=0),
    ]
    kinds = {"y": ("int64", (2, 19)), "n": ("int64", (2,))}
    constants = {"a": np.array([1])}
    model = build(nodes, {"x": ("bool", (2, 19))}, kinds, constants)
    inputs = {"x": np.random.default_rng(0).integers(0, 2, (2, 19)).astype(bool)}
    assert_equal(run_checked(model, TINY, inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize(
    "attributes", [{}, {"beta": 0.5, "bias": 2.0}, {"beta": 0.75, "alpha": 0.1}]
)
@pytest.mark.parametrize(
    ("shape", "size"), [((2, 7, 3, 4), 5), ((1, 3, 2, 17), 3), ((1, 4, 2, 2), 4)]
)
def test_local_response(shape: Shape, size: int, attributes: dict[str, float]) -> None:
    """As ONNX states it: onnxruntime has no even sizes, onnx's evaluator leaves out channels."""
    x = sample("float32", shape)
    model = one("LRN", x, {"y": ("float32", shape)}, size=size, **attributes)
    have = run_checked(model, TINY, {"x": x}).outputs["y"]
    squares, total = x.astype(np.float64) ** 2, np.zeros(shape)
    for c in range(shape[1]):
        first, end = max(0, c - (size - 1) // 2), c + size // 2 + 1
        total[:, c] = squares[:, first:end].sum(axis=1)
    alpha, beta = attributes.get("alpha", 1e-4), attributes.get("beta", 0.75)
    want = x / (attributes.get("bias", 1.0) + alpha / size * total) ** beta
    np.testing.assert_allclose(have, want, rtol=2e-6)


@pytest.mark.parametrize("op", ["ReduceLogSum", "ReduceLogSumExp"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_logarithms(op: str, shape: Shape, axis: int, keepdims: int) -> None:
    x = np.abs(sample("float32", shape)) + 1
    out = {"y": ("float32", reduced(shape, axis, keepdims))}
    model = one(op, x, out, {"a": np.array([axis])}, keepdims=keepdims)
    have, want = run_checked(model, TINY, {"x": x}).outputs["y"], expected(model, {"x": x})["y"]
    np.testing.assert_allclose(have, want, rtol=2e-6, atol=2e-6)


def test_logarithms_of_awkward_values() -> None:
    inf = np.inf
    rows = [[-inf] * 3, [inf, 0, 1], [-inf, 0, 0], [1000, 1000, 999], [-1000, -1001, -inf]]
    x = np.array(rows, np.float32)
    model = one("ReduceLogSumExp", x, {"y": ("float32", (5, 1))}, {"a": np.array([1])})
    have = run_checked(model, TINY, {"x": x}).outputs["y"]
    with np.errstate(all="ignore"):
        want = np.logaddexp.reduce(x.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(have, want, rtol=1e-6)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_log_softmax(shape: Shape, axis: int) -> None:
    x = sample("float32", shape)
    model = one("LogSoftmax", x, {"y": ("float32", shape)}, axis=axis)
    have, want = run_checked(model, TINY, {"x": x}).outputs["y"], expected(model, {"x": x})["y"]
    np.testing.assert_allclose(have, want, rtol=2e-6, atol=2e-6)
