"""Quotients, reciprocals and square roots in f32, from rsqrt.

Errors in units in the last place, measured by `tests/compiler/test_elementwise_functions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Const, Expr, cast, mul
from clockstep_compiler.lowering.elementwise_bits import SIGN, cut, f32, i32, whole
from clockstep_isa.table import Type

__all__ = ["Reciprocal", "divide", "reciprocal", "reciprocal_near_one", "scaled", "square_root"]

_LARGEST = float(np.finfo(np.float32).max)


def reciprocal_near_one(x: Expr) -> Expr:
    """1 / x for x from 2**-60 to 2**60: within 2 units."""
    root = f32("rsqrt", x)
    return f32("mul", root, root)


def divide(x: Expr, y: Expr) -> Expr:
    """x / y over the whole range of f32: within 0.51 units, so exact where the quotient is an f32.

    Quotients below 2**-100 lose some of the bits that are added up: within 2 units.
    """
    # The sign is the last to come: 0 and infinity have theirs whatever the parts add up to.
    bits = i32("xor", y, x) if isinstance(x, Const) else i32("xor", x, y)
    sign = i32("and", bits, SIGN)
    if isinstance(y, Const) and _is_tame(y):
        if (np.abs(np.frexp(y.array)[0]) == 0.5).all():
            return f32("mul", x, Const(1 / y.array.astype(np.float64), Type.F32))
        high, low = _constant_reciprocal(np.abs(y.array))
        quotient = _product(f32("abs", x), high, low)
    else:
        quotient = _magnitude(f32("abs", x), f32("abs", y))
    return f32("mov", i32("xor", quotient, sign))


def scaled(x: Expr, y: Const) -> Expr:
    """x / y within 1.5 units where 1 / y is a normal number; it merges with other scalings."""
    return mul(x, 1 / y.array.astype(np.float64)) if _is_tame(y) else divide(x, y)


def _is_tame(y: Const) -> bool:
    """Whether 1 / y and what it lacks to be exact are normal numbers."""
    size = np.abs(y.array.astype(np.float64))
    return bool(np.all((size > 2.0**-100) & (size < 2.0**100)))


def _constant_reciprocal(y: NDArray[Any]) -> tuple[Expr, Expr]:
    """1 / y as 12 bits and the rest."""
    exact = 1 / y.astype(np.float32).astype(np.float64)
    bits = exact.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFF000)
    high = bits.view(np.float32).astype(np.float64)
    return Const(high, Type.F32), Const(exact - high, Type.F32)


def _product(x: Expr, high: Expr, low: Expr) -> Expr:
    """x (high + low) rounded nearly once, x from 0 to infinity, high of 12 bits, low small.

    The upper half of x times high is exact; what is added to it is small, and finite.
    """
    upper = cut(x)
    finite = f32("min", x, _LARGEST)
    lower = f32("sub", finite, f32("min", upper, _LARGEST))
    rest = f32("add", f32("mul", lower, high), f32("mul", finite, low))
    return f32("add", f32("mul", upper, high), rest)


@dataclass(frozen=True, slots=True)
class Reciprocal:
    """1 / y as outer * inner * (high + low); `outer` has the sign, `inner` is a power of two."""

    outer: Expr
    inner: Expr
    high: Expr
    low: Expr

    def scaled(self, x: Expr) -> Expr:
        """x without the last factor of the quotient."""
        return f32("mul", f32("mul", self.outer, x), self.inner)

    def times(self, x: Expr) -> Expr:
        """x / y, as exact as `divide`, which has fewer operations if many x have one y.

        Quotients from 2**126 on may be too small or too large, but never below 2**126.
        """
        scaled = f32("max", f32("min", self.scaled(x), _LARGEST), -_LARGEST)
        upper = cut(scaled)
        lower = f32("sub", scaled, upper)
        rest = f32("add", f32("mul", lower, self.high), f32("mul", scaled, self.low))
        return f32("add", f32("mul", upper, self.high), rest)


def reciprocal(y: Expr) -> Reciprocal:
    """1 / y to be multiplied with, for any y."""
    found = _reciprocal(f32("abs", y))
    outer = f32("mov", i32("or", found.outer, i32("and", y, SIGN)))
    return Reciprocal(outer, found.inner, found.high, found.low)


def _magnitude(x: Expr, y: Expr) -> Expr:
    """x / y of operands without sign."""
    found = _reciprocal(y)
    return _product(found.scaled(x), found.high, found.low)


def _reciprocal(y: Expr) -> Reciprocal:
    """1 / y, y without sign.

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
    r = f32("mul", f32("min", f32("min", h, 1.0), s), r)  # NaN if y is
    high = cut(r)
    low = f32("add", f32("sub", r, high), f32("mul", r, relative))
    return Reciprocal(f32("max", h, 1.0), h, high, low)


def square_root(x: Expr) -> Expr:
    """The square root of an f32: within 1.5 units, exact for squares; NaN below 0.

    One step of Newton's method from x rsqrt(x); the bounds keep 0 and infinity apart.
    """
    s = f32("max", f32("min", f32("rsqrt", x), 2.0**75), 2.0**-65)
    finite = f32("min", x, _LARGEST)
    first = f32("mul", finite, s)
    rest = f32("sub", finite, f32("mul", first, first))
    return f32("add", f32("mul", x, s), f32("mul", rest, f32("mul", s, 0.5)))
