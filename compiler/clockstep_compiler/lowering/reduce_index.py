"""Where the greatest or the least element is: ArgMax, ArgMin, Hardmax."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.expr import Const, Expr
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32, i32, invert, one_where, select
from clockstep_compiler.lowering.lower import FLOATS, Lowering, lowers
from clockstep_compiler.lowering.reduce import (
    INTEGERS,
    hold,
    kept,
    over,
    reduced,
    refuse_types,
    source,
)
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


def _index(
    state: Lowering, name: str, axis: int, row: str, last: bool, target: Shape | None
) -> Expr:
    """The first or last index of the greatest ("max") or least element along an axis.

    A NaN is greatest and least, as in numpy. The result has 1 in place of the axis, or `target`.
    """
    x, dtype = source(state, name), state.dtype(name)
    shape = x.shape
    count = shape[axis] if shape else 1

    def widen(a: Expr) -> Expr:
        return state.widen(a, dtype)

    best = hold(state, reduced(state, x, (axis,), row, before=widen), kept(shape, (axis,)))
    element = widen(over(state, x, shape))
    same = f32 if dtype in FLOATS else i32
    found = same("eq", element, over(state, best, shape))
    if dtype in FLOATS:
        found = i32("or", found, invert(f32("eq", element, element)))
    none = Const(np.asarray(-1 if last else count), Type.I32)
    candidates = hold(state, select(found, _places(shape, axis), none), shape)
    return reduced(state, candidates, (axis,), "max" if last else "min", shape=target)


@lowers("ArgMax", "ArgMin")
def _arg(state: Lowering, node: Node) -> None:
    name, out = node.inputs[0], node.outputs[0]
    refuse_types(node, state.dtype(name), (*INTEGERS, "int64"))
    shape, target = state.shape(name), state.shape(out)
    axis = int(node.attributes.get("axis", 0)) % max(1, len(shape))
    if 0 in target:
        state.define(out, Const(np.zeros((), np.int64), Type.I32))
        return
    if 0 in shape:
        raise UnsupportedModel("unsupported-form", f"{node.op} of no elements")
    last = bool(node.attributes.get("select_last_index", 0))
    row = "max" if node.op == "ArgMax" else "min"
    state.define(out, _index(state, name, axis, row, last, target))


@lowers("Hardmax")
def _hardmax(state: Lowering, node: Node) -> None:
    """1 where the first of the greatest elements is, 0 elsewhere."""
    name, out = node.inputs[0], node.outputs[0]
    shape = state.shape(out)
    if 0 in shape:
        state.define(out, Const(np.zeros(()), Type.F32))
        return
    axis = int(node.attributes.get("axis", -1)) % max(1, len(shape))
    index = _index(state, name, axis, "max", False, None)
    where = over(state, hold(state, index, kept(shape, (axis,))), shape)
    state.define(out, one_where(i32("eq", where, _places(shape, axis))))
