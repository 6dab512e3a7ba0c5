"""Factors of matrix products, brought to the array's layout.

The array takes fp16 or signed bytes with the inner dimension along the lanes of both factors: a
right one that is not stored so is turned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr
from clockstep_compiler.lowering.lower import Lowering
from clockstep_compiler.steps import Product, Term, Transpose, Value, Weights
from clockstep_compiler.uniform import in_order
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = [
    "Operand",
    "both_sides",
    "count_once",
    "lanes_matrix",
    "lead_of",
    "product_of",
    "right_matrix",
    "rows_of",
    "sets_of",
    "swapped",
    "transposed",
    "weights_of",
]


@dataclass(frozen=True, slots=True)
class Operand:
    """One side of a product: a tensor, whether its last two axes are exchanged, its zero point.

    `shape` is the tensor's shape after that, with vectors made matrices.
    """

    name: str
    swap: bool
    shape: tuple[int, ...]
    zero: NDArray[np.int64]


def swapped(shape: tuple[int, ...], swap: bool) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if swap else shape


def both_sides(
    state: Lowering, a: str, b: str, swap_a: bool = False, swap_b: bool = False
) -> tuple[Operand, Operand, bool]:
    """Both operands as stacks of matrices, zero points 0, and whether they changed places.

    matrix @ vector is taken as vector @ matrix^T: so its result lies along the lanes.
    """
    left, right = state.shape(a), state.shape(b)
    if not left or not right:
        raise UnsupportedModel("unsupported-form", "an operand is a scalar")
    none = np.zeros((), np.int64)
    if len(right) == 1 and len(left) > 1:
        turned = Operand(a, True, swapped(left, True), none)
        return Operand(b, False, (1, *right), none), turned, True
    left = (1, *left) if len(left) == 1 else left
    right = (*right, 1) if len(right) == 1 else right
    one = Operand(a, swap_a, swapped(left, swap_a), none)
    two = Operand(b, swap_b, swapped(right, swap_b), none)
    if one.shape[-1] != two.shape[-2]:
        raise UnsupportedModel("unsupported-form", f"{list(left)} times {list(right)}")
    return one, two, False


def lanes_matrix(
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


def weights_of(state: Lowering, b: Operand, kind: Type) -> Weights:
    """The right operand of `a @ b`: inner dimension along the lanes."""
    sets, depth, columns = math.prod(b.shape[:-2]), b.shape[-2], b.shape[-1]
    value = right_matrix(state, b, kind)
    if value.origin != "const":
        return Weights(sets, columns, depth, value=value)
    assert value.data is not None
    count_once(state, value)
    return Weights(sets, columns, depth, data=value.data.reshape(sets, columns, depth))


def right_matrix(state: Lowering, b: Operand, kind: Type) -> Value:
    """The right operand of `a @ b` as the array takes it: a row for each column."""
    # a vector is stored as one row, which is its layout as weights already
    swap = not b.swap and len(state.shape(b.name)) > 1
    return lanes_matrix(state, b.name, swapped(b.shape, b.swap), swap, kind)


def count_once(state: Lowering, value: Value) -> None:
    """Add a constant to the bytes of weights, once, however many products read it."""
    key = "counted", value.number
    if value.data is not None and key not in state.memo:
        state.memo[key] = True
        state.weight_bytes += value.data.nbytes


def rows_of(lead: tuple[int, ...], out: tuple[int, ...], rows: int) -> NDArray[np.int64] | None:
    """Row of a stacked operand for every row of the result; None if it is the same row."""
    if lead == out:
        return None
    batch = np.broadcast_to(np.arange(math.prod(lead)).reshape(lead), out).reshape(-1, 1)
    return (batch * rows + np.arange(rows)).ravel()


def sets_of(lead: tuple[int, ...], out: tuple[int, ...], rows: int) -> NDArray[np.int64] | None:
    """Weight set of every row of the result; None if there is only one."""
    if math.prod(lead) == 1:
        return None
    batch = np.broadcast_to(np.arange(math.prod(lead)).reshape(lead), out).ravel()
    return np.repeat(batch, rows)


def product_of(
    kind: Type, a: Operand, b: Operand, terms: list[Term], lead: tuple[int, ...]
) -> Expr:
    rows = a.shape[-2]
    if not terms or a.shape[-1] == 0:
        return Const(np.zeros(()), Type.I32 if kind == Type.I8 else Type.F32)
    sets = sets_of(b.shape[:-2], lead, rows)
    return Acc(Product(kind, math.prod(lead) * rows, b.shape[-1], tuple(terms), sets))


def lead_of(a: Operand, b: Operand) -> tuple[int, ...]:
    return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
