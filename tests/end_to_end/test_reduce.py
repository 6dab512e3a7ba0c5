"""Reductions: every operator over every kind of axes, for every type it takes, and of nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
Array = NDArray[Any]

SUMS = ("ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2")
CHOICES = ("ReduceMax", "ReduceMin")
PLACES = [
    ((), None),
    ((5,), None),
    ((37,), (0,)),
    ((1, 40), (-1,)),
    ((7, 20), (0,)),
    ((7, 20), (1,)),
    ((3, 18, 5), (1,)),
    ((3, 4, 17), (0, 2)),
    ((2, 3, 4, 5), (1, 3)),
    ((2, 3, 4, 5), (0, 2)),
    ((2, 3, 4, 5), (-2, -1)),
    ((2, 1, 4, 1), (1, 3)),
    ((2, 3, 4, 5), None),
    ((21, 2), (0,)),
    ((9, 1), (0, 1)),
]


def reduction(
    op: str,
    shape: tuple[int, ...],
    axes: tuple[int, ...] | None,
    keepdims: int,
    dtype: str,
    **more: int,
) -> ModelProto:
    positive = tuple(range(len(shape))) if axes is None else [a % len(shape) for a in axes]
    if axes is None and more.get("noop_with_empty_axes"):
        positive = []
    out = [1 if i in positive else d for i, d in enumerate(shape) if keepdims or i not in positive]
    inputs = ["x", "axes"] if axes is not None else ["x"]
    node = helper.make_node(op, inputs, ["y"], keepdims=keepdims, **more)
    constants = {} if axes is None else {"axes": np.array(axes, np.int64)}
    return build([node], {"x": (dtype, shape)}, {"y": (dtype, out)}, constants)


def sample(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(np.float16).astype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def check(model: ModelProto, x: Array, rtol: float = 2e-6) -> None:
    """Floats within `rtol` of the sum of magnitudes that could have met; integers exactly."""
    have = run_checked(model, TINY, {"x": x}).outputs["y"]
    want = expected(model, {"x": x})["y"]
    assert (have.shape, have.dtype) == (want.shape, want.dtype)
    if have.dtype == np.float16:
        rtol = 2**-10
    if have.dtype.kind == "f":
        np.testing.assert_allclose(have, want, rtol=rtol, atol=rtol * np.sqrt(x.size))
    else:
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("shape", "axes"), PLACES)
def test_sums_over_any_axes(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: int) -> None:
    for op in (SUMS[len(shape)], "ReduceSum", "ReduceMax"):
        check(reduction(op, shape, axes, keepdims, "float32"), sample("float32", shape))


@pytest.mark.parametrize("op", SUMS)
@pytest.mark.parametrize(("shape", "axes"), [((3, 20), (1,)), ((11, 3), (0,)), ((2, 5, 3), None)])
def test_sums_of_every_kind(op: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    for dtype in ("float32", "float16", "float64"):
        check(reduction(op, shape, axes, 1, dtype), sample(dtype, shape))


@pytest.mark.parametrize("op", CHOICES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int8", "uint8", "bool"])
def test_greatest_and_least(op: str, dtype: str) -> None:
    for shape, axes in (((3, 20), (1,)), ((7, 3), (0,))):
        check(reduction(op, shape, axes, 0, dtype), sample(dtype, shape))


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("columns", [64, 70, 200])
def test_tiles_are_combined_before_lanes(op: str, dtype: str, columns: int) -> None:
    """Of results all of one sign, so that what lies beyond the last column would be seen."""
    sign = 1 if op == "ReduceMin" else -1
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Add", ["a", "one"], ["b"])]
    nodes.append(helper.make_node("Mul", ["b", "sign"], ["c"]))
    inputs = ["c", "axes"] if op == "ReduceSum" else ["c"]
    attributes = {} if op == "ReduceSum" else {"axes": [-1]}
    nodes.append(helper.make_node(op, inputs, ["y"], **attributes))
    constants = {"one": np.ones((), dtype), "sign": np.full((), sign, dtype)}
    constants["axes"] = np.array([-1])
    model = build(nodes, {"x": (dtype, (3, columns))}, {"y": (dtype, (3, 1))}, constants, opset=17)
    small = (0.002 if op == "ReduceProd" else 9.0) if dtype == "float32" else 3
    x = np.random.default_rng(0).uniform(-small, small, (3, columns)).astype(np.float16)
    x = x.astype(dtype)
    if op == "ReduceProd" and dtype == "int32":
        x[:] = 0
    check(model, x)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceProd", "ReduceSumSquare", "ReduceL1"])
def test_integers_wrap_around(op: str) -> None:
    """As numpy has it; onnxruntime's sums of 32-bit integers are not exact."""
    for shape, axis in (((3, 20), 1), ((6, 4), 0)):
        x = sample("int32", shape)
        model = reduction(op, shape, (axis,), 1, "int32")
        have = run_checked(model, TINY, {"x": x}).outputs["y"]
        terms = {"ReduceSumSquare": x * x, "ReduceL1": np.abs(x)}.get(op, x)
        combine = np.prod if op == "ReduceProd" else np.sum
        want = combine(terms, axis=axis, keepdims=True, dtype=np.int32)
        np.testing.assert_array_equal(have, want)


