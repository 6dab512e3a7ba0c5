"""Resources and ways of a chip as the scheduler sees them: numbers for queues, streams and planes.

A stretch is a part of the chip that a stream crosses: 0 is the west hemisphere as far as its inner
slices, `r` lies between ranks r - 1 and r of the VXM, then come the inner slices of the east
hemisphere, what is beyond those of the west, and of the east. A slot is reserved on the stretches
it crosses from its producer to its last consumer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from clockstep_compiler.calendar import Reservation
from clockstep_isa.geometry import EAST, WEST, Geometry, Queue, Unit, geometry, phase
from clockstep_isa.machine import Machine
from clockstep_isa.table import TABLE, figure

__all__ = ["Floorplan", "Way"]

_FEW_SLICES = 16
"""Slices of a hemisphere below which there are numbers of one place alone at its rim."""

_KINDS = {Unit.MEM: "bank", Unit.SEND: "link", Unit.RECEIVE: "link"}


@dataclass(frozen=True, slots=True)
class Way:
    """How a vector gets from `x` to another place: direction, hops, stretches it crosses.

    The first and last of these as if hemispheres were not divided, and all of them.
    """

    direction: int
    hops: int
    first: int
    last: int
    stretches: tuple[int, ...]


@dataclass(frozen=True)
class Floorplan:
    """Everything the scheduler asks about one machine.

    Where most of the time goes into `loading` weights, they take all streams at times, and what
    stays near the VXM does not meet them.
    """

    machine: Machine
    loading: bool = False
    system: int = 1
    """Chips of the system in which those of a program stand, if there are more than its own."""

    @cached_property
    def geometry(self) -> Geometry:
        return geometry(self.machine)

    @cached_property
    def queues(self) -> tuple[Queue, ...]:
        return self.geometry.queues

    @cached_property
    def slices(self) -> dict[str, list[int]]:
        """Queue ids of the MEM slices of each hemisphere, innermost first."""
        return {
            side: [q.id for q in self.queues if q.unit == Unit.MEM and q.hemisphere == side]
            for side in "WE"
        }

    @cached_property
    def inner(self) -> frozenset[int]:
        """Slices near the VXM, which are the last to get weights."""
        count = self.machine.mem.slices_per_hemisphere
        loading = self.install_streams * self.machine.mxm.planes_per_hemisphere
        nearest = max(count // 4, min(8, count // 2), count - loading)
        return frozenset(q for side in "WE" for q in self.slices[side][:nearest])

    @cached_property
    def rim(self) -> dict[str, frozenset[int]]:
        """The outermost slices of each hemisphere, where numbers come from that say which rows of a
        table are wanted."""
        wanted = 2 if self.machine.mem.slices_per_hemisphere < _FEW_SLICES else 4
        return {side: self._end(slices[::-1], wanted) for side, slices in self.slices.items()}

    @cached_property
    def hub(self) -> dict[str, frozenset[int]]:
        """The innermost slices of each hemisphere, two for each plane, where numbers come from that
        say which weights are wanted."""
        wanted = 2 * self.machine.mxm.planes_per_hemisphere
        return {side: self._end(slices, wanted) for side, slices in self.slices.items()}

    def _end(self, slices: list[int], wanted: int) -> frozenset[int]:
        """The first of some slices, at as few places as have as many as are `wanted`."""
        if len(slices) < wanted:
            return frozenset(slices)
        first, last = (self.queues[slices[i]].x for i in (0, wanted - 1))
        return frozenset(q for q in slices if abs(self.queues[q].x - first) <= abs(last - first))

    def chosen_streams(self, width: int) -> int:
        """Streams of weights of `width` bytes that numbers choose: a plane's own but for two, which
        have the numbers. 0 if none can be had."""
        streams = (self.install_streams - 2) // width * width
        least = min(len(self.slices[side]) - len(self.hub[side]) for side in "WE")
        return streams if streams <= least else 0

    def pitch(self, width: int, columns: int) -> int:
        """Words of so many columns of such weights in every slice that has any."""
        return -(-columns * width // self.chosen_streams(width))

    @cached_property
    def planes(self) -> list[tuple[str, int]]:
        """(hemisphere, plane) in the order in which K tiles are dealt to them."""
        count = self.machine.mxm.planes_per_hemisphere
        return [(side, p) for p in range(count) for side in "WE"]

    @cached_property
    def pairs(self) -> list[tuple[str, int]]:
        """(hemisphere, first plane) of every fp16 array."""
        step = self.machine.mxm.fp16_planes
        return [(side, p) for side, p in self.planes if p % step == 0]

    @cached_property
    def install_streams(self) -> int:
        """Weight streams of a plane: as many as leave the others room for operands and results."""
        m = self.machine
        planes = m.mxm.planes_per_hemisphere
        others = 0 if self.loading else 8
        fair = (m.streams.per_direction - others) // planes // 2 * 2
        least = max(2, min(fair, m.streams.per_direction // planes // 2 * 2))
        most = min(m.mxm.install_streams, least, m.mem.slices_per_hemisphere)
        return most // 2 * 2

    def queue(self, unit: Unit, hemisphere: str, index: int) -> Queue:
        return self.geometry.queue(unit, hemisphere, index)

    def outward(self, hemisphere: str) -> int:
        """The direction in which streams leave the VXM through a hemisphere."""
        return WEST if hemisphere == "W" else EAST

    def inward(self, hemisphere: str) -> int:
        return EAST if hemisphere == "W" else WEST

    def way(self, origin: Queue, target: Queue) -> Way:
        """From a unit in one hemisphere to a unit in either."""
        way = self._ways.get((origin.id, target.id))
        if way is None:
            way = self._ways[origin.id, target.id] = self._way(origin, target)
        return way

    @cached_property
    def _ways(self) -> dict[tuple[int, int], Way]:
        """Those that have been asked for, by queues."""
        return {}

    def _way(self, origin: Queue, target: Queue) -> Way:
        direction = EAST if target.x > origin.x else WEST
        hops = abs(target.x - origin.x)
        if origin.hemisphere == target.hemisphere:
            edge = 0 if origin.hemisphere == "W" else self.machine.vxm.ranks
            ends = {self.is_outer(origin), self.is_outer(target)}
            stretches = tuple(self._halves(edge)[outer] for outer in sorted(ends))
            return Way(direction, hops, edge, edge, stretches)
        outer = [q.hemisphere for q in (origin, target) if self.is_outer(q)]
        edge = self.machine.vxm.ranks
        return Way(direction, hops, 0, edge, self.crossed(0, edge, "".join(outer)))

    def is_outer(self, queue: Queue) -> bool:
        """Whether a unit of a hemisphere lies beyond all inner slices."""
        return queue.id not in self._near

    @cached_property
    def _near(self) -> frozenset[int]:
        """Inner slices and those beside them; none if hemispheres are not divided."""
        if not self.loading:
            return frozenset()
        inner = {self.queues[q].x for q in self.inner}
        return frozenset(q.id for q in self.queues if q.unit == Unit.MEM and q.x in inner)

    def _halves(self, edge: int) -> tuple[int, int]:
        """The inner and the outer stretch of the hemisphere at an edge of the VXM."""
        ranks = self.machine.vxm.ranks
        return edge, ranks + 1 if edge == 0 else ranks + 2

    def crossed(self, first: int, last: int, outer: str = "WE") -> tuple[int, ...]:
        """Stretches first to last, and what is beyond them in the hemispheres `outer`."""
        ranks = self.machine.vxm.ranks
        west = (ranks + 1,) if first == 0 and "W" in outer else ()
        east = (ranks + 2,) if last == ranks and "E" in outer else ()
        return (*range(first, last + 1), *west, *east)

    @cached_property
    def latency(self) -> dict[str, int]:
        """Cycles from an instruction's dispatch to its end, by name; at least 1."""
        return {row.name: max(1, figure(self.machine, row.latency)) for row in TABLE}

    # -- resources ----------------------------------------------------------------------------

    @cached_property
    def _stretches(self) -> int:
        return self.machine.vxm.ranks + 3

    @cached_property
    def _span(self) -> int:
        m = self.machine
        streams = 2 * self._stretches * m.streams.per_direction
        return len(self.queues) + streams + 4 * m.mxm.planes_per_hemisphere

    @cached_property
    def _streams(self) -> tuple[int, int, int]:
        """Stretches, streams each way, and the resource that is the first of these on a chip."""
        m = self.machine
        return self._stretches, m.streams.per_direction, len(self.queues)

    def queue_resource(self, chip: int, queue: int) -> int:
        return chip * self._span + queue

    def stream_resource(self, chip: int, direction: int, stretch: int, stream: int) -> int:
        ways, streams, first = self._streams
        return chip * self._span + first + (direction * ways + stretch) * streams + stream

    def plane_resources(self, chip: int, hemisphere: str, plane: int) -> tuple[int, int]:
        """The weight buffer and the array of a plane."""
        count = self.machine.mxm.planes_per_hemisphere
        first = (chip + 1) * self._span - 4 * count
        index = plane + (count if hemisphere == "E" else 0)
        return first + index, first + 2 * count + index

    def resource_name(self, resource: int) -> tuple[str, str]:
        """What a resource is ("unit", "bank", "link" or "stream"), and its name for people."""
        chip, local = divmod(resource, self._span)
        m = self.machine
        if local < len(self.queues):
            queue = self.queues[local]
            return _KINDS.get(queue.unit, "unit"), f"c{chip}.{queue.name}"
        local -= len(self.queues)
        rows, stream = divmod(local, m.streams.per_direction)
        direction = rows // self._stretches
        if direction <= WEST:
            return "stream", f"c{chip}.{'EW'[direction]}{stream}"
        planes = 2 * m.mxm.planes_per_hemisphere
        part, index = divmod(local - 2 * self._stretches * m.streams.per_direction, planes)
        side, plane = divmod(index, m.mxm.planes_per_hemisphere)
        return "unit", f"c{chip}.mxm.{'WE'[side]}{plane}.{('buffer', 'array')[part]}"

    def hold(
        self, chip: int, way: Way, base: int, streams: int, cycle: int, x: int, length: int
    ) -> list[Reservation]:
        """Streams on a way, whose first vector is at `x` in `cycle`, for `length` phases."""
        first = phase(way.direction, cycle, x)
        return [
            (self.stream_resource(chip, way.direction, stretch, base + s), first, length)
            for stretch in way.stretches
            for s in range(streams)
        ]
