"""Tensor parallelism: a graph rewritten so that several chips, the ranks, share its operators.

    y = Relu(x @ A) @ B    becomes, on ranks r = 0, 1    p_r = Relu(x @ A_r) @ B_r,    y = p_0 + p_1

where A_r are columns of A and B_r rows of B. What each operator allows is in `shard_rules.py`; of
all ways the one that takes the fewest cycles by `shard_costs.py` is taken, tensor by tensor, and
written by `shard_writer.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from clockstep_compiler.graph import Graph, Node
from clockstep_compiler.placements import PARTIAL, WHOLE, Placement, Strategy, splits
from clockstep_compiler.shard_costs import Costs
from clockstep_compiler.shard_rules import View
from clockstep_compiler.shard_writer import write
from clockstep_isa.machine import Machine

__all__ = ["Sharing", "held_by", "shard", "share", "sharings"]


@dataclass(frozen=True, slots=True)
class Sharing:
    """How `ranks` chips share a graph: the strategy of every node, and the `cycles` it takes.

    `states` are the axes along which inputs that are states are split, and so their outputs.
    """

    ranks: int
    strategies: tuple[Strategy, ...]
    cycles: int
    states: Mapping[str, Placement]


class _Made(NamedTuple):
    """The cycles until a tensor is made in one placement, and by which strategy."""

    cycles: float
    strategy: Strategy


def shard(graph: Graph, machine: Machine, sharing: Sharing, *, joined: bool = True) -> Graph:
    """The graph for the first `ranks` chips; every node is pinned to those that it runs on.

    Without `joined`, outputs that are no states are not left in parts for the host to join.
    """
    view = View(graph, sharing.ranks)
    return write(view, Costs(view, machine), sharing.strategies, sharing.states, joined)


def sharings(graph: Graph, machine: Machine, chips: int) -> list[Sharing]:
    """What is worth trying on so many chips: one alone, and the best number of ranks, if better.

    Ranks are chips of one node, each wired to all others.
    """
    if not graph.nodes:
        return []
    most = min(chips, machine.system.chips_per_node)
    alone = share(graph, machine, 1)
    if any(0 in graph.tensors[name].shape for name in (*graph.inputs, *graph.outputs)):
        return [alone]  # parts of nothing are not laid out
    found = [share(graph, machine, ranks) for ranks in range(most, 1, -1)]
    best = min(found, key=lambda sharing: sharing.cycles, default=alone)
    return [alone, best] if best.cycles < alone.cycles else [alone]


_FULL = (19, 20)
"""The part of a chip that constants fill at most, if some way to share leaves so much."""

_PRICES = (0.0, 1 / 64, 1 / 8, 1.0, 8.0)
"""Cycles that a word of constants counts as, one after the other until ranks have room for them."""


def share(
    graph: Graph, machine: Machine, ranks: int, fixed: Mapping[str, Placement] | None = None
) -> Sharing:
    """The best way for `ranks` chips to share a graph, of those that they have room for.

    Rows are shared soonest if every rank has all weights; the fewer fit, the more they cost.
    Constants and states that are `fixed`, as `held_by` says of another graph, are where they are.
    """
    part, whole = _FULL
    costs = Costs(View(graph, ranks), machine)
    for price in _PRICES:
        costs = replace(costs, price=price)
        found = _Search(graph, costs, fixed or {}).found(ranks)
        if ranks == 1 or _held(costs, found) * whole <= part * machine.words_per_chip:
            break
    return found


def held_by(graph: Graph, sharing: Sharing) -> dict[str, Placement]:
    """Where the constants that are in one placement alone and the states of a graph are."""
    found: dict[str, set[Placement]] = {name: {at} for name, at in sharing.states.items()}
    for node, strategy in zip(graph.nodes, sharing.strategies, strict=True):
        for name, place in zip(node.inputs, strategy.inputs, strict=True):
            if name in graph.constants:
                found.setdefault(name, set()).add(place)
    return {name: places.pop() for name, places in found.items() if len(places) == 1}


def _held(costs: Costs, sharing: Sharing) -> int:
    """Words of the constants of every rank."""
    graph = costs.view.graph
    parts = {
        (name, place): None
        for node, strategy in zip(graph.nodes, sharing.strategies, strict=True)
        for name, place in zip(node.inputs, strategy.inputs, strict=True)
        if name in graph.constants
    }
    return sum(costs.words(name, place) for name, place in parts)


class _Search:
    """Costs from the inputs on, the cycles of a tensor shared by its readers; then, from the
    outputs back, the one placement in which each tensor is made."""

    def __init__(self, graph: Graph, costs: Costs, fixed: Mapping[str, Placement]) -> None:
        self._graph, self._costs, self._fixed = graph, costs, fixed
        pairs = dict(graph.states) if costs.view.ranks > 1 else {}
        self._states = {a: b for a, b in pairs.items() if b in {*graph.outputs} - {*graph.views}}
        self._uses = Counter(name for node in graph.nodes for name in node.inputs if name)
        self._made: dict[str, dict[Placement, _Made]] = {}

    def found(self, ranks: int) -> Sharing:
        for node in self._graph.nodes:
            made = self._placements(node)
            self._made.update((name, made) for name in node.outputs if name)
        _, _, wanted = self._backwards({})
        states = {name: self._state(name, wanted.get(name, {})) for name in self._states}
        strategies, cycles, _ = self._backwards(states)
        return Sharing(ranks, strategies, cycles, states)

    def _backwards(
        self, states: Mapping[str, Placement]
    ) -> tuple[tuple[Strategy, ...], int, dict[str, dict[Placement, None]]]:
        """The strategy of every node, all their cycles, and where each tensor is wanted."""
        wanted: dict[str, dict[Placement, None]] = {name: {} for name in self._graph.outputs}
        for name, place in states.items():
            wanted[self._states[name]] = {place: None}
        chosen, cycles = [], 0
        for node in reversed(self._graph.nodes):
            strategy, spent = self._chosen(node, wanted)
            chosen.append(strategy)
            cycles += spent
            for name, place in zip(node.inputs, strategy.inputs, strict=True):
                wanted.setdefault(name, {})[place] = None
        for name in self._graph.inputs:
            cycles += self._moving(name, states.get(name, WHOLE), wanted.get(name, {}))
        return tuple(reversed(chosen)), cycles, wanted

    def _state(self, name: str, wanted: Mapping[Placement, None]) -> Placement:
        """Where the host puts a state, and the end of a run leaves it: where it is wanted."""
        if name in self._fixed:
            return self._fixed[name]
        axes = splits(self._graph.tensors[name].shape, self._costs.view.ranks)
        return min((WHOLE, *axes), key=lambda place: self._moving(name, place, wanted))

    def _placements(self, node: Node) -> dict[Placement, _Made]:
        """The least cycles for every placement of a node's results."""
        best: dict[Placement, _Made] = {}
        for strategy in self._allowed(node):
            cycles = self._costs.priced(node, strategy)
            for name, place in zip(node.inputs, strategy.inputs, strict=True):
                cycles += self._needed(name, place) if name else 0
            if strategy.output not in best or cycles < best[strategy.output].cycles:
                best[strategy.output] = _Made(cycles, strategy)
        return best

    def _allowed(self, node: Node) -> list[Strategy]:
        """The strategies of a node that leave constants where they are, all if none does."""
        every = list(self._costs.view.strategies(node))
        fixed = [
            (at, self._fixed[name])
            for at, name in enumerate(node.inputs)
            if name in self._fixed and name in self._graph.constants
        ]
        return [s for s in every if all(s.inputs[at] == place for at, place in fixed)] or every

    def _needed(self, name: str, place: Placement) -> float:
        """The cycles of an operand in one placement that this reader answers for."""
        made = self._made.get(name)
        if made is None:
            return 0 if name in self._states else self._costs.convert(name, WHOLE, place)
        shared = max(1, self._uses[name])
        return min(
            found.cycles / shared + self._costs.convert(name, have, place)
            for have, found in made.items()
        )

    def _chosen(
        self, node: Node, wanted: Mapping[str, Mapping[Placement, None]]
    ) -> tuple[Strategy, int]:
        """The strategy with which all readers have a result soonest, and its own cycles."""

        def moving(place: Placement) -> int:
            return sum(self._moving(n, place, wanted.get(n, {})) for n in node.outputs if n)

        made = self._made[next(name for name in node.outputs if name)]
        place = min(made, key=lambda place: made[place].cycles + moving(place))
        strategy = made[place].strategy
        return strategy, self._costs.work(node, strategy) + moving(place)

    def _moving(self, name: str, have: Placement, wanted: Mapping[Placement, None]) -> int:
        """The cycles of bringing a tensor to all places where it is wanted.

        The host fetches what is split from where its parts are.
        """
        fetched = have == PARTIAL or (have >= 0 and name in self._graph.views)
        also = [WHOLE] if fetched and name in self._graph.outputs else []
        places = [place for place in dict.fromkeys([*wanted, *also]) if place != have]
        if have == PARTIAL and len(places) > 1:
            first = self._costs.convert(name, PARTIAL, WHOLE)
            return first + self._moving(name, WHOLE, wanted)
        return sum(self._costs.convert(name, have, place) for place in places)