def test_products() -> None:
    x = 1 + sample("float32", (3, 9)) / 8
    for axis in (0, 1):
        check(reduction("ReduceProd", (3, 9), (axis,), 1, "float32"), x.astype(np.float32))


@pytest.mark.parametrize("op", [*SUMS, *CHOICES, "ReduceProd"])
def test_of_no_axes(op: str) -> None:
    x = sample("float32", (3, 5))
    check(reduction(op, x.shape, None, 1, "float32", noop_with_empty_axes=1), x)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL2"])
def test_of_nothing(op: str) -> None:
    x = np.zeros((3, 0, 4), np.float32)
    have = run_checked(reduction(op, x.shape, (1,), 0, "float32"), TINY, {"x": x}).outputs["y"]
    nothing = {"ReduceProd": 1.0, "ReduceMax": -np.inf, "ReduceMin": np.inf}.get(op, 0.0)
    np.testing.assert_array_equal(have, np.full((3, 4), nothing, np.float32))


@pytest.mark.parametrize("op", [*SUMS, *CHOICES])
def test_infinities_and_nan(op: str) -> None:
    special = [[np.inf, 1.0, -2.0], [-np.inf, 1.0, 0.0], [np.nan, 1.0, 2.0], [np.inf, -np.inf, 0.0]]
    x = np.array([*special, [0.0, -0.0, 0.0]], np.float32)
    check(reduction(op, x.shape, (1,), 1, "float32"), x)
    check(reduction(op, x.T.shape, (0,), 1, "float32"), np.ascontiguousarray(x.T))


