"""Reductions over any axes: a tree over rows, after a transposition where lanes are reduced.

`reduced` is for any axes, `along` for operators of one axis, which stays over rows all the way.
What is computed is kept in f32 or i32, whatever type the tensors are stored in, and a tree of n
elements rounds log n times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, binary
from clockstep_compiler.lowering.elementwise_bits import f32, i32
from clockstep_compiler.lowering.lower import FLOATS, Lowering, matrix_shape
from clockstep_compiler.steps import Compute, Relayout, Transpose, Value
from clockstep_isa.table import Type

__all__ = [
    "Along",
    "Stored",
    "along",
    "fold_rows",
    "fold_tiles",
    "hold",
    "kept",
    "over",
    "reduced",
    "relaid",
    "reshaped",
    "source",
    "transposed",
]

Shape = tuple[int, ...]
Map = Callable[[Expr], Expr]


@dataclass(frozen=True, slots=True)
class Stored:
    """A matrix in SRAM and the shape of the tensor in it."""

    value: Value
    shape: Shape


_WAYS = 4
"""Rows of one tile that are combined at a time. Those of many tiles keep the ALUs busy by twos."""

_TURNED = 4
"""Tiles up to which a matrix that is turned already is combined row by row."""


def _same(expr: Expr) -> Expr:
    return expr


# -- tensors of their own --------------------------------------------------------------------------


def source(state: Lowering, name: str) -> Stored:
    """A tensor stored as exactly as it is known: floats in f32 unless they are in fp16 already."""
    tensor = state.tensors.get(name)
    shape, dtype = state.shape(name), state.dtype(name)
    if dtype not in FLOATS:
        return Stored(state.store(name), shape)
    if tensor is None or isinstance(tensor.expr, Const):
        return Stored(state.store(name, Type.F32), shape)
    if not tensor.values:
        if tensor.quant is not None:
            expr = state.dequantized(tensor.quant, shape)
        else:
            expr = state.widen(tensor.expr, dtype)
        tensor.values[Type.F32] = state.compute(tensor, expr)
    made = next(iter(tensor.values.values()))
    if made.origin == "step":
        return Stored(tensor.values.get(Type.F32, made), shape)
    return Stored(state.store(name, Type.F32), shape)


def hold(state: Lowering, expr: Expr, shape: Shape) -> Stored:
    """An expression over `shape` as a matrix of its type."""
    if isinstance(expr, Leaf) and expr.index is None:
        return Stored(expr.value, shape)
    name = state.graph.nodes[state.node].outputs[0]
    value = state.new_value(name, *matrix_shape(shape), expr.out)
    state.steps.append(Compute(value, expr, (state.node,), shape))
    return Stored(value, shape)


def kept(shape: Shape, axes: Sequence[int]) -> Shape:
    """A shape with 1 in place of each axis."""
    return tuple(1 if i in axes else d for i, d in enumerate(shape))


def over(state: Lowering, stored: Stored, shape: Shape) -> Leaf:
    """A stored tensor broadcast to `shape`."""
    return state.broadcast(stored.value, stored.shape, shape)


def relaid(state: Lowering, value: Value, rows: int, columns: int) -> Value:
    """The elements of a matrix in row-major order, in rows of another length."""
    if (value.rows, value.columns) == (rows, columns):
        return value
    if 1 in (value.rows, value.columns) and (value.columns, value.rows) == (rows, columns):
        return transposed(state, value)
    out = state.new_value(value.name, rows, columns, value.type)
    if columns == 1 and value.rows <= value.columns:  # every row by itself becomes a column
        state.steps.append(Transpose(out, value, value.rows, (state.node,)))
        return out
    state.steps.append(Relayout(out, value, (state.node,)))
    return out


def reshaped(state: Lowering, stored: Stored, shape: Shape) -> Stored:
    """The same elements under another shape."""
    return Stored(relaid(state, stored.value, *matrix_shape(shape)), shape)


def transposed(state: Lowering, value: Value) -> Value:
    """The columns of a matrix as rows; what the host loads, it loads that way."""
    key = ("transposed", value.number, 1)
    if key not in state.views:
        known = state.graph.tensors[value.source].shape if value.origin == "input" else ()
        ordered = tuple(known[axis] for axis in value.axes)
        if known and matrix_shape(ordered) == (value.rows, value.columns):
            axes = (value.axes[-1], *value.axes[:-1])
            return state.input_view(value.source, axes, value.columns, value.rows, value.type)
        out = state.new_value(value.name, value.columns, value.rows, value.type)
        state.steps.append(Transpose(out, value, 1, (state.node,)))
        state.views[key] = out
    return state.views[key]


@dataclass(frozen=True, slots=True)
class Along:
    """A matrix in which an axis runs over rows [outer, n, inner]; `turned` if it is a transpose.

    As a tensor it is of `shape`, with that axis at `axis`.
    """

    value: Value
    view: tuple[int, int, int]
    shape: Shape
    axis: int
    turned: bool

    @property
    def short(self) -> Shape:
        """Rows and columns of what is left when the axis is reduced."""
        return self.view[0] * self.view[2], self.value.columns

    def fold(
        self,
        state: Lowering,
        value: Value,
        name: str,
        before: Map = _same,
        after: Map = _same,
        wide: int = 2,
    ) -> Value:
        """A matrix of the same rows combined along the axis; of many tiles `wide` at a time."""
        expr = after(fold_rows(state, value, name, self.view, before, wide))
        return hold(state, expr, self.short).value

    def spread(self, value: Value) -> Leaf:
        """What is left of a reduction, for every element along the axis."""
        outer, _, inner = self.view
        rows = np.broadcast_to(np.arange(outer * inner).reshape(outer, 1, inner), self.view)
        return Leaf(value, np.ascontiguousarray(rows.ravel()))

    def hold(self, state: Lowering, expr: Expr) -> Value:
        """An expression over the rows, stored."""
        return hold(state, expr, self.shape).value

    def back(self, state: Lowering, value: Value) -> Value:
        """A matrix of the same rows as one of the tensor's own shape."""
        return transposed(state, value) if self.turned else value

    def define(self, state: Lowering, name: str, expr: Expr) -> None:
        """A tensor is the expression over the rows; turned back as narrow as it is stored."""
        if not self.turned:
            state.define(name, expr)
            return
        kind = state.stored_type(name)
        value = hold(state, state.narrow(expr, state.dtype(name), kind), self.shape).value
        state.define_value(name, transposed(state, value))


