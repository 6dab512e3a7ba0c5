"""Softmax and its like, along one axis or, for ReduceLogSumExp, over any."""

from __future__ import annotations

import math

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, binary, cast, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32
from clockstep_compiler.lowering.elementwise_exponential import logarithm
from clockstep_compiler.lowering.lower import Lowering, lowers
from clockstep_compiler.lowering.reduce import axes_of, refuse_types
from clockstep_compiler.lowering.reduce_rows import (
    along,
    hold,
    kept,
    over,
    reduced,
    reshaped,
    source,
)
from clockstep_compiler.lowering.softmax_lanes import coarse_softmax, reciprocal
from clockstep_isa.table import Type

__all__: list[str] = []

_LARGEST = float(np.finfo(np.float32).max)


def _power(a: Expr) -> Expr:
    """e**a as a power of two, with a relative error of |a| 2**-24 + 2**-23."""
    return unary("exp2", mul(a, 1 / math.log(2)))


@lowers("Softmax", "LogSoftmax")
def _softmax(state: Lowering, node: Node) -> None:
    """exp(x - max) / sum; a row of nothing but -inf gives NaN, as in onnxruntime."""
    name, out = node.inputs[0], node.outputs[0]
    shape, dtype = state.shape(out), state.dtype(name)
    if 0 in shape:
        state.define(out, Const(np.zeros(()), Type.F32))
        return

    def widen(a: Expr) -> Expr:
        return state.widen(a, dtype)

    def rounded(a: Expr) -> Expr:
        """In exact precision every step has the type of the result, as in ONNX's own body."""
        half = dtype == "float16" and state.options.precision == "exact"
        return cast(cast(a, Type.F16), Type.F32) if half else a

    axis = int(node.attributes.get("axis", -1)) % max(1, len(shape))
    if node.op == "Softmax" and axis == len(shape) - 1:
        found = coarse_softmax(state, name, out)
        if found is not None:
            state.define(out, found)
            return
    x = along(state, source(state, name), axis)
    greatest = x.fold(state, x.value, "max", widen)
    shifted = binary("sub", widen(Leaf(x.value, None)), x.spread(greatest))
    if node.op == "LogSoftmax":
        below = x.hold(state, shifted)
        powers = x.hold(state, _power(Leaf(below, None)))
        total = x.fold(state, powers, "add", after=logarithm)
        x.define(state, out, binary("sub", Leaf(below, None), x.spread(total)))
    else:
        powers = x.hold(state, rounded(_power(shifted)))
        factor = x.fold(state, powers, "add", after=lambda total: reciprocal(rounded(total)))
        x.define(state, out, binary("mul", Leaf(powers, None), x.spread(factor)))


@lowers("ReduceLogSumExp")
def _log_sum_exp(state: Lowering, node: Node) -> None:
    """max + log(sum(exp(x - max))); an infinite max is replaced by the largest number."""
    name, out = node.inputs[0], node.outputs[0]
    dtype, shape = state.dtype(name), state.shape(name)
    refuse_types(node, dtype, ())
    axes = axes_of(state, node, len(shape))
    if 0 in shape:
        state.define(out, Const(np.asarray(-np.inf), Type.F32))
        return

    def widen(a: Expr) -> Expr:
        return state.widen(a, dtype)

    def bound(a: Expr) -> Expr:
        return f32("max", f32("min", a, _LARGEST), -_LARGEST)

    x, own = source(state, name), kept(shape, axes)
    greatest = hold(state, reduced(state, x, axes, "max", before=widen, after=bound), own)
    shifted = binary("sub", widen(over(state, x, shape)), over(state, greatest, shape))
    powers = hold(state, _power(shifted), shape)
    total = hold(state, reduced(state, powers, axes, "add", after=logarithm), own)
    result = hold(state, binary("add", over(state, total, own), over(state, greatest, own)), own)
    target = state.shape(out)
    state.define(out, over(state, reshaped(state, result, target), target))
