"""Products whose columns are cut apart are products of the columns of their weights.

    x -> MatMul W -> Add b -> Split in 4    becomes    4 times x -> MatMul W[:, part] -> Add b[part]

Cells of recurrent networks and attention in one product are written so. A part begins in the first
lane then, nothing moves, and what follows a part is computed with it. For another operator that
computes element by element add its name to `_POINTWISE`, for another product a row to `_PRODUCTS`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.graph import Graph, Node, Tensor

__all__ = ["cut_products"]

_POINTWISE = frozenset(("Add", "Cast", "Mul", "Sub", "QuantizeLinear", "DequantizeLinear"))
"""Operators whose results lie as their operands do."""

_PRODUCTS: Mapping[str, tuple[int, ...]] = {
    "MatMul": (1,),
    "MatMulInteger": (1, 3),
    "QLinearMatMul": (3, 4, 5),
    "Gemm": (1, 2),
}
"""Products, and which of their inputs have a column for each column of the result."""

_FEW_ROWS = 32
"""Rows that take about as long as loading an array: what that takes depends on columns alone."""

_MORE = (5, 4)
"""Of more rows, the tiles of all parts for each that the whole has, at most."""


class _Cut(NamedTuple):
    """Columns `low` to `high` - 1 of a tensor of `whole` columns."""

    low: int
    high: int
    whole: int


def cut_products(graph: Graph, lanes: int) -> Graph:
    """The graph with products in place of cuts through them, for a machine of so many lanes."""
    return _Cutting(graph, lanes).graph()


class _Cutting:
    """The graph as it is rewritten."""

    def __init__(self, graph: Graph, lanes: int) -> None:
        self._graph = graph
        self._lanes = lanes
        self._tensors: dict[str, Tensor] = dict(graph.tensors)
        self._constants: dict[str, NDArray[np.generic]] = dict(graph.constants)
        self._makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._uses = Counter(name for node in graph.nodes for name in node.inputs if name)
        self._uses.update(graph.outputs)
        self._parts: dict[tuple[str, _Cut], str] = {}
        self._replaced: set[str] = set()

    def graph(self) -> Graph:
        cuts: dict[str, dict[str, _Cut]] = {}
        for node in self._graph.nodes:
            cut = self._cut(node)
            if cut is not None:
                cuts.setdefault(node.inputs[0], {})[node.outputs[0]] = cut
        made: dict[str, list[Node]] = {}
        for source, found in cuts.items():
            if self._worthwhile(source, list(found.values())):
                made.update((out, []) for out in found)
                for out, cut in found.items():
                    self._make(source, cut, made[next(iter(found))], out)
        return self._rewritten(made) if made else self._graph

    def _rewritten(self, made: Mapping[str, list[Node]]) -> Graph:
        """The graph with what is `made` in place of cuts, and without what nobody reads any more.

        All parts of a product stand in place of its first cut.
        """
        used = set(self._graph.outputs)
        nodes: list[Node] = []
        for old in reversed(self._graph.nodes):
            if old.outputs[0] in self._replaced and used.isdisjoint(old.outputs):
                continue
            for node in reversed(made.get(old.outputs[0], [old])):
                nodes.append(node)
                used.update(node.inputs)
        named = used.union(self._graph.inputs, *(node.outputs for node in nodes))
        tensors = {name: self._tensors[name] for name in sorted(named) if name}
        constants = {name: array for name, array in self._constants.items() if name in named}
        return replace(self._graph, nodes=tuple(nodes[::-1]), tensors=tensors, constants=constants)

    # -- finding ------------------------------------------------------------------------------

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def _cut(self, node: Node) -> _Cut | None:
        """The columns that a node cuts out of all rows, if that is what it does."""
        if node.op != "Move" or len(node.inputs) != 1:
            return None
        shape, index = self._shape(node.inputs[0]), node.attributes["index"]
        alike = len(index.shape) == len(shape) > 0 and index.shape[:-1] == shape[:-1]
        if not index.size or not alike or index.shape == shape:
            return None
        low = int(index.flat[0])
        cut = _Cut(low, low + index.shape[-1], shape[-1])
        rows = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
        whole = low >= 0 and cut.high <= cut.whole
        return cut if whole and np.array_equal(index, rows[..., low : cut.high]) else None

    def _worthwhile(self, source: str, cuts: list[_Cut]) -> bool:
        """Whether nothing but cuts reads a product, and its parts do not fill many more tiles."""
        if self._uses[source] != len(cuts) or not self._goes(source, cuts[0].whole, top=True):
            return False
        tiles = sum(-(-(cut.high - cut.low) // self._lanes) for cut in cuts)
        more, than = _MORE
        few = math.prod(self._shape(source)[:-1]) <= _FEW_ROWS
        return few or than * tiles <= more * -(-cuts[0].whole // self._lanes)

    def _goes(self, name: str, whole: int, *, top: bool = False) -> bool:
        """Whether columns of a tensor can be computed without the others, of weights alone."""
        if name in self._constants or not self._is_wide(name, whole):
            return name in self._constants or math.prod(self._shape(name)) == 1
        node = self._makers.get(name)
        if node is None or not (top or self._uses[name] == 1) or len(node.outputs) > 1:
            return False
        if node.op in _PRODUCTS and not node.domain:
            return self._is_product(node)
        if node.op not in _POINTWISE or node.domain or node.attributes.get("block_size"):
            return False
        return self._along_lanes(node) and all(self._goes(i, whole) for i in node.inputs if i)

    def _is_product(self, node: Node) -> bool:
        """Whether a product is of constant weights, whose columns are those of the result."""
        own = [node.inputs[i] for i in _PRODUCTS[node.op] if i < len(node.inputs)]
        weights = node.inputs[_PRODUCTS[node.op][0]]
        straight = not node.attributes.get("transB") and len(self._shape(weights)) > 1
        return straight and all(self._is_constant(name) for name in own if name)

    def _is_constant(self, name: str) -> bool:
        """Whether a tensor is constant, or the integers are that it is dequantized from."""
        node = self._makers.get(name)
        if node is None:
            return name in self._constants
        if node.op != "DequantizeLinear" or node.domain or node.attributes.get("block_size"):
            return False
        return all(i in self._constants for i in node.inputs if i) and self._along_lanes(node)

    def _along_lanes(self, node: Node) -> bool:
        """Whether scales for each of something are for each column."""
        if node.op not in ("QuantizeLinear", "DequantizeLinear"):
            return True
        rank = len(self._shape(node.inputs[0]))
        last = int(node.attributes.get("axis", 1)) % max(1, rank) == rank - 1
        return last or all(math.prod(self._shape(name)) == 1 for name in node.inputs[1:] if name)

    def _is_wide(self, name: str, whole: int) -> bool:
        """Whether a tensor has an element for each column."""
        shape = self._shape(name)
        return bool(shape) and shape[-1] == whole

    # -- rewriting ----------------------------------------------------------------------------

    def _make(self, name: str, cut: _Cut, found: list[Node], out: str = "") -> str:
        """Add the nodes that make columns of a tensor to those `found`; the name of the part."""
        if not self._is_wide(name, cut.whole):
            return name
        if (name, cut) in self._parts:
            return self._parts[name, cut]
        part = out or self._named(name, cut)
        if name in self._constants:
            self._constants[part] = self._constants[name][..., cut.low : cut.high]
        else:
            found.append(self._node(self._makers[name], cut, found, part))
        if not out:
            self._parts[name, cut] = part
        return part

    def _node(self, node: Node, cut: _Cut, found: list[Node], out: str) -> Node:
        inputs = list(node.inputs)
        for i in self._wide_inputs(node):
            inputs[i] = self._make(inputs[i], cut, found) if inputs[i] else ""
        self._replaced.add(node.outputs[0])
        name = f"{node.name}/{cut.low}"
        return replace(node, name=name, inputs=tuple(inputs), outputs=(out,))

    def _wide_inputs(self, node: Node) -> Iterator[int]:
        """The inputs of which a part has columns."""
        every = tuple(range(len(node.inputs)))
        yield from (i for i in _PRODUCTS.get(node.op, every) if i < len(node.inputs))

    def _named(self, name: str, cut: _Cut) -> str:
        """Columns of a tensor under a name of their own."""
        fresh = f"{name}/{cut.low}"
        while fresh in self._tensors:
            fresh += "_"
        shape = (*self._shape(name)[:-1], cut.high - cut.low)
        self._tensors[fresh] = Tensor(fresh, shape, self._tensors[name].dtype)
        return fresh
