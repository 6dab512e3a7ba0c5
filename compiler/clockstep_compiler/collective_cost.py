"""What a collective would take, by its algorithm: hops in a row, and vectors on the busiest link.

The figures choose an algorithm; the schedule says what it really takes. Everything is in cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from clockstep_compiler.transfer import Links
from clockstep_isa.geometry import geometry
from clockstep_isa.machine import Machine
from clockstep_isa.topology import hop_cycles

__all__ = ["Fabric", "bound", "estimates", "fabric_of"]


_DETOUR = 1.5
"""How often a vector crosses a link between nodes on its way from one to another, about."""


@dataclass(frozen=True, slots=True)
class Fabric:
    """The links among `chips` chips. `hop` is from SRAM to SRAM, `pace` a vector's time on a link.

    `complete` says whether every chip has a link to every other, `joined` whether that is so inside
    each node and between any two of them, `even` whether all nodes have as many chips. `degree` are
    the links of the chip that has the fewest, `leaving` those of a node that lead to others,
    `depth` the links from the first chip to the one farthest from it, `far` those to the last,
    `twins` those to the first chip of the farthest node.
    """

    chips: int
    hop: int
    pace: int
    add: int
    complete: bool
    nodes: int
    joined: bool
    even: bool
    degree: int
    leaving: int
    depth: int
    far: int
    twins: int


def fabric_of(machine: Machine, links: Links, chips: Sequence[int]) -> Fabric:
    """The links among some chips."""
    size = machine.system.chips_per_node
    inside = set(chips)
    ports: dict[int, int] = dict.fromkeys(chips, 0)
    joined: set[tuple[int, int]] = set()
    near = dict.fromkeys(chips, 0)
    leaving: dict[int, int] = {chip // size: 0 for chip in chips}
    for (a, b), pairs in links.ports.items():
        if a in inside and b in inside:
            ports[a] += len(pairs)
            joined.add((a // size, b // size))
            near[a] += a // size == b // size
            leaving[a // size] += len(pairs) * (a // size != b // size)
    nodes = list(leaving)
    mates = {node: sum(chip // size == node for chip in chips) for node in nodes}
    all_near = all(near[chip] == mates[chip // size] - 1 for chip in chips)
    levels = links.levels(chips[0], chips)
    distance = {chip: i for i, level in enumerate(levels, 1) for chip, _ in level}
    heads = [min(chip for chip in chips if chip // size == node) for node in nodes]
    place = geometry(machine)
    return Fabric(
        chips=len(chips),
        hop=hop_cycles(machine),
        pace=machine.c2c.cycles_per_vector,
        add=place.positions + 4 * machine.vxm.op_latency,
        complete=all(links.linked(a, b) for a in chips for b in chips if a != b),
        nodes=len(nodes),
        joined=all_near and all((a, b) in joined for a in nodes for b in nodes if a != b),
        even=len(nodes) > 1 and len(set(mates.values())) == 1 < min(mates.values()),
        degree=min(ports.values()),
        leaving=min(leaving.values()),
        depth=len(levels),
        far=distance[chips[-1]],
        twins=max(distance.get(chip, 0) for chip in heads),
    )


def _send(f: Fabric, vectors: int) -> int:
    return f.far * f.hop + vectors * f.pace


def _send_spread(f: Fabric, vectors: int) -> int:
    return (f.far + 1) * f.hop + ceil(vectors / f.degree) * f.pace


def _broadcast(f: Fabric, vectors: int) -> int:
    return f.depth * f.hop + vectors * f.pace


def _broadcast_scatter(f: Fabric, vectors: int) -> int:
    return 2 * f.depth * f.hop + ceil(vectors / (f.chips - 1)) * f.depth * f.pace


def _share(f: Fabric, vectors: int) -> int:
    """Vectors of one chip's part on one link, if all chips send theirs to all."""
    part = ceil(vectors / f.chips)
    return part if f.complete else ceil(part * (f.chips - 1) * f.depth / f.degree)


def _gather(f: Fabric, vectors: int) -> int:
    return f.depth * f.hop + _share(f, vectors) * f.pace


def _gather_ring(f: Fabric, vectors: int) -> int:
    return (f.chips - 1) * (f.hop + ceil(vectors / f.chips) * f.pace)


def _scatter(f: Fabric, vectors: int) -> int:
    return _gather(f, vectors) + f.add * _waves(f)


def _scatter_ring(f: Fabric, vectors: int) -> int:
    return _gather_ring(f, vectors) + (f.chips - 1) * f.add


def _reduce(f: Fabric, vectors: int) -> int:
    return _gather(f, vectors * f.chips) + f.add * _waves(f)


def _reduce_hierarchical(f: Fabric, vectors: int) -> int:
    # A link inside a node carries it twice: while it is short, long after the first time.
    return f.hop + f.add + max(2 * (f.hop + f.add) + vectors * f.pace, 2 * vectors * f.pace)


def _reduce_tree(f: Fabric, vectors: int) -> int:
    return f.depth * (2 * f.hop + f.add) + 2 * vectors * f.pace


def _reduce_nested(f: Fabric, vectors: int) -> int:
    mates = f.chips // f.nodes
    near = 2 * ceil(vectors / mates)
    far = ceil(vectors * (f.nodes - 1) * _DETOUR / max(1, f.leaving))
    waves = 2 + (f.nodes - 1) // 7
    return (2 + f.twins) * f.hop + waves * f.add + (near + far) * f.pace


def _waves(f: Fabric) -> int:
    """Waves of the VXM that add a block of every chip, at most eight at a time."""
    return ceil((f.chips - 1) / 7)


Model = Callable[[Fabric, int], int]

_MODELS: Mapping[str, Mapping[str, Model]] = {
    "send": {"direct": _send, "spread": _send_spread},
    "broadcast": {"direct": _broadcast, "scatter": _broadcast_scatter},
    "all-gather": {"direct": _gather, "ring": _gather_ring},
    "reduce-scatter": {"direct": _scatter, "ring": _scatter_ring},
    "all-reduce": {
        "direct": _reduce,
        "scatter": lambda f, v: _scatter(f, v) + _gather(f, v),
        "ring": lambda f, v: _scatter_ring(f, v) + _gather_ring(f, v),
        "hierarchical": _reduce_hierarchical,
        "tree": _reduce_tree,
        "nested": _reduce_nested,
    },
}


_ASKED: Mapping[str, Callable[[Fabric], bool]] = {
    "hierarchical": lambda f: f.joined,
    "nested": lambda f: f.even,
}
"""What algorithms ask of the wiring."""


def estimates(collective: str, fabric: Fabric, vectors: int) -> dict[str, int]:
    """Cycles of each algorithm for a message of so many vectors; those that cannot be left out."""
    models = _MODELS[collective]
    return {
        name: model(fabric, vectors)
        for name, model in models.items()
        if name not in _ASKED or _ASKED[name](fabric)
    }


_CROSSINGS: Mapping[str, Callable[[Fabric], float]] = {
    "send": lambda f: 1,
    "broadcast": lambda f: 1,
    "all-gather": lambda f: (f.chips - 1) / f.chips,
    "reduce-scatter": lambda f: (f.chips - 1) / f.chips,
    "all-reduce": lambda f: 2 * (f.chips - 1) / f.chips,
}
"""How often the message must enter, or leave, some chip."""


def bound(collective: str, fabric: Fabric, vectors: int) -> int:
    """Cycles that the links of the chip with the fewest take, whatever the algorithm."""
    each = ceil(vectors * _CROSSINGS[collective](fabric) / fabric.degree)
    return fabric.hop + (each - 1) * fabric.pace
