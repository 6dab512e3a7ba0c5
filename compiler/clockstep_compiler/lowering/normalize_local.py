"""LRN: every element divided by a power of what its neighbouring channels amount to."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, add, binary, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import attribute
from clockstep_compiler.lowering.elementwise_exponential import power
from clockstep_compiler.lowering.lower import Lowering, lowers
from clockstep_compiler.lowering.reduce_rows import (
    Along,
    along,
    hold,
    source,
)
from clockstep_compiler.steps import Move, Value
from clockstep_isa.table import Type

__all__: list[str] = []


@lowers("LRN")
def _local_response(state: Lowering, node: Node) -> None:
    """x / (bias + alpha / size * sum of squares)**beta, over `size` channels around each."""
    name, out = node.inputs[0], node.outputs[0]
    shape, size = state.shape(out), int(node.attributes["size"])
    if 0 in shape:
        state.define(out, Const(np.zeros(()), Type.F32))
        return
    x = along(state, source(state, name), 1)
    total = _windows(state, _squares(state, x, size), x, size)
    base = add(mul(total, attribute(node, "alpha", 1e-4) / size), attribute(node, "bias", 1.0))
    element = state.widen(Leaf(x.value, None), state.dtype(name))
    result = binary("mul", element, _inverse_power(base, attribute(node, "beta", 0.75)))
    x.define(state, out, result)


def _inverse_power(base: Expr, beta: float) -> Expr:
    """base**-beta; three quarters are base**-1 * base**(1/4)."""
    if beta != 0.75:
        return power(base, Const(np.asarray(-beta), Type.F32))
    root = unary("rsqrt", base)
    return binary("mul", binary("mul", root, root), unary("rsqrt", root))


def _squares(state: Lowering, x: Along, size: int) -> Value:
    """The squares of [outer, n, inner], with zeros around: (size - 1) // 2 in front, all in all
    size - 1."""
    (outer, n, inner), columns = x.view, x.value.columns
    rows = np.arange(outer * n * inner).reshape(outer, n, inner)
    front = (size - 1) // 2
    widths = ((0, 0), (front, size - 1 - front), (0, 0))
    padded_rows = np.pad(rows, widths, constant_values=-1).reshape(-1, 1)
    index = np.where(padded_rows < 0, -1, padded_rows * columns + np.arange(columns))
    padded = state.new_value(x.value.name, len(index), columns, x.value.type)
    state.steps.append(Move(padded, (x.value,), index, (state.node,)))
    wide = state.widen(Leaf(padded, None), "float32")
    return hold(state, binary("mul", wide, wide), (padded.rows, columns)).value


def _windows(state: Lowering, value: Value, x: Along, size: int) -> Expr:
    """Sums over `size` rows from each of the first n on: from sums over 1, 2, 4, ... rows."""
    outer, n, inner = x.view
    length = n + size - 1
    every = np.arange(outer * length * inner).reshape(outer, length, inner)

    def rows(of: Value, first: int, count: int) -> Leaf:
        places = np.minimum(np.arange(first, first + count), length - 1)
        return Leaf(of, np.ascontiguousarray(every[:, places].ravel()))

    total: Expr | None = None
    done, width, shape = 0, 1, (outer * n * inner, value.columns)
    while True:
        if size & width:
            part = rows(value, done, n)
            done += width
            if total is not None:
                total = binary("add", Leaf(hold(state, total, shape).value, None), part)
            else:
                total = part
        if done == size:
            assert total is not None
            return total
        double = binary("add", Leaf(value, None), rows(value, width, length))
        value = hold(state, double, (value.rows, value.columns)).value
        width *= 2
