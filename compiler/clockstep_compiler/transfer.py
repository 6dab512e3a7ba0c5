"""Traffic between chips: routes over the wiring, and a block's journey over one link."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import networkx as nx

from clockstep_compiler.bundle import Bundle
from clockstep_compiler.calendar import Calendars
from clockstep_compiler.floorplan import Floorplan, Way
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_isa.geometry import Unit, wiring
from clockstep_isa.machine import Machine

__all__ = ["Arrival", "Links", "Sent", "send_block"]


class Links:
    """The wiring of the chips in use, the first of a system, as a graph."""

    def __init__(self, machine: Machine, chips: int, system: int = 1) -> None:
        self.ports: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._graph = nx.Graph()
        self._shortest: dict[int, tuple[dict[int, int], dict[int, list[int]]]] = {}
        self._graph.add_nodes_from(range(chips))
        for (a, port_a), (b, port_b) in wiring(machine, max(chips, system)).items():
            if max(a, b) >= chips:
                continue
            self._graph.add_edge(a, b)
            self.ports.setdefault((a, b), []).append((port_a, port_b))

    def route(
        self, origins: list[int], target: int, when: Callable[[int], int] = lambda _: 0
    ) -> list[int]:
        """The shortest way from any of `origins` to `target`.

        Of those with a link to it the one that can send first, `when` it is that; then the first
        chip number wins ties. Raises `NoRoom` if no link leads there.
        """
        near = [chip for chip in origins if self.linked(chip, target)]
        if near and target not in origins:
            return [min(near, key=lambda chip: (when(chip), chip)), target]
        if target not in self._shortest:
            self._shortest[target] = nx.single_source_dijkstra(self._graph, target)
        lengths, paths = self._shortest[target]
        reached = [chip for chip in origins if chip in lengths]
        if not reached:
            raise NoRoom(target, f"a link that leads to it from chip {origins[0]}", 0)
        nearest = min(reached, key=lambda chip: (lengths[chip], chip))
        return list(reversed(paths[nearest]))

    def linked(self, chip: int, other: int) -> bool:
        """Whether a link leads from one chip to another."""
        return (chip, other) in self.ports

    def tree(self, origin: int, targets: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Who passes a message on to whom, in order, so that it reaches every target soonest.

        Of several chips from which one can be reached as soon, the one with the least to pass on.
        Raises `NoRoom` if no link leads there.
        """
        if all(self.linked(origin, target) for target in targets):
            return [(origin, list(targets))] if targets else []
        sources: dict[int, list[int]] = nx.predecessor(self._graph, origin)
        children: dict[int, list[int]] = {}
        reached, waiting = {origin}, list(targets)
        for target in waiting:
            if target in reached:
                continue
            if target not in sources:
                raise NoRoom(target, f"a link that leads to it from chip {origin}", 0)
            nearest = min(sources[target], key=lambda c: (len(children.get(c, ())), c))
            reached.add(target)
            waiting.append(nearest)
            children.setdefault(nearest, []).append(target)
        order = nx.bfs_tree(nx.DiGraph((a, b) for a in children for b in children[a]), origin)
        return [(chip, children[chip]) for chip in order if chip in children]

    def ways(self, origin: int, target: int, most: int) -> list[list[int]]:
        """Routes that share no link, the shortest first: detours carry what one link cannot.

        Raises `NoRoom` if there is none.
        """
        if not nx.has_path(self._graph, origin, target):
            raise NoRoom(target, f"a link that leads to it from chip {origin}", 0)
        found = nx.edge_disjoint_paths(self._graph, origin, target)
        return sorted((list(way) for way in found), key=lambda way: (len(way), way))[:most]

    def levels(self, root: int, chips: Sequence[int]) -> list[list[tuple[int, int]]]:
        """(chip, the one nearer to `root`) for all of `chips`, by their distance; links of these
        chips alone. Raises `NoRoom` if some cannot be reached."""
        inside = self._graph.subgraph(chips)
        parents = {b: a for a, b in nx.bfs_edges(inside, root, sort_neighbors=sorted)}
        missing = [chip for chip in chips if chip != root and chip not in parents]
        if missing:
            raise NoRoom(missing[0], f"a link that leads to it from chip {root}", 0)
        far = nx.single_source_shortest_path_length(inside, root)
        return [
            [(chip, parents[chip]) for chip in sorted(parents) if far[chip] == distance]
            for distance in range(1, max(far.values()) + 1)
        ]


class Arrival(NamedTuple):
    """Where a block goes: a copy on a chip that a link leads to, writable from `since` on."""

    target: int
    copy: Copy
    since: int


class Sent(NamedTuple):
    """One byte of a block on its way, and those of the arrivals that it goes to.

    `bundle.written` says when the first row of each may be read.
    """

    bundle: Bundle
    reached: tuple[int, ...]


