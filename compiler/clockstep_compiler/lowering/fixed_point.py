"""Floats times weights of a byte: rows in 16-bit fixed point, as two rows of int8 each.

Weights then take the bytes and the rate of int8. A row is scaled by a power of two so that its
largest element comes to between 2**14 and 2**15, times `_SPARE`, and rounded; its high and its low
byte are rows of one product, which loads the weights once:

    sum a w  =  unit (256 sum high w + sum low w)        exact but for the rounding of a, and f32's

An element of a is off by at most 2**-14.9 of the largest of its row, or twice that where its low
byte would be 128. A row with an infinite element gives NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, binary, cast, mul
from clockstep_compiler.lowering.elementwise_bits import f32, i32
from clockstep_compiler.lowering.lower import Lowering
from clockstep_compiler.lowering.reduce_rows import fold_tiles, hold, reduced
from clockstep_compiler.steps import Product, Term, Value, Weights
from clockstep_isa.table import Type

__all__ = ["fixed_point_product", "fixed_point_weights", "many_bytes"]

Ints = NDArray[np.int64]

_PART = 8
"""The part of a chip that weights of a byte fill from which on products are made so: to deliver
these as fp16 would take longer than to find the largest elements of rows."""

_FEW_ROWS = 16
"""Rows up to which loading the weights twice would take longer than storing sums twice."""

_EXPONENT, _FIELD = 0x7F800000, 1 << 23
"""The exponent field of an f32, and its lowest bit."""

_TOP, _BIAS = 15, 127

_LEAST = _TOP + 2
"""The least exponent field plus one that a unit follows: the unit is a normal number then."""

_SPARE = 0.995
"""Elements below 2**15 times this round to 127 times 256 and 127 at most."""

_ROUND = 1.5 * 2**23
"""Added and taken away again, it rounds what is below 2**22 to an integer."""


# -- weights ---------------------------------------------------------------------------------------


def fixed_point_weights(
    state: Lowering, name: str, shape: tuple[int, ...], swap: bool
) -> tuple[Weights, NDArray[np.float64]] | None:
    """A right operand [depth, columns], as int8 weights and the scale of each column.

    None if it is no dequantized constant of a byte an element with a scale a column, or if products
    are better made otherwise.
    """
    quant = state.tensors[name].quant if name in state.tensors else None
    if quant is None or len(shape) != 2 or state.options.precision != "auto":
        return None
    stored, columns = state.constant(quant.source), shape[1]
    if stored is None or stored.dtype not in (np.int8, np.uint8) or not many_bytes(state):
        return None
    axis = 0 if swap else 1
    if any(p.size > 1 and p.shape[axis] != p.size for p in (quant.scale, quant.zero)):
        return None
    key = "fixed point", name, swap
    if key not in state.memo:
        data = _less_zero(stored, quant.zero)
        turned = data if swap or data is None else data.T
        state.memo[key] = None if turned is None else Weights(1, columns, shape[0], turned[None])
        state.weight_bytes += 0 if data is None else data.nbytes
    weights: Weights | None = state.memo[key]
    scale = quant.scale.reshape(()) if quant.scale.size == 1 else quant.scale.reshape(1, -1)
    return None if weights is None else (weights, scale)


def _less_zero(stored: NDArray[Any], zero: Ints) -> NDArray[np.int8] | None:
    """Integers less their zero point, None if these are more than a byte holds."""
    if stored.dtype == np.int8 and not zero.any():
        return stored
    data = stored.astype(np.int16) - zero.astype(np.int16)
    if not data.size or data.min() < -128 or data.max() > 127:
        return None
    return data.astype(np.int8)


def many_bytes(state: Lowering) -> bool:
    """Whether the model has so many weights of a byte for products of floats."""
    key = ("fixed point",)
    if key not in state.memo:
        weights = {
            node.inputs[0]: state.constant(node.inputs[0])
            for node in state.graph.nodes
            if node.op == "DequantizeLinear"
        }
        total = sum(w.size for w in weights.values() if w is not None and w.ndim == 2)
        stacks = {n.inputs[1] for n in state.graph.nodes if n.op == "ChosenMatMul"}
        total += sum(math.prod(state.shape(name)) for name in sorted(stacks))
        state.memo[key] = _PART * total >= state.machine.sram_bytes
    found: bool = state.memo[key]
    return found


# -- products --------------------------------------------------------------------------------------


def fixed_point_product(
    state: Lowering, a: Value, weights: Weights, rows: int, index: Ints | None
) -> Expr:
    """`rows` rows of a matrix of floats times one set of constant int8 weights, in f32.

    Row r is row `index[r]` of the matrix; None: row r.
    """
    order = np.arange(rows) if index is None else index
    shape = (rows, weights.columns)
    if rows > _FEW_ROWS:
        high, low, unit = _apart(state, a)
        first = Acc(Product(Type.I8, *shape, (Term(high, weights, index),), None))
        large = Leaf(hold(state, mul(cast(first, Type.F32), 256.0), shape).value, None)
        small: Expr = Acc(Product(Type.I8, *shape, (Term(low, weights, index),), None))
        whole = binary("add", cast(small, Type.F32), large)
    else:
        both, unit = _together(state, a)
        term = Term(both, weights, np.concatenate([order, order + a.rows]))
        product = Product(Type.I8, 2 * rows, weights.columns, (term,), None)
        sums = hold(state, cast(Acc(product), Type.F32), (2 * rows, weights.columns)).value
        large, small = (Leaf(sums, np.arange(rows) + first) for first in (0, rows))
        whole = binary("add", mul(large, 256.0), small)
    return binary("mul", whole, _factor(state, unit, a, order))


def _factor(state: Lowering, column: Value, a: Value, order: Ints | None) -> Leaf:
    """One number a row of `a`, for every lane of some of its rows."""
    return Leaf(state.broadcast(column, (a.rows, 1), (a.rows, a.columns)).value, order)


def _together(state: Lowering, a: Value) -> tuple[Value, Value]:
    """The high bytes of all rows, then the low ones, int8 [2 rows, columns], and what sums of the
    low ones are multiplied with, f32 [rows, 1]."""
    inverse, unit = _scales(state, a)
    key = "fixed point", a.number, "both"
    if key not in state.views:
        rows = np.tile(np.arange(a.rows), 2)
        high = binary("mul", cast(Leaf(a, rows), Type.F32), _factor(state, inverse, a, rows))
        whole = f32("sub", f32("add", high, _ROUND), _ROUND)
        is_low = np.repeat([0.0, 1.0], a.rows)[:, None]
        rest = f32("sub", high, f32("mul", whole, Const(is_low, Type.F32)))
        byte = cast(f32("mul", rest, Const(1 + 255 * is_low, Type.F32)), Type.I8)
        state.views[key] = hold(state, byte, (2 * a.rows, a.columns)).value
    return state.views[key], unit


def _apart(state: Lowering, a: Value) -> tuple[Value, Value, Value]:
    """The high bytes and the low ones, int8 [rows, columns] each, and the same factor."""
    inverse, unit = _scales(state, a)
    keys = [("fixed point", a.number, part) for part in ("high", "low")]
    if keys[0] not in state.views:
        shape = (a.rows, a.columns)
        scaled = binary("mul", cast(Leaf(a, None), Type.F32), _factor(state, inverse, a, None))
        high = hold(state, cast(scaled, Type.I8), shape).value
        rest = f32("sub", scaled, cast(Leaf(high, None), Type.F32))
        low = hold(state, cast(f32("mul", rest, 256.0), Type.I8), shape).value
        state.views.update(zip(keys, (high, low), strict=True))
    one, two = (state.views[key] for key in keys)
    return one, two, unit


def _scales(state: Lowering, a: Value) -> tuple[Value, Value]:
    """What the elements of each row are multiplied with to be its high byte, and what its low byte
    is multiplied with to be the element, f32 [rows, 1] each."""
    keys = [("fixed point", a.number, part) for part in ("inverse", "unit")]
    if keys[0] in state.views:
        inverse, unit = (state.views[key] for key in keys)
        return inverse, unit
    column = (a.rows, 1)
    exponent = i32("add", cast(_greatest_exponent(state, a), Type.I32), _BIAS + 1)
    field = i32("mul", i32("max", i32("add", exponent, 1), _LEAST), _FIELD)
    down = i32("add", i32("neg", field), (2 * _BIAS + _TOP) * _FIELD - 2**32)
    up = i32("add", field, -_TOP * _FIELD)
    power = i32("mul", exponent, _FIELD)
    sane = f32("add", f32("mul", f32("mov", power), 0.0), 1.0)  # NaN for an infinite element
    scales = f32("mul", down, _SPARE / 256), f32("mul", f32("mul", up, sane), 1 / _SPARE)
    for key, scale in zip(keys, scales, strict=True):
        state.views[key] = hold(state, scale, column).value
    inverse, unit = (state.views[key] for key in keys)
    return inverse, unit


def _greatest_exponent(state: Lowering, a: Value) -> Expr:
    """The greatest exponent field of each row less 128, i8 [rows, 1]: bytes are quick to turn."""

    def exponent(e: Expr) -> Expr:
        return i32("and", cast(e, Type.F32), _EXPONENT)

    fields = fold_tiles(state, a, "max", exponent)
    number = f32("add", f32("mul", cast(Leaf(fields, None), Type.F32), 1 / _FIELD), -_BIAS - 1.0)
    shape = (fields.rows, fields.columns)
    bytes_ = hold(state, cast(number, Type.I8), shape)
    found = hold(state, reduced(state, bytes_, (1,), "max", shape=(a.rows, 1)), (a.rows, 1))
    return Leaf(found.value, None)
