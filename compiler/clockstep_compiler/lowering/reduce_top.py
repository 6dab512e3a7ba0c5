"""TopK: the greatest is looked for k times, each time without those found before.

Elements are compared as integers in the same order, so that nothing about them is lost: a float's
bits, those below the sign inverted where it is negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import f32, i32, select
from clockstep_compiler.lowering.elementwise_operands import (
    bounds,
    carry_bounds,
    ordered,
    record_bounds,
)
from clockstep_compiler.lowering.lower import FLOATS, WORDS, Lowering, lowers
from clockstep_compiler.lowering.quantized import constant_of
from clockstep_compiler.lowering.reduce import INTEGERS, refuse_types
from clockstep_compiler.lowering.reduce_rows import (
    Along,
    along,
    source,
)
from clockstep_compiler.steps import Move, Value
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__: list[str] = []

_MOST = 64
"""Every one of the k elements takes a pass over all."""
_LEAST = -(2**31)


@dataclass(frozen=True, slots=True)
class _Rest:
    """The keys of the elements, and where they are: n, and the least key, once they were found."""

    keys: Value
    places: Value


def _flipped(bits: Expr) -> Expr:
    """The bits of a float as an integer of the same order, and back."""
    return i32("xor", bits, i32("and", i32("neg", i32("lt", bits, 0)), 0x7FFFFFFF))


def _key(state: Lowering, a: Expr, dtype: str, largest: bool) -> Expr:
    wide = ordered(state.widen(a, dtype), dtype)
    # -0 becomes 0, which it equals; NaN becomes the positive one, the greatest key.
    key = _flipped(f32("add", wide, 0.0)) if dtype in FLOATS else wide
    return key if largest else i32("xor", key, -1)


def _element(key: Expr, dtype: str, largest: bool) -> Expr:
    key = key if largest else i32("xor", key, -1)
    return f32("mov", _flipped(key)) if dtype in FLOATS else ordered(key, dtype)


@lowers("TopK")
def _top(state: Lowering, node: Node) -> None:
    """The k greatest or least in order, and their indices; of equal ones the first."""
    name, dtype = node.inputs[0], state.dtype(node.inputs[0])
    refuse_types(node, dtype, INTEGERS)
    carry_bounds(state, name, [name], ring=False)
    shape = state.shape(name)
    k = int(constant_of(state, node, 1, "k").reshape(()).item())
    outputs = (*node.outputs, "")[:2]
    kinds = (Type.F32 if dtype in FLOATS else Type.I32, Type.I32)
    if k == 0 or 0 in shape:
        for out, kind in zip(outputs, kinds, strict=True):
            if out:
                state.define(out, Const(np.zeros(()), kind))
        return
    if k > _MOST:
        raise UnsupportedModel("unsupported-form", f"k is {k}: at most {_MOST} is supported")
    largest = bool(node.attributes.get("largest", 1))
    x = along(state, source(state, name), int(node.attributes.get("axis", -1)) % len(shape))
    found = _found(state, x, _start(state, x, dtype, largest), k)
    limits = bounds(state, name) if dtype in WORDS else (0, 0)
    for position, out in enumerate(outputs):
        if not out:
            continue
        record_bounds(state, out, *((0, x.view[1] - 1) if position else limits))
        joined = _joined(state, x, [pair[position] for pair in found])
        expr: Expr = Leaf(joined, None)
        expr = expr if position else _element(expr, dtype, largest)
        replace(x, shape=(joined.rows, joined.columns)).define(state, out, expr)


def _start(state: Lowering, x: Along, dtype: str, largest: bool) -> _Rest:
    keys = x.hold(state, _key(state, Leaf(x.value, None), dtype, largest))
    places = np.arange(x.view[1], dtype=np.int32)[:, None]
    full = np.broadcast_to(places, x.view).reshape(-1, 1)
    matrix = np.broadcast_to(full, (x.value.rows, x.value.columns))
    return _Rest(keys, state.constant_value("places", np.ascontiguousarray(matrix)))


def _found(state: Lowering, x: Along, rest: _Rest, k: int) -> list[tuple[Value, Value]]:
    """Key and place of the k greatest, one after the other."""
    found: list[tuple[Value, Value]] = []
    absent = Const(np.asarray(x.view[1]), Type.I32)
    while True:
        keys, places = Leaf(rest.keys, None), Leaf(rest.places, None)
        best = x.fold(state, rest.keys, "max")
        candidates = x.hold(state, select(i32("eq", keys, x.spread(best)), places, absent))
        first = x.fold(state, candidates, "min")
        found.append((best, first))
        if len(found) == k:
            return found
        gone = i32("eq", places, x.spread(first))
        least = Const(np.asarray(_LEAST), Type.I32)
        rest = _Rest(
            x.hold(state, select(gone, least, keys)), x.hold(state, select(gone, absent, places))
        )


def _joined(state: Lowering, x: Along, parts: list[Value]) -> Value:
    """Matrices of rows [outer, inner] as one of rows [outer, k, inner]."""
    (outer, _, inner), columns = x.view, x.value.columns
    rows = np.arange(len(parts) * outer * inner).reshape(len(parts), outer, inner)
    order = rows.transpose(1, 0, 2).reshape(-1, 1)
    index = order * columns + np.arange(columns)
    out = state.new_value(parts[0].name, len(order), columns, parts[0].type)
    state.steps.append(Move(out, tuple(parts), index, (state.node,)))
    return out
