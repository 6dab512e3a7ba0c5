"""The canonical topological order: by depth, then by name; the order of the file plays no part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import networkx as nx

__all__ = ["Cycle", "Edges", "live", "topological"]


@dataclass(frozen=True, slots=True)
class Edges:
    """What one node reads and writes; "" marks an absent optional value."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def key(self) -> str:
        """The first output that is there; unique, as a value has one producer."""
        return next((name for name in self.outputs if name), "")


class Cycle(Exception):
    """The graph has no topological order; `keys` are the first outputs along one cycle."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__(" -> ".join(keys))
        self.keys = keys


def topological(nodes: Sequence[Edges]) -> tuple[int, ...]:
    """Indices of `nodes` in topological order; ties by depth, then first output. Raises `Cycle`."""
    producer = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    for i, node in enumerate(nodes):
        graph.add_edges_from((producer[name], i) for name in node.inputs if name in producer)
    if not nx.is_directed_acyclic_graph(graph):
        steps = nx.find_cycle(graph)
        raise Cycle(tuple(nodes[step[0]].key for step in steps))
    depth = {}
    for generation, members in enumerate(nx.topological_generations(graph)):
        depth.update(dict.fromkeys(members, generation))
    order = nx.lexicographical_topological_sort(graph, lambda i: (depth[i], nodes[i].key, i))
    return tuple(order)


def live(nodes: Sequence[Edges], order: Iterable[int], outputs: Iterable[str]) -> frozenset[int]:
    """Indices of the nodes that `outputs` depend on; `order` is a topological order of them."""
    wanted, needed = set(outputs), set()
    for i in reversed(tuple(order)):
        if wanted.intersection(filter(None, nodes[i].outputs)):
            needed.add(i)
            wanted.update(nodes[i].inputs)
    return frozenset(needed)
