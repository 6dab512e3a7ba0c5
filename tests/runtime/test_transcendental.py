"""exp2, tanh and rsqrt against 45-digit decimals, and at every special value."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from decimal import Decimal
from math import factorial

import numpy as np
import pytest

from clockstep_runtime import transcendental
from clockstep_runtime.semantics import EXECUTES

CONTEXT = decimal.Context(prec=45, Emax=10**9, Emin=-(10**9))
LN2 = CONTEXT.ln(Decimal(2))
INF, NAN = float("inf"), float("nan")


def true_exp2(x: Decimal) -> Decimal:
    return CONTEXT.exp(CONTEXT.multiply(x, LN2))


def true_tanh(x: Decimal) -> Decimal:
    if abs(x) < Decimal("1e-12"):
        return x
    e = CONTEXT.exp(CONTEXT.multiply(2, x))
    return CONTEXT.divide(CONTEXT.subtract(e, 1), CONTEXT.add(e, 1))


def true_rsqrt(x: Decimal) -> Decimal:
    return CONTEXT.divide(1, CONTEXT.sqrt(x))


def points(name: str) -> np.ndarray:
    generator = np.random.default_rng(7)
    tiny = generator.standard_normal(300) * 2.0 ** generator.integers(-140, 3, 300)
    spans = {
        "exp2": [np.linspace(-150, 128, 500, endpoint=False), np.linspace(-1, 1, 301), tiny],
        "tanh": [np.linspace(-11, 11, 500), np.linspace(-(2**-5), 2**-5, 301), tiny],
        "rsqrt": [2.0 ** generator.uniform(-149, 128, 800), np.linspace(0.2, 5, 301)],
    }
    values = np.concatenate(spans[name]).astype(np.float32)
    return values[np.isfinite(values) & ((values > 0) | (name != "rsqrt"))]


@pytest.mark.parametrize(
    ("name", "true"), [("exp2", true_exp2), ("tanh", true_tanh), ("rsqrt", true_rsqrt)]
)
def test_within_one_ulp(name: str, true: Callable[[Decimal], Decimal]) -> None:
    xs = points(name)
    ys = EXECUTES[name](a=xs)
    assert ys.dtype == np.float32
    assert np.isfinite(ys).all()
    worst = Decimal(0)
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        exact = true(Decimal(x))
        # Bits of the true value's magnitude, to a hair: at a power of two either ulp will do.
        exponent = int(np.floor(float(CONTEXT.divide(CONTEXT.ln(abs(exact)), LN2)))) if exact else 0
        ulp = CONTEXT.power(2, max(exponent, -126) - 23)
        worst = max(worst, abs(CONTEXT.divide(CONTEXT.subtract(Decimal(y), exact), ulp)))
    # One rounding of a value good to 2**-40 or so: barely above half an ulp.
    assert worst < Decimal("0.5001")


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        (
            "exp2",
            [
                (0.0, 1.0),
                (-0.0, 1.0),
                (INF, INF),
                (-INF, 0.0),
                (128.0, INF),
                (127.0, 2.0**127),
                (-126.0, 2.0**-126),
                (-149.0, 2.0**-149),
                (-150.0, 0.0),  # half of the least denormal: ties to even
                (-149.99, 2.0**-149),
                (-151.0, 0.0),
                (-3e38, 0.0),
                (3e38, INF),
            ],
        ),
        (
            "tanh",
            [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (1e-45, 1e-45), (3e38, 1.0)],
        ),
        (
            "rsqrt",
            [(0.0, INF), (-0.0, -INF), (INF, 0.0), (4.0, 0.5), (2.0**-148, 2.0**74)],
        ),
    ],
)
def test_special_values(name: str, cases: list[tuple[float, float]]) -> None:
    xs, wanted = np.array(cases, np.float32).T.copy()
    got = EXECUTES[name](a=xs)
    np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))


def test_integer_powers_of_two_are_exact() -> None:
    n = np.arange(-149, 128)
    got = EXECUTES["exp2"](a=n.astype(np.float32))
    np.testing.assert_array_equal(got, np.ldexp(np.float32(1), n))


@pytest.mark.parametrize("name", ["exp2", "tanh", "rsqrt"])
def test_nan_is_canonical(name: str) -> None:
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    got = EXECUTES[name](a=bits.view(np.float32))
    assert (got.view(np.uint32) == 0x7FC00000).all()


def test_negative_rsqrt_is_canonical_nan() -> None:
    got = EXECUTES["rsqrt"](a=np.array([-1.0, -INF, -1e-45], np.float32))
    assert (got.view(np.uint32) == 0x7FC00000).all()


def test_coefficients_are_those_of_the_series() -> None:
    wanted = [float(CONTEXT.divide(CONTEXT.power(LN2, k), factorial(k))) for k in range(12)]
    assert list(transcendental.EXP2_COEFFICIENTS) == wanted
    assert float(CONTEXT.divide(2, LN2)) == transcendental.LOG2_E_TWICE
