"""What the wiring of a system amounts to: how far its chips are apart, and how much it carries.

To add a figure, add a field to `Topology`; `clockstep machine show` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from clockstep_isa.geometry import geometry, wires
from clockstep_isa.machine import Machine

__all__ = ["Topology", "diameter", "hop_cycles", "systems", "topology"]


@dataclass(frozen=True, slots=True)
class Topology:
    """A system of `chips`, as it is wired.

    `diameter` is the greatest number of links on a shortest route between two chips, -1 if some
    are not connected. `bisection` is what each chip can send, in bytes a second, if all chips send
    to all: the links between the parts of the largest level (racks, nodes or chips) that are
    halved, at the raw rate of their lanes.
    """

    chips: int
    nodes: int
    racks: int
    links: int
    diameter: int
    bisection: float


@lru_cache(maxsize=16)
def topology(machine: Machine, chips: int) -> Topology:
    """The figures of a system of `chips`."""
    return Topology(
        chips=chips,
        nodes=-(-chips // machine.system.chips_per_node),
        racks=machine.racks(chips),
        links=len(wires(machine, chips)) // 2,
        diameter=diameter(machine, chips),
        bisection=_bisection(machine, chips),
    )


def systems(machine: Machine) -> tuple[int, ...]:
    """Numbers of chips of the systems that a machine stands for: a node, two, a rack, all."""
    system = machine.system
    nodes = (1, 2, system.nodes_per_rack, system.direct_nodes, system.max_nodes)
    return tuple(sorted({n * system.chips_per_node for n in nodes if n <= system.max_nodes}))


def hop_cycles(machine: Machine) -> int:
    """Cycles from the read of a word on one chip until it can be read on the next.

    Both are in the slice nearest to the link: what it takes to store and forward is distance, not
    a figure of its own.
    """
    place = geometry(machine)
    near = machine.mem.slices_per_hemisphere - 1
    way = abs(place.by_name[f"mem.W{near}"].x - place.by_name["sxm.W.permute0"].x)
    mem = machine.mem
    return mem.read_latency + way + machine.link_latency + 1 + way + mem.write_latency


def diameter(machine: Machine, chips: int) -> int:
    """Links on the longest of all shortest routes; -1 if some chips are not connected."""
    pairs = wires(machine, chips)
    # Bit s of row c: whether a route of so many links leads from chip s to chip c.
    near = np.packbits(np.eye(chips, dtype=np.bool_), axis=1)
    every = np.bitwise_or.reduce(near, axis=0)
    for links in range(chips):
        if (near == every).all():
            return links
        wider = near.copy()
        for link in range(machine.c2c.links):
            some = pairs[pairs[:, 1] == link]
            wider[some[:, 0]] |= near[some[:, 2]]
        if np.array_equal(wider, near):
            return -1
        near = wider
    return -1


def _bisection(machine: Machine, chips: int) -> float:
    """Bytes a second and chip through a cut that halves the parts of the largest level.

    Half the pairs of parts and a little more are cut: `(n / 2) ** 2` of `n * (n - 1) / 2`.
    """
    size, racks = machine.system.chips_per_node, machine.racks(chips)
    width = size * machine.system.nodes_per_rack if racks > 1 else size if chips > size else 1
    parts = -(-chips // width)
    if parts == 1:
        return 0.0
    pairs = wires(machine, chips)
    between = int((pairs[:, 0] // width != pairs[:, 2] // width).sum()) // 2
    crossing = between * parts / (2 * (parts - 1))
    rate = machine.c2c.lanes * machine.c2c.lane_kbps * 1000 / 8
    return crossing * rate / (chips / 2)
