"""Expressions on bits: operations whose operands keep their bits, selection, signs.

A stream has no type, only a width: an f32 may be an operand of an i32 operation and the other way
round. `f32` and `i32` make an operation of that type whatever the operands are; nothing made here
is merged with constants around it, so that the roundings are those that stand in the code.
"""

from __future__ import annotations

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, Op, cast, unary
from clockstep_isa.table import Type

__all__ = [
    "SIGN",
    "cut",
    "f32",
    "i32",
    "invert",
    "one_where",
    "polynomial",
    "select",
    "select_half",
    "whole",
]

SIGN = -(2**31)
"""The sign bit of an f32."""

_COMPARISONS = ("eq", "lt", "le")
_COMMUTATIVE = ("add", "mul", "max", "min", "and", "or", "xor", "eq")


def f32(name: str, *args: Expr | float) -> Expr:
    """An operation on f32; numbers are constants. Comparisons give i32, 1 or 0."""
    out = Type.I32 if name in _COMPARISONS else Type.F32
    return Op(name, Type.F32, _ordered(name, [_f32_constant(arg) for arg in args]), out)


def i32(name: str, *args: Expr | int) -> Expr:
    """An operation on i32 or on bits; numbers are constants."""
    return Op(name, Type.I32, _ordered(name, [_i32_constant(arg) for arg in args]), Type.I32)


def _ordered(name: str, args: list[Expr]) -> tuple[Expr, ...]:
    """Operands with a constant last, where it may be an immediate, if the order has no meaning."""
    if name in _COMMUTATIVE and isinstance(args[0], Const):
        args.reverse()
    return tuple(args)


def _f32_constant(arg: Expr | float) -> Expr:
    return Const(np.asarray(float(arg)), Type.F32) if isinstance(arg, int | float) else arg


def _i32_constant(arg: Expr | int) -> Expr:
    """A number, or the bits of a constant of f32, as a constant of i32."""
    if isinstance(arg, int):
        return Const(np.asarray(arg, np.int64), Type.I32)
    if isinstance(arg, Const) and arg.out == Type.F32:
        with np.errstate(over="ignore"):
            return Const(arg.array.astype(np.float32).view(np.int32).astype(np.int64), Type.I32)
    return arg


def invert(truth: Expr) -> Expr:
    """1 for 0 and 0 for 1."""
    return i32("xor", truth, 1)


def select(truth: Expr, a: Expr, b: Expr) -> Expr:
    """The bits of `a` where `truth` is 1, of `b` where it is 0, in the type of `a`."""
    assert a.out == b.out, f"{a.out} or {b.out}"
    one, other = _i32_constant(a), _i32_constant(b)
    if isinstance(other, Const) and not np.any(other.array):
        return Op("and", Type.I32, (i32("neg", truth), one), a.out)
    if isinstance(one, Const) and isinstance(other, Const):
        difference: Expr = Const(one.array ^ other.array, Type.I32)
    elif isinstance(one, Const):
        difference = i32("xor", other, one)
    else:
        difference = i32("xor", one, other)
    mask = i32("neg", truth)
    return Op("xor", Type.I32, (i32("and", mask, difference), other), a.out)


def select_half(truth: Expr, a: Leaf, b: Leaf) -> Expr:
    """`select` of matrices of fp16, whose 16 bits are chosen as they are."""
    one = truth.args[0] if isinstance(truth, Op) and truth.name == "cast" else truth
    mask = unary("neg", cast(one, Type.I16, saturate=False))
    difference = Op("xor", Type.I16, (a, b), Type.I16)
    return Op("xor", Type.I16, (Op("and", Type.I16, (mask, difference), Type.I16), b), Type.F16)


def one_where(truth: Expr) -> Expr:
    """1.0 or 0.0 for 1 or 0."""
    return Op("mul", Type.I32, (truth, _i32_constant(0x3F800000)), Type.F32)


def cut(x: Expr) -> Expr:
    """The upper 12 bits of a significand: the product of two such is exact."""
    return Op("and", Type.I32, (x, _i32_constant(-(1 << 12))), Type.F32)


def whole(x: Expr, *, nearest: bool = False, wrap: bool = False) -> Expr:
    """An f32 as i32, truncated or rounded to nearest even; clamped, or the low 32 bits."""
    return Op("cast", Type.F32, (x,), Type.I32, (int(Type.I32), int(not nearest), int(wrap)))


def polynomial(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """c[0] + c[1] x + c[2] x**2 ... by Horner's rule."""
    *rest, result = coefficients
    value = f32("mul", x, result)
    for coefficient in reversed(rest[1:]):
        value = f32("mul", f32("add", value, coefficient), x)
    return f32("add", value, rest[0])
