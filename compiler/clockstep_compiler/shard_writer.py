"""Writes a graph that ranks share: every node once for each rank, tensors brought where needed.

What a rank has of a tensor is a tensor of its own. An all-gather is a Move out of the parts of all
ranks, on each; an all-reduce is a sum, on each rank, or where that is shorter with its blocks dealt
over them: whoever reads a block then has it sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.channels import RENAMING
from clockstep_compiler.graph import CLOCKSTEP, Graph, Node, Tensor
from clockstep_compiler.placements import (
    ONCE,
    PARTIAL,
    WHOLE,
    Placement,
    Strategy,
    local_places,
    part_of,
    part_shape,
)
from clockstep_compiler.shard_costs import Costs
from clockstep_compiler.shard_rules import View, index_of

__all__ = ["write"]

Names = tuple[str, ...]
"""The name of a tensor, or of its part, by rank."""


def write(view: View, costs: Costs, strategies: Sequence[Strategy]) -> Graph:
    """The graph with a node for each rank, by the strategy of each node."""
    writer = _Writer(view, costs)
    for node, strategy in zip(view.graph.nodes, strategies, strict=True):
        writer.node(node, strategy)
    return writer.graph()


class _Writer:
    """The graph as it is written. `_names` are the tensors of a tensor in a placement."""

    def __init__(self, view: View, costs: Costs) -> None:
        self._view, self._costs, self._old = view, costs, view.graph
        self._ranks = range(view.ranks)
        self._tensors: dict[str, Tensor] = dict(self._old.tensors)
        self._constants: dict[str, NDArray[np.generic]] = dict(self._old.constants)
        self._nodes: list[Node] = []
        self._names: dict[tuple[str, Placement], Names] = {}
        self._made: dict[str, tuple[Placement, Node]] = {}
        self._reader = view.graph.nodes[0]
        for name in (*self._old.inputs, *self._old.constants):
            self._names[name, WHOLE] = (name,) * view.ranks

    def graph(self) -> Graph:
        """What the outputs need; they are on the first rank."""
        for name in self._old.outputs:
            self._wanted(name, WHOLE)
        needed, nodes = set(self._old.outputs), []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        used = {*self._old.inputs, *needed, *(n for node in nodes for n in node.outputs)}
        return replace(
            self._old,
            tensors={n: t for n, t in self._tensors.items() if n in used},
            constants={n: c for n, c in self._constants.items() if n in used},
            nodes=tuple(reversed(nodes)),
        )

    def node(self, node: Node, strategy: Strategy) -> None:
        """One node, on every rank."""
        self._reader = node
        inputs = [
            self._wanted(name, place) if name else ("",) * len(self._ranks)
            for name, place in zip(node.inputs, strategy.inputs, strict=True)
        ]
        moved = node.op == "Move" or node.op in RENAMING
        outputs = [self._new(name, strategy.output) for name in node.outputs]
        for rank in self._ranks:
            own = replace(
                node,
                inputs=tuple(names[rank] for names in inputs),
                outputs=tuple(names[rank] for names in outputs),
                chips=(rank,),
            )
            if moved and set((strategy.output, *strategy.inputs)) != {WHOLE}:
                own = self._moved(node, own, strategy, rank)
            self._nodes.append(own)
        for name in filter(None, node.outputs):
            self._made[name] = strategy.output, node

    def _moved(self, node: Node, own: Node, strategy: Strategy, rank: int) -> Node:
        """A move as a rank has it: out of the parts that it has of the sources."""
        count = 1 if node.op in RENAMING else len(node.inputs)
        index = part_of(index_of(self._view, node), strategy.output, rank, len(self._ranks))
        places: list[NDArray[np.int64]] = []
        first = 0
        for name, place in zip(node.inputs[:count], strategy.inputs, strict=False):
            shape = self._view.shape(name)
            places.append(first + local_places(shape, place, len(self._ranks)))
            first += math.prod(part_shape(shape, place, len(self._ranks)))
        local = np.append(np.concatenate(places), -1)[index]  # -1 stays -1
        return self._move(node, own.inputs[:count], own.outputs[0], local, (rank,))

    # -- bringing tensors where they are needed -----------------------------------------------

    def _wanted(self, name: str, place: Placement) -> Names:
        """The tensors of all ranks that are a tensor in a placement."""
        if place == ONCE:
            return (self._wanted(name, WHOLE)[0], *[""] * (len(self._ranks) - 1))
        if (name, place) not in self._names:
            self._names[name, place] = self._brought(name, place)
        return self._names[name, place]

    def _brought(self, name: str, place: Placement) -> Names:
        if name in self._old.constants:
            return self._each(name, place, lambda rank, own: self._cut(name, place, rank, own))
        if name not in self._made:
            return self._gathered(name, WHOLE, place)
        have, node = self._made[name]
        if have != PARTIAL:
            return self._gathered(name, have, place)
        if (name, WHOLE) in self._names:
            return self._gathered(name, WHOLE, place)
        if place == WHOLE:
            return self._summed(name, node)
        return self._scattered(name, place, node)

    def _cut(self, name: str, place: Placement, rank: int, own: str) -> None:
        """A rank's part of a constant."""
        array = self._old.constants[name]
        self._constants[own] = part_of(array, place, rank, len(self._ranks))

    def _gathered(self, name: str, have: Placement, place: Placement) -> Names:
        """Out of the parts that all ranks have, or of what each has itself."""
        sources = self._names[name, have]
        shape = self._view.shape(name)
        node = self._made[name][1] if name in self._made else self._reader
        local = local_places(shape, have, len(self._ranks)).reshape(shape)
        if have >= 0:
            size = math.prod(part_shape(shape, have, len(self._ranks)))
            owner = np.arange(shape[have]) * len(self._ranks) // shape[have] * size
            local = local + owner.reshape([-1 if a == have else 1 for a in range(len(shape))])

        def gather(rank: int, own: str) -> None:
            index = part_of(local, place, rank, len(self._ranks))
            used = (sources[rank],) if have == WHOLE else sources
            used, index = _used(used, index.astype(np.int64), math.prod(shape) // len(used))
            self._nodes.append(self._move(node, used, own, index, (rank,)))

        return self._each(name, place, gather)

    def _summed(self, name: str, node: Node) -> Names:
        """The sum of what the ranks have, on each; or its blocks dealt over all of them."""
        parts, chips = self._names[name, PARTIAL], tuple(self._ranks)
        if self._costs.exchange(name) <= self._costs.dealt(name):
            return self._each(name, WHOLE, lambda rank, own: self._add(node, parts, own, (rank,)))
        self._add(node, parts, name, chips)
        return (name,) * len(chips)

    def _scattered(self, name: str, place: Placement, node: Node) -> Names:
        """The sum of the parts that the ranks have of a rank's part."""
        shape, parts = self._view.shape(name), self._names[name, PARTIAL]
        every = np.arange(math.prod(shape)).reshape(shape)

        def scatter(rank: int, own: str) -> None:
            index = part_of(every, place, rank, len(self._ranks))
            cut = []
            for source, part in enumerate(parts):
                piece = self._fresh(f"{own}.{source}", index.shape, name)
                self._nodes.append(self._move(node, (part,), piece, index, (source,)))
                cut.append(piece)
            self._add(node, tuple(cut), own, (rank,))

        return self._each(name, place, scatter)

    # -- writing ------------------------------------------------------------------------------

    def _each(self, name: str, place: Placement, make: Callable[[int, str], None]) -> Names:
        """The tensors of a tensor in a placement, which `make` makes rank by rank."""
        names = self._new(name, place)
        for rank, own in enumerate(names):
            make(rank, own)
        return names

    def _new(self, name: str, place: Placement) -> Names:
        """Tensors for what the ranks have; all of it has its own name on the first rank."""
        if not name:
            return ("",) * len(self._ranks)
        shape = part_shape(self._view.shape(name), place, len(self._ranks))
        sign = {WHOLE: "", PARTIAL: "+"}.get(place, f"{place}.")
        names = tuple(
            name
            if place == WHOLE and rank == 0
            else self._fresh(f"{name}@{sign}{rank}", shape, name)
            for rank in self._ranks
        )
        self._names[name, place] = names
        return names

    def _fresh(self, name: str, shape: tuple[int, ...], like: str) -> str:
        """A tensor like another, of another shape, under a name of its own."""
        while name in self._tensors:
            name += "_"
        self._tensors[name] = Tensor(name, shape, self._tensors[like].dtype)
        return name

    def _add(self, node: Node, parts: Names, out: str, chips: tuple[int, ...]) -> None:
        """The sum of tensors, in their order."""

        def added(a: str, b: str, to: str) -> str:
            self._nodes.append(Node(node.name, "Add", "", 14, (a, b), (to,), {}, chips))
            return to

        shape = self._tensors[parts[0]].shape
        last = reduce(
            lambda a, b: added(a, b, self._fresh(f"{out}.sum", shape, parts[0])),
            parts[1:-1],
            parts[0],
        )
        added(last, parts[-1], out)

    def _move(
        self,
        node: Node,
        sources: Names,
        out: str,
        index: NDArray[np.int64],
        chips: tuple[int, ...],
    ) -> Node:
        """A move as a part of a node; without one if elements stay in order."""
        _, op, opset = node.origin
        whole = len(sources) == 1 and index.size == math.prod(self._tensors[sources[0]].shape)
        if whole and np.array_equal(index.ravel(), np.arange(index.size)):
            return Node(node.name, "Reshape", "", opset, sources, (out,), {}, chips)
        fill = node.attributes.get("fill", 0) if node.op == "Move" else 0
        attributes = {"fill": fill, "index": index, "op": op, "opset": opset}
        return Node(node.name, "Move", CLOCKSTEP, 1, sources, (out,), attributes, chips)


def _used(sources: Names, index: NDArray[np.int64], size: int) -> tuple[Names, NDArray[np.int64]]:
    """Sources of `size` elements each that a move takes anything from, and its index in these."""
    owners = np.unique(index // size)
    new = np.full(len(sources), -1)
    new[owners] = np.arange(len(owners))
    return tuple(sources[i] for i in owners.tolist()), new[index // size] * size + index % size
