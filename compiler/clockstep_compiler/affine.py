"""Sums of scaled integers: what quantized chains compute between one rounding and the next.

`(a - za) * sa + (b - zb) * sb + bias`, requantized, is sum of k_i * q_i + c for stored integers
q_i; so few operations do, whatever the graph spelled out. A constant of whole units, as biases and
zero points are, meets an i32 sum before that is converted: added after scaling, in f32, with the
zero point of the result, it would spare an operation, and put so many more elements a step off that
networks end further from the exact result than onnxruntime does. An odd zero point, which ties may
not meet before they are rounded, is added in f32 where a search shows that no sum ends elsewhere.
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
    joint = _joint(found, shift) if odd and kind == Type.I8 else None
    if joint is not None:
        (base, _), *_ = found.terms
        units = np.rint(found.constant / found.terms[0][1]).astype(np.int64)
        return cast(add(mul(cast(add(base, units), Type.F32), joint[0]), joint[1]), kind)
    if odd:  # ties go to even before the shift
        return cast(binary("add_sat", cast(total, Type.I32), Const(shift, Type.I32)), kind)
    whole = _whole(found)
    total = add(total, shift) if whole else _sum(found.terms, found.constant + shift)
    low = np.iinfo(np.int8 if kind == Type.I8 else np.int16).min
    if relu and np.any(shift != low):
        total = binary("max", total, Const(np.asarray(shift, np.float64), Type.F32))
    return cast(total, kind)


_NUDGES = sorted(np.ndindex(9, 17), key=lambda at: (abs(at[0] - 4) + abs(at[1] - 8), at))
"""Neighbours of a factor and of a term that are tried, the nearest first: units in the last place
from -4 to 4, and steps of the term from -8 to 8."""

_STEP = 2.0**-19
"""A step of the term: less than half a unit in the last place of sums from 32 on."""


def _joint(sums: _Affine, shift: Array) -> tuple[Array, Array] | None:
    """A factor k and a term c for which round(a k + c) in f32, clamped to bytes, is what the sum
    `a` in i32 becomes if it is scaled and rounded before the odd `shift`; None if there are none.

    Both are steps that only go up, so they are alike for every `a` if they are about each of the
    255 sums from which the result is one more.
    """
    if len(sums.terms) > 1 or not _whole(sums) or sums.terms[0][1].size > 1 or shift.size > 1:
        return None
    factor, zero = np.float32(sums.terms[0][1].item()), int(shift.item())
    if not 2.0**-15 < factor < 1 or abs(zero) > 128:  # elsewhere sums might not be exact in f32
        return None
    results = np.arange(-127, 128)
    first = np.floor((results - zero - 0.5) / float(factor))[:, None]
    a = (first + np.arange(-3, 5)).astype(np.float32)
    wanted = np.clip(np.rint(a * factor) + np.float32(zero), -128, 127)
    assert (wanted[:, 0] < results).all(), "a result comes earlier"
    assert (wanted[:, -1] >= results).all(), "a result comes later"
    for units, steps in _NUDGES:
        k = np.float32(float(factor) * (1 + (units - 4) * 2.0**-23))
        c = np.float32(zero + (steps - 8) * _STEP)
        if np.array_equal(np.clip(np.rint(a * k + c), -128, 127), wanted):
            return np.asarray(k, np.float64), np.asarray(c, np.float64)
    return None


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
