"""Products of float32 on the array: every operand in two fp16 parts, side by side in the lanes.

A matrix is (high + low) * unit. The unit is a power of two that brings the largest finite element
to between 2**14 and 2**15, `high` is the nearest fp16 and `low` the nearest to what that leaves.
An element differs from its parts by 2**-23 of itself at most, or by 2**-39 of the largest. One
product of the lanes [high, low, high] by [high, high, low] sums all but low times low; with K
elements in t tiles the error is at most

    (2 t + 8) * 2**-24 * sum |a| |b|  +  K * 2**-38 * max |a| * max |b|

where the maxima are those of the left operand and of a constant's column, or of all of a computed
right one. The first is no more than the K * 2**-24 of a sum in float32, unless K is small. The
second has no counterpart there: elements below some 2**-16 of the largest lose bits. So products
of small models are summed on the ALUs (`exact.py`), with float32's own bound over all of its
range; `on_alus` is the one place that decides. An infinite operand makes the sums it is in NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Const, Expr, Leaf, binary, cast
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32, i32
from clockstep_compiler.lowering.lower import Lowering
from clockstep_compiler.lowering.reduce_rows import Stored, hold, reduced
from clockstep_compiler.steps import Move, Value, Weights
from clockstep_isa.table import Type

__all__ = [
    "IMAGE",
    "SHORT",
    "WEIGHTS",
    "Split",
    "beside",
    "factors",
    "on_alus",
    "scaled",
    "split",
    "split_constant",
]

Array = NDArray[Any]

IMAGE, WEIGHTS = (0, 1, 0), (0, 0, 1)
"""Which parts, 0 high and 1 low, lie side by side in the left and in the right operand."""

SHORT = 512
"""Inner elements up to which parts are put side by side, which saves K tiles and costs a move."""

_ALL = ("passes",)

_MODEL = 2048
"""Passes of the VXM up to which all products of a model are summed there."""

_PRODUCT = 32
"""Passes up to which a product is summed on the VXM in any model."""

_ROWS, _COLUMNS = 1024, 256
"""About what one pass takes at a time."""

_LANES = 16
"""A vector has at least as many: for the number of K tiles, each of which is rounded."""

_EXPONENT, _FIELD = 0x7F800000, 1 << 23
"""The exponent field of an f32, and its lowest bit."""

_TOP = 15
"""Largest elements are brought below 2**15."""

_LEAST = 127 + _TOP - 126
"""The least exponent field plus one that a unit follows: below, 1 / unit would be no f32."""

_BLOCK = 1 << 16
"""Elements of a constant that are split at a time: few enough for a cache."""

_STEP = 2.0**70
"""Sums of parts may be multiplied by this or its inverse without leaving f32's normal numbers."""


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """A matrix as (high + low) * unit. A computed `unit` is a matrix [1, 1]."""

    high: Value
    low: Value
    unit: Value | float


# -- the choice ------------------------------------------------------------------------------------


