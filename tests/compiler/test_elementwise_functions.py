"""The error of every function composed of the VXM's instructions, in units in the last place.

The bounds are those that the functions' docstrings and the table of operators promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from clockstep_compiler.expr import Const, Expr
from clockstep_compiler.lowering import elementwise_activations as activations
from clockstep_compiler.lowering import elementwise_division as division
from clockstep_compiler.lowering import elementwise_exponential as exponential
from clockstep_compiler.lowering import elementwise_quotient as quotient
from clockstep_compiler.lowering import elementwise_trigonometric as circular
from clockstep_compiler.lowering.elementwise_bits import f32
from clockstep_compiler.lowering.elementwise_formats import round_to
from clockstep_isa.layout import tensor_dtype
from clockstep_isa.table import Type
from tests.support.expressions import apply, ulps

Floats = NDArray[np.float64]
Array = NDArray[Any]
COUNT = 20000

EDGES = np.array(
    [
        *(0.0, 1.0, 1 - 2.0**-24, 1 + 2.0**-23, 0.5, 2.0, 3.0, 7.0, 10.0, 1 / 3, np.inf, np.nan),
        *(2.0**-149, 2.0**-126, 2.0**-127, 2.0**-125, 2.0**127, 3.4028235e38, 2.0**64, 2.0**-63),
        *(2.0**23, 2.0**24, 2.0**22 + 0.5, 1.5, 2.5, 88.7, 88.8, 89.5, 103.9, 126.5, 2.0**30),
    ]
)


def _samples(low: float, high: float) -> NDArray[np.float32]:
    """Edges of either sign, any bits, numbers from `low` to `high`, and numbers near 0."""
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, COUNT, dtype=np.uint32).view(np.float32)
    bits = np.where(np.isnan(bits), np.float32(np.nan), bits)
    inside = rng.uniform(low, high, COUNT)
    small = 2 ** rng.uniform(-40, 0, COUNT) * rng.choice([-1, 1], COUNT)
    parts = [EDGES, -EDGES, inside, small]
    return np.concatenate([bits, *(part.astype(np.float32) for part in parts)])


def _error(function: Callable[[Expr], Expr], truth: Callable[[Floats], Floats], x: Array) -> float:
    with np.errstate(all="ignore"):
        want = truth(x.astype(np.float64))
    return float(ulps(apply(function, x), want).max())


def _erf(x: Floats) -> Floats:
    return np.array([math.erf(v) for v in x])


def _limited(truth: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    def limited(x: Floats) -> Floats:
        near = np.abs(x) <= circular.ANGLE_LIMIT
        return np.where(near, truth(np.where(near, x, 0)), np.nan)

    return limited


def _softplus(x: Floats) -> Floats:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _round_half_even(x: Floats) -> Floats:
    return np.asarray(np.rint(x))


FUNCTIONS: dict[str, tuple[Callable[[Expr], Expr], Callable[[Floats], Floats], float, float]] = {
    "acos": (circular.arccosine, np.arccos, 4, 1),
    "acosh": (circular.hyperbolic_arccosine, np.arccosh, 4, 90),
    "asin": (circular.arcsine, np.arcsin, 4, 1),
    "asinh": (circular.hyperbolic_arcsine, np.arcsinh, 3, 90),
    "atan": (circular.arctangent, np.arctan, 3, 9),
    "atanh": (circular.hyperbolic_arctangent, np.arctanh, 5, 1),
    "ceil": (activations.ceiling, np.ceil, 0, 99),
    "cosh": (circular.hyperbolic_cosine, np.cosh, 2, 90),
    "erf": (exponential.error_function, _erf, 3, 5),
    "exp": (exponential.exponential, np.exp, 1, 105),
    "floor": (activations.floor, np.floor, 0, 99),
    "log": (exponential.logarithm, np.log, 2, 2),
    "round": (activations.nearest, _round_half_even, 0, 99),
    "sinh": (circular.hyperbolic_sine, np.sinh, 4, 90),
    "softplus": (activations.softplus, _softplus, 6, 30),
    "sqrt": (quotient.square_root, np.sqrt, 1.5, 9),
}
"""Function, truth, error in units, and an end of the interesting arguments."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_keep_their_promises(name: str) -> None:
    function, truth, bound, end = FUNCTIONS[name]
    assert _error(function, truth, _samples(-end, end)) <= bound


@pytest.mark.parametrize("name", ["ceil", "floor", "round", "sinh", "asin", "atan", "asinh"])
def test_signs_of_zeros_stay(name: str) -> None:
    function, truth = FUNCTIONS[name][:2]
    x = np.array([0.0, -0.0, -(2.0**-149), -0.25], np.float32)
    with np.errstate(all="ignore"):
        want = truth(x.astype(np.float64))
    np.testing.assert_array_equal(np.signbit(apply(function, x)), np.signbit(want))


@pytest.mark.parametrize("name", ["sine", "cosine"])
def test_circular_functions(name: str) -> None:
    truth = {"sine": np.sin, "cosine": np.cos}[name]
    function = getattr(circular, name)
    assert _error(function, _limited(truth), _samples(-0.78, 0.78)[COUNT:]) <= 2**14
    near = np.random.default_rng(2).uniform(-0.78, 0.78, COUNT).astype(np.float32)
    assert _error(function, truth, near) <= 2
    far = _samples(-circular.ANGLE_LIMIT, circular.ANGLE_LIMIT)
    want = _limited(truth)(far.astype(np.float64))
    have = apply(function, far)
    np.testing.assert_array_equal(np.isnan(have), np.isnan(want))
    assert np.nanmax(np.abs(have - want)) <= 2.0**-23


