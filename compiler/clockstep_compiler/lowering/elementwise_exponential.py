"""Exponentials, logarithms, powers and what follows from them, in f32.

Errors in units in the last place, measured by `tests/compiler/test_elementwise_functions.py`.
"""

from __future__ import annotations

import math

import numpy as np

from clockstep_compiler.expr import Const, Expr, cast
from clockstep_compiler.lowering.elementwise_bits import (
    SIGN,
    cut,
    f32,
    i32,
    invert,
    polynomial,
    select,
    whole,
)
from clockstep_compiler.lowering.elementwise_quotient import reciprocal_near_one
from clockstep_isa.table import Type

__all__ = [
    "error_function",
    "exponential",
    "exponential_minus_one",
    "log1p_unit",
    "logarithm",
    "positive_root",
    "power",
    "round_small",
    "scale_binary",
]

_LN2_HIGH = 355 / 512
"""ln 2 to 10 bits: times an integer below 2**14 it is exact."""
_LN2_LOW = math.log(2) - _LN2_HIGH
_MAGIC = 1.5 * 2.0**23
"""Adding and subtracting it rounds a number below 2**22 to an integer."""

_LOG = (0.6666666865348816, 0.4000047445297241, 0.285144567489624, 0.2420525997877121)
"""(log((1 + s) / (1 - s)) / s - 2) / s**2 in s**2, for s up to 0.1716."""
_LOG1P = (
    *(0.6666666865348816, 0.4000009298324585, 0.285641610622406),
    *(0.22423294186592102, 0.15806730091571808, 0.2682831883430481),
)
"""The same for s up to 1/3."""
_ERF = (
    *(1.1283791065216064, -0.3761262595653534, 0.11283600330352783, -0.026854444295167923),
    *(0.005189535208046436, -0.0008020841050893068, 7.889119297033176e-05),
)
"""erf(x) / x in x**2, for |x| up to 1."""
_ERFC = (
    *(1.6282790899276733, 0.9163970351219177, 0.1531551331281662, -0.03418403118848801),
    *(0.005208622198551893, -0.00045424417476169765, 1.5051795344334096e-05),
)
"""-log2(erfc(x)) / x for x from 0.9 to 4.05."""
_SQRT_HALF = int(np.float32(math.sqrt(0.5)).view(np.int32))
_ONE = 0x3F800000


def round_small(x: Expr) -> Expr:
    """The nearest integer, of halves the even one, to an f32 below 2**22 in magnitude."""
    return f32("sub", f32("add", x, _MAGIC), _MAGIC)


def scale_binary(x: Expr, k: Expr) -> Expr:
    """x 2**k for k integral, from -150 to 128, and x from 1/2 to 2."""
    near = f32("min", k, 127.0)
    rest = f32("exp2", f32("sub", k, near))
    return f32("mul", f32("mul", x, rest), f32("exp2", near))


def exponential(x: Expr, halvings: int = 0) -> Expr:
    """e**x / 2**halvings: within 2 units. 2**k e**f, f below ln 2 / 2, f exact but for a unit."""
    x = f32("max", f32("min", x, 90.0), -105.0)
    k = round_small(f32("mul", x, 1 / math.log(2)))
    f = f32("sub", f32("sub", x, f32("mul", k, _LN2_HIGH)), f32("mul", k, _LN2_LOW))
    power = f32("exp2", f32("mul", f, 1 / math.log(2)))
    return scale_binary(power, f32("sub", k, halvings) if halvings else k)


def exponential_minus_one(x: Expr) -> Expr:
    """e**x - 1 for x <= 0: 2 t / (1 - t), t = tanh(x / 2); within 4 units."""
    t = f32("tanh", f32("mul", x, 0.5))
    return f32("mul", f32("add", t, t), reciprocal_near_one(f32("add", f32("neg", t), 1.0)))


def _split(x: Expr) -> tuple[Expr, Expr]:
    """e as an f32 and m - 1 with x = 2**e m, m from sqrt(1/2) to sqrt(2), for x positive."""
    denormal = f32("lt", x, 2.0**-126)
    x = f32("mul", x, i32("add", i32("mul", denormal, 24 << 23), _ONE))
    bits = i32("add", x, _ONE - _SQRT_HALF)
    exponent = i32("sub", i32("and", bits, -(1 << 23)), i32("mul", denormal, 24 << 23))
    m = i32("add", i32("and", bits, 0x007FFFFF), _SQRT_HALF)
    e = f32("mul", cast(i32("add", exponent, -_ONE), Type.F32), 2.0**-23)
    return e, f32("sub", m, 1.0)


def _log1p_rest(f: Expr) -> Expr:
    """log(1 + f) - f for f from sqrt(1/2) - 1 to sqrt(2) - 1: with s = f / (2 + f) and
    h = f**2 / 2, log(1 + f) = 2 s + s**3 P(s**2) = f - (h - s (h + s**2 P(s**2)))."""
    s = f32("mul", f, reciprocal_near_one(f32("add", f, 2.0)))
    z = f32("mul", s, s)
    h = f32("mul", f32("mul", f, 0.5), f)
    tail = f32("mul", z, polynomial(z, _LOG))
    return f32("sub", f32("mul", s, f32("add", h, tail)), h)


