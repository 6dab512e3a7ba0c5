"""What the figures imply: queues, positions, phases, wiring."""

from __future__ import annotations

from collections import Counter

import networkx
import pytest

from clockstep_isa import EAST, WEST, Machine, Unit, geometry, load_machine, phase, wiring
from clockstep_isa.topology import topology

LPU = load_machine("lpu-v1")
C2C = (Unit.SEND, Unit.RECEIVE)


def test_reference_machine_has_144_queues() -> None:
    """The public count, 2 x (44 MEM + 14 SXM + 6 MXM) + 16 VXM, which leaves the links out."""
    queues = [q for q in geometry(LPU).queues if q.unit not in C2C]
    assert len(queues) + 2 * LPU.sxm.unattributed_queues == 144 == 2 * (44 + 14 + 6) + 16
    count = Counter((q.unit, q.hemisphere) for q in queues)
    for side in "WE":
        assert count[Unit.MEM, side] == 44
        assert sum(count[unit, side] for unit in (Unit.LW, Unit.ABC, Unit.ACC)) == 6
    assert count[Unit.VXM, ""] == 16
    assert len(geometry(LPU).queues) - len(queues) == 2 * LPU.c2c.links


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("mxm.W0.abc", 0),
        ("sxm.W.permute0", 4),
        ("c2c.0.send", 4),
        ("mem.W43", 9),
        ("mem.W4", 18),
        ("mem.W3", 19),
        ("mem.W0", 19),
        ("vxm.0", 23),
        ("vxm.4", 23),
        ("vxm.15", 29),
        ("mem.E0", 33),
        ("mem.E43", 43),
        ("c2c.1.receive", 48),
        ("mxm.E1.lw", 52),
    ],
)
def test_positions(name: str, x: int) -> None:
    place = geometry(LPU)
    assert place.by_name[name].x == x
    assert place.positions == 53
    assert place.rank_x == (23, 25, 27, 29)


@pytest.mark.parametrize("machine", [LPU, load_machine("tiny")], ids=lambda m: m.name)
def test_the_chip_is_symmetric(machine: Machine) -> None:
    place = geometry(machine)
    for queue in place.queues:
        assert 0 <= queue.x < place.positions
        assert place.queues[queue.id] is queue
        if queue.hemisphere == "W" and queue.unit not in C2C:
            twin = place.queue(queue.unit, "E", queue.index)
            assert queue.x + twin.x == place.positions - 1
    assert len(place.by_name) == len(place.queues) == len(place.by_unit)
    assert place.rank_x[0] + place.rank_x[-1] == place.positions - 1


def test_a_moving_value_keeps_its_phase() -> None:
    assert {phase(EAST, 10 + i, 3 + i) for i in range(9)} == {7}
    assert {phase(WEST, 10 + i, 30 - i) for i in range(9)} == {40}


@pytest.mark.parametrize("chips", [1, 2, 3, 8, 9, 16, 72, 264, 265, 576])
def test_wiring_is_symmetric(chips: int) -> None:
    pairs = wiring(LPU, chips)
    for (chip, link), (peer, port) in pairs.items():
        assert pairs[peer, port] == (chip, link)
        assert chip != peer
        assert 0 <= chip < chips
        assert 0 <= link < LPU.system.local_links + LPU.system.global_links
    assert list(pairs) == sorted(pairs)


def graph(chips: int) -> networkx.Graph:
    result = networkx.Graph()
    result.add_nodes_from(range(chips))
    result.add_edges_from((a, b) for (a, _), (b, _) in wiring(LPU, chips).items())
    return result


def test_a_node_is_all_to_all() -> None:
    assert networkx.density(graph(8)) == 1
    assert all(networkx.density(graph(n)) == 1 for n in range(2, 8))


def test_264_chips_are_three_hops_apart() -> None:
    assert networkx.diameter(graph(264)) == 3
    assert set(between_nodes(264).values()) == {1}


def between_nodes(chips: int) -> Counter[tuple[int, int]]:
    """Links of each pair of nodes."""
    ends = ((a // 8, b // 8) for (a, _), (b, _) in wiring(LPU, chips).items())
    return Counter((a, b) for a, b in ends if a < b)


def test_72_chips_have_four_links_a_node_pair() -> None:
    pairs = between_nodes(72)
    assert len(pairs) == 36
    assert set(pairs.values()) == {4}


@pytest.mark.parametrize("chips", [9, 20, 72, 264, 265, 300, 576, 583, 650])
def test_every_chip_can_be_reached(chips: int) -> None:
    assert networkx.is_connected(graph(chips))


@pytest.mark.parametrize("links", [1, 2, 3])
def test_nodes_with_few_links_are_connected(links: int) -> None:
    """A ring is the least that `tiny` chips can be wired in."""
    machine = load_machine("tiny", [f"system.local_links={links}"])
    result = networkx.Graph((a, b) for (a, _), (b, _) in wiring(machine, 4).items())
    assert networkx.is_connected(result) is (links > 1)


RACKS = ["system.direct_nodes=1", "system.max_nodes=39"]
"""`tiny` in racks of three nodes, up to thirteen of them."""


@pytest.mark.parametrize("chips", [13, 25, 30, 100, 156])
def test_racks_of_tiny_nodes(chips: int) -> None:
    machine = load_machine("tiny", RACKS)
    assert machine.racks(chips) == -(-chips // 12)
    result = networkx.Graph((a, b) for (a, _), (b, _) in wiring(machine, chips).items())
    assert len(result) == chips
    assert networkx.diameter(result) == topology(machine, chips).diameter


def test_every_pair_of_racks_has_one_link() -> None:
    machine = load_machine("tiny", RACKS)
    ends = ((a // 12, b // 12) for (a, _), (b, _) in wiring(machine, 156).items())
    pairs = Counter((a, b) for a, b in ends if a < b)
    assert len(pairs) == 13 * 12 / 2
    assert set(pairs.values()) == {1}


def test_chips_of_a_node_have_their_links_alike() -> None:
    """Link p of chip i leads to chip i + offset, so all chips of a node can run the same code."""
    pairs = wiring(LPU, 8)
    for link in range(LPU.system.local_links):
        assert len({(pairs[chip, link][0] - chip) % 8 for chip in range(8)}) == 1
        assert len({pairs[chip, link][1] for chip in range(8)}) == 1


def test_published_topologies() -> None:
    """Diameters, and all-pairs bisections at 28 Gb/s lanes, of machine-facts 2.1 and 2.2."""
    machine = load_machine("lpu-v1", ["c2c.lane_kbps=28000000"])
    found = {chips: topology(machine, chips) for chips in (8, 16, 264, 10_440)}
    assert [t.diameter for t in found.values()] == [1, 2, 3, 7]
    assert [round(t.bisection / 1e9, 1) for t in found.values()] == [56, 56, 28.9, 14.1]
    assert found[10_440].links == 10_440 * (7 + 4) // 2
    assert (found[10_440].nodes, found[10_440].racks) == (1305, 145)


def test_chips_that_are_not_connected() -> None:
    machine = load_machine("tiny", ["system.local_links=1"])
    assert topology(machine, 2).diameter == 1
    assert topology(machine, 4).diameter == -1
    assert topology(machine, 1).diameter == 0