def test_tangent() -> None:
    assert _error(circular.tangent, np.tan, np.linspace(-100, 100, COUNT).astype(np.float32)) <= 5


def _pairs() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    ends = np.concatenate([EDGES, -EDGES]).astype(np.float32)
    a, b = (grid.ravel() for grid in np.meshgrid(ends, ends))
    bits = rng.integers(0, 2**32, (2, 4 * COUNT), dtype=np.uint32).view(np.float32)
    bits = np.where(np.isnan(bits), np.float32(np.nan), bits)
    near = rng.normal(size=(2, COUNT)).astype(np.float32)
    whole = rng.integers(-2000, 2000, (2, COUNT)).astype(np.float32)
    x, y = (np.concatenate(p) for p in zip((a, b), bits, near, whole, strict=True))
    return x, y


def test_quotients() -> None:
    x, y = _pairs()
    with np.errstate(all="ignore"):
        want = x.astype(np.float64) / y
        near = x / y
    have = apply(quotient.divide, x, y)
    off = ulps(have, want)
    assert off.max() <= 2
    assert off[np.abs(want) >= 2.0**-100].max(initial=0) <= 0.51
    numbers = ~np.isnan(near)
    np.testing.assert_array_equal(np.signbit(have)[numbers], np.signbit(near)[numbers])
    exact = (near == want) & (np.abs(want) >= 2.0**-100)
    np.testing.assert_array_equal(have[exact], near[exact])


@pytest.mark.parametrize("divisor", [3.0, 7.0, 0.1, 8.0, 1e30, -5.0, 1e-40, np.inf, 0.0])
def test_quotients_by_constants(divisor: float) -> None:
    x, _ = _pairs()
    constant = np.asarray(np.float32(divisor), np.float64)
    with np.errstate(all="ignore"):
        want = x.astype(np.float64) / constant
    have = apply(lambda a: quotient.divide(a, Const(constant, Type.F32)), x)
    off = ulps(have, want)
    assert off.max() <= 2
    assert off[np.abs(want) >= 2.0**-100].max(initial=0) <= 0.51
    with np.errstate(all="ignore"):
        near = x / np.float32(divisor)
    numbers = ~np.isnan(near)
    np.testing.assert_array_equal(np.signbit(have)[numbers], np.signbit(near)[numbers])


@pytest.mark.parametrize("reach", [5, 30])
def test_powers(reach: int) -> None:
    rng = np.random.default_rng(reach)
    x, y = _pairs()
    base = 2 ** rng.uniform(-reach, reach, 4 * COUNT)
    x = np.concatenate([x, base.astype(np.float32)])
    y = np.concatenate([y, rng.uniform(-reach, reach, 4 * COUNT).astype(np.float32)])
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
        bound = 3 + np.nan_to_num(np.abs(y) / 8, nan=0, posinf=1e38)
    have = apply(exponential.power, x, y)
    assert (ulps(have, want) <= bound).all()
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(have)[numbers], np.signbit(want)[numbers])


def test_roots_of_squares_are_exact() -> None:
    x = np.arange(4096, dtype=np.float32)
    np.testing.assert_array_equal(apply(quotient.square_root, x * x), x)


def test_exponential_minus_one() -> None:
    x = -np.abs(_samples(-30, 30))
    assert _error(exponential.exponential_minus_one, np.expm1, x) <= 4


def test_log1p_up_to_one() -> None:
    x = np.abs(_samples(0, 1)[COUNT:])
    assert _error(exponential.log1p_unit, np.log1p, x[x <= 1]) <= 5


def test_reciprocals_of_moderate_numbers() -> None:
    x = (2 ** np.random.default_rng(4).uniform(-60, 60, COUNT)).astype(np.float32)
    assert _error(quotient.reciprocal_near_one, np.reciprocal, x) <= 3


def test_remainders_are_exact() -> None:
    rng = np.random.default_rng(5)
    y = np.abs(rng.integers(0, 2**32, COUNT, dtype=np.uint32).view(np.float32))
    y[:100] = rng.integers(1, 5000, 100).astype(np.uint32).view(np.float32)  # denormal
    with np.errstate(all="ignore"):
        x = (y * 2 ** rng.uniform(-3, 41.9, COUNT)).astype(np.float32)
        x *= rng.choice([-1, 1], COUNT).astype(np.float32)
        want = np.fmod(x, y)
    np.testing.assert_array_equal(apply(division.float_remainder, x, y), want)


def test_rounding_to_narrower_floats() -> None:
    x = _samples(-9, 9)
    for name, dtype in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        with np.errstate(all="ignore"):
            want = x.astype(dtype).astype(np.float32)
        have = apply(lambda a, name=name: round_to(a, name), x)
        np.testing.assert_array_equal(have, want)


def test_rounding_to_small_floats() -> None:
    x = np.concatenate([_samples(-600, 600), np.arange(-2000, 2000, dtype=np.float32) / 8])
    x = np.where(np.isnan(x), np.float32(np.nan), x)
    for name in ("float4_e2m1fn", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"):
        dtype = tensor_dtype(name)
        with np.errstate(all="ignore"):
            want = x.astype(dtype).astype(np.float32)
        have = apply(lambda a, name=name: round_to(a, name, saturate=False), x)
        np.testing.assert_array_equal(have, want)
        np.testing.assert_array_equal(
            np.signbit(have[~np.isnan(want)]), np.signbit(want[~np.isnan(want)])
        )


def test_an_error_is_seen() -> None:
    """The measure itself: one unit more is one unit more."""
    x = np.linspace(1.01, 1.99, 99).astype(np.float32)
    assert _error(lambda a: f32("add", a, 2.0**-23), lambda v: v, x) == 1
    assert _error(lambda a: f32("mul", a, np.nan), lambda v: v, x) == np.inf
