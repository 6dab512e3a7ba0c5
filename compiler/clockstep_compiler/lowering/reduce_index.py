"""Where the greatest or the least element is: ArgMax, ArgMin, Hardmax."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32, i32, invert, one_where, select
from clockstep_compiler.lowering.elementwise_operands import carry_bounds, ordered, record_bounds
from clockstep_compiler.lowering.lower import FLOATS, Lowering, lowers, matrix_shape
from clockstep_compiler.lowering.reduce import INTEGERS, refuse_types
from clockstep_compiler.lowering.reduce_rows import (
    Along,
    along,
    relaid,
    source,
)
from clockstep_compiler.steps import Value
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__: list[str] = []

Shape = tuple[int, ...]


def _places(shape: Shape, axis: int) -> Const:
    """The index of every element along an axis."""
    if not shape:
        return Const(np.zeros((), np.int64), Type.I32)
    ones = [-1 if i == axis else 1 for i in range(len(shape))]
    return Const(np.arange(shape[axis]).reshape(ones), Type.I32)


def _index(state: Lowering, x: Along, dtype: str, row: str, last: bool) -> Value:
    """The first or last index of the greatest ("max") or least element along an axis.

    A NaN is greatest and least, as in numpy.
    """

    def widen(a: Expr) -> Expr:
        return ordered(state.widen(a, dtype), dtype)

    best = x.spread(x.fold(state, x.value, row, widen))
    element = widen(Leaf(x.value, None))
    found = (f32 if dtype in FLOATS else i32)("eq", element, best)
    if dtype in FLOATS:
        found = i32("or", found, invert(f32("eq", element, element)))
    none = Const(np.asarray(-1 if last else x.view[1]), Type.I32)
    candidates = x.hold(state, select(found, _places(x.shape, x.axis), none))
    return x.fold(state, candidates, "max" if last else "min")


@lowers("ArgMax", "ArgMin")
def _arg(state: Lowering, node: Node) -> None:
    name, out = node.inputs[0], node.outputs[0]
    refuse_types(node, state.dtype(name), INTEGERS)
    carry_bounds(state, name, [name], ring=False)
    shape, target = state.shape(name), state.shape(out)
    axis = int(node.attributes.get("axis", 0)) % max(1, len(shape))
    if 0 in target:
        state.define(out, Const(np.zeros((), np.int64), Type.I32))
        return
    if 0 in shape:
        raise UnsupportedModel("unsupported-form", f"{node.op} of no elements")
    last = bool(node.attributes.get("select_last_index", 0))
    row = "max" if node.op == "ArgMax" else "min"
    found = _index(state, along(state, source(state, name), axis), state.dtype(name), row, last)
    record_bounds(state, out, 0, shape[axis] - 1 if shape else 0)
    state.define(out, Leaf(relaid(state, found, *matrix_shape(target)), None))


@lowers("Hardmax")
def _hardmax(state: Lowering, node: Node) -> None:
    """1 where the first of the greatest elements is, 0 elsewhere."""
    name, out = node.inputs[0], node.outputs[0]
    shape = state.shape(out)
    if 0 in shape:
        state.define(out, Const(np.zeros(()), Type.F32))
        return
    axis = int(node.attributes.get("axis", -1)) % max(1, len(shape))
    x = along(state, source(state, name), axis)
    found = x.spread(_index(state, x, state.dtype(name), "max", False))
    x.define(state, out, one_where(i32("eq", found, _places(x.shape, x.axis))))
