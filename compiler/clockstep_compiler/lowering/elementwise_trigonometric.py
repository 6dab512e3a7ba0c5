"""Circular and hyperbolic functions and their inverses, in f32.

Errors in units in the last place, measured by `tests/compiler/test_elementwise_functions.py`.
"""

from __future__ import annotations

import math

import numpy as np

from clockstep_compiler.expr import Const, Expr
from clockstep_compiler.lowering.elementwise_bits import (
    SIGN,
    f32,
    i32,
    polynomial,
    select,
    whole,
)
from clockstep_compiler.lowering.elementwise_exponential import (
    exponential,
    logarithm,
    round_small,
)
from clockstep_compiler.lowering.elementwise_quotient import (
    divide,
    reciprocal_near_one,
    square_root,
)
from clockstep_isa.table import Type

__all__ = [
    "ANGLE_LIMIT",
    "arccosine",
    "arcsine",
    "arctangent",
    "cosine",
    "hyperbolic_arccosine",
    "hyperbolic_arcsine",
    "hyperbolic_arctangent",
    "hyperbolic_cosine",
    "hyperbolic_sine",
    "sine",
    "tangent",
]

ANGLE_LIMIT = 2.0**17
"""Sines, cosines and tangents of larger angles are NaN."""

_SIN = (1.0, -0.166666641831398, 0.008332748897373676, -0.0001958801003638655)
"""sin(r) / r in r**2, for |r| up to pi / 4."""
_COS = (1.0, -0.5, 0.0416666641831398, -0.0013888301327824593, 2.454779314575717e-05)
"""cos(r) in r**2, for |r| up to pi / 4."""
_ATAN = (
    *(1.0, -0.3333333134651184, 0.1999979019165039, -0.14279615879058838, 0.1104203313589096),
    *(-0.08689035475254059, 0.063182033598423, -0.036670103669166565, 0.013996380381286144),
    -0.002508551813662052,
)
"""atan(r) / r in r**2, for |r| up to 1."""
_ASIN = (
    *(1.0, 0.16666673123836517, 0.07498761266469955, 0.0450202152132988),
    *(0.026433369144797325, 0.03832828998565674),
)
"""asin(r) / r in r**2, for |r| up to 1 / 2."""


def _half_pi() -> tuple[float, ...]:
    """pi / 2 in parts: three of 7 bits, exact times integers of 17 bits, and the rest."""
    parts, rest = [], 1.5707963267948966
    for bit in (6, 13, 20):
        part = math.floor(rest * 2.0**bit) / 2.0**bit
        parts.append(part)
        rest -= part
    return (*parts, rest)


def _reduced(x: Expr) -> tuple[Expr, Expr]:
    """Quarter turns k as i32 and r, x = k pi / 2 + r, |r| up to pi / 4; NaN beyond the limit."""
    turns = round_small(f32("mul", x, 2 / math.pi))
    r = x
    for part in _half_pi():
        r = f32("sub", r, f32("mul", turns, part))
    far = f32("lt", f32("abs", x), ANGLE_LIMIT * (1 + 2.0**-20))
    nan = Const(np.full((), np.nan), Type.F32)
    return whole(turns), select(far, r, nan)


def _quadrant(x: Expr) -> tuple[Expr, Expr, Expr]:
    """Quarter turns of x, and sine and cosine of what is left."""
    k, r = _reduced(x)
    z = f32("mul", r, r)
    return k, f32("mul", r, polynomial(z, _SIN)), polynomial(z, _COS)


def _wave(x: Expr, ahead: int) -> Expr:
    k, sine_, cosine_ = _quadrant(x)
    if ahead:
        k = i32("add", k, ahead)
    value = select(i32("and", k, 1), cosine_, sine_)
    return f32("mov", i32("xor", value, i32("mul", i32("and", k, 2), 1 << 30)))


def sine(x: Expr) -> Expr:
    """sin(x), within 2**-23 up to `ANGLE_LIMIT`, and within 2 units up to pi / 4."""
    return _wave(x, 0)


def cosine(x: Expr) -> Expr:
    """cos(x), as `sine`."""
    return _wave(x, 1)


def tangent(x: Expr) -> Expr:
    """tan(x): sine by cosine, or minus cosine by sine in every other quarter."""
    k, sine_, cosine_ = _quadrant(x)
    odd = i32("and", k, 1)
    top, bottom = select(odd, cosine_, sine_), select(odd, sine_, cosine_)
    return f32("mov", i32("xor", divide(top, bottom), i32("mul", odd, SIGN)))


def arctangent(x: Expr) -> Expr:
    """atan(x): within 3 units. From 1 on, pi / 2 - atan(1 / |x|)."""
    size = f32("abs", x)
    r = f32("min", size, reciprocal_near_one(size))
    angle = f32("mul", r, polynomial(f32("mul", r, r), _ATAN))
    far = f32("add", f32("neg", angle), math.pi / 2)
    result = select(f32("le", size, 1.0), angle, far)
    return f32("mov", i32("or", result, i32("and", x, SIGN)))


