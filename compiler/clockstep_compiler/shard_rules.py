"""How each operator can be shared by several chips: for another operator add a row to `RULES`.

A rule yields every strategy but the one that always works: all of it on every chip. Of equals the
first is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.channel_rules import PULLED
from clockstep_compiler.channels import RENAMING
from clockstep_compiler.graph import CLOCKSTEP, Graph, Node
from clockstep_compiler.placements import (
    ONCE,
    PARTIAL,
    WHOLE,
    Coarse,
    Placement,
    Strategy,
    carried,
    coarse,
    splits,
)

__all__ = ["RULES", "View", "index_of"]


_DEQUANTIZING = ("Dequantize", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class View:
    """The graph, and the number of ranks that share it."""

    graph: Graph
    ranks: int
    _strategies: dict[int, list[Strategy]] = field(default_factory=dict)
    """What is known of nodes, by their identity."""
    _coarse: dict[int, Coarse] = field(default_factory=dict)

    def strategies(self, node: Node) -> list[Strategy]:
        """Every way to share a node, all of it on every chip the last."""
        if id(node) not in self._strategies:
            self._strategies[id(node)] = _found(self, node)
        return self._strategies[id(node)]

    def coarse(self, node: Node) -> Coarse:
        """A move out of one tensor, in as large pieces as stay together."""
        if id(node) not in self._coarse:
            self._coarse[id(node)] = coarse(index_of(self, node), self.shape(node.inputs[0]))
        return self._coarse[id(node)]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; of an absent input that of a single number."""
        return self.graph.tensors[name].shape if name else ()

    def is_quantized(self, node: Node) -> bool:
        """Whether both sides of a product were dequantized: its sums are exact, and stay so."""
        quantized = {n.outputs[0] for n in self.graph.nodes if n.op in _DEQUANTIZING}
        return quantized.issuperset(node.inputs[:2])

    def axes(self, node: Node) -> Iterator[int]:
        """Axes along which the result of a node can be split."""
        return splits(self.shape(node.outputs[0]), self.ranks)


Rule = Callable[[View, Node], Iterator[Strategy]]


def _found(view: View, node: Node) -> list[Strategy]:
    whole = Strategy((WHOLE,) * len(node.inputs), WHOLE)
    rule = RULES.get(node.op) if node.domain in ("", "ai.onnx", CLOCKSTEP) else None
    if (
        rule is None
        or view.ranks == 1
        or sum(map(bool, node.outputs)) != 1
        or 0 in view.shape(node.outputs[0])
    ):
        return [whole]
    return [*rule(view, node), whole]


def _beside(shape: tuple[int, ...], out: tuple[int, ...], axis: int) -> Placement:
    """Where an operand has to be that is broadcast to a result which is split along an axis."""
    own = axis - len(out) + len(shape)
    return own if own >= 0 and shape[own] > 1 else WHOLE


def _pointwise(view: View, node: Node) -> Iterator[Strategy]:
    """Element by element, operands broadcast."""
    out = view.shape(node.outputs[0])
    for axis in view.axes(node):
        yield Strategy(tuple(_beside(view.shape(n), out, axis) for n in node.inputs), axis)


def _along(view: View, node: Node) -> Iterator[Strategy]:
    """Element by element, with a vector of parameters along an axis."""
    rank = len(view.shape(node.inputs[0]))
    if node.attributes.get("block_size", 0) or not rank:
        return
    own = int(node.attributes.get("axis", 1)) % rank
    for axis in view.axes(node):
        places = (_parameter(view, name, axis == own) for name in node.inputs[1:])
        yield Strategy((axis, *places), axis)


def _parameter(view: View, name: str, split: bool) -> Placement:
    """Where a vector of parameters has to be, which follows an axis that is `split` or another."""
    shape = view.shape(name)
    return len(shape) - 1 if split and math.prod(shape) > 1 else WHOLE


def _product(view: View, node: Node) -> Iterator[Strategy]:
    """left @ right, and what belongs to the rows of the one and the columns of the other.

    Columns first, then rows, then what is batched, at last the inner dimension.
    """
    left, right = (view.shape(node.inputs[i]) for i in _SIDES.get(node.op, (0, 1)))
    out = view.shape(node.outputs[0])
    if len(left) < 2 or len(right) < 2:
        return
    turned = [bool(node.attributes.get(name, 0)) for name in ("transA", "transB")]
    rows, inner = (len(left) - 2, len(left) - 1)[:: -1 if turned[0] else 1]
    depth, columns = (len(right) - 2, len(right) - 1)[:: -1 if turned[1] else 1]
    last = len(out) - 1
    possible = tuple(view.axes(node))
    if last in possible:
        yield _shared(view, node, (WHOLE, columns), last)
    if last - 1 in possible:
        yield _shared(view, node, (rows, WHOLE), last - 1)
    for axis in possible:
        if axis < last - 1:
            yield _shared(view, node, (_beside(left, out, axis), _beside(right, out, axis)), axis)
    if left[inner] % view.ranks == 0 and node.op in _ADDED and not view.is_quantized(node):
        yield _shared(view, node, (inner, depth), PARTIAL)


_SIDES = {"QLinearMatMul": (0, 3)}
"""Where the operands of a product are among a node's inputs, if not first."""

_ADDED = ("Gemm", "MatMul", "MatMulInteger")
"""Products whose result is a sum over the inner dimension and nothing else."""


