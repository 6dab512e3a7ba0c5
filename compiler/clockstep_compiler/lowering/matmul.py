"""Matrix products: operands brought to the array's layout, zero points turned into corrections.

The array multiplies signed int8 or fp16 with the inner dimension along the lanes of both operands.
uint8 is stored as int8 less 128; what that and the zero points take away is given back by a
correction per column where the weights are constant, and by sums of columns and products with
constant matrices where they are not. All of it is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, add, binary, cast, mul
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import attribute, combine, has_product
from clockstep_compiler.lowering.fixed_point import fixed_point_product, fixed_point_weights
from clockstep_compiler.lowering.lower import FLOATS, Lowering, Quant, lowers, offset_of
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
from clockstep_compiler.lowering.quantized import constant_of, requantize
from clockstep_compiler.steps import (
    Compute,
    Outer,
    Product,
    Relayout,
    Term,
    Transpose,
    Value,
    Weights,
)
from clockstep_compiler.uniform import in_order
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["int8_parts", "transposed"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Operand:
    """One side of a product: a tensor, whether its last two axes are exchanged, its zero point.

    `shape` is the tensor's shape after that, with vectors made matrices.
    """

    name: str
    swap: bool
    shape: tuple[int, ...]
    zero: NDArray[np.int64]


def _swapped(shape: tuple[int, ...], swap: bool) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if swap else shape


def _sides(
    state: Lowering, a: str, b: str, swap_a: bool = False, swap_b: bool = False
) -> tuple[_Operand, _Operand, bool]:
    """Both operands as stacks of matrices, zero points 0, and whether they changed places.

    matrix @ vector is taken as vector @ matrix^T: so its result lies along the lanes.
    """
    left, right = state.shape(a), state.shape(b)
    if not left or not right:
        raise UnsupportedModel("unsupported-form", "an operand is a scalar")
    none = np.zeros((), np.int64)
    if len(right) == 1 and len(left) > 1:
        turned = _Operand(a, True, _swapped(left, True), none)
        return _Operand(b, False, (1, *right), none), turned, True
    left = (1, *left) if len(left) == 1 else left
    right = (*right, 1) if len(right) == 1 else right
    one = _Operand(a, swap_a, _swapped(left, swap_a), none)
    two = _Operand(b, swap_b, _swapped(right, swap_b), none)
    if one.shape[-1] != two.shape[-2]:
        raise UnsupportedModel("unsupported-form", f"{list(left)} times {list(right)}")
    return one, two, False


# -- operands in the layout of the array ------------------------------------------------------


def _lanes_matrix(
    state: Lowering, name: str, shape: tuple[int, ...], swap: bool, kind: Type
) -> Value:
    """A tensor with the rows of its matrices along the lanes, or with `swap` their columns.

    `shape` is the tensor's, vectors made matrices.
    """
    if not swap:
        return state.store(name, kind)
    rows, columns = math.prod(shape[:-2]) * shape[-1], shape[-2]
    value = state.store(name, kind)
    if value.origin == "input" and name in state.graph.inputs:
        axes = value.axes
        order = (*axes[:-2], axes[-1], axes[-2])
        return state.input_view(name, order, rows, columns, kind)
    if value.origin == "const":
        assert value.data is not None
        key = ("turned", value.number, shape)
        if key not in state.views:
            data = np.swapaxes(value.data.reshape(shape), -1, -2).reshape(rows, columns)
            state.views[key] = state.constant_value(name, in_order(data))
        return state.views[key]
    return transposed(state, value, math.prod(shape[:-2]))


def transposed(state: Lowering, value: Value, batch: int) -> Value:
    """Each of `batch` matrices transposed."""
    key = ("transposed", value.number, batch)
    if key not in state.views:
        rows = value.rows // batch
        out = state.new_value(value.name, batch * value.columns, rows, value.type)
        state.steps.append(Transpose(out, value, batch, (state.node,)))
        state.views[key] = out
    return state.views[key]


def _weights(state: Lowering, b: _Operand, kind: Type) -> Weights:
    """The right operand of `a @ b`: inner dimension along the lanes."""
    sets, depth, columns = math.prod(b.shape[:-2]), b.shape[-2], b.shape[-1]
    value = _turned(state, b, kind)
    if value.origin != "const":
        return Weights(sets, columns, depth, value=value)
    assert value.data is not None
    _count(state, value)
    return Weights(sets, columns, depth, data=value.data.reshape(sets, columns, depth))


def _turned(state: Lowering, b: _Operand, kind: Type) -> Value:
    """The right operand of `a @ b` as the array takes it: a row for each column."""
    # a vector is stored as one row, which is its layout as weights already
    swap = not b.swap and len(state.shape(b.name)) > 1
    return _lanes_matrix(state, b.name, _swapped(b.shape, b.swap), swap, kind)


def _count(state: Lowering, value: Value) -> None:
    """Add a constant to the bytes of weights, once, however many products read it."""
    key = "counted", value.number
    if value.data is not None and key not in state.memo:
        state.memo[key] = True
        state.weight_bytes += value.data.nbytes


def _rows(lead: tuple[int, ...], out: tuple[int, ...], rows: int) -> NDArray[np.int64] | None:
    """Row of a stacked operand for every row of the result; None if it is the same row."""
    if lead == out:
        return None
    batch = np.broadcast_to(np.arange(math.prod(lead)).reshape(lead), out).reshape(-1, 1)
    return (batch * rows + np.arange(rows)).ravel()


def _sets(lead: tuple[int, ...], out: tuple[int, ...], rows: int) -> NDArray[np.int64] | None:
    """Weight set of every row of the result; None if there is only one."""
    if math.prod(lead) == 1:
        return None
    batch = np.broadcast_to(np.arange(math.prod(lead)).reshape(lead), out).ravel()
    return np.repeat(batch, rows)


def _product(
    kind: Type, a: _Operand, b: _Operand, terms: list[Term], lead: tuple[int, ...]
) -> Expr:
    rows = a.shape[-2]
    if not terms or a.shape[-1] == 0:
        return Const(np.zeros(()), Type.I32 if kind == Type.I8 else Type.F32)
    sets = _sets(b.shape[:-2], lead, rows)
    return Acc(Product(kind, math.prod(lead) * rows, b.shape[-1], tuple(terms), sets))


def _lead(a: _Operand, b: _Operand) -> tuple[int, ...]:
    return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])


# -- fp16 ------------------------------------------------------------------------------------


def _float_product(state: Lowering, a: _Operand, b: _Operand) -> Expr:
    """Of fp16, or where that is not exact by `exact.py` or in parts."""
    lead = _lead(a, b)
    index = _rows(a.shape[:-2], lead, a.shape[-2])
    if state.options.precision != "exact" or state.dtype(a.name) == "float16":
        value = _lanes_matrix(state, a.name, _swapped(a.shape, a.swap), a.swap, Type.F16)
        return _product(Type.F16, a, b, [Term(value, _weights(state, b, Type.F16), index)], lead)
    if on_alus(state, state.graph.nodes[state.node]):
        return _exact_product(state, a, b)
    left = split(state, _lanes_matrix(state, a.name, _swapped(a.shape, a.swap), a.swap, Type.F32))
    weights, scale, units = _weight_parts(state, b)
    if isinstance(left.unit, Value):
        units.append(left.unit)
    else:
        scale = scale * left.unit
    terms = [Term(value, w, index) for value, w in factors(state, left, weights)]
    sums = _product(Type.F16, a, b, terms, lead)
    return scaled(state, sums, (math.prod(lead) * a.shape[-2], b.shape[-1]), scale, units)


def _weight_parts(state: Lowering, b: _Operand) -> tuple[list[Weights], Array, list[Value]]:
    """The right operand in parts, as factors of the left one's, and what sums are multiplied by.

    Side by side where K is short enough for that to save K tiles, else high and low.
    """
    sets, depth, columns = math.prod(b.shape[:-2]), b.shape[-2], b.shape[-1]
    key = "parts", b.name, b.swap, b.shape
    if key in state.memo:
        return (*state.memo[key], [])
    constant = state.constant(b.name)
    if constant is not None:
        stack = constant.reshape(_swapped(b.shape, b.swap))
        stack = (stack if b.swap else np.swapaxes(stack, -1, -2)).reshape(sets, columns, depth)
        state.memo[key] = _constant_parts(state, stack)
        return (*state.memo[key], [])
    both = _turned(state, b, Type.F32)
    if both.data is not None:  # of integers, dequantized
        state.memo[key] = _constant_parts(state, both.data.reshape(sets, columns, depth))
        return (*state.memo[key], [])
    parts = split(state, both)
    values = [beside(state, parts, WEIGHTS)] if depth <= SHORT else [parts.high, parts.low]
    unit = [parts.unit] if isinstance(parts.unit, Value) else []
    scale = np.ones(1) if unit else np.full(1, parts.unit)
    return [Weights(sets, columns, v.columns, value=v) for v in values], scale, unit


def _constant_parts(state: Lowering, stack: Array) -> tuple[list[Weights], Array]:
    """The parts of constant weights [sets, columns, depth], and the unit of each column."""
    sets, columns, depth = stack.shape
    high, low, units = split_constant(np.swapaxes(stack, 0, 1).reshape(columns, -1))
    arrays = [np.swapaxes(p.reshape(columns, sets, depth), 0, 1) for p in (high, low)]
    if depth <= SHORT:
        arrays = [np.concatenate([arrays[k] for k in WEIGHTS], axis=2)]
    state.weight_bytes += sum(array.nbytes for array in arrays)
    return [Weights(sets, columns, w.shape[2], data=w) for w in arrays], units


def _exact_product(state: Lowering, a: _Operand, b: _Operand) -> Expr:
    """A matrix of its own, summed in float32: error at most K * 2**-24 * sum |a| |b|."""
    lead, (rows, depth), columns = _lead(a, b), a.shape[-2:], b.shape[-1]
    total = math.prod(lead) * rows
    if 0 in (total, depth, columns):
        return Const(np.zeros(()), Type.F32)
    left = _lanes_matrix(state, a.name, _swapped(a.shape, a.swap), a.swap, Type.F32)
    right = _lanes_matrix(state, b.name, _swapped(b.shape, b.swap), b.swap, Type.F32)
    if right.columns != columns:  # a vector lies in one row
        turned = state.new_value(b.name, depth, columns, Type.F32)
        state.steps.append(Relayout(turned, right, (state.node,)))
        right = turned
    _count(state, right)
    out = state.new_value(f"{a.name} @ {b.name}", total, columns, Type.F32)
    index, sets = _rows(a.shape[:-2], lead, rows), _sets(b.shape[:-2], lead, rows)
    state.steps.append(Outer(out, left, right, index, sets, (state.node,)))
    return Leaf(out, None)


# -- int8 ------------------------------------------------------------------------------------


def int8_parts(array: NDArray[np.int64]) -> list[NDArray[np.int8]]:
    """Integers as a sum of int8 arrays, as few as it takes."""
    parts = []
    while np.any(array):
        part = np.clip(array, -128, 127)
        parts.append(part.astype(np.int8))
        array = array - part
    return parts


def _integer_product(state: Lowering, a: _Operand, b: _Operand) -> Expr:
    """sum of (a - zero_a) * (b - zero_b) over the inner dimension, exact in i32.

    `a.zero` is a scalar or [rows, 1]; `b.zero` a scalar or [1, columns].
    """
    if state.constant(b.name) is not None:
        return _constant_integer_product(state, a, b)
    return _dynamic_integer_product(state, a, b)


def _shift(state: Lowering, operand: _Operand) -> NDArray[np.int64]:
    """What must be added to a stored element to make it `element - zero`."""
    return -offset_of(state.dtype(operand.name)) - operand.zero


def _integer_weights(state: Lowering, b: _Operand) -> tuple[tuple[Weights, ...], NDArray[np.int64]]:
    """A constant less its zero points, in parts of int8, and the sum of every column.

    The products of one constant have the same arrays, so that its weights are stored once.
    """
    key = ("integers", b.name, b.shape, b.swap, b.zero.shape, b.zero.tobytes())
    if key not in state.memo:
        constant = state.constant(b.name)
        assert constant is not None
        matrix = constant.astype(np.int64).reshape(_swapped(b.shape, b.swap))
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


def _constant_integer_product(state: Lowering, a: _Operand, b: _Operand) -> Expr:
    lead, rows = _lead(a, b), a.shape[-2]
    value = _lanes_matrix(state, a.name, _swapped(a.shape, a.swap), a.swap, Type.I8)
    index = _rows(a.shape[:-2], lead, rows)
    weights, sums = _integer_weights(state, b)
    terms = [Term(value, w, index) for w in weights]
    product = _product(Type.I8, a, b, terms, lead)
    correction = _shift(state, a) * sums
    return add(product, correction) if np.any(correction) else product


def _dynamic_integer_product(state: Lowering, a: _Operand, b: _Operand) -> Expr:
    """(a + s)(b + t) = ab + sb + at + st: a + t by a product with a constant, sb by `_sums`."""
    lead, rows, depth, columns = _lead(a, b), a.shape[-2], a.shape[-1], b.shape[-1]
    value = _lanes_matrix(state, a.name, _swapped(a.shape, a.swap), a.swap, Type.I8)
    index = _rows(a.shape[:-2], lead, rows)
    weights = _weights(state, b, Type.I8)
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
    product = _product(Type.I8, a, b, terms, lead)
    if apart:
        sets = _sets(b.shape[:-2], lead, rows)
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


# -- the operators ---------------------------------------------------------------------------


def _quantized_pair(state: Lowering, a: _Operand, b: _Operand) -> tuple[Quant, Quant] | None:
    """Both operands' integers, if the product can be taken of them and scaled afterwards."""
    left, right = (state.tensors[o.name].quant if o.name in state.tensors else None for o in (a, b))
    if left is None or right is None:
        return None
    if any(state.dtype(q.source) not in ("int8", "uint8") for q in (left, right)):
        return None
    if left.scale.size != 1 or left.zero.size != 1:
        return None
    constant = state.constant(right.source) is not None
    columns = 2 if b.swap else 1
    for array in (right.scale, right.zero):
        if array.size == 1:
            continue
        if not constant or array.ndim < columns or array.shape[-columns] != array.size:
            return None
    return left, right


