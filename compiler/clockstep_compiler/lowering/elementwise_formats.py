"""Rounding f32 to the values of narrower floats, in f32; to add a format, a row in `_FORMATS`.

The results are those of onnx's reference evaluator, to the bit: overflow and -0 as the table of
ONNX's Cast says, float8_e8m0 with its `round_mode`. Infinity becomes NaN in float8_e8m0, also where
it saturates, and a sign is dropped there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clockstep_compiler.expr import Const, Expr, Op, cast
from clockstep_compiler.lowering.elementwise_bits import SIGN, f32, i32, invert, select
from clockstep_isa.table import Type

__all__ = ["round_to"]

_INFINITY = 0x7F800000
_NAN = 0x7FC00000
_LARGEST = _INFINITY - 1
"""The bits of f32's infinity, of its canonical NaN, and of its largest number."""


@dataclass(frozen=True, slots=True)
class _Format:
    """`fraction` bits, the least exponent of a normal number, the largest value.

    `next` is the value that would follow the largest; what rounds to it has the bits `beyond`.
    """

    fraction: int
    exponent: int
    largest: float
    next: float
    beyond: int
    negative_zero: bool = True


_FORMATS = {
    "float4_e2m1fn": _Format(1, 0, 6.0, 8.0, 0),
    "float8_e4m3fn": _Format(3, -6, 448.0, 480.0, _NAN),
    "float8_e4m3fnuz": _Format(3, -7, 240.0, 256.0, _NAN, negative_zero=False),
    "float8_e5m2": _Format(2, -14, 57344.0, 65536.0, _INFINITY),
    "float8_e5m2fnuz": _Format(2, -15, 57344.0, 65536.0, _NAN, negative_zero=False),
}


def round_to(a: Expr, dtype: str, *, saturate: bool = True, mode: str = "up") -> Expr:
    """An f32 rounded to the values of a type of floats, to nearest even.

    `saturate` and `mode` are the attributes of Cast: what becomes of values too large for a float
    of 8 bits, and how float8_e8m0 is rounded: "up", "down" or "nearest".
    """
    if dtype in ("float32", "float64"):
        return a
    if dtype == "float16":
        return a if isinstance(a, Const) else cast(cast(a, Type.F16), Type.F32)
    if dtype == "bfloat16":
        return a if isinstance(a, Const) else _bfloat16(a)
    if dtype == "float8_e8m0fnu":
        return _power_of_two(a, saturate, mode)
    return _small(a, _FORMATS[dtype], saturate or dtype == "float4_e2m1fn")


def _bfloat16(a: Expr) -> Expr:
    """The upper half, one more if the lower is above a half, or is one and that is odd."""
    odd = i32("min", i32("and", a, 1 << 16), 1)
    lower = i32("add", i32("and", a, 0xFFFF), odd)
    up = i32("lt", i32("neg", lower), -0x8000)
    upper = i32("and", a, -(1 << 16))
    return Op("mov", Type.F32, (i32("add", upper, i32("mul", up, 1 << 16)),), Type.F32)


def _small(a: Expr, form: _Format, saturate: bool) -> Expr:
    """To add one and a half units of the 23rd bit above the last, and take it away, rounds."""
    reach = form.largest if saturate else form.next
    bounded = f32("max", f32("min", a, reach), -reach)
    exponent = i32("max", i32("and", bounded, _INFINITY), (127 + form.exponent) << 23)
    unit = i32("or", i32("add", exponent, (23 - form.fraction) << 23), 1 << 22)
    large = Op("mov", Type.F32, (unit,), Type.F32)
    result = f32("sub", f32("add", bounded, large), large)
    if form.negative_zero:
        result = f32("mov", i32("or", result, i32("and", a, SIGN)))
    if form.beyond == 0:  # a format without NaN
        return select(f32("eq", a, a), result, Const(np.asarray(-0.0), Type.F32))
    if saturate:
        return result
    beyond = f32("lt", f32("neg", f32("abs", result)), -form.largest)
    return f32("mov", i32("or", result, i32("and", i32("neg", beyond), form.beyond)))


def _power_of_two(a: Expr, saturate: bool, mode: str) -> Expr:
    """2**k for k from -127 to 127, of the magnitude; 0 becomes the least."""
    bits = i32("and", a, ~SIGN)
    special = invert(i32("le", bits, _LARGEST))
    result = i32("min", bits, _LARGEST)
    if mode == "up":
        result = i32("add", result, (1 << 23) - 1)
    elif mode == "nearest":  # ties up, but for the least
        tie = invert(i32("le", result, (1 << 23) - 1))
        result = i32("add", i32("add", result, (1 << 22) - 1), tie)
    result = i32("max", i32("and", result, _INFINITY), 1 << 22)
    if saturate:
        result = i32("min", result, 254 << 23)
    else:
        special = i32("or", special, i32("eq", result, _INFINITY))
    return f32("mov", i32("or", result, i32("and", i32("neg", special), _NAN)))
