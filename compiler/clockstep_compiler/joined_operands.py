"""Products of joined matrices are sums of the products of the parts.

    c = [x | h]   q = bytes of c   y = q . W    becomes    y = bytes of x . Wx + bytes of h . Wh

One wave sums all K tiles of a product, whatever matrices they are of, so nothing is moved, and sums
of integers are the same. What is computed on the way, element by element, is computed of the parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from clockstep_compiler.expr import Acc, Expr, Leaf, flatten, substituted
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.steps import Compute, Lowered, Move, Product, Step, Term, Value, sources_of

__all__ = ["apart"]

_FEW_ROWS = 32
"""Rows that take about as long as loading an array."""

_MORE = (5, 4)
"""Of so few rows, the K tiles of all parts for each that the whole has, at most."""

_Readers = dict[int, list[Step | None]]
"""The steps that read each matrix; None for what is beyond them."""


def apart(plan: Floorplan, lowered: Lowered) -> Lowered:
    """The model with products of the parts of what is joined for products alone."""
    readers = _readers(lowered)
    values, steps = list(lowered.values), list[Step]()
    parts: dict[int, tuple[Value, ...]] = {}  # of joined matrices
    passed: set[int] = set()  # matrices made of one that is joined
    for step in lowered.steps:
        if isinstance(step, Move) and _joins(step):
            chain = _to_products(step.out, readers)
            if chain is not None and _is_short(plan, step):
                parts[step.out.number] = step.sources
                passed.update(chain)
                continue
        if isinstance(step, Compute) and step.out.number in passed:
            made = []
            for part in parts[sources_of(step)[0].number]:
                made.append(_of_part(step, part, len(values)))
                values.append(made[-1].out)
            parts[step.out.number] = tuple(one.out for one in made)
            steps += made
            continue
        if isinstance(step, Compute) and any(v.number in parts for v in sources_of(step)):
            step = replace(step, expr=substituted(step.expr, lambda e: _sum(e, parts)))
        steps.append(step)
    if not parts:
        return lowered
    stored = tuple(pair for pair in lowered.stored if pair[1].number not in parts)
    return replace(lowered, steps=tuple(steps), values=tuple(values), stored=stored)


# -- finding ---------------------------------------------------------------------------------------


def _readers(lowered: Lowered) -> _Readers:
    found: _Readers = {value.number: [] for value in lowered.values}
    for step in lowered.steps:
        for value in sources_of(step):
            found[value.number].append(step)
    for value in (*(v for _, v in lowered.outputs), *(v for p in lowered.returned for v in p)):
        found[value.number].append(None)
    return found


def _joins(step: Move) -> bool:
    """Whether a move puts the rows of several matrices side by side, and no more."""
    if len(step.sources) < 2 or any(value.rows != step.out.rows for value in step.sources):
        return False
    firsts = accumulate((value.rows * value.columns for value in step.sources), initial=0)
    sides = [
        first + np.arange(value.rows * value.columns).reshape(value.rows, value.columns)
        for first, value in zip(firsts, step.sources, strict=False)
    ]
    return np.array_equal(step.index, np.concatenate(sides, axis=1))


def _to_products(value: Value, readers: _Readers) -> tuple[int, ...] | None:
    """The matrices between one and the products that read it, if nothing else reads any."""
    chain = []
    while len(readers[value.number]) == 1:
        step = readers[value.number][0]
        if not isinstance(step, Compute) or not _is_alike(step, value):
            break
        value = step.out
        chain.append(value.number)
    found = readers[value.number]
    return tuple(chain) if found and all(_multiplies(step, value) for step in found) else None


def _is_alike(step: Compute, value: Value) -> bool:
    """Whether a step computes with one matrix, alike for all its elements."""
    sources = flatten(step.expr)[1]
    own = isinstance(sources[0], Leaf) and sources[0].index is None
    same = (step.out.rows, step.out.columns) == (value.rows, value.columns)
    return len(sources) == 1 and own and same and not step.out.chips


def _multiplies(step: Step | None, value: Value) -> bool:
    """Whether a step reads a matrix row by row as the operand of products with constants."""
    if not isinstance(step, Compute):
        return False
    products = [e.product for e in flatten(step.expr)[1] if isinstance(e, Acc)]
    terms = [t for p in products for t in p.terms if t.a is value]
    return len(terms) == sources_of(step).count(value) and all(map(_is_plain, terms))


def _is_plain(term: Term) -> bool:
    constant = term.weights.data is not None
    return constant and term.index is None and term.byte is None and term.fill is None


def _is_short(plan: Floorplan, step: Move) -> bool:
    """Whether the parts take as few K tiles as the whole; or few more, of few rows."""
    lanes = plan.machine.vector
    tiles, whole = sum(-(-v.columns // lanes) for v in step.sources), -(-step.out.columns // lanes)
    more, than = _MORE
    return tiles <= whole or (step.out.rows <= _FEW_ROWS and than * tiles <= more * whole)


# -- rewriting -------------------------------------------------------------------------------------


def _of_part(step: Compute, part: Value, number: int) -> Compute:
    """What a step computes, of a part of its operand."""
    out = replace(step.out, number=number, columns=part.columns, type=step.out.type)
    leaf = Leaf(part, None)
    expr = substituted(step.expr, lambda e: leaf if isinstance(e, Leaf) else None)
    return Compute(out, expr, step.nodes, (part.rows, part.columns))


def _sum(e: Expr, parts: dict[int, tuple[Value, ...]]) -> Expr | None:
    """A product with terms of parts in place of those of joined matrices."""
    if not isinstance(e, Acc):
        return None
    terms = (part for term in e.product.terms for part in _terms(term, parts.get(term.a.number)))
    product: Product = replace(e.product, terms=tuple(terms))
    return Acc(product)


def _terms(term: Term, parts: tuple[Value, ...] | None) -> Iterator[Term]:
    if parts is None:
        yield term
        return
    weights = term.weights
    assert weights.data is not None
    ends = accumulate((value.columns for value in parts), initial=0)
    for value, (low, high) in zip(parts, pairwise(ends), strict=True):
        own = replace(weights, depth=high - low, data=weights.data[:, :, low:high])
        yield replace(term, a=value, weights=own)
