"""Softmax and its like, along one axis or, for ReduceLogSumExp, over any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clockstep_compiler.expr import Const, Expr, binary, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32
from clockstep_compiler.lowering.elementwise_exponential import logarithm
from clockstep_compiler.lowering.lower import Lowering, lowers
from clockstep_compiler.lowering.reduce import (
    Stored,
    axes_of,
    hold,
    kept,
    over,
    reduced,
    refuse_types,
    reshaped,
    source,
)
from clockstep_isa.table import Type

__all__ = ["reciprocal"]

_LARGEST = float(np.finfo(np.float32).max)


def reciprocal(a: Expr) -> Expr:
    """1 / a for a from 2**-126 on, as the square of rsqrt: within 2 ulp."""
    inverse = unary("rsqrt", a)
    return binary("mul", inverse, inverse)


@dataclass(frozen=True, slots=True)
class _Exponentials:
    """The greatest over the axes, every element less that, and e to that power."""

    greatest: Stored
    shifted: Stored
    powers: Stored


def _exponentials(
    state: Lowering, name: str, axes: Sequence[int], finite: bool = False
) -> _Exponentials:
    """`finite`: an infinite greatest is replaced by the largest number.

    Powers have a relative error of |x - max| 2**-24 + 2**-23.
    """
    x, dtype = source(state, name), state.dtype(name)

    def widen(a: Expr) -> Expr:
        return state.widen(a, dtype)

    def bound(a: Expr) -> Expr:
        return f32("max", f32("min", a, _LARGEST), -_LARGEST) if finite else a

    found = reduced(state, x, axes, "max", before=widen, after=bound)
    greatest = hold(state, found, kept(x.shape, axes))
    element = widen(over(state, x, x.shape))
    shifted = hold(state, binary("sub", element, over(state, greatest, x.shape)), x.shape)
    powers = unary("exp2", mul(over(state, shifted, x.shape), 1 / math.log(2)))
    return _Exponentials(greatest, shifted, hold(state, powers, x.shape))


@lowers("Softmax", "LogSoftmax")
def _softmax(state: Lowering, node: Node) -> None:
    """exp(x - max) / sum; a row of nothing but -inf gives NaN, as in onnxruntime."""
    name, out = node.inputs[0], node.outputs[0]
    shape = state.shape(out)
    if 0 in shape:
        state.define(out, Const(np.zeros(()), Type.F32))
        return
    axes = (int(node.attributes.get("axis", -1)) % max(1, len(shape)),)
    parts = _exponentials(state, name, axes)
    log = node.op == "LogSoftmax"
    after = logarithm if log else reciprocal
    found = reduced(state, parts.powers, axes, "add", after=after)
    factor = over(state, hold(state, found, kept(shape, axes)), shape)
    if log:
        state.define(out, binary("sub", over(state, parts.shifted, shape), factor))
    else:
        state.define(out, binary("mul", over(state, parts.powers, shape), factor))


@lowers("ReduceLogSumExp")
def _log_sum_exp(state: Lowering, node: Node) -> None:
    """max + log(sum(exp(x - max))), max being finite."""
    name, out = node.inputs[0], node.outputs[0]
    refuse_types(node, state.dtype(name), ())
    shape = state.shape(name)
    axes = axes_of(state, node, len(shape))
    if 0 in shape:
        state.define(out, Const(np.asarray(-np.inf), Type.F32))
        return
    parts = _exponentials(state, name, axes, finite=True)
    own = kept(shape, axes)
    total = hold(state, reduced(state, parts.powers, axes, "add", after=logarithm), own)
    result = binary("add", over(state, total, own), over(state, parts.greatest, own))
    state.define(
        out,
        over(state, reshaped(state, hold(state, result, own), state.shape(out)), state.shape(out)),
    )
