"""Sums of scaled integers: what quantized chains compute between one rounding and the next.

`(a - za) * sa + (b - zb) * sb + bias`, requantized, is sum of k_i * q_i + c for stored integers
q_i; so few operations do, whatever the graph spelled out. A constant of whole units, as biases and
zero points are, meets an i32 sum before that is converted: added after scaling, in f32, with the
zero point of the result, it would spare an operation, and put so many more elements a step off that
networks end further from the exact result than onnxruntime does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Const, Expr, Op, add, binary, cast, mul
from clockstep_isa.table import Type

__all__ = ["quantized_sum"]

Array = NDArray[Any]

_NEAR = 2.0**-17
"""Steps of the result by which a constant may be off when a sum takes it."""

_MOST = 2.0**30
"""Constants beyond this might overflow together with the sum."""


class _Affine(NamedTuple):
    """Sum of terms (an expression times an array that broadcasts) plus a constant, in float64."""

    terms: tuple[tuple[Expr, Array], ...]
    constant: Array


def quantized_sum(quotient: Expr, shift: Array, kind: Type) -> Expr | None:
    """round(quotient + shift) as `kind`, clamped; None if the quotient is not of that form.

    `shift` has whole numbers. A maximum with zero is dropped where clamping does the same.
    """
    relu = isinstance(quotient, Op) and quotient.name == "max" and _is_zero(quotient.args[-1])
    inner = quotient.args[0] if relu and isinstance(quotient, Op) else quotient
    found = _affine(inner)
    if found is None or not found.terms:
        return None
    odd = bool(np.any(np.asarray(shift) % 2))
    if odd and relu:
        return None
    total = _sum(found.terms, found.constant)
    if odd:  # ties go to even before the shift
        return cast(binary("add_sat", cast(total, Type.I32), Const(shift, Type.I32)), kind)
    whole = _whole(found)
    total = add(total, shift) if whole else _sum(found.terms, found.constant + shift)
    low = np.iinfo(np.int8 if kind == Type.I8 else np.int16).min
    if relu and np.any(shift != low):
        total = binary("max", total, Const(np.asarray(shift, np.float64), Type.F32))
    return cast(total, kind)


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.out == Type.F32 and not np.any(e.array)


def _affine(e: Expr) -> _Affine | None:
    if isinstance(e, Const):
        return _Affine((), np.asarray(e.array, np.float64)) if e.out == Type.F32 else None
    if not isinstance(e, Op) or e.out != Type.F32:
        return None
    if e.name == "cast" and e.type in (Type.I8, Type.I16, Type.I32):
        base, constant = _integer(e.args[0])
        return _Affine(((base, np.ones(())),), constant.astype(np.float64))
    if e.name == "mul" and isinstance(e.args[-1], Const):
        inner, factor = _affine(e.args[0]), np.asarray(e.args[-1].array, np.float64)
        if inner is None:
            return None
        terms = tuple((base, k * factor) for base, k in inner.terms)
        return _Affine(terms, inner.constant * factor)
    if e.name == "add":
        parts = [_affine(arg) for arg in e.args]
        if parts[0] is None or parts[1] is None:
            return None
        return _Affine(parts[0].terms + parts[1].terms, parts[0].constant + parts[1].constant)
    return None


def _integer(e: Expr) -> tuple[Expr, Array]:
    """An integer expression as another and a constant."""
    if isinstance(e, Op) and e.name == "add" and isinstance(e.args[-1], Const):
        base, constant = _integer(e.args[0])
        return base, constant + np.asarray(e.args[-1].array, np.int64)
    if isinstance(e, Op) and e.name == "cast" and (e.type, e.out) == (Type.I8, Type.I32):
        return e.args[0], np.zeros((), np.int64)
    return e, np.zeros((), np.int64)


def _whole(sums: _Affine) -> bool:
    """Whether a sum in i32 can take the constant: in whole units of it, or all but."""
    base, k = sums.terms[0]
    if base.out != Type.I32 or np.any(k == 0):
        return False
    units = sums.constant / k
    rest = np.abs((units - np.rint(units)) * k)
    return bool(np.all(np.abs(units) < _MOST) and np.all(rest <= _NEAR))


def _sum(terms: tuple[tuple[Expr, Array], ...], constant: Array) -> Expr:
    """The terms and the constant in as few operations as there are ways to."""
    (base, k), *others = terms
    if _whole(_Affine(terms, constant)):
        base, constant = add(base, np.rint(constant / k).astype(np.int64)), np.zeros(())
    total = mul(cast(base, Type.F32), k)
    for other, factor in others:
        total = binary("add", total, mul(cast(other, Type.F32), factor))
    return add(total, constant)
