"""Products of bytes: exact, zero points turned into corrections.

uint8 is stored as int8 less 128; what that and the zero points take away is given back by a
correction per column where the weights are constant, and by sums of columns and products with
constant matrices where they are not.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, add, binary
from clockstep_compiler.lowering.factors import (
    Operand,
    lanes_matrix,
    lead_of,
    product_of,
    rows_of,
    sets_of,
    swapped,
    weights_of,
)
from clockstep_compiler.lowering.lower import Lowering, offset_of
from clockstep_compiler.steps import Compute, Product, Term, Value, Weights
from clockstep_isa.table import Type

__all__ = ["int8_parts", "integer_product"]


def int8_parts(array: NDArray[np.int64]) -> list[NDArray[np.int8]]:
    """Integers as a sum of int8 arrays, as few as it takes."""
    parts = []
    while np.any(array):
        part = np.clip(array, -128, 127)
        parts.append(part.astype(np.int8))
        array = array - part
    return parts


def integer_product(state: Lowering, a: Operand, b: Operand) -> Expr:
    """sum of (a - zero_a) * (b - zero_b) over the inner dimension, exact in i32.

    `a.zero` is a scalar or [rows, 1]; `b.zero` a scalar or [1, columns].
    """
    if state.constant(b.name) is not None:
        return _constant_integer_product(state, a, b)
    return _dynamic_integer_product(state, a, b)


def _shift(state: Lowering, operand: Operand) -> NDArray[np.int64]:
    """What must be added to a stored element to make it `element - zero`."""
    return -offset_of(state.dtype(operand.name)) - operand.zero


def _integer_weights(state: Lowering, b: Operand) -> tuple[tuple[Weights, ...], NDArray[np.int64]]:
    """A constant less its zero points, in parts of int8, and the sum of every column.

    The products of one constant have the same arrays, so that its weights are stored once.
    """
    key = ("integers", b.name, b.shape, b.swap, b.zero.shape, b.zero.tobytes())
    if key not in state.memo:
        constant = state.constant(b.name)
        assert constant is not None
        matrix = constant.astype(np.int64).reshape(swapped(b.shape, b.swap))
        if b.swap:
            matrix = np.swapaxes(matrix, -1, -2)
        effective = np.swapaxes(matrix - b.zero, -1, -2)
        effective = effective.reshape(math.prod(b.shape[:-2]), b.shape[-1], b.shape[-2])
        weights = tuple(Weights(*effective.shape, data=part) for part in int8_parts(effective))
        state.weight_bytes += sum(w.data.nbytes for w in weights if w.data is not None)
        sums = effective.sum(axis=2).reshape(*b.shape[:-2], 1, b.shape[-1])
        state.memo[key] = weights, sums
    found: tuple[tuple[Weights, ...], NDArray[np.int64]] = state.memo[key]
    return found


def _constant_integer_product(state: Lowering, a: Operand, b: Operand) -> Expr:
    lead, rows = lead_of(a, b), a.shape[-2]
    value = lanes_matrix(state, a.name, swapped(a.shape, a.swap), a.swap, Type.I8)
    index = rows_of(a.shape[:-2], lead, rows)
    weights, sums = _integer_weights(state, b)
    terms = [Term(value, w, index) for w in weights]
    product = product_of(Type.I8, a, b, terms, lead)
    correction = _shift(state, a) * sums
    return add(product, correction) if np.any(correction) else product


def _dynamic_integer_product(state: Lowering, a: Operand, b: Operand) -> Expr:
    """(a + s)(b + t) = ab + sb + at + st: a + t by a product with a constant, sb by `_sums`."""
    lead, rows, depth, columns = lead_of(a, b), a.shape[-2], a.shape[-1], b.shape[-1]
    value = lanes_matrix(state, a.name, swapped(a.shape, a.swap), a.swap, Type.I8)
    index = rows_of(a.shape[:-2], lead, rows)
    weights = weights_of(state, b, Type.I8)
    terms = [Term(value, weights, index)]
    s, t = _shift(state, a), _shift(state, b)
    every = math.prod(lead)
    apart = s.size == 1 and rows > 1 and bool(s.any())
    for part in [] if apart else int8_parts(np.broadcast_to(s, (rows, 1))):
        data = np.ascontiguousarray(np.broadcast_to(part, (rows, depth)))
        own = np.tile(np.arange(rows), every)
        terms.append(Term(state.constant_value("zero point", data), weights, own))
    for part in int8_parts(np.broadcast_to(t, (1, columns))):
        data = np.broadcast_to(part[:, :, None], (weights.sets, columns, depth))
        fill = Weights(weights.sets, columns, depth, data=np.ascontiguousarray(data))
        terms.append(Term(value, fill, index))
    product = product_of(Type.I8, a, b, terms, lead)
    if apart:
        sets = sets_of(b.shape[:-2], lead, rows)
        sets = np.zeros(every * rows, np.int64) if sets is None else sets
        product = binary("add", product, Leaf(_sums(state, weights, int(s.item())), sets))
    return add(product, s * t * depth)


def _sums(state: Lowering, weights: Weights, factor: int) -> Value:
    """The sums of all columns of each set of weights times a factor, a row for each set."""
    assert weights.value is not None
    key = "sums", weights.value.number, weights.sets, factor
    if key not in state.views:
        ones = state.constant_value("ones", np.ones((1, weights.depth), np.int8))
        index, sets = np.zeros(weights.sets, np.int64), np.arange(weights.sets)
        term = Term(ones, weights, index)
        product = Product(Type.I8, weights.sets, weights.columns, (term,), sets)
        name = f"{weights.value.name} sums"
        out = state.new_value(name, weights.sets, weights.columns, Type.I32)
        expr = binary("mul", Acc(product), Const(np.asarray(factor), Type.I32))
        state.steps.append(Compute(out, expr, (state.node,), (out.rows, out.columns)))
        state.views[key] = out
    return state.views[key]
