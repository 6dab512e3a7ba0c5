"""Traffic between chips: routes over the wiring, and a block's journey over one link."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from clockstep_compiler.bundle import Bundle
from clockstep_compiler.calendar import Calendars
from clockstep_compiler.floorplan import Floorplan, Way
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_isa.geometry import Queue, Unit, wiring
from clockstep_isa.machine import Machine

__all__ = ["Links", "send_block"]


class Links:
    """The wiring of the chips in use, as a graph."""

    def __init__(self, machine: Machine, chips: int) -> None:
        self.ports: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._graph = nx.Graph()
        self._graph.add_nodes_from(range(chips))
        for (a, port_a), (b, port_b) in wiring(machine, chips).items():
            self._graph.add_edge(a, b)
            self.ports.setdefault((a, b), []).append((port_a, port_b))

    def route(self, origins: list[int], target: int) -> list[int]:
        """The shortest way from any of `origins` to `target`; the first chip number wins ties.

        Raises `NoRoom` if no link leads there.
        """
        lengths, paths = nx.single_source_dijkstra(self._graph, target)
        reached = [chip for chip in origins if chip in lengths]
        if not reached:
            raise NoRoom(target, f"a link that leads to it from chip {origins[0]}", 0)
        nearest = min(reached, key=lambda chip: (lengths[chip], chip))
        return list(reversed(paths[nearest]))


def send_block(
    plan: Floorplan,
    links: Links,
    calendars: Calendars,
    origin: int,
    target: int,
    source: Copy,
    copy: Copy,
    since: int,
) -> Iterator[Bundle]:
    """One bundle for each byte of a block, from `source` on chip `origin` to `copy` on `target`.

    The caller commits each before it asks for the next.
    """
    ports = links.ports[origin, target]
    for (from_slice, from_address), (to_slice, to_address) in zip(
        source.planes, copy.planes, strict=True
    ):
        senders = [plan.queue(Unit.SEND, "", port).id for port, _ in ports]
        busy = [calendars.busy_until(plan.queue_resource(origin, s)) for s in senders]
        port, peer = ports[min(range(len(ports)), key=lambda i: (busy[i], i))]
        yield _send(
            plan,
            calendars,
            (origin, plan.queues[from_slice], from_address, port),
            (target, plan.queues[to_slice], to_address, peer),
            source,
            since,
        )


def _send(
    plan: Floorplan,
    calendars: Calendars,
    sender: tuple[int, Queue, int, int],
    receiver: tuple[int, Queue, int, int],
    source: Copy,
    since: int,
) -> Bundle:
    """read, send; a link later receive, write: `cycles_per_vector` apart, row after row."""
    machine, bundle = plan.machine, Bundle(plan)
    pace, rows = machine.c2c.cycles_per_vector, len(source.ready)
    length = (rows - 1) * pace + 1
    chip, memory, address, link = sender
    send = plan.queue(Unit.SEND, "", link)
    way = plan.way(memory, send)
    stream = _quiet_stream(plan, calendars, chip, way)
    at = -way.hops - machine.mem.read_latency
    operand = way.direction << 8 | stream
    bundle.issue(chip, memory.id, "read", at, (address, 1, operand), rows, pace)
    bundle.issue(chip, send.id, "send", 0, (operand,), rows, pace, pace)
    bundle.reservations += plan.hold(chip, way, stream, 1, 0, send.x, length)
    for row, ready in enumerate(source.ready.tolist()):
        bundle.after(at + row * pace, ready, source)

    chip, memory, address, link = receiver
    receive = plan.queue(Unit.RECEIVE, "", link)
    way = plan.way(receive, memory)
    stream = _quiet_stream(plan, calendars, chip, way)
    arrival = machine.link_latency
    operand = way.direction << 8 | stream
    bundle.issue(chip, receive.id, "receive", arrival, (operand,), rows, pace)
    bundle.reservations += plan.hold(chip, way, stream, 1, arrival + 1, receive.x, length)
    write = arrival + 1 + way.hops
    bundle.issue(chip, memory.id, "write", write, (operand, address, 1), rows, pace)
    bundle.after(write, since)
    return bundle


def _quiet_stream(plan: Floorplan, calendars: Calendars, chip: int, way: Way) -> int:
    """The stream that has been free longest on all stretches of a way; high numbers first."""

    def busy(stream: int) -> tuple[int, int]:
        ends = (
            calendars.busy_until(plan.stream_resource(chip, way.direction, s, stream))
            for s in way.stretches
        )
        return max(ends), -stream

    return min(range(plan.machine.streams.per_direction), key=busy)
