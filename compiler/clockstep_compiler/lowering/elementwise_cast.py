"""Conversions between element types."""

from __future__ import annotations

from clockstep_compiler.expr import Expr, cast
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
        state.define(out, result)
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