def send_block(
    plan: Floorplan,
    links: Links,
    calendars: Calendars,
    origin: int,
    source: Copy,
    arrivals: Sequence[Arrival],
) -> Iterator[Sent]:
    """A bundle for each byte of a block and each side of the chip that its links are on.

    The caller commits each before it asks for the next. One read serves all links of a side; while
    one byte leaves on the one side, the next does on the other.
    """
    ports = _free_ports(plan, links, calendars, origin, arrivals)
    for byte, near in _turns(plan, ports, len(source.planes)):
        if len(arrivals) == 1:  # links side by side take turns
            ports = _free_ports(plan, links, calendars, origin, arrivals)
        some, used = [arrivals[k] for k in near], [ports[k] for k in near]
        yield Sent(_send(plan, calendars, origin, some, used, source, byte), near)


def _turns(
    plan: Floorplan, ports: Sequence[tuple[int, int]], count: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Which of `count` bytes leave when, and through which of the links."""
    sides = [_side(plan, port) for port, _ in ports]
    if len(set(sides)) == 1:
        yield from ((byte, tuple(range(len(ports)))) for byte in range(count))
        return
    for turn in range(2):
        for byte in range(count):
            side = "WE"[(byte + turn) % 2]
            yield byte, tuple(k for k, other in enumerate(sides) if other == side)


def _side(plan: Floorplan, port: int) -> str:
    return plan.queue(Unit.SEND, "", port).hemisphere


def _free_ports(
    plan: Floorplan,
    links: Links,
    calendars: Calendars,
    origin: int,
    arrivals: Sequence[Arrival],
) -> list[tuple[int, int]]:
    """For each arrival the link to it that is free first, as ports of both ends."""
    found = []
    for arrival in arrivals:
        ports = links.ports[origin, arrival.target]
        senders = [plan.queue(Unit.SEND, "", port).id for port, _ in ports]
        busy = [calendars.busy_until(plan.queue_resource(origin, s)) for s in senders]
        found.append(ports[min(range(len(ports)), key=lambda i: (busy[i], i))])
    return found


def _send(
    plan: Floorplan,
    calendars: Calendars,
    chip: int,
    arrivals: Sequence[Arrival],
    ports: Sequence[tuple[int, int]],
    source: Copy,
    byte: int,
) -> Bundle:
    """read, sends; a link later receives, writes: `cycles_per_vector` apart, row after row."""
    machine, bundle = plan.machine, Bundle(plan)
    pace, rows = machine.c2c.cycles_per_vector, len(source.ready)
    length = (rows - 1) * pace + 1
    queue, address = source.planes[byte]
    memory, sends = plan.queues[queue], [plan.queue(Unit.SEND, "", port) for port, _ in ports]
    way = plan.way(memory, sends[0])
    stream = _quiet_stream(plan, calendars, chip, way)
    at = -way.hops - machine.mem.read_latency
    operand = way.direction << 8 | stream
    bundle.issue(chip, memory.id, "read", at, (address, 1, operand), rows, pace)
    for send in sends:
        bundle.issue(chip, send.id, "send", 0, (operand,), rows, pace, pace)
    bundle.reservations += plan.hold(chip, way, stream, 1, 0, sends[0].x, length)
    for row, ready in enumerate(source.ready.tolist()):
        bundle.after(at + row * pace, ready, source)
    for arrival, (_, peer) in zip(arrivals, ports, strict=True):
        _receive(plan, calendars, bundle, arrival, peer, arrival.copy.planes[byte], rows)
    return bundle


def _receive(
    plan: Floorplan,
    calendars: Calendars,
    bundle: Bundle,
    arrival: Arrival,
    link: int,
    place: tuple[int, int],
    rows: int,
) -> None:
    """receive, write: of what is sent at offset 0 of the bundle."""
    machine, chip = plan.machine, arrival.target
    pace = machine.c2c.cycles_per_vector
    memory, receive = plan.queues[place[0]], plan.queue(Unit.RECEIVE, "", link)
    way = plan.way(receive, memory)
    stream = _quiet_stream(plan, calendars, chip, way)
    at = machine.link_latency
    operand = way.direction << 8 | stream
    bundle.issue(chip, receive.id, "receive", at, (operand,), rows, pace)
    length = (rows - 1) * pace + 1
    bundle.reservations += plan.hold(chip, way, stream, 1, at + 1, receive.x, length)
    write = at + 1 + way.hops
    bundle.issue(chip, memory.id, "write", write, (operand, place[1], 1), rows, pace)
    bundle.written.append(write + plan.latency["write"])
    bundle.after(write, arrival.since)


def _quiet_stream(plan: Floorplan, calendars: Calendars, chip: int, way: Way) -> int:
    """The stream that has been free longest on all stretches of a way; high numbers first."""

    def busy(stream: int) -> tuple[int, int]:
        ends = (
            calendars.busy_until(plan.stream_resource(chip, way.direction, s, stream))
            for s in way.stretches
        )
        return max(ends), -stream

    return min(range(plan.machine.streams.per_direction), key=busy)
