"""Conversions between element types."""

from __future__ import annotations

from clockstep_compiler.expr import Const, Expr, Op, cast
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32, i32, invert, whole
from clockstep_compiler.lowering.elementwise_operands import (
    WORDS,
    bounds,
    in_range,
    record_bounds,
)
from clockstep_compiler.lowering.lower import FLOATS, STORED, Lowering, lowers
from clockstep_isa.table import Type

__all__ = ["round_to", "to_float"]


@lowers("Cast", "CastLike")
def _cast(state: Lowering, node: Node) -> None:
    """Floats to integers are truncated, and wrap or are clamped where ONNX says nothing.

    Integers keep their low bits; what may not fit the words of a 64-bit type is refused.
    """
    source, out = node.inputs[0], node.outputs[0]
    a = in_range(state, source, state.shape(out))
    origin, target = state.dtype(source), state.dtype(out)
    if target == "bool":
        state.define(out, _truth(a))
    elif target in FLOATS:
        state.define(out, round_to(to_float(a, origin), target))
    elif a.out == Type.F32:
        _to_integer(state, out, a, target)
    else:
        record_bounds(state, out, *bounds(state, source))
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


def round_to(a: Expr, dtype: str) -> Expr:
    """An f32 rounded to the values of a narrower type of floats."""
    if isinstance(a, Const) or dtype in ("float32", "float64"):
        return a
    if dtype == "float16":
        return cast(cast(a, Type.F16), Type.F32)
    # bfloat16: the upper half, one more if the lower is above a half, or is one and that is odd.
    odd = i32("min", i32("and", a, 1 << 16), 1)
    lower = i32("add", i32("and", a, 0xFFFF), odd)
    up = i32("lt", i32("neg", lower), -0x8000)
    upper = i32("and", a, -(1 << 16))
    return Op("mov", Type.F32, (i32("add", upper, i32("mul", up, 1 << 16)),), Type.F32)


def _to_integer(state: Lowering, out: str, a: Expr, target: str) -> None:
    if target in WORDS:
        state.warnings.append(
            f"{out!r} is {target} from floats: values beyond 32 bits are clamped to them"
        )
        result = whole(f32("max", a, 0.0) if target == "uint64" else a)
    else:
        result = whole(a, wrap=True) if target == "uint32" else whole(a)
    _define(state, out, result, target)


def _define(state: Lowering, out: str, a: Expr, target: str) -> None:
    if STORED[target] == Type.I32 and target != "uint16":
        state.define(out, a)
    else:
        state.define(out, state.narrow(a, target, state.stored_type(out)), narrow=True)
