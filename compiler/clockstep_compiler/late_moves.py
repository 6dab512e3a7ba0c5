"""Operands of products are moved last and all at once, after what is computed element by element.

Exporters cut heads of attention out of rows, exchange axes and scale, node by node, and quantizers
round in between. Element by element it is all the same where elements lie, so

    x -> Reshape -> Mul -> Transpose -> MatMul    becomes    x -> Mul -> Move -> MatMul

The array takes the columns of a right operand as rows; the last move brings them into that order
(`transB` of the product, as Gemm has it). For another operator that computes element by element add
its name to `_POINTWISE`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.channels import RENAMING
from clockstep_compiler.graph import CLOCKSTEP, Graph, Node, Tensor

__all__ = ["late_moves"]

_POINTWISE = frozenset(
    ("Add", "Cast", "DequantizeLinear", "Div", "Mul", "Neg", "QuantizeLinear", "Relu", "Sub")
)
"""Operators whose results lie as their one operand does; all others are single numbers."""


class _Chain(NamedTuple):
    """From the first move of an operand to the product: `nodes` in order, then what dequantizes."""

    nodes: tuple[Node, ...]
    tail: Node | None


def late_moves(graph: Graph) -> Graph:
    """The graph with the moves of products' operands late."""
    return _Moving(graph).graph()


class _Moving:
    """The graph as it is rewritten."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tensors: dict[str, Tensor] = dict(graph.tensors)
        self._makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._uses = Counter(name for node in graph.nodes for name in node.inputs if name)
        self._uses.update(graph.outputs)
        self._gone: set[str] = set()

    def graph(self) -> Graph:
        made = {n.name: self._product(n) for n in self._graph.nodes if n.op == "MatMul"}
        made = {name: nodes for name, nodes in made.items() if len(nodes) > 1}
        if not made:
            return self._graph
        nodes: list[Node] = []
        for node in self._graph.nodes:
            if node.outputs[0] not in self._gone:
                nodes += made.get(node.name, [node])
        named = {name for node in nodes for name in (*node.inputs, *node.outputs)}
        named.update(self._graph.inputs, self._graph.outputs)
        tensors = {name: self._tensors[name] for name in sorted(named) if name}
        return replace(self._graph, nodes=tuple(nodes), tensors=tensors)

    def _product(self, node: Node) -> list[Node]:
        """What replaces a product: its operands' chains, rewritten, and itself."""
        found: list[Node] = []
        inputs = list(node.inputs)
        right = len(self._tensors[inputs[1]].shape) > 1
        for k, name in enumerate(inputs):
            chain = self._chain(name)
            turned = k == 1 and right and any(n.op == "Move" for n in chain.nodes)
            if not self._worthwhile(chain, turned):
                continue
            inputs[k] = self._rewrite(chain, turned, found)
            if turned:
                node = replace(node, attributes={**node.attributes, "transB": 1})
        return [*found, replace(node, inputs=tuple(inputs))]

    # -- finding ------------------------------------------------------------------------------

    def _chain(self, name: str) -> _Chain:
        nodes: list[Node] = []
        while self._uses[name] == 1 and name in self._makers:
            node = self._makers[name]
            place = self._operand(node)
            if place is None:
                break
            nodes.insert(0, node)
            name = node.inputs[place]
        tail = nodes.pop() if nodes and nodes[-1].op == "DequantizeLinear" else None
        while nodes and not _moves(nodes[0]):
            nodes.pop(0)
        return _Chain(tuple(nodes), tail)

    def _operand(self, node: Node) -> int | None:
        """The place of what a node moves, or computes with element by element and single numbers;
        None if it is neither."""
        if _moves(node):
            return 0
        if node.op not in _POINTWISE or node.domain:
            return None
        shapes = [self._tensors[name].shape if name else () for name in node.inputs]
        many = [i for i, shape in enumerate(shapes) if math.prod(shape) != 1]
        single = all(len(shape) < 2 for i, shape in enumerate(shapes) if i not in many)
        return many[0] if len(many) == 1 and single else None

    def _worthwhile(self, chain: _Chain, turned: bool) -> bool:
        """Whether there are fewer moves afterwards, and no more rows to compute with."""
        nodes = chain.nodes
        if not nodes or nodes[0].inputs[0] in (*self._graph.inputs, *self._graph.constants):
            return False
        own = self._tensors[nodes[0].inputs[0]].shape
        if not own or any(_rows(own) > _rows(self._shape(n)) for n in nodes if not _moves(n)):
            return False
        moved = sum(map(_moves, nodes))
        return moved > 1 or turned or not _moves(nodes[-1])

    # -- rewriting ----------------------------------------------------------------------------

    def _rewrite(self, chain: _Chain, turned: bool, found: list[Node]) -> str:
        """Add the nodes of a chain to those `found`; returns the operand."""
        self._gone.update(node.outputs[0] for node in chain.nodes)
        name = chain.nodes[0].inputs[0]
        own = self._tensors[name].shape
        index = np.arange(math.prod(own))
        for node in chain.nodes:
            if _moves(node):
                index = _moved(node, index, self._shape(node))
                continue
            out = self._named(node.outputs[0], ".unmoved", own)
            place, inputs = self._operand(node), node.inputs
            inputs = tuple(name if i == place else other for i, other in enumerate(inputs))
            found.append(replace(node, inputs=inputs, outputs=(out,)))
            name = out
        end, last = chain.nodes[-1].outputs[0], [node for node in chain.nodes if _moves(node)][-1]
        if turned:
            index = np.ascontiguousarray(np.swapaxes(index, -1, -2))
            end = self._named(end, ".turned", index.shape)
        found.append(_move(last, name, end, index))
        if chain.tail is None:
            return end
        self._gone.add(chain.tail.outputs[0])
        out = chain.tail.outputs[0]
        out = self._named(out, ".turned", index.shape) if turned else out
        found.append(replace(chain.tail, inputs=(end, *chain.tail.inputs[1:]), outputs=(out,)))
        return out

    def _shape(self, node: Node) -> tuple[int, ...]:
        return self._tensors[node.outputs[0]].shape

    def _named(self, name: str, suffix: str, shape: tuple[int, ...]) -> str:
        """A tensor like another, of another shape, under a name of its own."""
        fresh = name + suffix
        while fresh in self._tensors:
            fresh += "_"
        self._tensors[fresh] = Tensor(fresh, shape, self._tensors[name].dtype)
        return fresh


def _moves(node: Node) -> bool:
    """Whether a node moves the elements of one tensor and makes no others."""
    if node.op == "Move":
        return len(node.inputs) == 1 and not (node.attributes["index"] < 0).any()
    return node.op in RENAMING and not node.domain


def _moved(node: Node, index: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the elements of a move's result come from, those of its operand from `index`."""
    if node.op in RENAMING:
        return index.reshape(shape)
    found: NDArray[np.int64] = index.ravel()[node.attributes["index"]]
    return found


def _move(like: Node, source: str, out: str, index: NDArray[np.int64]) -> Node:
    """A move with the name of another."""
    _, op, opset = like.origin
    attributes: Mapping[str, object] = {"fill": 0, "index": index, "op": op, "opset": opset}
    return Node(like.name, "Move", CLOCKSTEP, like.opset, (source,), (out,), attributes)


def _rows(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1])
