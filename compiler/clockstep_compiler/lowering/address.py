"""Rows by computed index in static time.

Rows of a constant table are read at an address that the index says. Of what is computed every row
takes part, since the index is not known before: a vector that is one where the index is and zero
elsewhere picks the row as a product. The bytes of an element are products of their own and put
together by the VXM, so every bit pattern passes exactly. Of a table of few rows each is masked.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, Op, cast, mul
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.address_table import FEW, Table, integers_of, table_of
from clockstep_compiler.lowering.elementwise_bits import i32
from clockstep_compiler.lowering.elementwise_operands import bounds, record_bounds
from clockstep_compiler.lowering.factors import transposed
from clockstep_compiler.lowering.lower import Lowering, is_float, lowers
from clockstep_compiler.lowering.reduce_rows import hold, relaid
from clockstep_compiler.steps import Lookup, Product, Term, Value, Weights
from clockstep_compiler.uniform import different, in_order
from clockstep_isa.machine import Machine
from clockstep_isa.table import Type

__all__: list[str] = []

_LEAST, _MOST = 2, 65_535
"""Rows of a table between which they are looked up: fewer are masked, more have no number of 16
bits."""

_TIGHT = (0.85, 0.9)
"""Parts of the chips: constants and idle lanes beyond the first leave matrices and instructions too
little; beyond the second constants alone do."""

_LARGE = 64
"""The part of a chip up to which idle lanes are no matter."""

_PART = 8
"""A part of a table leaves at least this part of a slice to other things."""

_WORDS = {1: Type.I8, 2: Type.I16, 4: Type.I32}
"""The integers of so many bytes."""


@lowers("Take")
def _take(state: Lowering, node: Node) -> None:
    """Row `index[m]` of a table [n, c], or of each of [b, n, c]; zeros where there is none.

    The index has one element for each row of the result, or for each row that one table gives.
    Of [b, n, r, c] matrices are taken. With `last`: elements `index[m]` of each row of [r, n].
    """
    name, out = node.inputs[0], node.outputs[0]
    dtype = state.dtype(out)
    if 0 in state.shape(out) or 0 in state.shape(name):
        kind = Type.F32 if is_float(dtype) else Type.I32
        state.define(out, Const(np.zeros((), np.float64 if is_float(dtype) else np.int64), kind))
        return
    table = integers_of(state, node, name)
    if table is not None:
        quant = state.tensors[name].quant
        assert quant is not None
        integers = _less_zero(state, node, table, cast(_picked(state, node, table), Type.I32))
        state.define(out, mul(cast(integers, Type.F32), quant.scale.reshape(())))
        return
    table = table_of(state, node, name, state.stored_type(out))
    _define(state, node, table, _picked(state, node, table))


def _define(state: Lowering, node: Node, table: Table, expr: Expr) -> None:
    """The result is what was taken of the table, as that is stored."""
    out = node.outputs[0]
    dtype = state.dtype(out)
    if not is_float(dtype):
        low, high = bounds(state, node.inputs[0])
        record_bounds(state, out, min(low, 0), max(high, 0))
    if table.signed and expr.out == state.stored_type(out):
        state.define(out, expr, narrow=True)
    else:
        state.define(out, state.widen(expr, dtype) if table.signed else expr)


def _less_zero(state: Lowering, node: Node, table: Table, integers: Expr) -> Expr:
    """Integers that are taken less the zero point of their table; where nothing is, zeros."""
    if not table.zero:
        return integers
    column = _column(state, state.store(node.inputs[1]))
    shape = state.shape(node.outputs[0])
    index = state.broadcast(column, (column.rows, 1), (column.rows, shape[-1]))
    here = i32("xor", i32("lt", index, table.height), i32("lt", index, 0))
    return i32("sub", integers, i32("mul", here, table.zero))


def _picked(state: Lowering, node: Node, table: Table) -> Expr:
    """What is taken, as the table is stored."""
    index = state.store(node.inputs[1])
    rows = index.rows * index.columns
    column = _column(state, index)
    shape = state.shape(node.outputs[0])
    if table.last:
        hot = _one_hot(state, column, table.height)
        return _joined(state, table, [_elements(state, table, hot, k) for k in range(table.count)])
    if _is_looked_up(state, table, shape):
        return _looked_up(state, node, table, column)
    per_table = shape[1] if len(shape) > 2 else shape[0]
    owned = rows == table.batch * per_table
    if table.height <= FEW or len(shape) > 3:
        own = (table.batch, per_table, 1, 1) if owned else (per_table, 1, 1)
        shape = (table.batch, per_table, table.inner, table.width)
        return _masked(state, table, state.broadcast(column, own, shape), shape)
    hot = _one_hot(state, column, table.height)
    products = [_rows(state, table, hot, k, per_table, owned) for k in range(table.count)]
    return _joined(state, table, products)


# -- by addresses ----------------------------------------------------------------------------------


def _is_looked_up(state: Lowering, table: Table, shape: tuple[int, ...]) -> bool:
    """Whether rows of a table are read where they lie: constant ones, of more rows than two."""
    apart = table.batch == table.inner == 1 and table.data is not None and len(shape) == 2
    some = apart and _LEAST < table.height <= _MOST and _has_lookups(state.machine)
    return some and not _is_tight(state, table)


def _is_tight(state: Lowering, table: Table) -> bool:
    """Whether the chips that may hold all constants have no room for the lanes that rows of a table
    leave idle; as weights of products its columns fill all lanes."""
    arrays = state.graph.constants.values()
    held = sum(array.size * min(2, array.itemsize) for array in arrays)
    idle = -table.width % state.machine.vector * table.height * table.kind.bytes
    room = -(-held // state.machine.sram_bytes) * state.machine.sram_bytes
    large = idle * _LARGE > state.machine.sram_bytes
    return large and held < _TIGHT[1] * room and held + idle > _TIGHT[0] * room


@cache
def _has_lookups(machine: Machine) -> bool:
    """Whether there are slices for tables beside those for numbers."""
    plan = Floorplan(machine)
    return all(len(plan.slices[side]) - len(plan.rim[side]) >= Type.F32.bytes for side in "WE")


def _looked_up(state: Lowering, node: Node, table: Table, column: Value) -> Expr:
    """Rows of each part of a table, zeros if they are in another, joined."""
    assert table.data is not None
    place, parts = _place(state, column, table.height), list[Value]()
    count = -(-table.height * _PART // (state.machine.words_per_slice * (_PART - 1)))
    size = -(-table.height // count)
    for first, end in pairwise(range(0, table.height + size, size)):
        data = table.data[first:end]
        key = ("table", node.inputs[0], table.kind, first)
        if key not in state.memo:
            state.memo[key] = state.constant_value("table", data)
            state.weight_bytes += data.nbytes
        own = state.memo[key]
        out = state.new_value("rows", column.rows, table.width, table.kind)
        state.steps.append(Lookup(out, own, place, first, tuple(parts), (state.node,)))
        parts.append(out)
    joined, word = list[Expr](Leaf(part, None) for part in parts), _WORDS[table.kind.bytes]
    while len(joined) > 1:
        pairs = zip(joined[::2], joined[1::2], strict=False)
        rest = joined[len(joined) // 2 * 2 :]
        joined = [Op("or", word, pair, word) for pair in pairs] + rest
    return joined[0] if joined[0].out == table.kind else Op("mov", word, (joined[0],), table.kind)


def _place(state: Lowering, column: Value, height: int) -> Value:
    """Numbers of rows as i16 without sign, one beyond all rows where there is none."""
    key = ("place", column.number, height)
    if key not in state.views:
        number: Expr = i32("max", i32("min", Leaf(column, None), height), -1)
        narrow = cast(number, Type.I16, saturate=False)
        state.views[key] = hold(state, narrow, (column.rows, 1)).value
    return state.views[key]


# -- the index -------------------------------------------------------------------------------------


def _column(state: Lowering, index: Value) -> Value:
    """The elements of a matrix one below the other."""
    return relaid(state, index, index.rows * index.columns, 1)


def _one_hot(state: Lowering, column: Value, height: int) -> Value:
    """A row for each index: one at its element, zero elsewhere."""
    key = ("one-hot", column.number, height)
    if key not in state.views:
        shape = (column.rows, height)
        places = Const(np.arange(height).reshape(1, -1), Type.I32)
        here = i32("eq", state.broadcast(column, (column.rows, 1), shape), places)
        state.views[key] = hold(state, cast(here, Type.I8, saturate=False), shape).value
    return state.views[key]


# -- by products -----------------------------------------------------------------------------------


def _rows(
    state: Lowering, table: Table, hot: Value, byte: int, per_table: int, owned: bool
) -> Expr | None:
    """One byte of the rows that are taken, as i32 with a sign; None if a higher one is zero.

    The tables' columns are the weights. `owned`: each table has one-hot rows of its own.
    """
    batch, height, width = table.batch, table.height, table.width
    plane = table.plane(byte)
    if byte and plane is not None and not different(plane).any():
        return None
    if plane is None:
        assert table.value is not None
        turned = transposed(state, table.value, batch)
        weights = Weights(batch, width, height, value=turned, byte=byte)
    else:
        data = in_order(plane.reshape(batch, height, width).transpose(0, 2, 1))
        state.weight_bytes += data.nbytes
        weights = Weights(batch, width, height, data=data)
    index = None if owned else np.tile(np.arange(per_table), batch)
    sets = np.repeat(np.arange(batch), per_table) if batch > 1 else None
    term = Term(hot, weights, index)
    return Acc(Product(Type.I8, batch * per_table, width, (term,), sets))


def _elements(state: Lowering, table: Table, hot: Value, byte: int) -> Expr | None:
    """One byte of the elements that are taken of every row: the one-hot rows are the weights."""
    plane = table.plane(byte)
    if byte and plane is not None and not different(plane).any():
        return None
    weights = Weights(1, hot.rows, table.height, value=hot)
    if plane is None:
        assert table.value is not None
        term = Term(table.value, weights, None, byte=byte)
    else:
        term = Term(state.constant_value("table", np.ascontiguousarray(plane)), weights, None)
    return Acc(Product(Type.I8, table.batch, hot.rows, (term,), None))


def _joined(state: Lowering, table: Table, bytes_: list[Expr | None]) -> Expr:
    """Elements out of their bytes, the first of which is the lowest."""
    kind, out = table.kind, state.graph.nodes[state.node].outputs[0]
    shape = state.shape(out)
    if table.count == 1 and table.signed and bytes_[0] is not None:
        return cast(bytes_[0], Type.I8, saturate=False)
    word: Expr = Const(np.zeros((), np.int64), Type.I32)
    for byte, part in reversed(list(enumerate(bytes_))):
        if part is not None and byte:  # a wave has one product
            held = hold(state, cast(part, Type.I8, saturate=False), shape).value
            part = cast(Leaf(held, None), Type.I32)
        if part is not None and (byte < table.count - 1 or not table.signed):
            part = i32("and", part, 255)
        word = _followed(word, part)
    return _typed(word, kind)


def _followed(word: Expr, part: Expr | None) -> Expr:
    """A word and one more byte below it."""
    if isinstance(word, Const):
        return word if part is None else part
    higher = i32("mul", word, 256)
    return higher if part is None else i32("or", higher, part)


def _typed(word: Expr, kind: Type) -> Expr:
    """The low bits of an i32 as an element of a type."""
    if kind.bytes == 4:
        return word if kind == Type.I32 else Op("mov", Type.I32, (word,), kind)
    narrow = cast(word, _WORDS[kind.bytes], saturate=False)
    return narrow if kind == narrow.out else Op("mov", narrow.out, (narrow,), kind)


# -- by masks --------------------------------------------------------------------------------------


@lowers("Pick")
def _pick(state: Lowering, node: Node) -> None:
    """Of tables [b, n, c] element `index[b, m, c]` of each column; zero where there is none."""
    out = node.outputs[0]
    shape = state.shape(out)
    table = table_of(state, node, node.inputs[0], state.stored_type(out))
    index = Leaf(state.store(node.inputs[1]), None)
    expr = _masked(state, table, index, (*shape[:2], 1, shape[2]))
    _define(state, node, table, expr)


def _masked(state: Lowering, table: Table, index: Leaf, shape: tuple[int, ...]) -> Expr:
    """Every row of the table where the index is its number, else zero, joined.

    `shape` is that of the result: tables, rows taken of one, rows inside a row, columns.
    """
    value, width = table.stored(state), _WORDS[table.kind.bytes]
    tables = np.arange(table.batch).reshape(-1, 1, 1) * (table.height * table.inner)
    first = np.broadcast_to(tables + np.arange(table.inner), shape[:-1]).ravel()
    joined: Expr | None = None
    for row in range(table.height):
        here = cast(i32("eq", index, row), width, saturate=False)
        mask = Op("neg", width, (here,), width)
        part = Op("and", width, (mask, Leaf(value, first + row * table.inner)), width)
        if joined is not None:
            before = Leaf(hold(state, joined, shape).value, None)
            part = Op("or", width, (before, part), width)
        joined = part
    assert joined is not None
    return joined if joined.out == table.kind else Op("mov", width, (joined,), table.kind)