def logarithm(x: Expr) -> Expr:
    """The natural logarithm: within 2 units; -infinity of 0, NaN below."""
    e, f = _split(x)
    low = f32("add", f32("mul", e, _LN2_LOW), _log1p_rest(f))
    result = f32("add", f32("add", low, f), f32("mul", e, _LN2_HIGH))
    # 0 where x is finite and positive; else infinite, or NaN.
    bound = f32(
        "sub", f32("mul", x, 2.0**-149), f32("mul", f32("rsqrt", f32("add", x, 0.0)), 2.0**-100)
    )
    return f32("add", result, f32("mul", bound, 2.0**-149))


def power(x: Expr, y: Expr) -> Expr:
    """x**y in f32: within 3 + |y| / 8 units.

    A negative x has a power if y is an integer, negative if y is odd; 1**y and x**0 are 1.
    """
    size = f32("abs", x)
    # With a NaN in x everything is; 0 and infinity are put in afterwards.
    finite = f32("add", _positive_power(size, y), f32("mul", x, 0.0))
    infinite = i32("or", f32("eq", size, 0.0), f32("eq", size, math.inf))
    edge = select(f32("lt", y, 0.0), f32("rsqrt", size), f32("mov", size))
    magnitude = select(infinite, edge, finite)
    integer = _is_integer(y)
    odd = i32("and", integer, invert(_is_integer(f32("mul", y, 0.5))))
    sign = i32("and", i32("mul", odd, SIGN), x)
    lost = i32("and", i32("and", f32("lt", x, 0.0), invert(infinite)), invert(integer))
    lost = i32("or", lost, invert(f32("eq", y, y)))
    # A NaN whatever its other bits are.
    signed = i32("or", i32("or", magnitude, sign), i32("mul", lost, 0x7FC00000))
    trivial = i32("or", f32("eq", y, 0.0), f32("eq", x, 1.0))
    return select(trivial, Const(np.ones(()), Type.F32), f32("mov", signed))


def positive_root(x: Expr, n: float) -> Expr:
    """The n-th root of an f32 that is not negative: within 16 units; 0, infinity and NaN stay."""
    root = _positive_power(x, Const(np.asarray(1 / n), Type.F32))
    usual = i32("and", f32("lt", x, math.inf), f32("lt", f32("neg", x), 0.0))
    return select(usual, f32("mov", root), f32("mov", x))


def _is_integer(y: Expr) -> Expr:
    """1 where an f32 is integral, as large ones and infinity are."""
    size = f32("min", f32("abs", y), 2.0**24)
    return f32("eq", cast(whole(size), Type.F32), size)


def _positive_power(x: Expr, y: Expr) -> Expr:
    """x**y for a finite x above 0, as 2**k 2**f.

    The logarithm is an integer e, a head of 12 bits and a small rest; products of 12 bits are
    exact, so that f has an error of some 2**-25 and that of the rest times y.
    """
    e, f = _split(x)
    rest, log2e, short = _log1p_rest(f), 1 / math.log(2), _cut(1 / math.log(2))
    head = cut(f32("mul", f32("add", rest, f), log2e))
    f_high = cut(f)
    left = f32("sub", f32("mul", f_high, short), head)
    left = f32("add", left, f32("mul", f32("sub", f, f_high), short))
    left = f32("add", left, f32("mul", f, log2e - short))
    left = f32("add", left, f32("mul", rest, log2e))

    y = f32("max", f32("min", y, 2.0**40), -(2.0**40))
    y_high = cut(y)
    logarithm_head = f32("add", e, head)
    total = f32("mul", y, f32("add", logarithm_head, left))
    k = round_small(f32("max", f32("min", total, 200.0), -200.0))
    f = f32("sub", f32("mul", y_high, e), k)
    f = f32("add", f, f32("mul", y_high, head))
    f = f32("add", f, f32("mul", f32("sub", y, y_high), logarithm_head))
    f = f32("add", f, f32("mul", y, left))
    f = f32("max", f32("min", f, 1.0), -1.0)
    return scale_binary(f32("exp2", f), f32("max", f32("min", k, 129.0), -151.0))


def _cut(x: float) -> float:
    return float((np.float32(x).view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32))


def log1p_unit(x: Expr) -> Expr:
    """log(1 + x) for x from 0 to 1: 2 s + s**3 P(s**2), s = x / (2 + x); within 5 units."""
    s = f32("mul", x, reciprocal_near_one(f32("add", x, 2.0)))
    z = f32("mul", s, s)
    return f32("add", f32("mul", f32("mul", s, z), polynomial(z, _LOG1P)), f32("add", s, s))


def error_function(x: Expr) -> Expr:
    """erf(x): within 3 units. A polynomial up to 1, above it 1 - 2**-p(|x|)."""
    size = f32("min", f32("abs", x), 4.05)
    z = f32("mul", x, x)
    near = f32("mul", f32("min", size, 1.0), polynomial(f32("min", z, 1.0), _ERF))
    power = f32("exp2", f32("mul", f32("neg", size), polynomial(size, _ERFC)))
    far = f32("add", f32("neg", power), 1.0)
    result = select(f32("lt", size, 1.0), near, far)
    return f32("mov", i32("or", result, i32("and", x, SIGN)))