def _matmul(state: Lowering, a: str, b: str, swap_a: bool = False, swap_b: bool = False) -> Expr:
    """a @ b in f32, of the integers where both were dequantized, else in fp16."""
    left, right, _ = _sides(state, a, b, swap_a, swap_b)
    precision = state.options.precision
    pair = None if precision == "fp16" else _quantized_pair(state, left, right)
    if pair is None and precision == "int8":
        raise UnsupportedModel(
            "element-type",
            f"{a!r} times {b!r} is a product of floats",
            help="quantize both operands (QuantizeLinear and DequantizeLinear), or use auto",
        )
    if pair is None:
        narrow = fixed_point_weights(state, right.name, right.shape, right.swap)
        if narrow is None:
            return _float_product(state, left, right)
        lead = _lead(left, right)
        rows = _rows(left.shape[:-2], lead, left.shape[-2])
        value = _lanes_matrix(
            state, left.name, _swapped(left.shape, left.swap), left.swap, Type.F16
        )
        weights, scale = narrow
        count = math.prod(lead) * left.shape[-2]
        return mul(fixed_point_product(state, value, weights, count, rows), scale)
    qa, qb = pair
    product = _integer_product(
        state,
        replace(left, name=qa.source, zero=qa.zero.reshape(())),
        replace(right, name=qb.source, zero=_column(qb.zero).astype(np.int64)),
    )
    scale = qa.scale.reshape(()) * _column(qb.scale).astype(np.float64)
    return mul(cast(product, Type.F32), scale)


