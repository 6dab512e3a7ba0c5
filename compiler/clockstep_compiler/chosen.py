"""Weights that numbers choose: the numbers of sets become numbers of words.

How many words lie between two sets depends on the streams that load them, which is settled last.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product as pairs

import numpy as np

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, binary, cast, substituted
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.partition import find_product
from clockstep_compiler.steps import Compute, Lowered, Step, Term, Value
from clockstep_isa.table import Type

__all__ = ["in_words"]


def in_words(plan: Floorplan, lowered: Lowered) -> Lowered:
    """The model with the addresses of chosen weights in the place of their numbers."""
    values, steps = list(lowered.values), list[Step]()
    made: dict[tuple[int, int], Value] = {}
    for step in lowered.steps:
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None or not any(t.weights.which for t in product.terms):
            steps.append(step)
            continue
        assert isinstance(step, Compute)
        lanes, terms = plan.machine.vector, list[Term]()
        widths = min(lanes, product.columns), (product.columns - 1) % lanes + 1
        for term in product.terms:
            addresses = []
            for which, columns in pairs(term.weights.which, widths):
                pitch = plan.pitch(product.type.bytes, columns)
                if (which.number, pitch) not in made:
                    times = _times(which, pitch, len(values), step.nodes)
                    steps.append(times)
                    values.append(times.out)
                    made[which.number, pitch] = times.out
                addresses.append(made[which.number, pitch])
            terms.append(replace(term, weights=replace(term.weights, which=tuple(addresses))))
        whole = Acc(replace(product, terms=tuple(terms)))
        steps.append(replace(step, expr=substituted(step.expr, partial(_instead, whole))))
    return replace(lowered, steps=tuple(steps), values=tuple(values)) if made else lowered


def _times(which: Value, pitch: int, number: int, nodes: tuple[int, ...]) -> Compute:
    """A number times `pitch`, as i16 without sign."""
    index = cast(Leaf(which, None), Type.I32)
    words = binary("mul", index, Const(np.array(pitch), Type.I32))
    out = Value(number, which.name, 1, 1, Type.I16, "step", chips=which.chips)
    return Compute(out, cast(words, Type.I16, saturate=False), nodes, (1, 1))


def _instead(whole: Acc, e: Expr) -> Expr | None:
    return whole if isinstance(e, Acc) else None
