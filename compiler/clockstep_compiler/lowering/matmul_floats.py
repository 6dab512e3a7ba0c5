"""Products of floats: in fp16, or where that is not exact in parts of fp16 or by the ALUs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Const, Expr, Leaf
from clockstep_compiler.lowering.factors import (
    Operand,
    count_once,
    lanes_matrix,
    lead_of,
    product_of,
    right_matrix,
    rows_of,
    sets_of,
    swapped,
    weights_of,
)
from clockstep_compiler.lowering.lower import Lowering
from clockstep_compiler.lowering.parts import (
    SHORT,
    WEIGHTS,
    beside,
    factors,
    on_alus,
    scaled,
    split,
    split_constant,
)
from clockstep_compiler.steps import Outer, Relayout, Term, Value, Weights
from clockstep_isa.table import Type

__all__ = ["constant_parts", "float_product"]

Array = NDArray[Any]


def float_product(state: Lowering, a: Operand, b: Operand) -> Expr:
    """Of fp16, or where that is not exact by `exact.py` or in parts."""
    lead = lead_of(a, b)
    index = rows_of(a.shape[:-2], lead, a.shape[-2])
    if state.options.precision != "exact" or state.dtype(a.name) == "float16":
        value = lanes_matrix(state, a.name, swapped(a.shape, a.swap), a.swap, Type.F16)
        return product_of(
            Type.F16, a, b, [Term(value, weights_of(state, b, Type.F16), index)], lead
        )
    if on_alus(state, state.graph.nodes[state.node]):
        return _exact_product(state, a, b)
    left = split(state, lanes_matrix(state, a.name, swapped(a.shape, a.swap), a.swap, Type.F32))
    weights, scale, units = _weight_parts(state, b)
    if isinstance(left.unit, Value):
        units.append(left.unit)
    else:
        scale = scale * left.unit
    terms = [Term(value, w, index) for value, w in factors(state, left, weights)]
    sums = product_of(Type.F16, a, b, terms, lead)
    return scaled(state, sums, (math.prod(lead) * a.shape[-2], b.shape[-1]), scale, units)


def _weight_parts(state: Lowering, b: Operand) -> tuple[list[Weights], Array, list[Value]]:
    """The right operand in parts, as factors of the left one's, and what sums are multiplied by.

    Side by side where K is short enough for that to save K tiles, else high and low.
    """
    sets, depth, columns = math.prod(b.shape[:-2]), b.shape[-2], b.shape[-1]
    key = "parts", b.name, b.swap, b.shape
    if key in state.memo:
        return (*state.memo[key], [])
    constant = state.constant(b.name)
    if constant is not None:
        stack = constant.reshape(swapped(b.shape, b.swap))
        stack = (stack if b.swap else np.swapaxes(stack, -1, -2)).reshape(sets, columns, depth)
        state.memo[key] = constant_parts(state, stack)
        return (*state.memo[key], [])
    both = right_matrix(state, b, Type.F32)
    if both.data is not None:  # of integers, dequantized
        state.memo[key] = constant_parts(state, both.data.reshape(sets, columns, depth))
        return (*state.memo[key], [])
    parts = split(state, both)
    values = [beside(state, parts, WEIGHTS)] if depth <= SHORT else [parts.high, parts.low]
    unit = [parts.unit] if isinstance(parts.unit, Value) else []
    scale = np.ones(1) if unit else np.full(1, parts.unit)
    return [Weights(sets, columns, v.columns, value=v) for v in values], scale, unit


def constant_parts(state: Lowering, stack: Array) -> tuple[list[Weights], Array]:
    """The parts of constant weights [sets, columns, depth], and the unit of each column."""
    sets, columns, depth = stack.shape
    high, low, units = split_constant(np.swapaxes(stack, 0, 1).reshape(columns, -1))
    arrays = [np.swapaxes(p.reshape(columns, sets, depth), 0, 1) for p in (high, low)]
    if depth <= SHORT:
        arrays = [np.concatenate([arrays[k] for k in WEIGHTS], axis=2)]
    state.weight_bytes += sum(array.nbytes for array in arrays)
    return [Weights(sets, columns, w.shape[2], data=w) for w in arrays], units


def _exact_product(state: Lowering, a: Operand, b: Operand) -> Expr:
    """A matrix of its own, summed in float32: error at most K * 2**-24 * sum |a| |b|."""
    lead, (rows, depth), columns = lead_of(a, b), a.shape[-2:], b.shape[-1]
    total = math.prod(lead) * rows
    if 0 in (total, depth, columns):
        return Const(np.zeros(()), Type.F32)
    left = lanes_matrix(state, a.name, swapped(a.shape, a.swap), a.swap, Type.F32)
    right = lanes_matrix(state, b.name, swapped(b.shape, b.swap), b.swap, Type.F32)
    if right.columns != columns:  # a vector lies in one row
        turned = state.new_value(b.name, depth, columns, Type.F32)
        state.steps.append(Relayout(turned, right, (state.node,)))
        right = turned
    count_once(state, right)
    out = state.new_value(f"{a.name} @ {b.name}", total, columns, Type.F32)
    index, sets = rows_of(a.shape[:-2], lead, rows), sets_of(b.shape[:-2], lead, rows)
    state.steps.append(Outer(out, left, right, index, sets, (state.node,)))
    return Leaf(out, None)