def along(state: Lowering, stored: Stored, axis: int) -> Along:
    """A tensor with one axis over rows."""
    shape, value = stored.shape, stored.value
    if axis < len(shape) - 1:
        view = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 : -1]))
        return Along(value, view, shape, axis, False)
    if value.columns == 1:
        return Along(value, (value.rows, 1, 1), shape, axis, False)
    view = (1, value.columns, 1)
    return Along(transposed(state, value), view, (value.columns, value.rows), 0, True)


# -- the primitive ---------------------------------------------------------------------------------


def _tree(name: str, parts: Sequence[Expr]) -> Expr:
    """All parts combined, neighbours first."""
    while len(parts) > 1:
        pairs = [binary(name, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = [*pairs, *parts[len(pairs) * 2 :]]
    return parts[0]


def fold_rows(
    state: Lowering,
    value: Value,
    name: str,
    view: tuple[int, int, int],
    before: Map,
    wide: int = 2,
) -> Expr:
    """Rows [outer, n, inner] of a matrix combined over n by a row of the VXM, n at least 1.

    `before` is applied to every element. The result has outer * inner rows. The rows yet to be
    combined are kept in several matrices, one for each operand: none can be read twice at once;
    `wide` are those of rows of many tiles.
    """
    outer, n, inner = view
    ways = _WAYS if value.columns <= state.machine.vector else wide
    parts = [_Part(value, n, first, count) for first, count in _ways(n, ways)]
    rest: list[Expr] = []
    while True:
        count = parts[-1].count
        rest += [before(p.leaf(outer, inner, count, 1)) for p in parts if p.count > count]
        if count == 1:
            rest += [before(part.leaf(outer, inner, 0, 1)) for part in parts]
            return _tree(name, rest[::-1])
        made = []
        for first, some in _ways(count, ways):
            expr = _tree(name, [before(p.leaf(outer, inner, first, some)) for p in parts])
            out = state.new_value(value.name, outer * some * inner, value.columns, expr.out)
            state.steps.append(Compute(out, expr, (state.node,), (out.rows, out.columns)))
            made.append(_Part(out, some, 0, some))
        parts, before = made, _same


def _ways(n: int, most: int) -> list[tuple[int, int]]:
    """Rows in so many parts at most, that differ by a row at most: the first of each and how many,
    the longest first."""
    ways = min(most, n)
    counts = [(n + ways - 1 - k) // ways for k in range(ways)]
    return [(sum(counts[:k]), count) for k, count in enumerate(counts)]


@dataclass(frozen=True, slots=True)
class _Part:
    """`count` of the `n` rows in a matrix of rows [outer, n, inner], from row `first` on."""

    value: Value
    n: int
    first: int
    count: int

    def leaf(self, outer: int, inner: int, first: int, count: int) -> Leaf:
        """`count` of the part's rows, from its row `first` on."""
        rows = np.arange(outer * self.n * inner).reshape(outer, self.n, inner)
        start = self.first + first
        return Leaf(self.value, np.ascontiguousarray(rows[:, start : start + count].ravel()))


def reduced(
    state: Lowering,
    stored: Stored,
    axes: Sequence[int],
    name: str,
    *,
    before: Map = _same,
    after: Map = _same,
    shape: Shape | None = None,
) -> Expr:
    """A tensor combined over axes by "add", "mul", "max" or "min", as an expression.

    `before` is applied to every element and gives f32 or i32, `after` to every result. The result
    has 1 in place of each axis, or `shape`, which has as many elements. No axis has length 0.
    """
    own = kept(stored.shape, axes)
    shape = own if shape is None else shape
    value, views = stored.value, _row_views(stored.shape, axes)
    turns = value.columns > 1 and len(stored.shape) - 1 in axes
    turned = value.origin == "input"  # the host does that
    if turns and value.columns > state.machine.vector * (_TURNED if turned else 1):
        value, before = fold_tiles(state, value, name, before), _same
    expr = before(Leaf(value, None))
    for k, view in enumerate(views):
        expr, before = fold_rows(state, value, name, view, before), _same
        if turns or k < len(views) - 1:
            value = hold(state, expr, (view[0] * view[2], value.columns)).value
    if turns:
        value = transposed(state, value)
        expr, own = fold_rows(state, value, name, (1, value.rows, 1), before), (1, value.columns)
    expr = after(expr)
    if matrix_shape(own) == matrix_shape(shape):
        return expr
    return Leaf(relaid(state, hold(state, expr, own).value, *matrix_shape(shape)), None)


def fold_tiles(state: Lowering, value: Value, name: str, before: Map) -> Value:
    """A matrix of one tile: all tiles of another, `before` applied, combined lane by lane."""
    lanes = min(state.machine.vector, value.columns)
    parts = [before(Leaf(value, None, tile)) for tile in range(-(-value.columns // lanes))]
    left = value.columns % lanes
    if left:
        there = np.arange(lanes) < left
        bits = i32("and", parts[-1], Const(np.where(there, -1, 0), Type.I32))
        filled = i32("or", bits, Const(np.where(there, 0, _neutral(name, parts[0].out)), Type.I32))
        parts[-1] = f32("mov", filled) if parts[0].out == Type.F32 else filled
    return hold(state, _tree(name, parts), (value.rows, lanes)).value


def _neutral(name: str, kind: Type) -> int:
    """The bits of what changes nothing that it is combined with."""
    if kind == Type.F32:
        neutral = {"add": -0.0, "mul": 1.0, "max": -np.inf, "min": np.inf}[name]
        return int(np.float32(neutral).view(np.int32))
    return {"add": 0, "mul": 1, "max": -(2**31), "min": 2**31 - 1}[name]


def _row_views(shape: Shape, axes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Rows [outer, n, inner] for each stretch of neighbouring axes but the last to be reduced."""
    views, dims = [], list(shape[:-1])
    for wanted, stretch in groupby(range(len(dims)), lambda i: i in axes):
        span = list(stretch)
        n = math.prod(dims[i] for i in span)
        if wanted and n > 1:
            views.append((math.prod(dims[: span[0]]), n, math.prod(dims[span[-1] + 1 :])))
            for i in span:
                dims[i] = 1
    return views
