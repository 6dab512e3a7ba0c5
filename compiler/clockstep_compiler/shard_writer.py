"""Writes a graph that ranks share: every node once for each rank, tensors brought where needed.

What a rank has of a tensor is a tensor of its own. An all-gather is a Move out of the parts of all
ranks, on each; an all-reduce is a sum, on each rank, or where that is shorter with its blocks dealt
over them: whoever reads a block then has it sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    Pick,
    Placement,
    Strategy,
    part_of,
    part_shape,
    picks,
)
from clockstep_compiler.shard_costs import Costs
from clockstep_compiler.shard_rules import View, index_of

__all__ = ["write"]

Names = tuple[str, ...]
"""The name of a tensor, or of its part, by rank."""


def write(
    view: View,
    costs: Costs,
    strategies: Sequence[Strategy],
    states: Mapping[str, Placement],
    joined: bool,
) -> Graph:
    """The graph with a node for each rank, by the strategy of each node.

    `states` says where inputs are that are states. Other outputs may be left in parts if `joined`.
    """
    writer = _Writer(view, costs, states, joined)
    for node, strategy in zip(view.graph.nodes, strategies, strict=True):
        writer.node(node, strategy)
    return writer.graph()


class _Writer:
    """The graph as it is written. `_names` are the tensors of a tensor in a placement."""

    def __init__(
        self, view: View, costs: Costs, states: Mapping[str, Placement], joined: bool
    ) -> None:
        self._view, self._costs, self._old = view, costs, view.graph
        self._in_parts = joined
        self._ranks, self._states = range(view.ranks), states
        self._tensors: dict[str, Tensor] = dict(self._old.tensors)
        self._constants: dict[str, NDArray[np.generic]] = dict(self._old.constants)
        self._nodes: list[Node] = []
        self._names: dict[tuple[str, Placement], Names] = {}
        self._placed: dict[str, Placement] = {}
        self._makers: dict[str, Node] = {}
        self._reader = view.graph.nodes[0]
        self._joined: dict[str, tuple[Placement, Names]] = {}
        self._cuts: dict[tuple[str, bytes, int, int], str] = {}
        for name in (*self._old.inputs, *self._old.constants):
            self._placed[name] = states.get(name, WHOLE)
            if self._placed[name] == WHOLE:
                self._names[name, WHOLE] = (name,) * view.ranks
            else:
                self._joined[name] = self._placed[name], self._new(name, self._placed[name])

    def graph(self) -> Graph:
        """What the outputs need; they are on the first rank, or split as they are made."""
        for name in self._old.outputs:
            self._finish(name)
        inputs, outputs = self._parts(self._old.inputs), self._parts(self._old.outputs)
        needed, nodes = set(outputs), []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        used = {*inputs, *self._joined, *needed, *(n for node in nodes for n in node.outputs)}
        pairs = [(self._parts((a,)), self._parts((b,))) for a, b in self._old.states]
        return replace(
            self._old,
            inputs=inputs,
            outputs=outputs,
            joined=self._joined,
            states=tuple(pair for a, b in pairs for pair in zip(a, b, strict=True)),
            tensors={n: t for n, t in self._tensors.items() if n in used},
            constants={n: c for n, c in self._constants.items() if n in used},
            nodes=tuple(reversed(nodes)),
        )

    def _finish(self, name: str) -> None:
        """An output where its state is, or where it is made if the host can join it."""
        place = self._placed[name]
        given = next((a for a, b in self._old.states if b == name), None)
        if given is not None:
            place = self._states.get(given, WHOLE)
        if place < 0 or name in self._old.views or (given is None and not self._in_parts):
            self._wanted(name, WHOLE)
        elif name not in self._joined:
            self._joined[name] = place, self._wanted(name, place)

    def _parts(self, names: Names) -> Names:
        """Inputs or outputs, those that are in parts as these."""
        return tuple(part for name in names for part in self._joined.get(name, (WHOLE, (name,)))[1])

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
            self._placed[name], self._makers[name] = strategy.output, node

    def _moved(self, node: Node, own: Node, strategy: Strategy, rank: int) -> Node:
        """A move as a rank has it: out of what it and others have of the sources."""
        count = 1 if node.op in RENAMING else len(node.inputs)
        index = part_of(index_of(self._view, node), strategy.output, rank, len(self._ranks))
        sources = list(zip(node.inputs[:count], strategy.inputs, strict=False))
        return self._collected(node, sources, index, own.outputs[0], rank)

    def _collected(
        self,
        node: Node,
        sources: Sequence[tuple[str, Placement]],
        index: NDArray[np.int64],
        out: str,
        rank: int,
    ) -> Node:
        """A move on one rank, whose `index` is into all of the sources, one after another.

        What others have only a part of which is wanted, they cut out first.
        """
        names: list[str] = []
        local = np.full(index.size, -1)
        first = held = 0
        for name, place in sources:
            shape = self._view.shape(name)
            inside = (index >= first) & (index < first + math.prod(shape))
            own = np.where(inside, index - first, -1)
            for pick in picks(own, shape, place, len(self._ranks), rank):
                source, places = self._cut_out(node, self._names[name, place], pick, rank)
                local[pick.taken] = held + places
                held += math.prod(self._tensors[source].shape)
                names.append(source)
            first += math.prod(shape)
        if not names:  # nothing but fill: of a source's type all the same
            parts = self._names[sources[0]]
            names = [parts[rank] or next(filter(None, parts))]
        return self._move(node, tuple(names), out, local.reshape(index.shape), (rank,))

    def _cut_out(
        self, node: Node, parts: Names, pick: Pick, rank: int
    ) -> tuple[str, NDArray[np.int64]]:
        """A tensor with what a rank takes of a part, and where in it that is."""
        source, places = parts[pick.owner], pick.places
        shape = self._tensors[source].shape
        columns, width = shape[-1] if shape else 1, pick.high - pick.low
        lanes = self._costs.machine.vector
        if -(-width // lanes) == -(-columns // lanes):
            pick, width = pick._replace(low=0, high=columns), columns
        if pick.owner == rank or len(pick.rows) * width == math.prod(shape):
            return source, places
        key = source, pick.rows.tobytes(), pick.low, pick.high
        if key not in self._cuts:
            piece = self._fresh(f"{source}.cut", (len(pick.rows), width), source)
            cut = pick.rows[:, None] * columns + np.arange(pick.low, pick.high)
            self._nodes.append(self._move(node, (source,), piece, cut, (pick.owner,)))
            self._cuts[key] = piece
        row, column = np.divmod(places, columns)
        found = np.searchsorted(pick.rows, row) * width + column - pick.low
        return self._cuts[key], found

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
        have = self._placed[name]
        if have != PARTIAL:
            return self._gathered(name, have, place)
        if (name, WHOLE) in self._names:
            return self._gathered(name, WHOLE, place)
        if place == WHOLE:
            return self._summed(name, self._makers[name])
        return self._scattered(name, place, self._makers[name])

    def _cut(self, name: str, place: Placement, rank: int, own: str) -> None:
        """A rank's part of a constant."""
        array = self._old.constants[name]
        self._constants[own] = part_of(array, place, rank, len(self._ranks))

    def _gathered(self, name: str, have: Placement, place: Placement) -> Names:
        """Out of the parts that all ranks have, or of what each has itself."""
        shape, node = self._view.shape(name), self._makers.get(name, self._reader)
        every = np.arange(math.prod(shape)).reshape(shape)

        def gather(rank: int, own: str) -> None:
            index = part_of(every, place, rank, len(self._ranks))
            self._nodes.append(self._collected(node, [(name, have)], index, own, rank))

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
