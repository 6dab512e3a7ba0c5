"""Softmax and its like, along one axis or, for ReduceLogSumExp, over any."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, binary, cast, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32
from clockstep_compiler.lowering.elementwise_exponential import logarithm
from clockstep_compiler.lowering.lane_sums import halves, lane_sum, spread
from clockstep_compiler.lowering.lower import Lowering, lowers, matrix_shape
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
    found = coarse_softmax(state, name, out, axis) if node.op == "Softmax" else None
    if found is not None:
        state.define(out, found)
        return
    if node.op == "Softmax" and axis == len(shape) - 1:
        width = _width(*matrix_shape(shape))
        if width:
            _in_short_rows(state, name, out, width, rounded)
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


_SHORT = 256
"""Columns of a short row: those of about a vector."""

_FEW = 8
"""Short rows that may be for each column of a short row, for all rows of a softmax together."""


def _width(rows: int, columns: int) -> int:
    """Columns of rows that are cut short, so that few rows of many columns are reduced as rows; 0
    where there are more rows than that is worth."""
    least, most = _SHORT // 2, _SHORT
    width = next((n for n in range(most, least, -1) if columns % n == 0), 0)
    many = not width or rows * columns > _FEW * width * width
    return 0 if many or columns < 2 * _SHORT else width


def _in_short_rows(
    state: Lowering, name: str, out: str, width: int, rounded: Callable[[Expr], Expr]
) -> None:
    """Over the last axis, in rows of `width`: the greatest of these side by side, then of a row's
    lanes, which are far fewer; sums likewise."""
    rows, columns = matrix_shape(state.shape(name))
    shape = (rows, columns // width, width)

    def widen(a: Expr) -> Expr:
        return state.widen(a, state.dtype(name))

    x = reshaped(state, source(state, name), shape)
    greatest = hold(state, reduced(state, x, (1, 2), "max", before=widen), (rows, 1, 1))
    shifted = binary("sub", widen(Leaf(x.value, None)), over(state, greatest, shape))
    powers = hold(state, rounded(_power(shifted)), shape)
    sums = reduced(state, powers, (1,), "add", shape=(rows, width))
    parts = halves(
        state, Leaf(hold(state, sums, (rows, width)).value, None), (rows, width), coarse=False
    )
    factor = spread(state, reciprocal(rounded(lane_sum(state, parts))), rows)
    each = np.repeat(np.arange(rows), columns // width)
    result = binary("mul", Leaf(powers.value, None), Leaf(factor.value, each))
    kind = state.stored_type(out)
    narrow = hold(state, state.narrow(result, state.dtype(out), kind), shape)
    state.define_value(out, reshaped(state, narrow, state.shape(out)).value)


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