def _column(array: Array) -> Array:
    """A scale or zero point of the right operand: a scalar, or [1, columns]."""
    return array.reshape(()) if array.size == 1 else array.reshape(1, -1)


def _reject_integers(state: Lowering, node: Node) -> None:
    for name in node.inputs[:2]:
        if state.dtype(name) not in FLOATS:
            raise UnsupportedModel(
                "element-type",
                f"{node.op} of {state.dtype(name)} is not supported",
                help="MatMulInteger multiplies int8",
            )


@lowers("MatMul")
def _lower_matmul(state: Lowering, node: Node) -> None:
    _reject_integers(state, node)
    a, b = node.inputs
    turned = bool(node.attributes.get("transB", 0))
    state.define(node.outputs[0], _matmul(state, a, b, swap_b=turned))


@lowers("Gemm")
def _lower_gemm(state: Lowering, node: Node) -> None:
    """alpha A' B' + beta C."""
    _reject_integers(state, node)
    a, b = node.inputs[:2]
    swap_a, swap_b = (bool(node.attributes.get(k, 0)) for k in ("transA", "transB"))
    result = mul(_matmul(state, a, b, swap_a, swap_b), attribute(node, "alpha", 1.0))
    c = node.inputs[2] if len(node.inputs) > 2 else ""
    beta = attribute(node, "beta", 1.0)
    if c and beta != 0:
        if c in state.tensors and has_product(state.tensors[c].expr):
            state.store(c)
        term = state.operand(c, state.shape(node.outputs[0]))
        scaled = Const(term.array * beta, Type.F32) if isinstance(term, Const) else mul(term, beta)
        result = combine("add", result, scaled)
    state.define(node.outputs[0], result)