def test_a_reduction_in_a_graph() -> None:
    """What is reduced is itself computed, and what is left is broadcast back."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("ReduceMean", ["t", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["t", "m"], ["d"]),
        helper.make_node("ReduceMax", ["d", "axes"], ["y"], keepdims=0),
    ]
    shape = {"x": ("float32", (6, 19))}
    model = build(nodes, shape, {"y": ("float32", (6,))}, {"axes": np.array([1])})
    check(model, sample("float32", (6, 19)), 2e-3)


@pytest.mark.parametrize(
    ("op", "dtype", "code"),
    [
        ("ReduceMean", "int32", "element-type"),
        ("ReduceL2", "int32", "element-type"),
    ],
)
def test_refused_types(op: str, dtype: str, code: str) -> None:
    with pytest.raises(UnsupportedModel) as refusal:
        compile_model(reduction(op, (3, 4), (0,), 1, dtype).SerializeToString(), TINY, Options())
    assert refusal.value.diagnostic.code == code


def test_sums_of_64_bits_limit_their_input() -> None:
    model = reduction("ReduceSum", (3, 4), (0,), 1, "int64")
    program = compile_model(model.SerializeToString(), TINY, Options())
    assert [b.limits for b in program.inputs] == [(-(2**24), 2**24)]


UNSIGNED = [("uint32", 2**32 - 1), ("uint64", 2**24 - 1), ("int64", 2**24 - 1)]


@pytest.mark.parametrize(("dtype", "most"), UNSIGNED)
@pytest.mark.parametrize(
    "op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "CumSum", "ArgMin"]
)
def test_wide_integers(op: str, dtype: str, most: int) -> None:
    for shape, axis in (((3, 20), 1), ((6, 4), 0)):
        x = np.random.default_rng(5).integers(0, most, shape, endpoint=True).astype(dtype)
        x.flat[:3] = [most, 0, most]
        more: dict[str, Any] = {"axis": axis} if op == "ArgMin" else {"keepdims": 1}
        inputs = ["x"] if op == "ArgMin" else ["x", "axes"]
        node = helper.make_node(op, inputs, ["y"], **({} if op == "CumSum" else more))
        axes = np.array(axis) if op == "CumSum" else np.array([axis])
        size = (
            shape if op == "CumSum" else tuple(1 if i == axis else n for i, n in enumerate(shape))
        )
        kind = "int64" if op == "ArgMin" else dtype
        constants = {} if op == "ArgMin" else {"axes": axes}
        model = build([node], {"x": (dtype, shape)}, {"y": (kind, size)}, constants)
        have = run_checked(model, TINY, {"x": x}).outputs["y"]
        functions: dict[str, Any] = {"ReduceMax": np.max, "ReduceMin": np.min, "ArgMin": np.argmin}
        if op == "CumSum":
            want = np.cumsum(x, axis, dtype=dtype)
        elif op in functions:
            want = functions[op](x, axis=axis, keepdims=True)
        else:
            want = np.sum(x, axis=axis, keepdims=True, dtype=dtype)
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(("dtype", "most"), UNSIGNED)
@pytest.mark.parametrize("largest", [0, 1])
def test_greatest_wide_integers(dtype: str, most: int, largest: int) -> None:
    x = np.random.default_rng(6).integers(0, most, (3, 20), endpoint=True).astype(dtype)
    x.flat[:3] = [most, 0, most]
    model = build(
        [helper.make_node("TopK", ["x", "k"], ["y", "i"], largest=largest)],
        {"x": (dtype, (3, 20))},
        {"y": (dtype, (3, 4)), "i": ("int64", (3, 4))},
        {"k": np.array([4])},
    )
    outputs = run_checked(model, TINY, {"x": x}).outputs
    order = np.argsort(-x.astype(float) if largest else x.astype(float), axis=1, kind="stable")
    np.testing.assert_array_equal(outputs["i"], order[:, :4])
    np.testing.assert_array_equal(outputs["y"], np.take_along_axis(x, order[:, :4], 1))


def test_products_of_64_bits() -> None:
    for op, limit in (("ReduceProd", 46340), ("ReduceSumSquare", 2**10)):
        model = reduction(op, (3, 2), (1,), 1, "int64")
        x = (
            np.array([[2, -3], [46340, 1], [0, 5]])
            if op == "ReduceProd"
            else np.array([[3, 4]] * 3)
        )
        run = run_checked(model, TINY, {"x": x})
        want = x.prod(1, keepdims=True) if op == "ReduceProd" else (x * x).sum(1, keepdims=True)
        np.testing.assert_array_equal(run.outputs["y"], want)
        assert run.program.inputs[0].limits == (-limit, limit)


def test_a_matrix_is_turned_with_all_planes() -> None:
    """What is computed is turned tile by tile, each array loaded once: every bit of float32 passes.

    With an array loaded anew for every block of rows it takes three times the cycles.
    """
    x = np.random.default_rng(0).normal(size=(700, 400)).astype(np.float32)
    x[0, 0], x[1, 399], x[2, 7], x[699, :] = np.inf, -np.inf, np.nan, -0.0
    nodes = [
        helper.make_node("Neg", ["x"], ["t"], "neg"),
        helper.make_node("ReduceMax", ["t", "axes"], ["y"], "max", keepdims=0),
    ]
    inputs, outputs = {"x": ("float32", x.shape)}, {"y": ("float32", (700,))}
    model = build(nodes, inputs, outputs, {"axes": np.array([1])})
    run = run_checked(model, load_machine("lpu-v1"), {"x": x}, precision="exact")
    np.testing.assert_array_equal(run.outputs["y"], (-x).max(axis=1))
    assert run.program.cycles < 6000
