"""CumSum: every element added to the one a step before, with steps of 1, 2, 4, ..."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, binary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_operands import bounds, record_bounds
from clockstep_compiler.lowering.lower import WORDS, Lowering, lowers
from clockstep_compiler.lowering.quantized import constant_of
from clockstep_compiler.lowering.reduce import refuse_types
from clockstep_compiler.lowering.reduce_rows import (
    along,
    hold,
    source,
)
from clockstep_compiler.steps import Move
from clockstep_isa.table import Type

__all__: list[str] = []


@lowers("CumSum")
def _cumulative(state: Lowering, node: Node) -> None:
    """The sums so far along an axis, with log n roundings; `exclusive` leaves out the element."""
    name, out = node.inputs[0], node.outputs[0]
    refuse_types(node, state.dtype(name), ("int32", "uint32", "int64", "uint64"))
    shape = state.shape(out)
    axis = int(constant_of(state, node, 1, "axis").reshape(()).item()) % max(1, len(shape))
    if state.dtype(name) in WORDS:
        low, high = bounds(state, name)
        count = shape[axis] if shape else 1
        record_bounds(state, out, min(0, low * count), max(0, high * count), ring=True)
    if 0 in shape:
        kind = Type.I32 if "int" in state.dtype(name) else Type.F32
        state.define(out, Const(np.zeros(()), kind))
        return
    x = along(state, source(state, name), axis)
    value, (outer, n, inner), dtype = x.value, x.view, state.dtype(name)
    if dtype == "uint32":  # a stored zero is none
        value, dtype = x.hold(state, state.widen(Leaf(value, None), dtype)), "int32"
    back, skip = (bool(node.attributes.get(key, 0)) for key in ("reverse", "exclusive"))
    # One more row in front, or behind if `reverse`: the sum of nothing.
    rows = np.arange(outer * n * inner).reshape(outer, n, inner)
    rows = np.insert(rows, n if back else 0, -1, axis=1)
    index = rows.reshape(-1, 1) * value.columns + np.arange(value.columns)
    padded = state.new_value(out, rows.size, value.columns, value.type)
    whole = np.where(rows.reshape(-1, 1) < 0, -1, index)
    state.steps.append(Move(padded, (value,), whole, (state.node,)))
    every, places = np.arange(rows.size).reshape(rows.shape), np.arange(n + 1)
    expr: Expr = state.widen(Leaf(padded, None), dtype)
    step = 1
    while step < n:
        total = hold(state, expr, (rows.size, value.columns)).value
        before = np.minimum(places + step, n) if back else np.maximum(places - step, 0)
        shifted = np.ascontiguousarray(every[:, before].ravel())
        expr = binary("add", Leaf(total, None), Leaf(total, shifted))
        step *= 2
    total = hold(state, expr, (rows.size, value.columns)).value
    first = 1 if skip == back else 0
    taken = np.ascontiguousarray(every[:, first : first + n].ravel())
    x.define(state, out, Leaf(total, taken))
