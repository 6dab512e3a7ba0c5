"""The products of attention with heads side by side (`heads.py` of the compiler says what for).

Both are products of whole matrices whose computed weights are mostly zero: of the queries, each in
as many rows as there are heads, what other heads have is masked; of the values, turned, each head
takes its own columns. What is added for zero points comes from constants of the same form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, add, binary, cast, mul
from clockstep_compiler.graph import Node
from clockstep_compiler.heads import head_groups, head_of
from clockstep_compiler.lowering.factors import transposed
from clockstep_compiler.lowering.lower import Lowering, lowers, offset_of
from clockstep_compiler.lowering.matmul_integers import int8_parts
from clockstep_compiler.lowering.reduce_rows import hold
from clockstep_compiler.steps import Interleaved, Product, Term, Value, Weights, sources_of
from clockstep_isa.table import Type

__all__: list[str] = []

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Factor:
    """A matrix of a product, and what is added to its elements and then multiplied with them."""

    value: Value
    shift: int
    scale: float


def _factors(state: Lowering, node: Node) -> tuple[_Factor, _Factor]:
    """Both operands: integers, or fp16 that they become."""
    found = []
    for name in node.inputs:
        quant = state.tensors[name].quant
        assert quant is not None, f"{name} is not dequantized"
        dtype = state.dtype(quant.source)
        if state.options.precision == "fp16" or dtype not in ("int8", "uint8"):
            found.append(_Factor(state.store(name, Type.F16), 0, 1.0))
            continue
        shift = -offset_of(dtype) - int(quant.zero.reshape(()))
        found.append(_Factor(state.store(quant.source), shift, float(quant.scale.reshape(()))))
    one, two = found
    if one.value.type != two.value.type:
        one, two = (_Factor(state.store(n, Type.F16), 0, 1.0) for n in node.inputs)
    return one, two


@lowers("Scores")
def _lower_scores(state: Lowering, node: Node) -> None:
    """[keys, heads * queries]: row t, column (h, s) is k[t, h] . q[s, h]."""
    k, q = _factors(state, node)
    heads = int(node.attributes["heads"])
    depth, queries, columns = q.value.columns // heads, q.value.rows, heads * q.value.rows
    weights = list(_masked(state, q.value, heads))
    own = (
        np.arange(heads * depth) // depth == head_of(heads, depth, queries, state.machine)[:, None]
    )
    sums = _summed(state, weights, k.shift) if k.shift else None
    terms = [Term(k.value, w, None) for w in weights]
    terms += [Term(k.value, w, None) for w in _constants(state, q.shift * own.astype(np.int64))]
    expr = _sum(terms, k.value.rows, columns)
    if sums is not None:
        expr = binary("add", expr, Leaf(sums, np.zeros(k.value.rows, np.int64)))
    constant = k.shift * q.shift * depth
    _define(state, node, add(expr, constant) if constant else expr, k.scale * q.scale)


@lowers("Context")
def _lower_context(state: Lowering, node: Node) -> None:
    """[queries, heads * depth]: row s, column (h, d) is p[:, h, s] . v[:, h, d]."""
    p, v = _factors(state, node)
    heads, keys, columns = int(node.attributes["heads"]), v.value.rows, v.value.columns
    queries, depth = p.value.columns // heads, columns // heads
    a, turned = transposed(state, p.value, 1), _turned_early(state, v.value)
    order = head_of(heads, depth, queries, state.machine)
    terms, whole = [], Weights(1, columns, keys, value=turned)
    for head in range(heads):
        index = np.flatnonzero(order == head)
        part = Interleaved((turned,), head * depth, depth, head * depth, None, keys)
        own = Weights(1, columns, keys, interleaved=part)
        mine = np.arange(columns) // depth == head
        shift = np.where(mine, v.shift, 0)[:, None] * np.ones(keys, np.int64)
        terms += [Term(a, w, index) for w in (own, *_constants(state, shift))]
    expr = _sum(terms, queries, columns)
    if p.shift:
        sums = _summed(state, [whole], p.shift)
        expr = binary("add", expr, Leaf(sums, np.zeros(queries, np.int64)))
    constant = p.shift * v.shift * keys
    _define(state, node, add(expr, constant) if constant else expr, p.scale * v.scale)


def _turned_early(state: Lowering, value: Value) -> Value:
    """A matrix transposed, both made as soon as there is what they are made of: arrays take their
    weights in order, so what is turned after a softmax waits for the products before that."""
    out = transposed(state, value, 1)
    early = [step for step in state.steps if step.out is value or step.out is out]
    rest = [step for step in state.steps if step not in early]
    needed = {v.number for step in early for v in sources_of(step)} - {value.number}
    place = max((i for i, step in enumerate(rest) if step.out.number in needed), default=-1) + 1
    state.steps[:] = [*rest[:place], *early, *rest[place:]]
    return out


def _define(state: Lowering, node: Node, expr: Expr, scale: float) -> None:
    state.define(node.outputs[0], mul(cast(expr, Type.F32), scale))


def _sum(terms: list[Term], rows: int, columns: int) -> Expr:
    return Acc(Product(terms[0].a.type, rows, columns, tuple(terms), None))


def _masked(state: Lowering, q: Value, heads: int) -> Iterator[Weights]:
    """The queries of each group of heads: of every head a matrix with all others masked."""
    depth, queries, first = q.columns // heads, q.rows, 0
    for group in head_groups(heads, depth, state.machine):
        tile = group[0] * depth // state.machine.vector
        values = tuple(_alone(state, q, head, depth) for head in group)
        part = Interleaved(values, first, len(group) * queries, 0, tile, depth)
        yield Weights(1, heads * queries, q.columns, interleaved=part)
        first += part.count


def _alone(state: Lowering, q: Value, head: int, depth: int) -> Value:
    """The K tile of a head, all that others have there masked."""
    lanes, first = state.machine.vector, head * depth
    tile = first // lanes
    key = ("alone", q.number, head, depth)
    if key not in state.views:
        some = min(lanes, q.columns - tile * lanes)
        mine = (np.arange(some) + tile * lanes) // depth == head
        kind = Type.I8 if q.type == Type.I8 else Type.F32
        mask = Const(np.where(mine, -1 if kind == Type.I8 else 1, 0)[None], kind)
        masked = _and(Leaf(q, None, tile), mask)
        state.views[key] = hold(state, masked, (q.rows, some)).value
    return state.views[key]


def _and(a: Leaf, mask: Const) -> Expr:
    """Elements where a mask has all bits, else zero; of fp16 where it is one."""
    if a.out == Type.I8:
        return binary("and", a, mask)
    return cast(binary("mul", cast(a, Type.F32), mask), Type.F16)


def _constants(state: Lowering, array: Ints) -> list[Weights]:
    """Constant weights [columns, depth] of any integers, in parts of int8."""
    found = []
    for number, part in enumerate(int8_parts(array)):
        key = ("fill", number, array.shape, array.tobytes())
        if key not in state.memo:
            state.memo[key] = Weights(1, len(array), array.shape[1], data=part[None])
            state.weight_bytes += part.nbytes
        found.append(state.memo[key])
    return found


def _summed(state: Lowering, weights: list[Weights], factor: int) -> Value:
    """The sums of all columns of computed weights times a factor, one row."""
    first = weights[0]
    key = "ones", first.depth
    if key not in state.views:
        state.views[key] = state.constant_value("ones", np.ones((1, first.depth), np.int8))
    ones = state.views[key]
    terms = [Term(ones, w, None) for w in weights]
    expr = binary("mul", _sum(terms, 1, first.columns), Const(np.asarray(factor), Type.I32))
    return hold(state, expr, (1, first.columns)).value
