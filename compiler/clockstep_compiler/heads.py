"""Attention of integers on heads that lie side by side, in the rows of the products that make them.

Exporters move heads of attention apart before the products and together after them. Nothing has to
be moved if a row of scores is of one key, with a column for each query of each head:

    q, k [H, s or t, d]   scores [H, s, t] = q k^T   becomes   [t, H s] = k [t, H d] . q [H s, H d]
    p [H, s, t], v        context [H, s, d] = p v    becomes   [s, H d]

Rows are full of heads then, and a softmax goes over rows, where nothing is turned. What stands
between the two, element by element, follows (`Scores` and `Context`, operators of our own, in
`lowering/heads.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.channel_rules import ALONG, POINTWISE
from clockstep_compiler.graph import CLOCKSTEP, Graph, Node, Tensor
from clockstep_isa.machine import Machine

__all__ = ["head_groups", "head_of", "heads_together"]

_Sizes = tuple[int, int, int, int]
"""Heads, elements of one, queries and keys."""


_SLICES = 4
"""Of a hemisphere's slices, the part that may be read at a time to load an array."""


def head_groups(heads: int, depth: int, machine: Machine) -> list[range]:
    """Heads of one K tile together, as many as can be loaded side by side."""
    mxm, slices = machine.mxm, machine.mem.slices_per_hemisphere
    size = max(1, min(mxm.install_streams // 2, slices // _SLICES))
    tile = machine.vector // depth
    return [
        range(k, min(heads, first + tile, k + size))
        for first in range(0, heads, tile)
        for k in range(first, min(heads, first + tile), size)
    ]


def head_of(heads: int, depth: int, queries: int, machine: Machine) -> NDArray[np.int64]:
    """The head of every column of scores: of a group of heads all, for one query after another."""
    groups = head_groups(heads, depth, machine)
    return np.concatenate([np.tile(np.array(group), queries) for group in groups])


def _counted(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each number was there before."""
    found = np.zeros(len(order), np.int64)
    for number in np.unique(order):
        found[order == number] = np.arange(np.count_nonzero(order == number))
    return found


@dataclass(frozen=True, slots=True)
class _Operand:
    """Heads as they lie in the columns of `source` from `first` on: `rows` rows of `count` heads of
    `depth` elements; `scaled` is what dequantizes them."""

    source: str
    first: int
    count: int
    rows: int
    depth: int
    scaled: Node

    @property
    def columns(self) -> int:
        return self.count * self.depth


@dataclass(frozen=True, slots=True)
class _Attention:
    """Both products, what is `inside` from the one to the other, and what comes `after` up to the
    moves that bring heads together."""

    q: _Operand
    k: _Operand
    v: _Operand
    scores: Node
    inside: tuple[Node, ...]
    context: Node
    after: tuple[Node, ...]


def heads_together(graph: Graph, machine: Machine) -> Graph:
    """The graph with heads side by side wherever rows of a machine are better filled by them."""
    return _Rewriting(graph, machine).graph()


class _Rewriting:
    """The graph as it is rewritten."""

    def __init__(self, graph: Graph, machine: Machine) -> None:
        self._graph = graph
        self._machine = machine
        self._tensors: dict[str, Tensor] = dict(graph.tensors)
        self._constants = dict(graph.constants)
        self._makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self._readers.setdefault(name, []).append(node)
        self._places = {node.outputs[0]: i for i, node in enumerate(graph.nodes)}
        self._titles = {node.name for node in graph.nodes}
        self._known: dict[tuple[str, _Sizes, tuple[int, ...]], str] = {}

    def graph(self) -> Graph:
        made: dict[str, list[Node]] = {}
        for node in self._graph.nodes:
            found = self._attention(node) if node.op == "MatMul" else None
            if found is not None:
                self._rewrite(found, made)
        if not made:
            return self._graph
        nodes: list[Node] = []
        used = set(self._graph.outputs)
        for old in reversed(self._graph.nodes):
            for node in reversed(made.get(old.outputs[0], [old])):
                if used.intersection(node.outputs):
                    nodes.append(node)
                    used.update(node.inputs)
        used.update(self._graph.inputs, self._graph.joined, *(node.outputs for node in nodes))
        tensors = {name: t for name, t in self._tensors.items() if name in used}
        constants = {name: c for name, c in self._constants.items() if name in used}
        return replace(self._graph, nodes=tuple(nodes[::-1]), tensors=tensors, constants=constants)

    # -- finding ------------------------------------------------------------------------------

    def _attention(self, scores: Node) -> _Attention | None:
        """The attention that begins with a product, if it is one and better with heads together."""
        if not scores.attributes.get("transB", 0):
            return None
        q, k = (self._operand(name) for name in scores.inputs)
        if q is None or k is None or (q.count, q.depth) != (k.count, k.depth):
            return None
        inside = self._inside(scores, (1, q.count, q.rows, k.rows))
        if inside is None:
            return None
        *between, context = inside
        v = self._operand(context.inputs[1], turned=True)
        if v is None or (v.count, v.rows) != (q.count, k.rows) or v.depth != q.depth:
            return None
        after = self._after(context, q)
        if after is None or not self._worthwhile(q, k):
            return None
        return _Attention(q, k, v, scores, tuple(between), context, after)

    def _worthwhile(self, q: _Operand, k: _Operand) -> bool:
        """Whether scores take fewer vectors, and every head is in one tile."""
        lanes = self._machine.vector
        apart = q.count * q.rows * -(-k.rows // lanes)
        together = k.rows * -(-q.count * q.rows // lanes)
        return q.count > 1 and lanes % q.depth == 0 and together < apart

    def _operand(self, name: str, *, turned: bool = False) -> _Operand | None:
        """Integers that a move makes [1, heads, rows, depth] of; `turned`: [..., depth, rows]."""
        scaled = self._makers.get(name)
        if scaled is None or scaled.op != "DequantizeLinear" or not self._is_single(scaled):
            return None
        move, shape = self._makers.get(scaled.inputs[0]), self._shape(name)
        if move is None or move.op != "Move" or len(move.inputs) != 1 or len(shape) != 4:
            return None
        index = move.attributes["index"]
        index = np.swapaxes(index, -1, -2) if turned else index
        batch, count, rows, depth = index.shape
        source = self._shape(move.inputs[0])
        if batch != 1 or not index.size or not source or math.prod(source[:-1]) != rows:
            return None
        first = int(index.flat[0])
        whole = first + np.arange(rows)[:, None] * source[-1] + np.arange(count * depth)
        apart = whole.reshape(rows, count, depth).swapaxes(0, 1)
        if first < 0 or first + count * depth > source[-1] or not np.array_equal(index[0], apart):
            return None
        return _Operand(move.inputs[0], first, count, rows, depth, scaled)

    def _inside(self, scores: Node, shape: tuple[int, ...]) -> tuple[Node, ...] | None:
        """All that follows from the scores, in order, up to the product that it is a factor of."""
        found, names = list[Node](), {scores.outputs[0]}
        for node in self._following(names):
            found.append(node)
            if node.op == "MatMul":
                maker = self._makers.get(node.inputs[0])
                integers = maker is not None and maker.op == "DequantizeLinear"
                alone = node.inputs[0] in names and node.inputs[1] not in names
                whole = all(r in found for name in names for r in self._readers.get(name, ()))
                done = integers and alone and whole and node.attributes.get("transB", 0)
                return tuple(found) if done and not names & {*self._graph.outputs} else None
            if not self._follows(node, names, shape):
                return None
            names.add(node.outputs[0])
        return None

    def _following(self, names: set[str]) -> Iterator[Node]:
        """Nodes in order that read any of `names`, which grow meanwhile."""
        first = min(self._places[self._makers[name].outputs[0]] for name in names)
        for node in self._graph.nodes[first + 1 :]:
            if not names.isdisjoint(node.inputs):
                yield node

    def _follows(self, node: Node, names: set[str], shape: tuple[int, ...]) -> bool:
        """Whether a node computes as well with the scores in another order."""
        if len(node.outputs) != 1 or self._shape(node.outputs[0]) != shape:
            return False
        if node.op in ALONG:
            return self._is_single(node)
        if node.op == "Softmax":
            return int(node.attributes.get("axis", -1)) in (-1, len(shape) - 1)
        others = [name for name in node.inputs if name and name not in names]
        return node.op in POINTWISE and all(len(self._shape(name)) <= 4 for name in others)

    def _after(self, context: Node, q: _Operand) -> tuple[Node, ...] | None:
        """What follows from the context up to moves to [rows, heads * depth], and these."""
        found, names = list[Node](), {context.outputs[0]}
        shape = (1, q.count, q.rows, q.depth)
        places = np.arange(math.prod(shape)).reshape(shape[1:]).swapaxes(0, 1).ravel()
        for node in self._following(names):
            found.append(node)
            if node.op == "Move":
                if len(node.inputs) > 1 or not np.array_equal(
                    node.attributes["index"].ravel(), places
                ):
                    return None
                continue
            others = [name for name in node.inputs if name and name not in names]
            single = all(math.prod(self._shape(name)) == 1 for name in others)
            if not single or not self._follows(node, names, shape) or node.op == "Softmax":
                return None
            names.add(node.outputs[0])
        whole = all(len(self._readers.get(name, ())) > 0 for name in names)
        return tuple(found) if whole and not names & {*self._graph.outputs} else None

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def _is_single(self, node: Node) -> bool:
        """Whether the parameters after a node's first input are single numbers."""
        single = all(math.prod(self._shape(name)) == 1 for name in node.inputs[1:] if name)
        return single and not node.attributes.get("block_size", 0)

    # -- rewriting ----------------------------------------------------------------------------

    def _rewrite(self, a: _Attention, made: dict[str, list[Node]]) -> None:
        """Put what stands in place of its nodes into `made`, by what they make."""
        q, k, v = a.q, a.k, a.v
        names: dict[str, str] = {}
        shape = (1, k.rows, q.count * q.rows)
        nodes: list[Node] = []
        inputs = (self._flat(k, nodes), self._flat(q, nodes))
        out = self._renamed(a.scores.outputs[0], shape, names)
        nodes.append(_own(a.scores, "Scores", inputs, out, q.count))
        made[a.scores.outputs[0]] = nodes
        for node in a.inside:
            made[node.outputs[0]] = self._follow(
                node, names, shape, (q.count, q.depth, q.rows, k.rows)
            )
        nodes = []
        inputs = (names[a.context.inputs[0]], self._flat(v, nodes))
        shape = (1, q.rows, v.columns)
        out = self._renamed(a.context.outputs[0], shape, names)
        made[a.context.outputs[0]] = [*nodes, _own(a.context, "Context", inputs, out, q.count)]
        for node in a.after:
            if node.op == "Move":
                source = (names[node.inputs[0]],)
                made[node.outputs[0]] = [
                    replace(node, op="Reshape", domain="", inputs=source, attributes={})
                ]
            else:
                made[node.outputs[0]] = self._follow(node, names, shape, (1, 1, 1, 1))

    def _flat(self, operand: _Operand, nodes: list[Node]) -> str:
        """An operand [1, rows, heads * depth], dequantized."""
        name, scaled = operand.source, operand.scaled
        if self._shape(name)[-1] != operand.columns:
            rows = np.arange(operand.rows)[:, None] * self._shape(name)[-1]
            index = operand.first + rows + np.arange(operand.columns)
            name = self._moved(name, index[None], scaled, nodes)
        return self._dequantized(scaled, name, nodes)

    def _dequantized(self, scaled: Node, name: str, nodes: list[Node]) -> str:
        """What dequantizes one tensor for another one."""
        like = self._tensors[scaled.outputs[0]].dtype
        out = self._new(f"{scaled.outputs[0]}.together", self._shape(name), like)
        inputs = (name, *scaled.inputs[1:])
        nodes.append(replace(scaled, name=self._title(scaled), inputs=inputs, outputs=(out,)))
        return out

    def _moved(self, name: str, index: NDArray[np.int64], like: Node, nodes: list[Node]) -> str:
        """Elements of a tensor moved, for what a node does."""
        out = self._new(f"{name}.together", index.shape, self._tensors[name].dtype)
        attributes = {"fill": 0, "index": index, "op": "Transpose", "opset": like.opset}
        inputs, title = (name,), self._title(like)
        nodes.append(Node(title, "Move", CLOCKSTEP, 1, inputs, (out,), attributes, like.chips))
        return out

    def _follow(
        self, node: Node, names: dict[str, str], shape: tuple[int, ...], sizes: _Sizes
    ) -> list[Node]:
        """A node that computes element by element, or a softmax, with heads together."""
        nodes: list[Node] = []
        inputs = []
        for place, name in enumerate(node.inputs):
            if name in names or not name:
                inputs.append(names.get(name, name))
            elif node.op in ALONG and place > 0:
                inputs.append(name)
            else:
                inputs.append(self._beside(name, sizes, node, nodes))
        attributes = {**node.attributes, "axis": 1} if node.op == "Softmax" else node.attributes
        out = self._renamed(node.outputs[0], shape, names)
        made = replace(node, inputs=tuple(inputs), outputs=(out,), attributes=attributes)
        return [*nodes, made]

    def _beside(self, name: str, sizes: _Sizes, reader: Node, nodes: list[Node]) -> str:
        """What broadcasts to [heads, queries, keys], for [1, keys, heads * queries]; made once for
        all readers on a chip."""
        key = name, sizes, reader.chips
        if key not in self._known:
            self._known[key] = self._made_beside(name, sizes, reader, nodes)
        return self._known[key]

    def _made_beside(self, name: str, sizes: _Sizes, reader: Node, nodes: list[Node]) -> str:
        own, scaled = self._shape(name), self._makers.get(name)
        if math.prod(own) == 1 and len(own) < 4:
            return name
        if scaled is not None and scaled.op == "DequantizeLinear" and self._is_single(scaled):
            inner = self._beside(scaled.inputs[0], sizes, reader, nodes)
            return self._dequantized(replace(scaled, chips=reader.chips), inner, nodes)
        padded = np.arange(math.prod(own)).reshape((1,) * (4 - len(own)) + own)[0]
        count, depth, queries, keys = sizes
        across = (1, 1) if padded.shape[:2] == (1, 1) else (count, queries)
        along = 1 if padded.shape[2] == 1 else keys
        index = np.broadcast_to(padded, (*across, along)).reshape(-1, along)
        if len(index) > 1:
            order = head_of(count, depth, queries, self._machine)
            index = index[order * queries + _counted(order)]
        index = np.ascontiguousarray(index.T[None])
        if name not in self._constants:
            return self._moved(name, index, reader, nodes)
        out = self._new(f"{name}.together", index.shape, self._tensors[name].dtype)
        self._constants[out] = self._constants[name].ravel()[index]
        return out

    def _renamed(self, name: str, shape: tuple[int, ...], names: dict[str, str]) -> str:
        names[name] = self._new(f"{name}.together", shape, self._tensors[name].dtype)
        return names[name]

    def _new(self, name: str, shape: tuple[int, ...], dtype: str) -> str:
        """A tensor under a name like `name` that nobody has."""
        while name in self._tensors:
            name += "_"
        self._tensors[name] = Tensor(name, shape, dtype)
        return name

    def _title(self, like: Node) -> str:
        """The name of one more node that does the work of another."""
        name = f"{like.name}.together"
        while name in self._titles:
            name += "_"
        self._titles.add(name)
        return name


def _own(like: Node, op: str, inputs: tuple[str, ...], out: str, count: int) -> Node:
    """One of the two products, of `count` heads."""
    attributes = {"heads": count, "op": like.op, "opset": like.opset}
    return Node(like.name, op, CLOCKSTEP, 1, inputs, (out,), attributes, like.chips)
