"""Comparisons, logic, bits, and selection by a condition."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, Op, cast
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import (
    f32,
    i32,
    invert,
    select,
    select_half,
    whole,
)
from clockstep_compiler.lowering.elementwise_operands import (
    bounds,
    define_integer,
    in_range,
    operands,
    ordered,
    record_bounds,
    reject,
)
from clockstep_compiler.lowering.in_place import put_in_place
from clockstep_compiler.lowering.lower import Lowering, is_float, lowers
from clockstep_isa.table import Type

__all__ = ["compare"]

_COMPARISONS = {
    "Equal": ("eq", False),
    "Less": ("lt", False),
    "LessOrEqual": ("le", False),
    "Greater": ("lt", True),
    "GreaterOrEqual": ("le", True),
}
"""The row, and whether the operands are exchanged."""
_BITWISE = {"BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor"}
_LOGICAL = {"And": "and", "Or": "or", "Xor": "xor"}
_MASK = {"uint8": 0xFF, "uint16": 0xFFFF}


def compare(name: str, a: Expr, b: Expr) -> Expr:
    """eq, lt or le of two f32 or two i32 as 1 or 0; a constant on the left is moved right."""
    row = f32 if a.out == Type.F32 else i32
    if not isinstance(a, Const) or isinstance(b, Const) or name == "eq":
        return row(name, a, b)
    if a.out == Type.I32:
        return invert(i32("le" if name == "lt" else "lt", b, a))
    return f32(name, f32("neg", b), Const(-a.array, Type.F32))


@lowers(*_COMPARISONS)
def _compared(state: Lowering, node: Node) -> None:
    a, b = operands(state, node.inputs, state.shape(node.outputs[0]))
    dtype = state.dtype(node.inputs[0])
    name, exchanged = _COMPARISONS[node.op]
    a, b = ordered(a, dtype), ordered(b, dtype)
    state.define(node.outputs[0], compare(name, b, a) if exchanged else compare(name, a, b))


@lowers(*_LOGICAL)
def _logical(state: Lowering, node: Node) -> None:
    a, b = operands(state, node.inputs, state.shape(node.outputs[0]))
    state.define(node.outputs[0], i32(_LOGICAL[node.op], a, b))


@lowers("Not")
def _not(state: Lowering, node: Node) -> None:
    a = in_range(state, node.inputs[0], state.shape(node.outputs[0]))
    state.define(node.outputs[0], invert(a))


@lowers(*_BITWISE)
def _bitwise(state: Lowering, node: Node) -> None:
    a, b = operands(state, node.inputs, state.shape(node.outputs[0]))
    state.define(node.outputs[0], i32(_BITWISE[node.op], a, b))


@lowers("BitwiseNot")
def _bitwise_not(state: Lowering, node: Node) -> None:
    dtype = state.dtype(node.inputs[0])
    low, high = bounds(state, node.inputs[0])
    record_bounds(state, node.outputs[0], ~high, ~low, ring=True)
    a = in_range(state, node.inputs[0], state.shape(node.outputs[0]))
    state.define(node.outputs[0], i32("xor", a, _MASK.get(dtype, -1)))


@lowers("BitShift")
def _shift(state: Lowering, node: Node) -> None:
    """To the left a product with 2**s; to the right the floor of one with 2**-s, by halves.

    As far as the word is wide, or by less than nothing, is all the way: 0 is left, or -1 of a
    negative number that goes to the right.
    """
    dtype, out = state.dtype(node.inputs[0]), node.outputs[0]
    left = node.attributes.get("direction") == "LEFT"
    value, places = operands(state, node.inputs, state.shape(out))
    low, high = bounds(state, node.inputs[0])
    most = min(max(bounds(state, node.inputs[1])[1], 0), 64) if left else 0
    record_bounds(state, out, min(low, low << most), max(high, high << most))
    all_the_way = Const(np.asarray(64, np.int64), Type.I32)
    # 32 bits without sign from 2**31 on look negative.
    steps = cast(select(i32("lt", places, 0), all_the_way, i32("min", places, 64)), Type.F32)
    if left:
        define_integer(state, out, i32("mul", value, whole(f32("exp2", steps), wrap=True)))
        return
    short = dtype in ("int8", "uint8", "int16", "uint16")
    if dtype.startswith("u"):
        state.define(out, _to_the_right(value, steps, short))
        return
    sign = i32("neg", i32("lt", value, 0))
    state.define(out, i32("xor", _to_the_right(i32("xor", value, sign), steps, short), sign))


def _to_the_right(value: Expr, steps: Expr, short: bool) -> Expr:
    """Integers without sign, `short` if they have 16 bits, divided by powers of two."""
    factor = f32("exp2", f32("neg", steps))
    upper, lower = _halves(value)
    result = whole(f32("mul", lower, factor), wrap=True)
    return result if short else i32("add", whole(f32("mul", upper, factor), wrap=True), result)


def _halves(value: Expr) -> tuple[Expr, Expr]:
    """The upper and the lower 16 bits of integers without sign, exact as f32."""
    negative = i32("lt", value, 0)
    upper = cast(i32("and", value, -(1 << 16)), Type.F32)
    missing = cast(negative, Type.F32)
    lower = cast(i32("and", value, 0xFFFF), Type.F32)
    return f32("add", upper, f32("mul", missing, 2.0**32)), lower


@lowers("Where")
def _where(state: Lowering, node: Node) -> None:
    out = node.outputs[0]
    if put_in_place(state, node):
        return
    if ("guard", node.inputs[0]) in state.memo:
        a, b = operands(state, node.inputs[:0:-1], state.shape(out))
        state.define(out, select(f32("eq", a, a), a, b))
        return
    condition, a, b = operands(state, node.inputs, state.shape(out))
    if isinstance(condition, Const) and condition.array.size == 1:
        state.define(out, a if condition.array.any() else b)
        return
    halves = _stored_half(a), _stored_half(b)
    if halves[0] and halves[1] and state.stored_type(out) == Type.F16:
        state.define(out, select_half(condition, halves[0], halves[1]), narrow=True)
        return
    if not is_float(state.dtype(out)):
        pairs = [bounds(state, name) for name in node.inputs[1:]]
        record_bounds(state, out, min(p[0] for p in pairs), max(p[1] for p in pairs))
    state.define(out, select(condition, a, b))


def _stored_half(a: Expr) -> Leaf | None:
    """The matrix behind an operand that is stored in fp16."""
    leaf = a.args[0] if isinstance(a, Op) and a.name == "cast" and a.out == Type.F32 else None
    return leaf if isinstance(leaf, Leaf) and leaf.out == Type.F16 else None


@lowers("IsNaN")
def _is_nan(state: Lowering, node: Node) -> None:
    reject(node, state)
    tensor = state.tensors.get(node.inputs[0])
    if tensor is not None and tensor.quant is not None and np.isfinite(tensor.quant.scale).all():
        state.define(node.outputs[0], Const(np.zeros((), np.int64), Type.I32))
        return
    if _is_guard(state, node):
        state.memo["guard", node.outputs[0]] = True
        state.uses[node.inputs[0]] = 1
        state.define(node.outputs[0], Const(np.zeros((), np.int64), Type.I32))
        return
    a = in_range(state, node.inputs[0], state.shape(node.outputs[0]))
    state.define(node.outputs[0], invert(f32("eq", a, a)))


def _is_guard(state: Lowering, node: Node) -> bool:
    """Whether all that reads the node or its operand is one choice: Where(IsNaN(x), c, x)."""
    name, out = node.inputs[0], node.outputs[0]
    if state.uses[name] != 2 or state.uses[out] != 1 or name not in state.tensors:
        return False
    wheres = (n for n in state.graph.nodes if n.op == "Where" and n.inputs[0] == out)
    found = next(wheres, None)
    return found is not None and found.inputs[2] == name != found.inputs[1]


@lowers("IsInf")
def _is_infinite(state: Lowering, node: Node) -> None:
    reject(node, state)
    a = in_range(state, node.inputs[0], state.shape(node.outputs[0]))
    positive, negative = (
        bool(node.attributes.get(f"detect_{sign}", 1)) for sign in ("positive", "negative")
    )
    if positive and negative:
        result = f32("eq", f32("abs", a), float("inf"))
    elif positive or negative:
        result = f32("eq", a, float("inf" if positive else "-inf"))
    else:
        result = i32("and", a, 0)
    state.define(node.outputs[0], result)
