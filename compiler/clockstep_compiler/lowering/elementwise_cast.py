"""Conversions between element types."""

from __future__ import annotations

import math

from clockstep_compiler.expr import Expr, Op, cast
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32, i32, invert, whole
from clockstep_compiler.lowering.elementwise_formats import round_to
from clockstep_compiler.lowering.elementwise_operands import (
    WORDS,
    bounds,
    in_range,
    record_bounds,
)
from clockstep_compiler.lowering.lower import STORED, Lowering, is_float, lowers
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["to_float"]


@lowers("Cast", "CastLike")
def _cast(state: Lowering, node: Node) -> None:
    """Floats to integers are truncated, and wrap or are clamped where ONNX says nothing.

    Integers keep their low bits; what may not fit the words of a 64-bit type is refused.
    """
    source, out = node.inputs[0], node.outputs[0]
    origin, target = state.dtype(source), state.dtype(out)
    if (origin, target) == ("float64", "float16") and source in state.graph.inputs:
        state.define_value(out, state.store(source, Type.F16))  # the host rounds once
        return
    a = in_range(state, source, state.shape(out))
    if target == "bool":
        state.define(out, _truth(a))
    elif is_float(target):
        saturate = bool(node.attributes.get("saturate", 1))
        mode = str(node.attributes.get("round_mode", "up"))
        result = round_to(to_float(a, origin), target, saturate=saturate, mode=mode)
        if not is_float(origin):
            low, high = bounds(state, source)
            state.reach[out] = 1.01 * low, 1.01 * high  # rounded, perhaps
        state.define(out, result)
    elif a.out == Type.F32:
        _to_integer(state, source, out, a)
    else:
        record_bounds(state, out, *bounds(state, source), ring=True)
        _define(state, out, a, target)


def _truth(a: Expr) -> Expr:
    """1 where it is not 0; a NaN is not."""
    return invert(f32("eq", a, 0.0) if a.out == Type.F32 else i32("eq", a, 0))


def to_float(a: Expr, dtype: str) -> Expr:
    """An integer as f32; one without sign by halves, each of them exact."""
    if dtype != "uint32":
        return cast(a, Type.F32)
    upper = cast(i32("and", a, -(1 << 16)), Type.F32)
    upper = f32("add", upper, f32("mul", cast(i32("lt", a, 0), Type.F32), 2.0**32))
    return f32("add", upper, cast(i32("and", a, 0xFFFF), Type.F32))


def _to_integer(state: Lowering, source: str, out: str, a: Expr) -> None:
    target = state.dtype(out)
    if target in WORDS:
        _note_range(state, source, out)
        result = whole(f32("max", a, 0.0) if target == "uint64" else a)
    else:
        result = whole(a, wrap=True) if target == "uint32" else whole(a)
    _define(state, out, result, target)


def _note_range(state: Lowering, source: str, out: str) -> None:
    """Floats as integers of 64 bits must fit 32; else they are clamped, or `exact` refuses them."""
    low, high = state.reach.get(source, (-math.inf, math.inf))
    if -(2.0**31) <= low <= high < 2.0**31:
        least = 0 if state.dtype(out) == "uint64" else int(low)
        record_bounds(state, out, max(least, int(low)), max(least, int(high)))
    elif state.options.precision == "exact":
        raise UnsupportedModel(
            "integer-range",
            f"{out!r} is {state.dtype(out)} from floats, which could exceed the machine's 32 bits",
            help="cast to int32, or put a Clip to at most 2**30 in front",
        )
    else:
        state.warnings.append(
            f"{out!r} is {state.dtype(out)} from floats: values beyond 32 bits are clamped to them"
        )


def _define(state: Lowering, out: str, a: Expr, target: str) -> None:
    if STORED[target] == Type.I32 and target != "uint16":
        state.define(out, a)
    else:
        state.define(out, state.narrow(a, target, state.stored_type(out)), narrow=True)


@lowers("BitCast")
def _bits(state: Lowering, node: Node) -> None:
    """The bits as another type of the same width: of integers the low ones, of floats the words."""
    source, out = node.inputs[0], node.outputs[0]
    kinds = origin, target = state.dtype(source), state.dtype(out)
    shape = state.shape(out)
    if "float32" in kinds or "float16" in kinds:
        width = Type.F32 if "float32" in kinds else Type.F16
        if is_float(origin):
            bits = _reinterpreted(state.broadcast(state.store(source, width), shape, shape))
            _define(state, out, cast(bits, Type.I32), target)
        else:
            words = cast(state.operand(source, shape), _WORD[width], saturate=False)
            state.define(out, cast(Op("mov", width, (words,), width), Type.F32))
        return
    if any(is_float(kind) for kind in kinds) or target == "bool" != origin:
        raise UnsupportedModel("element-type", f"BitCast of {origin} to {target} is not supported")
    record_bounds(state, out, *bounds(state, source), ring=True)
    _define(state, out, in_range(state, source, shape), target)


_WORD = {Type.F16: Type.I16, Type.F32: Type.I32}
"""Integers as wide as floats."""


def _reinterpreted(a: Expr) -> Expr:
    word = _WORD[a.out]
    return Op("mov", word, (a,), word)
