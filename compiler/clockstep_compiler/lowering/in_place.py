"""Rows put into inputs where they lie, instead of a choice between all rows; see `refill`."""

from __future__ import annotations

from clockstep_compiler.expr import Expr, cast
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import i32
from clockstep_compiler.lowering.lower import Lowering
from clockstep_compiler.lowering.reduce_rows import hold
from clockstep_compiler.lowering.refill import place_of
from clockstep_compiler.steps import Put, Value
from clockstep_isa.table import Type

__all__ = ["put_in_place"]


def put_in_place(state: Lowering, node: Node) -> bool:
    """Lower a choice of rows so, if it is one of those."""
    out = node.outputs[0]
    if out not in state.refilled:
        return False
    makers = {name: other for other in state.graph.nodes for name in other.outputs}
    past = state.store(node.inputs[2])
    rows = state.store(node.inputs[1], past.type)
    place = _place(state, place_of(state.graph, makers, node), state.shape(out)[-2])
    result = state.new_value(out, past.rows, past.columns, past.type)
    state.steps.append(Put(result, past, rows, place, state.shape(out)[-2], (state.node,)))
    state.define_value(out, result)
    return True


def _place(state: Lowering, name: str, rows: int) -> Value:
    """A number as i16, one beyond all rows where it is none of theirs."""
    key = ("place", name, rows)
    if key not in state.memo:
        number: Expr = i32("max", i32("min", state.operand(name, state.shape(name)), rows), -1)
        state.memo[key] = hold(state, cast(number, Type.I16, saturate=False), (1, 1)).value
    found: Value = state.memo[key]
    return found
