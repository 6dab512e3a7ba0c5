"""Steps that are spared once all are known: bytes that stay as they are, and wide elements turned.

    q1 = bytes of x      q2 = round((q1 - z) * 1.0) + z      q2 is q1, for every byte
    t = transpose of s   q = bytes of t                      q is the transpose of the bytes of s

Networks that are quantized node by node divide by a power of two between two scales that differ by
that power: nothing happens to the integers. Whether that is so is found by trying all 256.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, Op, flatten, substituted
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.joined_operands import apart
from clockstep_compiler.steps import (
    Compute,
    Lookup,
    Lowered,
    Move,
    Outer,
    Put,
    Step,
    Transpose,
    Value,
    sources_of,
)
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import Type

__all__ = ["spared"]

Array = NDArray[Any]

_FLOATS: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
}

_EVERY = np.arange(-128, 128).astype(np.int8)


def spared(plan: Floorplan, lowered: Lowered) -> Lowered:
    """The model without steps that copy or join operands, and with narrow matrices turned in place
    of wide ones."""
    return _turned_late(plan, apart(plan, _without_copies(lowered)))


# -- bytes that stay as they are -------------------------------------------------------------------


def _without_copies(lowered: Lowered) -> Lowered:
    """The model with matrices in place of those that are made of them and the same."""
    same: dict[int, Value] = {}
    steps: list[Step] = []
    for step in lowered.steps:
        own = _reading(step, same)
        leaf = _only_leaf(own)
        if leaf is not None and _stays(own, leaf):
            same[own.out.number] = leaf.value
        else:
            steps.append(own)
    if not same:
        return lowered

    outputs = tuple((name, same.get(value.number, value)) for name, value in lowered.outputs)
    stored = tuple(pair for pair in lowered.stored if pair[1].number not in same)
    return replace(lowered, steps=tuple(steps), outputs=outputs, stored=stored)


def _only_leaf(step: Step) -> Leaf | None:
    """The one matrix that a step computes with, row by row, beside constants for all elements."""
    if not isinstance(step, Compute):
        return None
    _, sources = flatten(step.expr)
    leaf = sources[0] if len(sources) == 1 else None
    return leaf if isinstance(leaf, Leaf) and leaf.index is None else None


def _stays(step: Step, leaf: Leaf) -> bool:
    """Whether a step makes of every byte that byte."""
    if not isinstance(step, Compute) or leaf.value.origin != "step":
        return False
    alike = (step.out.rows, step.out.columns) == (leaf.value.rows, leaf.value.columns)
    if not alike or step.out.type != Type.I8 or leaf.out != Type.I8:
        return False
    made = _of_every_byte(step.expr)
    return made is not None and np.array_equal(made, _EVERY)


def _of_every_byte(e: Expr) -> Array | None:
    """What an expression of one byte makes of each; None where only the machine would say."""
    if isinstance(e, Leaf):
        return _EVERY
    if isinstance(e, Const):
        return e.array.reshape(()).astype(numpy_type(e.out)) if e.array.size == 1 else None
    if not isinstance(e, Op):
        return None
    args = [_of_every_byte(arg) for arg in e.args]
    known = [arg for arg in args if arg is not None]
    if len(known) < len(args):
        return None
    if e.name == "cast":
        return _converted(known[0], e)
    if e.name in _FLOATS and e.type == Type.F32:
        with np.errstate(all="ignore"):
            result = _FLOATS[e.name](*known)
        return result if np.isfinite(result).all() else None
    if e.name == "add_sat" and e.type == Type.I32:
        return _clamped(known[0].astype(np.int64) + known[1], Type.I32)
    return None


def _converted(a: Array, e: Op) -> Array | None:
    """A conversion to nearest that clamps."""
    if e.extra[1:] != (0, 0) or e.out not in (Type.F32, Type.I32, Type.I8):
        return None
    if e.out == Type.F32:
        return a.astype(np.float32)
    return _clamped(np.rint(a.astype(np.float64)), e.out)


def _clamped(a: Array, kind: Type) -> Array:
    low, high = np.iinfo(numpy_type(kind)).min, np.iinfo(numpy_type(kind)).max
    return np.clip(a, low, high).astype(numpy_type(kind))


# -- reading other matrices ------------------------------------------------------------------------


def _reading(step: Step, same: dict[int, Value]) -> Step:
    """A step that reads `same` matrices in place of others, by their numbers."""
    if not any(value.number in same for value in sources_of(step)):
        return step

    def new(value: Value) -> Value:
        return same.get(value.number, value)

    if isinstance(step, Compute):
        return replace(step, expr=substituted(step.expr, lambda e: _renamed(e, new)))
    if isinstance(step, Move):
        return replace(step, sources=tuple(map(new, step.sources)))
    if isinstance(step, Outer):
        return replace(step, a=new(step.a), b=new(step.b))
    if isinstance(step, Put):
        return replace(step, new=new(step.new), place=new(step.place))
    if isinstance(step, Lookup):
        return replace(step, place=new(step.place))
    return replace(step, source=new(step.source))


def _renamed(e: Expr, new: Callable[[Value], Value]) -> Expr | None:
    """A leaf or a product of new matrices."""
    if isinstance(e, Leaf):
        return replace(e, value=new(e.value))
    if not isinstance(e, Acc):
        return None
    terms = []
    for term in e.product.terms:
        weights = term.weights
        own = weights.interleaved
        if own is not None:
            weights = replace(weights, interleaved=replace(own, values=tuple(map(new, own.values))))
        elif weights.value is not None:
            weights = replace(weights, value=new(weights.value))
        elif weights.which:
            weights = replace(weights, which=tuple(map(new, weights.which)))
        terms.append(replace(term, a=new(term.a), weights=weights))
    return Acc(replace(e.product, terms=tuple(terms)))


# -- turned late -----------------------------------------------------------------------------------


def _turned_late(plan: Floorplan, lowered: Lowered) -> Lowered:
    """What a transposed matrix alone becomes, element by element, it becomes before it is turned.

    Where that is narrower, or takes no more vectors.
    """
    users = Counter(v.number for step in lowered.steps for v in sources_of(step))
    users.update(value.number for _, value in lowered.outputs)
    values, steps, gone = list(lowered.values), list[Step](), set[int]()
    turns: dict[int, int] = {}  # where in `steps` a matrix is turned
    for step in lowered.steps:
        leaf = _only_leaf(step)
        place = turns.get(leaf.value.number) if leaf is not None else None
        turn = None if place is None else steps[place]
        if (
            place is not None
            and isinstance(step, Compute)
            and isinstance(turn, Transpose)
            and users[turn.out.number] == 1
            and _gains(plan, turn, step)
        ):
            steps[place] = _before(turn, step, len(values))
            values.append(steps[place].out)
            gone.add(turn.out.number)
            step = replace(turn, out=step.out, source=steps[place].out)
        if isinstance(step, Transpose):
            turns[step.out.number] = len(steps)
        steps.append(step)
    stored = tuple((name, value) for name, value in lowered.stored if value.number not in gone)
    return replace(lowered, steps=tuple(steps), values=tuple(values), stored=stored)


def _before(turn: Transpose, step: Compute, number: int) -> Compute:
    """A step that reads nothing but what is turned, before that is."""
    source = turn.source
    out = replace(step.out, number=number, rows=source.rows, columns=source.columns)
    new = Leaf(source, None)
    expr = substituted(step.expr, lambda e: new if isinstance(e, Leaf) else None)
    return Compute(out, expr, step.nodes, (source.rows, source.columns))


def _gains(plan: Floorplan, turn: Transpose, step: Compute) -> bool:
    """Whether it is better to turn what a step makes than what it reads."""

    def vectors(value: Value) -> int:
        return value.rows * -(-value.columns // plan.machine.vector)

    wide, narrow = turn.out.type.bytes, step.out.type.bytes
    same = vectors(turn.source) <= vectors(turn.out)
    return narrow < wide or (narrow == wide and same)
