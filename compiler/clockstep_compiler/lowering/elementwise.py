"""Elementwise operators as expressions of the VXM's own instructions, in f32 or i32."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial

import numpy as np

from clockstep_compiler.expr import Const, Expr, add, binary, mul, relu, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import SIGN
from clockstep_compiler.lowering.elementwise_operands import (
    WORDS,
    bounds,
    carry_bounds,
    has_product,
    in_range,
    ordered,
    record_bounds,
)
from clockstep_compiler.lowering.elementwise_quotient import divide
from clockstep_compiler.lowering.lower import FLOATS, Lowering, lowers
from clockstep_isa.table import Type

__all__ = ["attribute", "combine", "has_product"]

_ROWS = {
    "Add": "add",
    "Max": "max",
    "Mean": "add",
    "Min": "min",
    "Mul": "mul",
    "Sub": "sub",
    "Sum": "add",
}
_EXACT: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "max": max,
    "min": min,
    "mul": operator.mul,
    "sub": operator.sub,
}

Ends = tuple[float, float]


def attribute(node: Node, name: str, default: float) -> float:
    """A numeric attribute or its default."""
    return float(node.attributes.get(name, default))


def combine(name: str, a: Expr, b: Expr) -> Expr:
    """add, sub, mul, max or min of two expressions, constants kept last and merged."""
    if isinstance(a, Const) and not isinstance(b, Const):
        if name == "sub":
            return combine("add", unary("neg", b), a)
        a, b = b, a
    if isinstance(b, Const):
        if name == "add":
            return add(a, b.array)
        if name == "sub":
            return add(a, -b.array.astype(np.int64 if b.out == Type.I32 else np.float64))
        if name == "mul" and a.out == Type.F32:
            return mul(a, b.array)
    return binary(name, a, b)


def _word_bounds(state: Lowering, node: Node) -> tuple[int, int]:
    """The least and greatest result of arithmetic on integers of 64 bits."""
    name = _ROWS[node.op]
    low, high = bounds(state, node.inputs[0])
    for operand in node.inputs[1:]:
        least, most = bounds(state, operand)
        ends = [_EXACT[name](x, y) for x in (low, high) for y in (least, most)]
        low, high = min(ends), max(ends)
    return low, high


@lowers(*_ROWS)
def _arithmetic(state: Lowering, node: Node) -> None:
    out = node.outputs[0]
    shape, dtype, name = state.shape(out), state.dtype(out), _ROWS[node.op]
    ring = name in ("add", "sub", "mul")
    if dtype in WORDS:
        record_bounds(state, out, *_word_bounds(state, node), ring=ring)
    result: Expr | None = None
    for operand in node.inputs:
        tensor = state.tensors.get(operand)
        if result is not None and tensor and has_product(result) and has_product(tensor.expr):
            state.store(operand)  # a wave has one product
        expr = (state.operand if ring else partial(in_range, state))(operand, shape)
        expr = expr if ring else ordered(expr, dtype)
        result = expr if result is None else combine(name, result, expr)
    assert result is not None
    if node.op == "Mean":
        result = divide(result, Const(np.asarray(float(len(node.inputs))), Type.F32))
    state.define(out, result if ring else ordered(result, dtype))


@lowers("Neg", "Abs")
def _sign(state: Lowering, node: Node) -> None:
    source, out = node.inputs[0], node.outputs[0]
    if state.dtype(out) in WORDS:
        low, high = bounds(state, source)
        ends = (-high, -low) if node.op == "Neg" else (0, max(-low, high))
        record_bounds(state, out, *ends)
    read = state.operand if node.op == "Neg" else partial(in_range, state)
    a = read(source, state.shape(out))
    unsigned = node.op == "Abs" and state.dtype(out) == "uint32"
    state.define(out, a if unsigned else unary(node.op.lower(), a))


@lowers("Relu")
def _relu(state: Lowering, node: Node) -> None:
    source, out = node.inputs[0], node.outputs[0]
    if state.dtype(out) in WORDS:
        record_bounds(state, out, 0, max(0, bounds(state, source)[1]))
    state.define(out, relu(in_range(state, source, state.shape(out))))


@lowers("LeakyRelu")
def _leaky_relu(state: Lowering, node: Node) -> None:
    """max(x, alpha x) for alpha <= 1, min above; alpha = 0 is Relu, which keeps inf finite."""
    a = state.operand(node.inputs[0], state.shape(node.outputs[0]))
    alpha = attribute(node, "alpha", 0.01)
    if alpha == 0:
        result = relu(a)
    else:
        scaled = binary("mul", a, Const(np.asarray(alpha), Type.F32))
        result = binary("max" if alpha <= 1 else "min", a, scaled)
    state.define(node.outputs[0], result)


@lowers("Clip")
def _clip(state: Lowering, node: Node) -> None:
    """The operand, at least min, and then at most max."""
    out = node.outputs[0]
    shape, dtype = state.shape(out), state.dtype(out)
    ends: Ends = (-math.inf, math.inf)
    ends = bounds(state, node.inputs[0]) if dtype in WORDS else ends
    result = ordered(in_range(state, node.inputs[0], shape), dtype)
    for position, key, row in ((1, "min", "max"), (2, "max", "min")):
        name = node.inputs[position] if position < len(node.inputs) else ""
        bound = state.constant(name)
        if bound is None and key in node.attributes:
            bound = np.asarray(node.attributes[key])
        if bound is not None:
            limit = float(bound.reshape(()).item()) if dtype in FLOATS else int(bound.item())
            ends = _clipped(row, ends, (limit, limit))
            result = _bounded(row, result, limit + (SIGN if dtype == "uint32" else 0))
        elif name:
            if name in state.tensors and has_product(state.tensors[name].expr):
                state.store(name)
            free = (-math.inf, math.inf)
            ends = _clipped(row, ends, bounds(state, name) if dtype in WORDS else free)
            result = binary(row, result, ordered(in_range(state, name, shape), dtype))
    if dtype in WORDS:
        record_bounds(state, out, int(ends[0]), int(ends[1]))
    state.reach[out] = ends
    state.define(out, ordered(result, dtype))


def _clipped(row: str, ends: Ends, others: Ends) -> Ends:
    """The least and greatest of what is at least, or at most, other values."""
    pick = max if row == "max" else min
    return pick(ends[0], others[0]), pick(ends[1], others[1])


def _bounded(row: str, a: Expr, bound: float) -> Expr:
    if a.out == Type.I32:
        bound = min(max(bound, -(2**31)), 2**31 - 1)
        return binary(row, a, Const(np.asarray(int(bound)), Type.I32))
    return binary(row, a, Const(np.asarray(bound), Type.F32))


@lowers("Sigmoid")
def _sigmoid(state: Lowering, node: Node) -> None:
    """1 / (1 + 2**(-x log2 e)), the quotient as the square of rsqrt: accurate at both ends."""
    a = state.operand(node.inputs[0], state.shape(node.outputs[0]))
    power = unary("exp2", mul(a, -1 / math.log(2)))
    root = unary("rsqrt", add(power, 1.0))
    state.define(node.outputs[0], binary("mul", root, root))


@lowers("Tanh")
def _tanh(state: Lowering, node: Node) -> None:
    a = state.operand(node.inputs[0], state.shape(node.outputs[0]))
    state.define(node.outputs[0], unary("tanh", a))


@lowers("Identity")
def _identity(state: Lowering, node: Node) -> None:
    carry_bounds(state, node.outputs[0], node.inputs)
    state.define_value(node.outputs[0], state.store(node.inputs[0]))
