"""Quotients, reciprocals and square roots in f32, from rsqrt.

Errors in units in the last place, measured by `tests/compiler/test_elementwise_functions.py`.
"""

from __future__ import annotations

import numpy as np

from clockstep_compiler.expr import Const, Expr, cast
from clockstep_compiler.lowering.elementwise_bits import SIGN, f32, i32, whole
from clockstep_isa.table import Type

__all__ = ["divide", "reciprocal_near_one", "square_root"]

_LARGEST = float(np.finfo(np.float32).max)


def reciprocal_near_one(x: Expr) -> Expr:
    """1 / x for x from 2**-60 to 2**60: within 2 units."""
    root = f32("rsqrt", x)
    return f32("mul", root, root)


def divide(x: Expr, y: Expr) -> Expr:
    """x / y over the whole range of f32: within 1 unit, within 2 where the result is denormal."""
    if isinstance(y, Const) and _is_tame(y):
        return _divide_by_constant(x, y)
    sign = i32("and", i32("xor", x, y) if not isinstance(x, Const) else i32("xor", y, x), SIGN)
    quotient = _magnitude(f32("abs", x), f32("abs", y))
    return f32("mov", i32("xor", quotient, sign))


def _is_tame(y: Const) -> bool:
    """Whether 1 / y and what it lacks to be exact are normal numbers."""
    size = np.abs(y.array.astype(np.float64))
    return bool(np.all((size > 2.0**-100) & (size < 2.0**100)))


def _divide_by_constant(x: Expr, y: Const) -> Expr:
    """x (r + t), where r is 1 / y rounded toward zero and t the rest, which has the sign of r.

    So an infinite x stays infinite. Where nothing is left t is too small to matter, but not 0.
    """
    exact = 1 / y.array.astype(np.float32).astype(np.float64)
    near = exact.astype(np.float32)
    near = np.where(np.abs(near) > np.abs(exact), np.nextafter(near, np.float32(0)), near)
    high = near.astype(np.float64)
    powers = np.abs(np.frexp(exact)[0]) == 0.5
    if powers.all():
        return f32("mul", x, Const(exact, Type.F32))
    low = np.where(powers, high * 2.0**-60, exact - high)
    return f32("add", f32("mul", x, Const(high, Type.F32)), f32("mul", x, Const(low, Type.F32)))


def _magnitude(x: Expr, y: Expr) -> Expr:
    """x / y of operands without sign.

    With s = rsqrt(y), and h the power of two below s: y h h is in (1/4, 1], and r = (s / h)**2
    nearly its reciprocal. The exact error of r is (y h h) r - 1; as integers of 25 bits each the
    product is 2**48 and little more, so that its low 32 bits are that error. Then
    x / y = (x h h) (r + r error), with the powers of two where they neither overflow nor
    underflow before their time. y = 0 and infinity give h = infinity and 0, and error 0.
    """
    s = f32("rsqrt", y)
    h = f32("mov", i32("and", s, 0x7F800000))
    fraction = f32("mul", f32("mul", y, h), h)
    t = i32("or", i32("and", s, 0x007FFFFF), 0x3F800000)
    r = f32("mul", t, t)
    error = i32(
        "mul",
        whole(f32("mul", fraction, 2.0**25), nearest=True),
        whole(f32("mul", r, -(2.0**23)), nearest=True),
    )
    relative = f32("mul", cast(error, Type.F32), 2.0**-48)
    scaled = f32("mul", f32("mul", f32("max", h, 1.0), x), h)
    r = f32("mul", f32("min", f32("min", h, 1.0), s), r)  # NaN if y is
    rest = f32("mul", f32("mul", r, relative), f32("min", scaled, _LARGEST))
    return f32("add", f32("mul", scaled, r), rest)


def square_root(x: Expr) -> Expr:
    """The square root of an f32: within 1.5 units, exact for squares; NaN below 0.

    One step of Newton's method from x rsqrt(x); the bounds keep 0 and infinity apart.
    """
    s = f32("max", f32("min", f32("rsqrt", x), 2.0**75), 2.0**-65)
    finite = f32("min", x, _LARGEST)
    first = f32("mul", finite, s)
    rest = f32("sub", finite, f32("mul", first, first))
    return f32("add", f32("mul", x, s), f32("mul", rest, f32("mul", s, 0.5)))