def _shared(
    view: View, node: Node, sides: tuple[Placement, Placement], output: Placement
) -> Strategy:
    """A product, its parameters and, of Gemm, the matrix that is added to it."""
    out, places = view.shape(node.outputs[0]), [WHOLE] * len(node.inputs)
    first, second = _SIDES.get(node.op, (0, 1))
    places[first], places[second] = sides
    by_row, by_column = output == len(out) - 2, output == len(out) - 1
    if node.op == "Gemm":
        if len(places) > 2:
            added = view.shape(node.inputs[2])
            places[2] = ONCE if output == PARTIAL else _beside(added, out, output)
    elif node.op == "MatMulInteger":
        for place, split in zip(range(2, len(places)), (by_row, by_column), strict=False):
            places[place] = _parameter(view, node.inputs[place], split)
    elif node.op == "QLinearMatMul":
        for place, split in ((1, by_row), (2, by_row), (4, by_column), (5, by_column)):
            places[place] = _parameter(view, node.inputs[place], split)
    return Strategy(tuple(places), output)


def _within(view: View, node: Node) -> Iterator[Strategy]:
    """Over an axis, and for LayerNormalization all behind it; the others may be split."""
    shape = view.shape(node.inputs[0])
    axis = int(node.attributes.get("axis", -1)) % max(1, len(shape))
    behind = node.op in _BEHIND
    rest = (WHOLE,) * (len(node.inputs) - 1)
    for own in view.axes(node):
        if own < axis or (own > axis and not behind):
            yield Strategy((own, *rest), own)


_BEHIND = ("LayerNormalization", "RMSNormalization")


def _reduction(view: View, node: Node) -> Iterator[Strategy]:
    """Over axes that are known, which stay as axes of one element."""
    shape = view.shape(node.inputs[0])
    if view.graph.tensors[node.outputs[0]].shape == shape or not node.attributes.get("keepdims", 1):
        return
    rest = (WHOLE,) * (len(node.inputs) - 1)
    for axis in view.axes(node):
        if shape[axis] == view.shape(node.outputs[0])[axis]:
            yield Strategy((axis, *rest), axis)


def _move(view: View, node: Node) -> Iterator[Strategy]:
    """Elements put elsewhere: out of parts where each rank has what it needs, or of all of it.

    Out of one tensor also where ranks have to send what others need; not if it is turned as well,
    which would be a turn for each of the parts.
    """
    index = index_of(view, node)
    first, places = 0, []
    for name in node.inputs[:1] if node.op in RENAMING else node.inputs:
        count = math.prod(view.shape(name))
        inside = (index >= first) & (index < first + count)
        places.append(np.where(inside, index - first, -1))
        first += count
    rest = (WHOLE,) * (len(node.inputs) - len(places))
    shapes = [view.shape(name) for name in node.inputs[: len(places)]]
    few = [coarse(place, shape) for place, shape in zip(places, shapes, strict=True)]
    last = len(view.shape(node.outputs[0])) - 1
    for axis in view.axes(node):
        found = tuple(
            carried(place, shape, view.ranks, axis)
            if axis == last
            else carried(*fewer[:2], view.ranks, axis)
            for place, shape, fewer in zip(places, shapes, few, strict=True)
        )
        yield Strategy((*found, *rest), axis)
        if found != (WHOLE,) * len(found):
            yield Strategy((WHOLE,) * len(node.inputs), axis)
    if len(places) == 1 and _keeps_neighbours(index):
        for own in splits(view.shape(node.inputs[0]), view.ranks):
            yield from (Strategy((own, *rest), axis) for axis in (WHOLE, *view.axes(node)))


def _keeps_neighbours(index: NDArray[np.int64]) -> bool:
    """Whether most elements of a result lie beside the one that was beside them."""
    beside = np.diff(np.atleast_1d(index), axis=-1) == 1
    return bool(2 * np.count_nonzero(beside) >= beside.size)


def index_of(view: View, node: Node) -> NDArray[np.int64]:
    """Which element of its operands each element of a move's result is."""
    shape = view.shape(node.outputs[0])
    if node.op in RENAMING:
        return np.arange(math.prod(shape)).reshape(shape)
    return np.asarray(node.attributes["index"], np.int64).reshape(shape)


def _take(view: View, node: Node) -> Iterator[Strategy]:
    """Rows of tables: each rank takes its part of every row."""
    last = len(view.shape(node.outputs[0])) - 1
    if last in view.axes(node) and not node.attributes.get("last", 0):
        yield Strategy((len(view.shape(node.inputs[0])) - 1, WHOLE), last)


def _chosen(view: View, node: Node) -> Iterator[Strategy]:
    """A product with one of several matrices, each of which is shared by columns or rows."""
    if 1 in view.axes(node):
        yield Strategy((WHOLE, 2, WHOLE), 1)
    if view.shape(node.inputs[0])[1] % view.ranks == 0:
        yield Strategy((1, 1, WHOLE), PARTIAL)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(PULLED, _pointwise),
    **dict.fromkeys(("Identity", "IsNaN", "Sum"), _pointwise),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _along),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"), _product),
    **dict.fromkeys(("LogSoftmax", "Softmax", *_BEHIND), _within),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"), _reduction
    ),
    **dict.fromkeys(("Move", *RENAMING), _move),
    "Take": _take,
    "ChosenMatMul": _chosen,
}
"""By operator; everything else is done by every rank."""
