"""Softmax over the last axis of quantized elements, for results in fp16 or quantized.

Powers are stored in fp16, the greatest of a row as 2**15: each is rounded by 2**-12 at most down to
2**-29 of the greatest. They are summed along the lanes. Of integers whose powers have room in fp16
whatever they are, nothing needs to be known; else their greatest is found.
"""

from __future__ import annotations

import math

from clockstep_compiler.expr import Expr, Leaf, add, binary, cast, mul, unary
from clockstep_compiler.lowering.lane_sums import lane_sum, spread
from clockstep_compiler.lowering.lower import Lowering, matrix_shape
from clockstep_compiler.lowering.reduce_rows import fold_rows, hold, relaid, transposed
from clockstep_compiler.steps import Value
from clockstep_isa.table import Type

__all__ = ["coarse_softmax", "reciprocal"]

_TOP = 15.0
"""Powers of two begin below here."""

_RANGE = 29.0
"""From there on down they are normal numbers of fp16."""

_COLUMNS = 256
"""Columns up to which sums are made where they are used: those of about a vector."""


def reciprocal(a: Expr) -> Expr:
    """1 / a for a from 2**-126 on, as the square of rsqrt: within 2 ulp."""
    inverse = unary("rsqrt", a)
    return binary("mul", inverse, inverse)


def coarse_softmax(state: Lowering, name: str, out: str) -> Expr | None:
    """exp(x - max) / sum, within 2**-11 of itself or 2**-40 of 1; None where it must be better."""
    rows, columns = matrix_shape(state.shape(name))
    if columns == 1 or state.options.precision == "int8" or not state.is_coarse(out):
        return None
    quant = state.tensors[name].quant if name in state.tensors else None
    if quant is None or quant.scale.size > 1 or state.dtype(quant.source) not in ("int8", "uint8"):
        return None
    exponents = _exponents(state, state.store(quant.source), float(quant.scale.reshape(())))
    powers = hold(state, cast(unary("exp2", exponents), Type.F16), (rows, columns))
    parts = [(powers.value, 1.0)]
    if columns <= _COLUMNS:
        factor = reciprocal(lane_sum(state, parts, columns))
    else:
        factor = spread(state, reciprocal(lane_sum(state, parts)), rows)
    return binary("mul", cast(Leaf(powers.value, None), Type.F32), factor)


def _exponents(state: Lowering, value: Value, scale: float) -> Expr:
    """The binary logarithms of powers, those of all bytes in `_RANGE`, or the greatest of a row at
    `_TOP`."""
    x, unit = cast(Leaf(value, None), Type.F32), scale / math.log(2)
    if 255 * unit <= _RANGE:
        return add(mul(x, unit), _TOP - 127 * unit)
    return add(mul(binary("sub", x, cast(_greatest(state, value), Type.F32)), unit), _TOP)


def _greatest(state: Lowering, value: Value) -> Leaf:
    """The greatest element of every row, for all its columns."""
    turned = transposed(state, value)
    expr = fold_rows(state, turned, "max", (1, turned.rows, 1), lambda a: a)
    column = relaid(state, hold(state, expr, (1, value.rows)).value, value.rows, 1)
    shape = value.rows, value.columns
    return state.broadcast(column, (value.rows, 1), shape)
