"""Element types that are only converted and moved: floats of 8 and 4 bits, integers under a byte.

Values go in and come out as arrays of ml_dtypes; the oracle is onnx's reference evaluator.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from clockstep_isa.diagnostics import UnsupportedModel, UsageError
from clockstep_isa.layout import integer_range, tensor_dtype
from clockstep_isa.program import Program
from clockstep_runtime import Session
from clockstep_runtime.inputs import random_inputs
from tests.support.endtoend import build_session, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

Array = NDArray[Any]
TINY = MACHINES["tiny"]
FLOATS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")
INTEGERS = ("int4", "uint4", "int2", "uint2")
SHAPE = (3, 19)


def _numbers(dtype: str) -> Array:
    """Values of either sign over the range of the small floats, ties and special ones first."""
    rng = np.random.default_rng(3)
    x = (2 ** rng.uniform(-19, 18, SHAPE) * rng.choice([-1, 1], SHAPE)).astype(np.float32)
    first = (0, -0.0, np.nan, np.inf, -np.inf, 464, 464.5, 248, 61440, 5, 0.25, 2**-10, 3 * 2**-18)
    x.flat[: len(first)] = first
    with np.errstate(over="ignore"):
        return np.asarray(x.astype(dtype))


def _cast(source: Array, target: str, precision: str = "exact", **attributes: Any) -> None:
    kind = helper.np_dtype_to_tensor_dtype(tensor_dtype(target))
    model = build(
        [helper.make_node("Cast", ["x"], ["y"], to=kind, **attributes)],
        {"x": (source.dtype.name, source.shape)},
        {"y": (target, source.shape)},
        opset=25,
    )
    with np.errstate(all="ignore"):
        found: list[Any] = list(ReferenceEvaluator(model).run(["y"], {"x": source}))
    want = np.asarray(found[0])
    have = run_checked(model, TINY, {"x": source}, precision=precision).outputs["y"]
    assert (have.dtype, have.shape) == (want.dtype, want.shape)
    wide = np.float32 if "float" in target else np.int64
    np.testing.assert_array_equal(have.astype(wide), want.astype(wide))
    if "float" in target:
        np.testing.assert_array_equal(_signs(have), _signs(want))


def _signs(x: Array) -> Array:
    """Where the sign bit is set; that of a NaN says nothing."""
    wide = x.astype(np.float32)
    return np.signbit(wide) & ~np.isnan(wide)


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("target", FLOATS)
def test_to_small_floats(target: str, saturate: int) -> None:
    _cast(_numbers("float32"), target, saturate=saturate)
    _cast(_numbers("float16"), target, precision="fp16", saturate=saturate)


def test_small_floats_keep_float32_under_fp16() -> None:
    """A float32 is rounded once, not to fp16 on the way."""
    _cast(np.full((2, 3), 1.0625 + 2.0**-20, np.float32), "float8_e4m3fn", precision="fp16")


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", ["float32", "float16", "bfloat16"])
def test_from_small_floats(source: str, target: str) -> None:
    every = np.arange(16 if source.startswith("float4") else 256, dtype=np.uint8)
    _cast(every.view(tensor_dtype(source)).reshape(-1, 4), target)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_powers_of_two(mode: str) -> None:
    x = np.abs(_numbers("float32"))
    x.flat[:6] = [0, 2.0**-127, 2.0**-149, 3.4e38, 1.5, np.nan]
    _cast(x, "float8_e8m0fnu", round_mode=mode)
    _cast(x, "float8_e8m0fnu", round_mode=mode, saturate=0)
    _cast(np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).reshape(4, 64), "float32")


@pytest.mark.parametrize("small", INTEGERS)
def test_small_integers(small: str) -> None:
    _cast(np.arange(-9, 16, dtype=np.float32).reshape(5, 5), small)
    _cast(np.arange(-130, 130, dtype=np.int32).reshape(10, 26), small)
    low, high = integer_range(small)
    every = np.arange(low, high + 1).astype(tensor_dtype(small)).reshape(2, -1)
    for target in ("float32", "float16", "int8", "uint8", "int32", "bool"):
        _cast(every, target)


@pytest.mark.parametrize("dtype", [*FLOATS, "float8_e8m0fnu", *INTEGERS])
def test_moves(dtype: str) -> None:
    model = build(
        [helper.make_node("Transpose", ["x"], ["y"])],
        {"x": (dtype, (3, 7))},
        {"y": (dtype, (7, 3))},
        opset=25,
    )
    program = build_session(model, TINY).program
    x = random_inputs(program, 1)["x"]
    assert x.dtype == tensor_dtype(dtype)
    y = run_checked(model, TINY, {"x": x}).outputs["y"]
    assert y.tobytes() == np.ascontiguousarray(x.T).tobytes()


def test_double_precision_is_converted_but_not_computed() -> None:
    x = np.random.default_rng(1).normal(size=(3, 5)) * (1 + 2.0**-40)
    x[0, :2] = [1 + 2.0**-11 + 2.0**-30, 1e300]  # twice rounded it would be 1
    for target in ("float32", "float16"):
        _cast(x, target)
    _cast(x[1:].astype(np.float32), "float64")
    for target in ("bfloat16", "int32"):
        with pytest.raises(UnsupportedModel, match="would be computed in float32"):
            _cast(x, target)


def _words(
    op: str, out: str, *inputs: Array, constant: Array | None = None, **settings: Any
) -> tuple[Array, Program]:
    """One node of integers of 64 bits, and the program that ran it."""
    names = [f"x{k}" for k in range(len(inputs))]
    feeds = dict(zip(names, inputs, strict=True))
    model = build(
        [helper.make_node(op, [*names, *(["c"] if constant is not None else [])], ["y"])],
        {name: (x.dtype.name, x.shape) for name, x in feeds.items()},
        {"y": (out, inputs[0].shape)},
        {} if constant is None else {"c": constant},
    )
    run = run_checked(model, TINY, feeds, **settings)
    return run.outputs["y"], run.program


@pytest.mark.parametrize(
    ("op", "limit"), [("Add", 2**30 - 1), ("Sub", 2**30 - 1), ("Mul", 46340), ("Max", None)]
)
def test_inputs_of_64_bits_are_limited_so_that_results_fit(op: str, limit: int | None) -> None:
    most = limit or 2**31 - 1
    x = np.array([[most, -most, 3, -4], [0, 1, 2, most]], np.int64)
    y = np.array([[most, most, -5, 7], [-1, 1, 46, -most]], np.int64)
    have, program = _words(op, "int64", x, y)
    functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum}
    np.testing.assert_array_equal(have, functions[op](x, y))
    limits = None if limit is None else (-limit, limit)
    assert [b.limits for b in program.inputs] == [limits, limits]
    if limit is not None:
        x[0, 0] += 1
        with pytest.raises(UsageError, match=f"outside -{limit} to {limit}"):
            Session(program).run({"x0": x, "x1": y})


def test_limits_reach_through_moves_and_no_further() -> None:
    one = np.ones(3, np.int64)
    model = build(
        [
            helper.make_node("Transpose", ["x"], ["t"]),
            helper.make_node("Sub", ["one", "t"], ["y"]),
            helper.make_node("Max", ["z", "one"], ["w"]),
        ],
        {"x": ("int64", (3, 2)), "z": ("int64", (3,))},
        {"y": ("int64", (2, 3)), "w": ("int64", (3,))},
        {"one": one},
    )
    x, z = np.arange(6).reshape(3, 2), np.array([-(2**31), 5, 2**31 - 1])
    run = run_checked(model, TINY, {"x": x, "z": z})
    np.testing.assert_array_equal(run.outputs["y"], 1 - x.T)
    assert [b.limits for b in run.program.inputs] == [(-(2**30) + 1, 2**30 - 1), None]
    assert random_inputs(run.program, 0)["x"].dtype == np.int64


def test_uint64_below_zero_is_what_it_is() -> None:
    x = np.array([[1, 2, 3]], np.uint64)
    have, _ = _words("Sub", "uint64", x, x[:, ::-1].copy())
    np.testing.assert_array_equal(have, x - x[:, ::-1])


def test_floats_to_64_bits_are_exact_or_refused() -> None:
    x = np.array([[-3.7, 2.0**20, 1e30]], np.float32)
    with pytest.raises(UnsupportedModel, match="could exceed the machine's 32 bits"):
        _cast(x, "int64")
    model = build(
        [
            helper.make_node("Clip", ["x", "low", "high"], ["c"]),
            helper.make_node("Floor", ["c"], ["f"]),
            helper.make_node(
                "Cast", ["f"], ["y"], to=helper.np_dtype_to_tensor_dtype(np.dtype(int))
            ),
        ],
        {"x": ("float32", x.shape)},
        {"y": ("int64", x.shape)},
        {"low": np.array(-(2**30), np.float32), "high": np.array(2**30, np.float32)},
    )
    y = run_checked(model, TINY, {"x": x}, precision="exact").outputs["y"]
    np.testing.assert_array_equal(y, [[-4, 2**20, 2**30]])


def test_double_precision_is_said_to_be_single() -> None:
    x = np.random.default_rng(2).normal(size=(3, 5))
    model = build(
        [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Sqrt", ["a"], ["y"])],
        {"x": ("float64", x.shape)},
        {"y": ("float64", x.shape)},
    )
    run = run_checked(model, TINY, {"x": x}, precision="fp16")
    np.testing.assert_allclose(run.outputs["y"], np.sqrt(np.abs(x)), rtol=2**-21)
    assert run.program.info["warnings"] == [
        "3 tensors, 'x' the first, are float64: computed in float32"
    ]