def on_alus(state: Lowering, node: Node, terms: int = 1) -> bool:
    """Whether a product of float32 is summed by the VXM, an element of K at a time.

    `terms` are those of a convolution that reach the array one by one. Warns of the others.
    """
    depth, passes = _work(state, node)
    if _ALL not in state.memo:
        state.memo[_ALL] = sum(_work(state, n)[1] for n in state.graph.nodes)
    tiles = terms * -(-len(IMAGE) * depth // (_LANES * max(1, terms)))
    deep = 2 * tiles + 8 <= depth
    if state.memo[_ALL] <= _MODEL or passes <= (_PRODUCT if deep else _MODEL):
        return True
    text = (
        "products of float32 are summed in fp16 parts, with an error of at most "
        f"{'K' if deep else '(2 K + 8)'} * 2**-24 * sum |a||b| + K * 2**-38 * max |a| * max |b|; "
        "infinite operands give NaN"
    )
    if text not in state.warnings:
        state.warnings.append(text)
    return False


def _work(state: Lowering, node: Node) -> tuple[int, int]:
    """Elements in a sum, and about how many passes of the VXM a node takes; 0 without products."""
    out = state.shape(node.outputs[0])
    if node.op in ("MatMul", "Gemm"):
        a, b = (state.shape(name) for name in node.inputs[:2])
        if not a or not b:
            return 0, 0
        depth = a[-2] if node.attributes.get("transA", 0) else a[-1]
        rows, columns = out[-2:] if len(out) > 1 else (1, math.prod(out))
        return depth, depth * math.prod(b[:-2]) * -(-rows // _ROWS) * -(-columns // _COLUMNS)
    if node.op not in ("Conv", "ConvTranspose"):
        return 0, 0
    weights = state.shape(node.inputs[1])
    kernel, groups = weights[2:], max(1, int(node.attributes.get("group", 1)))
    strides = node.attributes.get("strides") or (1,) * len(kernel)
    if node.op == "Conv":
        channels, taps = weights[1], math.prod(kernel)
        if channels == 1 and groups > 1 and state.constant(node.inputs[1]) is not None:
            return taps, 0  # elementwise
    else:
        channels = weights[0] // groups
        taps = math.prod(max(1, k // s) for k, s in zip(kernel, strides, strict=False))
    plain = math.prod(kernel) == math.prod(strides) == 1
    lines = -(-math.prod(out[:-1]) // _ROWS) if plain else math.prod(out[:-2])
    lines *= groups * -(-out[-1] // (groups * _COLUMNS))
    return taps * channels, taps * channels * lines


# -- splitting -------------------------------------------------------------------------------------


def split_constant(rows: Array) -> tuple[Array, Array, Array]:
    """Parts of a constant [rows, any], high and low, and the unit of each row, float64 [rows]."""
    high, low = np.empty(rows.shape, np.float16), np.empty(rows.shape, np.float16)
    units = np.ones(len(rows))
    block = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), block):
        some = slice(start, start + block)
        exact = rows[some].astype(np.float32)
        finite = np.isfinite(exact)
        largest = np.abs(exact).max(axis=1, initial=0.0, where=finite)
        shift = np.where(largest > 0, _TOP - np.frexp(largest)[1], 0)
        units[some] = np.ldexp(1.0, -shift)
        for half in (shift // 2, shift - shift // 2):  # f32 may not have the whole power
            exact *= np.ldexp(np.float32(1), half)[:, None]
        high[some] = exact
        np.subtract(exact, high[some], out=exact, where=finite)
        exact[~finite] = 0.0
        low[some] = exact
    return high, low, units


def split(state: Lowering, value: Value) -> Split:
    """The parts of a matrix of f32."""
    if value.data is not None:
        *both, units = split_constant(value.data.reshape(1, -1))
        shape = value.rows, value.columns
        one, two = (state.constant_value(value.name, part.reshape(shape)) for part in both)
        return Split(one, two, float(units.item()))
    keys = [("split", value.number, part) for part in ("high", "low", "unit")]
    if keys[0] not in state.views:
        scale, unit = _scale(state, value)
        shape = value.rows, value.columns
        whole = f32("mul", Leaf(value, None), state.broadcast(scale, (), shape))
        high = hold(state, cast(whole, Type.F16), shape).value
        rest = f32("sub", whole, cast(Leaf(high, None), Type.F32))
        low = hold(state, cast(rest, Type.F16), shape).value
        state.views.update(zip(keys, (high, low, unit), strict=True))
    return Split(*(state.views[key] for key in keys))


def _scale(state: Lowering, value: Value) -> tuple[Value, Value]:
    """1 / unit and the unit of a computed matrix, [1, 1] each, from its greatest exponent.

    One is added to exponents, so that those of infinities and NaNs become negative: the greatest
    is that of the finite elements.
    """

    def exponent(a: Expr) -> Expr:
        return i32("add", i32("and", a, _EXPONENT), _FIELD)

    value = _dense(state, value)
    stored = Stored(value, (value.rows, value.columns))
    greatest = reduced(state, stored, (0, 1), "max", before=exponent, shape=(1, 1))
    field = hold(state, i32("max", greatest, _LEAST * _FIELD), (1, 1)).value
    bits = Leaf(field, None)
    inverse = i32("add", i32("neg", bits), (254 + _TOP) * _FIELD - 2**32)
    unit = i32("add", bits, -_TOP * _FIELD)
    scales = [hold(state, f32("mov", word), (1, 1)).value for word in (inverse, unit)]
    return scales[0], scales[1]


def _dense(state: Lowering, value: Value) -> Value:
    """The same elements in no particular order: an input is loaded with its longest axis last."""
    if value.origin != "input":
        return value
    shape = state.graph.tensors[value.source].shape
    axes = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
    if not axes or shape[axes[-1]] <= value.columns:
        return value
    columns = shape[axes[-1]]
    rows = math.prod(shape) // columns
    return state.input_view(value.source, tuple(axes), rows, columns, value.type)


# -- side by side ----------------------------------------------------------------------------------


def beside(state: Lowering, parts: Split, order: tuple[int, ...], groups: int = 1) -> Value:
    """The parts in the lanes of one matrix, those of each group of columns together."""
    sources = parts.high, parts.low
    rows, columns = parts.high.rows, parts.high.columns
    key = ("beside", parts.high.number, order, groups)
    if key not in state.views:
        own = np.arange(rows * columns).reshape(rows, groups, 1, columns // groups)
        firsts = rows * columns * np.array(order).reshape(-1, 1)
        index = (own + firsts).reshape(rows, -1)
        if parts.high.data is not None and parts.low.data is not None:
            elements = np.concatenate([parts.high.data.ravel(), parts.low.data.ravel()])
            return state.constant_value(parts.high.name, elements[index])
        out = state.new_value(parts.high.name, rows, index.shape[1], Type.F16)
        state.steps.append(Move(out, sources, index, (state.node,)))
        state.views[key] = out
    return state.views[key]


def factors(state: Lowering, left: Split, right: list[Weights]) -> list[tuple[Value, Weights]]:
    """What is multiplied and summed: one product if `right` is side by side, else high and low."""
    if len(right) == 1:
        return [(beside(state, left, IMAGE), right[0])]
    high, low = right
    return [(left.low, high), (left.high, low), (left.high, high)]


# -- the sums --------------------------------------------------------------------------------------


def scaled(
    state: Lowering, sums: Expr, shape: tuple[int, int], constant: Array, units: list[Value]
) -> Expr:
    """The sums times a constant power of two for each column and up to two that are computed.

    In an order in which nothing leaves the range of f32 that is within it in the end.
    """
    near = np.clip(constant, 1 / _STEP, _STEP)
    factors: list[Array | Value] = [near, *_ordered(state, units), *_steps(constant / near)]
    for factor in factors:
        if isinstance(factor, Value):
            sums = binary("mul", sums, state.broadcast(factor, (), shape))
        elif (factor != 1).any():
            sums = binary("mul", sums, Const(factor, Type.F32))
    return sums


def _steps(factor: Array) -> list[Array]:
    """What is left of a constant, in factors that f32 has."""
    steps = []
    while (factor != 1).any():
        steps.append(np.clip(factor, 1 / _STEP, _STEP))
        factor = factor / steps[-1]
    return steps


def _ordered(state: Lowering, units: list[Value]) -> list[Value]:
    """Two units as factors that both lie on one side of 1, or of which one is 1."""
    if len(units) < 2:
        return units
    u, v = (Leaf(unit, None) for unit in units)
    pairs = [(u, v), (v, u)]
    products = [f32("mul", f32("max", a, 1.0), f32("min", b, 1.0)) for a, b in pairs]
    return [hold(state, product, (1, 1)).value for product in products]
