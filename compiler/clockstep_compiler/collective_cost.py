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


@dataclass(frozen=True, slots=True)
class Fabric:
    """The links among `chips` chips. `hop` is from SRAM to SRAM, `pace` a vector's time on a link.

    `complete` says whether every chip has a link to every other, `nodes` whether that is so inside
    each node and between any two of them. `degree` are the links of the chip that has the fewest,
    `depth` the links from the first chip to the one farthest from it, `far` those to the last.
    """

    chips: int
    hop: int
    pace: int
    add: int
    complete: bool
    nodes: bool
    degree: int
    depth: int
    far: int


def fabric_of(machine: Machine, links: Links, chips: Sequence[int]) -> Fabric:
    """The links among some chips."""
    size = machine.system.chips_per_node
    inside = set(chips)
    ports: dict[int, int] = dict.fromkeys(chips, 0)
    joined: set[tuple[int, int]] = set()
    near = dict.fromkeys(chips, 0)
    for (a, b), pairs in links.ports.items():
        if a in inside and b in inside:
            ports[a] += len(pairs)
            joined.add((a // size, b // size))
            near[a] += a // size == b // size
    nodes = sorted({chip // size for chip in chips})
    mates = {node: sum(chip // size == node for chip in chips) for node in nodes}
    all_near = all(near[chip] == mates[chip // size] - 1 for chip in chips)
    levels = links.levels(chips[0], chips)
    far = next(i for i, level in enumerate(levels, 1) if chips[-1] in dict(level))
    place = geometry(machine)
    return Fabric(
        chips=len(chips),
        hop=hop_cycles(machine),
        pace=machine.c2c.cycles_per_vector,
        add=place.positions + 4 * machine.vxm.op_latency,
        complete=all(links.linked(a, b) for a in chips for b in chips if a != b),
        nodes=all_near and all((a, b) in joined for a in nodes for b in nodes if a != b),
        degree=min(ports.values()),
        depth=len(levels),
        far=far,
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
    return 3 * (f.hop + f.add) + 2 * vectors * f.pace


def _reduce_tree(f: Fabric, vectors: int) -> int:
    return f.depth * (2 * f.hop + f.add) + 2 * vectors * f.pace


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
    },
}


def estimates(collective: str, fabric: Fabric, vectors: int) -> dict[str, int]:
    """Cycles of each algorithm for a message of so many vectors; those that cannot be left out."""
    models = _MODELS[collective]
    return {
        name: model(fabric, vectors)
        for name, model in models.items()
        if name != "hierarchical" or fabric.nodes
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
