"""What a machine's figures imply: where every unit stands, which queues exist, which chips touch.

Positions are stream hops counted from the west edge, the same for every chip:
MXM, SXM and C2C, MEM (slice 0 innermost), VXM ranks, MEM, SXM and C2C, MXM.
A vector moving East is seen at position `x` in cycle `c` by the phase `c - x`, moving West by
`c + x`; a slot is (direction, stream, phase) and never moves.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.machine import Machine

__all__ = [
    "EAST",
    "WEST",
    "Geometry",
    "Queue",
    "Unit",
    "geometry",
    "phase",
    "wires",
    "wiring",
]

EAST, WEST = 0, 1
"""Directions of a stream."""


class Unit(enum.StrEnum):
    """Kinds of instruction queue. Every queue belongs to one unit and runs only its rows."""

    MEM = "mem"
    LW = "lw"
    ABC = "abc"
    ACC = "acc"
    VXM = "vxm"
    PERMUTE = "permute"
    TRANSPOSE = "transpose"
    DISTRIBUTE = "distribute"
    SEND = "send"
    RECEIVE = "receive"


@dataclass(frozen=True, slots=True)
class Queue:
    """One instruction queue of a chip.

    `hemisphere` is "W", "E" or "" (the VXM); `index` numbers the slice, plane, ALU, SXM unit or
    link; `x` is the position, in hops from the west edge.
    """

    id: int
    name: str
    unit: Unit
    hemisphere: str
    index: int
    x: int


@dataclass(frozen=True)
class Geometry:
    """Positions and queues of one chip."""

    queues: tuple[Queue, ...]
    by_name: dict[str, Queue]
    by_unit: dict[tuple[Unit, str, int], Queue]
    positions: int
    """Stream positions of a chip: `x` runs from 0 to `positions - 1`."""
    rank_x: tuple[int, ...]
    """Position of each VXM rank, west to east."""

    def queue(self, unit: Unit, hemisphere: str, index: int) -> Queue:
        """The queue of one unit; KeyError if the machine has none."""
        return self.by_unit[unit, hemisphere, index]


def phase(direction: int, cycle: int, x: int) -> int:
    """The phase of the slot seen at `x` in `cycle`: `cycle - x` East, `cycle + x` West."""
    return cycle - x if direction == EAST else cycle + x


@lru_cache(maxsize=64)
def geometry(machine: Machine) -> Geometry:
    """Lay out one chip. The order of the queues is part of the program format."""
    mem, mxm, vxm, sxm, c2c = machine.mem, machine.mxm, machine.vxm, machine.sxm, machine.c2c
    last_hop = (mem.slices_per_hemisphere - 1) // mem.slices_per_hop
    outer = last_hop + max(mxm.hops_from_mem, sxm.hops_from_mem)
    first_rank = outer + vxm.hops_from_mem
    rank_x = tuple(first_rank + r * vxm.hops_per_rank for r in range(vxm.ranks))
    east_edge = rank_x[-1] + vxm.hops_from_mem

    def place(hemisphere: str, hops: int) -> int:
        return outer - hops if hemisphere == "W" else east_edge + hops

    rows: list[tuple[str, Unit, str, int, int]] = []
    for side in ("W", "E"):
        for s in range(mem.slices_per_hemisphere):
            rows.append((f"mem.{side}{s}", Unit.MEM, side, s, place(side, s // mem.slices_per_hop)))
        mxm_x, sxm_x = (place(side, last_hop + u.hops_from_mem) for u in (mxm, sxm))
        for p in range(mxm.planes_per_hemisphere):
            for unit in (Unit.LW, Unit.ABC, Unit.ACC):
                rows.append((f"mxm.{side}{p}.{unit}", unit, side, p, mxm_x))
        for unit, count in (
            (Unit.PERMUTE, sxm.permutors),
            (Unit.TRANSPOSE, sxm.transposers),
            (Unit.DISTRIBUTE, sxm.distributors),
        ):
            rows += [(f"sxm.{side}.{unit}{i}", unit, side, i, sxm_x) for i in range(count)]
    for alu in range(vxm.rows * vxm.ranks):
        rows.append((f"vxm.{alu}", Unit.VXM, "", alu, rank_x[alu % vxm.ranks]))
    for link in range(c2c.links):
        side = "WE"[link % 2]
        x = place(side, last_hop + sxm.hops_from_mem)
        rows += [(f"c2c.{link}.{u}", u, side, link, x) for u in (Unit.SEND, Unit.RECEIVE)]

    queues = tuple(Queue(i, *row) for i, row in enumerate(rows))
    by_unit = {
        (q.unit, "" if q.unit in (Unit.SEND, Unit.RECEIVE) else q.hemisphere, q.index): q
        for q in queues
    }
    return Geometry(queues, {q.name: q for q in queues}, by_unit, east_edge + outer + 1, rank_x)


@lru_cache(maxsize=64)
def wiring(machine: Machine, chips: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Which link of which chip meets which: (chip, link) -> (chip, link), both ways round.

    Chips stand in nodes of `system.chips_per_node`, wired all-to-all inside a node and from node
    to node as far as the links go, nearest neighbours first; chips beyond `chips` are left out.
    More nodes than `system.direct_nodes` stand in racks: `system.rack_links` of a chip's global
    links lead from rack to rack, the others from node to node inside a rack.

    All chips of a node have their links in the same order: link `p` of chip `i` leads to chip
    `i + offset` of the node, whatever `i` is. So it is with nodes in a rack, and with racks.
    """
    rows = wires(machine, chips).tolist()
    return {(chip, link): (peer, port) for chip, link, peer, port in rows}


