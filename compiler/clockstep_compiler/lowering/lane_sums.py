"""Sums along the lanes: a product with ones, whose sums are in every lane at once.

Nothing is transposed, and nothing has to be spread for what every element of a row needs. The
array takes fp16 or int8: f32 goes in two parts. In fp16 the sums are rounded once for each K tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clockstep_compiler.expr import Acc, Expr, Leaf, binary, cast, mul
from clockstep_compiler.lowering.lower import Lowering
from clockstep_compiler.lowering.reduce_rows import hold
from clockstep_compiler.steps import Compute, Product, Term, Value, Weights
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import Type

__all__ = ["Part", "halves", "lane_sum", "spread"]

Part = tuple[Value, float]
"""A matrix of fp16 or int8, and what it is multiplied with: a number that has this type."""

_LOW = 2.0**11
"""Times this, what fp16 leaves of a number has the size of the number at most."""


def halves(state: Lowering, expr: Expr, shape: tuple[int, int], *, coarse: bool) -> list[Part]:
    """f32 of magnitudes below 65504 as fp16: the nearest if that will do (`coarse`), else that and
    what it leaves, so that 2**-23 of an element is lost at most, or 2**-36."""
    high = hold(state, cast(expr, Type.F16), shape).value
    if coarse:
        return [(high, 1.0)]
    rest = mul(binary("sub", expr, cast(Leaf(high, None), Type.F32)), _LOW)
    return [(high, 1.0), (hold(state, cast(rest, Type.F16), shape).value, 1 / _LOW)]


def lane_sum(state: Lowering, parts: Sequence[Part], columns: int = 0) -> Expr:
    """The sum of every row of some matrices times their factors: i32 of int8, f32 of fp16.

    To be stored by `spread`, with whatever follows for a row; or in each of so many columns, for
    what has these.
    """
    kind, rows, n = parts[0][0].type, parts[0][0].rows, max(1, columns)
    terms = tuple(Term(value, _ones(state, value, factor, n), None) for value, factor in parts)
    return Acc(Product(kind, rows, n, terms, None, spread=not columns))


def _ones(state: Lowering, value: Value, factor: float, columns: int) -> Weights:
    key = "ones", value.columns, value.type, factor, columns
    if key not in state.memo:
        data = np.full((1, columns, value.columns), factor, numpy_type(value.type))
        state.memo[key] = Weights(1, columns, value.columns, data=data)
    found: Weights = state.memo[key]
    return found


def spread(state: Lowering, expr: Expr, rows: int) -> Leaf:
    """An expression of sums, constants and the like, stored: one number a row, in every lane."""
    name = state.graph.nodes[state.node].outputs[0]
    value = state.new_value(name, rows, 1, expr.out)
    state.steps.append(Compute(value, expr, (state.node,), (rows, 1)))
    state.views["spread", value.number] = value
    return Leaf(value, None)
