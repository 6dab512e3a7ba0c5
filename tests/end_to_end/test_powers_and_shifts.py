"""Shifts, remainders of floats and powers of integers, at the ends of their types.

The oracle is onnx's reference evaluator, and Python's integers where it refuses or overflows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

Array = NDArray[Any]
TINY = MACHINES["tiny"]
SHAPE = (3, 20)


def _check(
    op: str, x: Array, y: Array, want: Array | None = None, *, constant: bool = False, **more: Any
) -> None:
    """One node of two operands, the second a constant or an input."""
    opset = 28 if op != "Pow" else 22
    feeds = {"x": x} if constant else {"x": x, "y": y}
    model = build(
        [helper.make_node(op, ["x", "y"], ["z"], **more)],
        {name: (a.dtype.name, a.shape) for name, a in feeds.items()},
        {"z": (x.dtype.name, np.broadcast_shapes(x.shape, y.shape))},
        {"y": y} if constant else {},
        opset,
    )
    have = run_checked(model, TINY, feeds).outputs["z"]
    if want is None:
        with np.errstate(all="ignore"):
            found: list[Any] = list(ReferenceEvaluator(model).run(["z"], feeds))
        want = np.asarray(found[0])
    np.testing.assert_array_equal(have, want)
    if want.dtype.kind == "f":
        number = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(have[number]), np.signbit(want[number]))


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_shifts_by_any_number(dtype: str, direction: str) -> None:
    rng, info = np.random.default_rng(1), np.iinfo(dtype)
    x = rng.integers(info.min, info.max, SHAPE, endpoint=True).astype(dtype)
    x.flat[:4] = [info.min, info.max, 0, 1]
    places = rng.integers(-3 if info.min else 0, info.bits + 4, SHAPE).astype(dtype)
    places.flat[:4] = [info.max, info.bits - 1, 1, info.min]
    _check("BitShift", x, places, direction=direction)


def test_shifts_of_64_bits() -> None:
    rng = np.random.default_rng(2)
    x, places = (rng.integers(-16, 17, SHAPE) for _ in range(2))
    _check("BitShift", x, places, direction="LEFT")
    x, places = rng.integers(-(2**31), 2**31, SHAPE), rng.integers(-16, 70, SHAPE)
    _check("BitShift", x, places, direction="RIGHT")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floored_remainders(dtype: str) -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=SHAPE).astype(np.float16).astype(dtype) for _ in range(2))
    x *= 8
    infinity, nan = np.inf, np.nan
    x.flat[:14] = [0, -0.0, 0, -0.0, -3, 3, -1, 1, infinity, -infinity, 1, 1, nan, 1]
    y.flat[:8] = [-2, 2, 2, -2, infinity, infinity, -infinity, -infinity]
    y.flat[8:14] = [2, 2, 0, -0.0, 2, nan]
    _check("Mod", x, y)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint32"])
def test_integer_powers(kind: str) -> None:
    rng = np.random.default_rng(4)
    base = rng.integers(-9, 10, SHAPE).astype(np.int32)
    _check("Pow", base, rng.integers(0, 10, SHAPE).astype(kind))


def test_integer_powers_keep_the_low_bits() -> None:
    rng = np.random.default_rng(5)
    base = rng.integers(-(2**31), 2**31, SHAPE).astype(np.int32)
    exponents = rng.integers(0, 32, SHAPE).astype(np.int32)
    pairs = zip(base.ravel().tolist(), exponents.ravel().tolist(), strict=True)
    low = np.array([pow(b, e, 2**32) for b, e in pairs], np.uint32)
    _check("Pow", base, exponents, low.view(np.int32).reshape(SHAPE))


def test_powers_of_units_and_negative_powers() -> None:
    rng = np.random.default_rng(6)
    units = rng.integers(-1, 2, SHAPE).astype(np.int32)
    large = rng.integers(0, 2**31, SHAPE).astype(np.int32)
    _check("Pow", units, large, np.where(large & 1, units, abs(units)).astype(np.int32))
    base, less = np.array([[2, -3, 1, -1, 5]], np.int32), np.array([[-1, -2, -5, -3, -1]], np.int32)
    _check("Pow", base, less, np.array([[0, 0, 1, -1, 0]], np.int32))
    _check(
        "Pow", base, np.array(-1, np.int32), np.array([[0, 0, 1, -1, 0]], np.int32), constant=True
    )


def test_constant_exponents_that_are_floats() -> None:
    base = np.array([[2, -3, 1, -1, 5]], np.int32)
    _check("Pow", base, np.array([1, 2, 3, 4, 5], np.float32), constant=True)
    _check("Pow", base, np.array(3, np.float32), constant=True)
    with pytest.raises(UnsupportedModel, match="not constant integers"):
        _check("Pow", base, np.array(0.5, np.float32), constant=True)


def test_powers_of_64_bits() -> None:
    _check("Pow", np.array([[1, 2, 3, -4, 8]]), np.array([[4, 5, 6, 7, 8]]))
    _check("Pow", np.array([[46340, -46340, 0]]), np.array(2), constant=True)
