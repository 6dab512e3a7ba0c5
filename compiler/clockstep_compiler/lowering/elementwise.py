"""Elementwise operators as expressions of the VXM's own instructions, in f32 or i32."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from clockstep_compiler.expr import Acc, Const, Expr, Op, add, binary, cast, mul, relu, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.lower import FLOATS, STORED, Lowering, lowers
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["attribute", "combine", "has_product"]

_NARROW_ONLY = ("int64",)
_NARROW = ("int8", "uint8", "int16", "uint16")
_ROWS = {"Add": "add", "Sub": "sub", "Mul": "mul", "Max": "max", "Min": "min"}


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


def has_product(expr: Expr) -> bool:
    """Whether an expression holds a product; a wave can hold one."""
    if isinstance(expr, Op):
        return any(has_product(arg) for arg in expr.args)
    return isinstance(expr, Acc)


def _integers_must_fit(state: Lowering, node: Node) -> None:
    """Arithmetic on 64-bit integers could wrap where ONNX would not."""
    for name in node.inputs:
        if name and state.dtype(name) in _NARROW_ONLY:
            raise UnsupportedModel(
                "integer-range",
                f"arithmetic on {state.dtype(name)} could exceed the machine's 32 bits",
                help="cast the operands to int32",
            )


def _in_range(state: Lowering, name: str, shape: tuple[int, ...]) -> Expr:
    """An operand whose value matters, not only its low bits: a narrow integer wrapped around.

    Sums, differences, products and negations of narrow integers may be computed in 32 bits and
    wrapped at the end; nothing else may.
    """
    expr, dtype = state.operand(name, shape), state.dtype(name)
    tensor = state.tensors.get(name)
    if dtype not in _NARROW or tensor is None or tensor.narrow or not isinstance(expr, Op):
        return expr
    if expr.name not in ("add", "sub", "mul", "neg", "abs"):
        return expr
    return state.widen(state.narrow(expr, dtype, STORED[dtype]), dtype)


@lowers("Add", "Sub", "Mul", "Max", "Min")
def _arithmetic(state: Lowering, node: Node) -> None:
    _integers_must_fit(state, node)
    shape = state.shape(node.outputs[0])
    name = _ROWS[node.op]
    result: Expr | None = None
    for operand in node.inputs:
        tensor = state.tensors.get(operand)
        if result is not None and tensor and has_product(result) and has_product(tensor.expr):
            state.store(operand)  # a wave has one product
        ring = node.op in ("Add", "Sub", "Mul")
        expr = (state.operand if ring else partial(_in_range, state))(operand, shape)
        result = expr if result is None else combine(name, result, expr)
    assert result is not None
    state.define(node.outputs[0], result)


@lowers("Neg", "Abs")
def _sign(state: Lowering, node: Node) -> None:
    _integers_must_fit(state, node)
    read = state.operand if node.op == "Neg" else partial(_in_range, state)
    a = read(node.inputs[0], state.shape(node.outputs[0]))
    state.define(node.outputs[0], unary(node.op.lower(), a))


@lowers("Relu")
def _relu(state: Lowering, node: Node) -> None:
    state.define(
        node.outputs[0], relu(_in_range(state, node.inputs[0], state.shape(node.outputs[0])))
    )


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
    _integers_must_fit(state, node)
    result = _in_range(state, node.inputs[0], state.shape(node.outputs[0]))
    for position, key, row in ((1, "min", "max"), (2, "max", "min")):
        name = node.inputs[position] if position < len(node.inputs) else ""
        bound = state.constant(name)
        if name and bound is None:
            result = combine(row, result, state.operand(name, state.shape(node.outputs[0])))
            continue
        if bound is None and key in node.attributes:
            bound = np.asarray(node.attributes[key])
        if bound is not None:
            result = _bounded(row, result, float(bound.reshape(()).item()))
    state.define(node.outputs[0], result)


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
    state.define_value(node.outputs[0], state.store(node.inputs[0]))


@lowers("Cast")
def _cast(state: Lowering, node: Node) -> None:
    """Floats to integers round toward zero and clamp to 32 bits; integers keep their low bits."""
    a = _in_range(state, node.inputs[0], state.shape(node.outputs[0]))
    to = state.dtype(node.outputs[0])
    if to == "bool":
        equal = binary("eq", a, Const(np.zeros(()), a.out))
        truth = Op("xor", Type.I32, (equal, Const(np.ones((), np.int64), Type.I32)), Type.I32)
        state.define(node.outputs[0], truth)
    elif to in FLOATS:
        state.define(node.outputs[0], cast(a, Type.F32))
    else:
        integers = cast(a, Type.I32, nearest=False)
        stored = state.stored_type(node.outputs[0])
        state.define(node.outputs[0], state.narrow(integers, to, stored), narrow=True)