@lru_cache(maxsize=64)
def wires(machine: Machine, chips: int) -> NDArray[np.int64]:
    """`wiring` as an array [n, 4] of (chip, link, peer, port), sorted; it must not be written."""
    system = machine.system
    size = min(chips, system.chips_per_node)
    nodes, racks = -(-chips // system.chips_per_node), machine.racks(chips)
    leaving = min(system.rack_links, system.global_links) if racks > 1 else 0
    inside = system.global_links - leaving
    near = nodes if racks == 1 else system.nodes_per_rack
    rack = near * system.chips_per_node
    levels = (
        _level(size, 1, 0, min(system.local_links, size - 1), nodes),
        _level(near, system.chips_per_node, system.local_links, inside, racks),
        _level(racks, rack, system.local_links + inside, leaving, 1),
    )
    pairs = np.concatenate(levels)
    pairs = pairs[(pairs[:, 0] < chips) & (pairs[:, 2] < chips)]
    found = np.concatenate([pairs, pairs[:, [2, 3, 0, 1]]])
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    found.flags.writeable = False
    return found


def _level(places: int, width: int, first: int, links: int, copies: int) -> NDArray[np.int64]:
    """Wires (chip, link, peer, port), each once, that join `places` of `width` chips each.

    Links first .. first + links - 1 of every chip are there for it. `copies` such groups follow
    one another.
    """
    edges = np.array(_circulant(places, width * links), np.int64).reshape(-1, 4)
    found = np.empty_like(edges)
    for side in (0, 2):
        row, chip = np.divmod(edges[:, side + 1], width)
        found[:, side] = edges[:, side] * width + chip
        found[:, side + 1] = first + row
    groups = np.repeat(np.arange(copies) * places * width, len(found))
    every = np.tile(found, (copies, 1))
    every[:, 0] += groups
    every[:, 2] += groups
    return every


def _circulant(n: int, ports: int) -> list[tuple[int, int, int, int]]:
    """Edges (i, port of i, j, port of j) joining `n` places that have `ports` ports each.

    Offsets 1, 2, ... are taken in turn, again from 1 when all are used, while ports last.
    """
    edges = []
    used = 0
    while n > 1 and used < ports:
        before = used
        for offset in range(1, n // 2 + 1):
            if 2 * offset == n and used + 1 <= ports:
                edges += [(i, used, i + offset, used) for i in range(offset)]
                used += 1
            elif 2 * offset < n and used + 2 <= ports:
                edges += [(i, used, (i + offset) % n, used + 1) for i in range(n)]
                used += 2
        if used == before:
            break
    return edges