def _parameter(array: Array, count: int, row: bool) -> Array:
    """A scale or zero point of an operand, one for each of `count` rows or columns, or scalar."""
    if array.size == 1:
        return array.reshape(())
    if array.ndim > 2 or array.size != count:
        raise UnsupportedModel(
            "unsupported-form", f"a scale or zero point of shape {list(array.shape)} for {count}"
        )
    return array.reshape(-1, 1) if row else array.reshape(1, -1)


def _quantized_product(
    state: Lowering,
    node: Node,
    inputs: tuple[int, int],
    zeros: tuple[int, int],
    scales: tuple[int, int] | None,
) -> tuple[Expr, Array]:
    """The i32 product of two inputs less their zero points, and the product of their scales.

    `inputs`, `zeros` and `scales` are positions among the node's inputs, left then right.
    """
    for position in inputs:
        if state.dtype(node.inputs[position]) not in ("int8", "uint8"):
            kind = state.dtype(node.inputs[position])
            raise UnsupportedModel("element-type", f"operand of type {kind}")
    left, right, turned = _sides(state, node.inputs[inputs[0]], node.inputs[inputs[1]])
    sides = (left, right)
    if turned:
        zeros = zeros[::-1]
        scales = scales[::-1] if scales else None
    placed = [
        replace(
            side,
            zero=_parameter(
                constant_of(state, node, zero, "zero point"), side.shape[-2 + k], k == 0
            ).astype(np.int64),
        )
        for k, (side, zero) in enumerate(zip(sides, zeros, strict=True))
    ]
    product = _integer_product(state, placed[0], placed[1])
    if scales is None:
        return product, np.ones(())
    a, b = (
        _parameter(constant_of(state, node, s, "scale"), side.shape[-2 + k], k == 0).astype(float)
        for k, (side, s) in enumerate(zip(sides, scales, strict=True))
    )
    return product, a * b


@lowers("MatMulInteger")
def _lower_integer(state: Lowering, node: Node) -> None:
    product, _ = _quantized_product(state, node, (0, 1), (2, 3), None)
    state.define(node.outputs[0], product)


@lowers("QLinearMatMul")
def _lower_qlinear(state: Lowering, node: Node) -> None:
    """Inputs a, scale, zero, b, scale, zero, then the result's scale and zero."""
    product, scale = _quantized_product(state, node, (0, 3), (2, 5), (1, 4))
    real = mul(cast(product, Type.F32), scale)
    out = node.outputs[0]
    result_scale = constant_of(state, node, 6, "scale").astype(np.float64)
    result_zero = constant_of(state, node, 7, "zero point").astype(np.int64)
    if result_scale.size != 1 or result_zero.size != 1:
        raise UnsupportedModel("unsupported-form", "a result scale or zero point for each row")
    expr = requantize(real, result_scale.reshape(()), result_zero.reshape(()), state.dtype(out))
    state.define(out, expr, narrow=True)