def _arcsine_parts(x: Expr) -> tuple[Expr, Expr]:
    """Whether |x| is below 1/2, and then asin(|x|), else asin(sqrt((1 - |x|) / 2))."""
    size = f32("abs", x)
    near = f32("lt", size, 0.5)
    rest = f32("mul", f32("add", f32("neg", size), 1.0), 0.5)
    r = select(near, size, square_root(rest))
    return near, f32("mul", r, polynomial(f32("mul", r, r), _ASIN))


def arcsine(x: Expr) -> Expr:
    """asin(x): within 4 units; NaN outside of [-1, 1]."""
    near, angle = _arcsine_parts(x)
    far = f32("add", f32("mul", angle, -2.0), math.pi / 2)
    return f32("mov", i32("or", select(near, angle, far), i32("and", x, SIGN)))


def arccosine(x: Expr) -> Expr:
    """acos(x): within 4 units; NaN outside of [-1, 1]."""
    near, angle = _arcsine_parts(x)
    signed = i32("xor", angle, i32("and", x, SIGN))
    inner = f32("add", f32("mul", signed, -1.0), math.pi / 2)
    twice = f32("add", angle, angle)
    outer = select(f32("lt", x, 0.0), f32("add", f32("neg", twice), math.pi), twice)
    return select(near, inner, outer)


def hyperbolic_sine(x: Expr) -> Expr:
    """sinh(x): within 4 units. 2 t / (1 - t**2) with t = tanh(|x| / 2), and from 1 on
    e**|x| / 2 - 1 / (2 e**|x|)."""
    size = f32("abs", x)
    t = f32("tanh", f32("min", f32("mul", size, 0.5), 0.5))
    inverse = reciprocal_near_one(f32("add", f32("neg", f32("mul", t, t)), 1.0))
    near = f32("mul", f32("add", t, t), inverse)
    half = exponential(size, halvings=1)
    far = f32("sub", half, _quarter_inverse(half))
    result = select(f32("lt", size, 1.0), near, far)
    return f32("mov", i32("or", result, i32("and", x, SIGN)))


def hyperbolic_cosine(x: Expr) -> Expr:
    """cosh(x): within 2 units. e**|x| / 2 + 1 / (2 e**|x|)."""
    half = exponential(f32("abs", x), halvings=1)
    return f32("add", half, _quarter_inverse(half))


def _quarter_inverse(x: Expr) -> Expr:
    """1 / (4 x) for x from 1/2 to infinity."""
    root = f32("mul", f32("rsqrt", x), 0.5)
    return f32("mul", root, root)


def _log1p_or(near: Expr, x: Expr, far: Expr) -> Expr:
    """log(1 + x) for x >= 0 where `near`, elsewhere log(2 far).

    log u, u = 1 + x rounded, and (x - (u - 1)) / u for the rounding.
    """
    u = f32("add", x, 1.0)
    lost = f32("mul", f32("sub", x, f32("sub", u, 1.0)), reciprocal_near_one(u))
    log2 = Const(np.asarray(math.log(2)), Type.F32)
    return f32("add", logarithm(select(near, u, far)), select(near, lost, log2))


def hyperbolic_arcsine(x: Expr) -> Expr:
    """asinh(x): within 3 units. log1p(|x| + x**2 / (1 + sqrt(1 + x**2))), and far out log 2 |x|."""
    size = f32("abs", x)
    near = f32("lt", size, 2.0**14)
    a = f32("min", size, 2.0**14)
    square = f32("mul", a, a)
    root = f32("add", square_root(f32("add", square, 1.0)), 1.0)
    argument = f32("add", a, f32("mul", square, reciprocal_near_one(root)))
    return f32("mov", i32("or", _log1p_or(near, argument, size), i32("and", x, SIGN)))


def hyperbolic_arccosine(x: Expr) -> Expr:
    """acosh(x): within 4 units; NaN below 1. log1p(t + sqrt(t (t + 2))), t = x - 1."""
    t = f32("sub", f32("min", x, 2.0**14), 1.0)
    root = square_root(f32("mul", t, f32("add", t, 2.0)))
    below = f32("mul", f32("min", f32("rsqrt", f32("add", t, 0.0)), 1.0), 0.0)
    argument = f32("add", t, f32("add", root, below))
    return _log1p_or(f32("lt", x, 2.0**14), argument, f32("mov", x))


def hyperbolic_arctangent(x: Expr) -> Expr:
    """atanh(x): within 5 units; NaN outside of [-1, 1]. log1p(2 |x| / (1 - |x|)) / 2."""
    size = f32("abs", x)
    rest = f32("add", f32("neg", size), 1.0)
    inner = f32("max", rest, 2.0**-25)
    ratio = f32("mul", f32("add", size, size), reciprocal_near_one(inner))
    u = f32("add", ratio, 1.0)
    lost = f32("mul", f32("sub", ratio, f32("sub", u, 1.0)), reciprocal_near_one(u))
    value = f32("mul", f32("add", logarithm(u), lost), 0.5)
    # Infinite at 1, NaN beyond, else nothing.
    edge = f32("mul", f32("mul", f32("rsqrt", rest), 2.0**-100), 2.0**-149)
    return f32("mov", i32("xor", f32("add", value, edge), i32("and", x, SIGN)))
