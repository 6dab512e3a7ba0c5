"""Inputs that come back with some rows replaced, which can be put into them where they lie.

An exporter writes `Where(Equal(place, 0 .. n - 1), new, past)`, once for each new row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from clockstep_compiler.graph import Graph, Node

__all__ = ["place_of", "refilled"]

_LEAST = 16
"""Rows from which on it is worth having: fewer are chosen between as fast."""

_MOST = 1 << 15
"""Rows that 16 bits number, with some to spare for places where there are none."""


def refilled(graph: Graph) -> dict[str, str]:
    """By the result of every choice of rows that can be made in place, what it chooses else.

    These are whole chains, from an input that nothing else reads to an output, which is the one
    that the next run finds there if the input is a state.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    uses = Counter(name for node in graph.nodes for name in node.inputs if name)
    uses.update(graph.outputs)
    states = dict(graph.states)
    found: dict[str, str] = {}
    for made in graph.outputs:
        chain: dict[str, str] = {}
        name = made
        while name in makers and _puts(graph, makers, makers[name]):
            chain[name] = makers[name].inputs[2]
            name = chain[name]
            if uses[name] != 1:
                break
        if chain and name in graph.inputs and uses[name] == 1 and states.get(name, made) == made:
            found |= chain
    return found


def _puts(graph: Graph, makers: Mapping[str, Node], node: Node) -> bool:
    """Whether a node chooses one row of each set, by its number."""
    if node.op != "Where" or node.inputs[1] in graph.constants:
        return False
    shape, new, past = (graph.tensors[n].shape for n in (*node.outputs, *node.inputs[1:]))
    if len(shape) < 2 or not _LEAST <= shape[-2] <= _MOST or past != shape:
        return False
    return new == (*shape[:-2], 1, shape[-1]) and bool(place_of(graph, makers, node))


def place_of(graph: Graph, makers: Mapping[str, Node], node: Node) -> str:
    """The one number that the condition of a choice compares with the numbers of rows, or ""."""
    rows, condition = graph.tensors[node.outputs[0]].shape[-2], node.inputs[0]
    own, equal = graph.tensors[condition].shape, makers.get(condition)
    if equal is None or equal.op != "Equal" or own[-2:] != (rows, 1) or math.prod(own) != rows:
        return ""
    for one, other in (equal.inputs, equal.inputs[::-1]):
        numbers = graph.constants.get(one)
        if numbers is None or math.prod(graph.tensors[other].shape) != 1:
            continue
        if other not in graph.constants and np.array_equal(numbers.ravel(), np.arange(rows)):
            return str(other)
    return ""
