"""Kernels: a wave with its sources and its destination, as one rigid bundle.

Sources are blocks in SRAM, products of the MXM, and blocks on their way through the SXM; the
bundle reads them so that they meet the wave, and writes its result. All offsets count from the
cycle in which level 0 of the wave samples its first vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from clockstep_compiler.bundle import Bundle, Choice, Load
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.storage import Copy
from clockstep_compiler.wave import (
    NOTHING,
    Arrival,
    Busy,
    Feed,
    Wave,
    WaveProgram,
    plan_wave,
    variants,
)
from clockstep_isa.geometry import Queue, Unit, phase
from clockstep_isa.table import BY_OPCODE, Type

__all__ = [
    "Array",
    "FromMem",
    "FromMxm",
    "FromSxm",
    "Kernel",
    "Piece",
    "Rows",
    "Run",
    "Spot",
    "Target",
    "Track",
    "build",
    "draft",
    "first_rows",
    "has_wave",
    "pieces",
]


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Rows start, start + stride, ... of one copy of a block, or of one byte of its elements."""

    copy: Copy
    start: int
    stride: int
    byte: int | None = None

    @property
    def planes(self) -> tuple[tuple[int, int], ...]:
        """(slice, address) of every byte that is read."""
        planes = self.copy.planes
        return planes if self.byte is None else planes[self.byte : self.byte + 1]


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Rows `at`, at + 1, ... of a kernel, `count` of them, lie regularly in one copy."""

    at: int
    count: int
    rows: Rows


Track = tuple[Piece, ...]
"""All rows that a kernel reads of one operand, in blocks of one hemisphere."""


def pieces(rows: Rows | Track, count: int) -> Track:
    """The pieces of an operand of a kernel of `count` rows."""
    return (Piece(0, count, rows),) if isinstance(rows, Rows) else rows


@dataclass(frozen=True, eq=False, slots=True)
class FromMem:
    rows: Rows | Track


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """Consecutive columns of an array: `dispatches` of `lw`, `columns` each.

    Stripe i is (slice, address, stride, words) and feeds stream i. `rows` are those of the blocks
    that the columns are rows of, in turn; none for constant weights. The `skipped` columns before
    them stay zero. With `numbers`, one row of i16, all addresses are that number of words on, which
    is less than `reach`.
    """

    stripes: tuple[tuple[int, int, int, int], ...]
    dispatches: int
    columns: int
    rows: tuple[Rows, ...] = ()
    skipped: int = 0
    numbers: Rows | None = None
    reach: int = 0

    def byte(self, index: int) -> Run:
        """One byte of every element as an int8 column of its own."""
        return replace(self, stripes=self.stripes[index : index + 1])


@dataclass(frozen=True, eq=False, slots=True)
class Array:
    """What is installed in a plane."""

    side: str
    plane: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, eq=False, slots=True)
class FromMxm:
    """The product of a block's lanes 0..depth-1 with an array."""

    rows: Rows | Track
    type: Type
    depth: int
    array: Array


@dataclass(frozen=True, eq=False, slots=True)
class FromSxm:
    """A block through the permutor of a hemisphere; `args` follow the operand in the row."""

    rows: Rows | Track
    side: str
    name: str
    args: tuple[int, ...]


Origin = FromMem | FromMxm | FromSxm


def first_rows(origin: Origin) -> Rows:
    """The rows that an origin begins with; the others come from the same hemisphere."""
    return origin.rows if isinstance(origin.rows, Rows) else origin.rows[0].rows


@dataclass(frozen=True, eq=False, slots=True)
class Spot:
    """Rows `at`, at + 1, ... of a kernel's result, `count` of them, go `stride` words apart.

    `planes` are (slice, address, byte of the result): a byte may go to several slices.
    """

    at: int
    count: int
    planes: tuple[tuple[int, int, int], ...]
    stride: int


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """Where the result goes, in one hemisphere.

    `since` is the first cycle in which all of it may be written.
    """

    side: str
    spots: tuple[Spot, ...]
    since: int


@dataclass(frozen=True, eq=False, slots=True)
class Kernel:
    """One wave over `count` rows on one chip."""

    chip: int
    program: WaveProgram
    origins: tuple[Origin, ...]
    count: int
    interval: int
    due: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict, init=False)
    """Of rows that are read, the one that is ready last, and when: alike in all variants."""
    loading: dict[int, tuple[Bundle, int]] = field(default_factory=dict, init=False)
    """Loads of the weights of origins, and the cycles they take: alike in all variants, too."""


@dataclass(slots=True)
class _Builder:
    plan: Floorplan
    kernel: Kernel
    bundle: Bundle

    @property
    def length(self) -> int:
        """Phases or cycles that one stream or queue serves."""
        return (self.kernel.count - 1) * self.kernel.interval + 1


def draft(plan: Floorplan, kernel: Kernel, target: Target, variant: int, busy: Busy) -> Wave | None:
    """The wave of a kernel in one of its variants beside what is `busy`, if there is one."""
    return _wave(plan, kernel, target, {}, variant, busy)


def build(plan: Floorplan, kernel: Kernel, target: Target, wave: Wave) -> Bundle | None:
    """The bundle of a kernel, or None if it would be in its own way."""
    bundle = _assemble(_Builder(plan, kernel, Bundle(plan)), wave, target)
    return None if bundle.clashes() else bundle


def has_wave(plan: Floorplan, kernel: Kernel, target: Target, sides: dict[int, str]) -> bool:
    """Whether some wave would do if the blocks named by `sides` were in those hemispheres."""
    return any(
        _wave(plan, kernel, target, sides, variant) is not None
        for variant in range(variants(plan.machine))
    )


def _wave(
    plan: Floorplan,
    kernel: Kernel,
    target: Target,
    sides: dict[int, str],
    variant: int,
    busy: Busy = NOTHING,
) -> Wave | None:
    arrivals = tuple(
        plan.inward(sides.get(k, _side(origin))) for k, origin in enumerate(kernel.origins)
    )
    feeds = tuple(f for f in (_feed(plan, origin) for origin in kernel.origins) if f is not None)
    weights = plan.install_streams * plan.machine.mxm.planes_per_hemisphere
    out = plan.outward(target.side)
    return plan_wave(plan.machine, kernel.program, arrivals, feeds, out, variant, weights, busy)


def _side(origin: Origin) -> str:
    """The hemisphere from which an origin enters the VXM."""
    if isinstance(origin, FromMem):
        return first_rows(origin).copy.side
    return origin.array.side if isinstance(origin, FromMxm) else origin.side


def _station(plan: Floorplan, origin: FromMxm | FromSxm) -> Queue:
    """The unit that an origin's block passes through."""
    if isinstance(origin, FromMxm):
        return plan.queue(Unit.ABC, origin.array.side, origin.array.plane)
    return plan.queue(Unit.PERMUTE, origin.side, 0)


def _feed(plan: Floorplan, origin: Origin) -> Feed | None:
    if isinstance(origin, FromMem):
        return None
    planes = first_rows(origin).planes
    way = plan.way(plan.queues[planes[0][0]], _station(plan, origin))
    return Feed(way.direction, way.first, way.last, len(planes))


def _assemble(b: _Builder, wave: Wave, target: Target) -> Bundle:
    feeds = iter(wave.feeds)
    for origin, arrival in zip(b.kernel.origins, wave.arrivals, strict=True):
        _enter(b, wave, origin, arrival, feeds)
    kernel, chip = b.kernel, b.kernel.chip
    for step in wave.steps:
        queue = b.plan.queue(Unit.VXM, "", step.alu).id
        name = BY_OPCODE[step.opcode].name
        b.bundle.issue(chip, queue, name, step.cycle, step.args, kernel.count, kernel.interval)
    result = wave.holds[0]
    b.bundle.choices.insert(
        0,
        Choice(
            chip,
            *result[:3],
            b.plan.crossed(*result[1:3], _beyond(b.plan, target)),
            result.streams,
            result.base,
            result.phase,
            b.length,
            wave.taken(*result[:3]),
        ),
    )
    for hold in wave.holds[1:]:
        b.bundle.reservations += [
            (b.plan.stream_resource(chip, hold.direction, s, hold.base + i), hold.phase, b.length)
            for s in b.plan.crossed(hold.first, hold.last)
            for i in range(hold.streams)
        ]
    _write(b, wave.out, target)
    return b.bundle


def _beyond(plan: Floorplan, target: Target) -> str:
    """The hemisphere of a result if it is written beyond the inner slices."""
    queues = [plan.queues[queue] for spot in target.spots for queue, _, _ in spot.planes]
    return target.side if any(map(plan.is_outer, queues)) else ""


def _write(b: _Builder, out: Arrival, target: Target) -> None:
    interval = b.kernel.interval
    latency = b.plan.latency["write"]
    for spot in target.spots:
        b.bundle.written.append(-(1 << 60))
        for queue, address, byte in spot.planes:
            cycle = out.cycle + abs(b.plan.queues[queue].x - out.x) + spot.at * interval
            args = (out.direction << 8 | out.base + byte, address, spot.stride)
            b.bundle.issue(b.kernel.chip, queue, "write", cycle, args, spot.count, interval)
            b.bundle.written[-1] = max(b.bundle.written[-1], cycle + latency)
            b.bundle.after(cycle, target.since)


def _read(b: _Builder, track: Track, x: int, cycle: int, direction: int, base: int) -> None:
    """Read a track so that its first vector is at `x` in `cycle`."""
    chip, interval = b.kernel.chip, b.kernel.interval
    for piece in track:
        rows = piece.rows
        for byte, (queue, address) in enumerate(rows.planes):
            at = cycle - abs(x - b.plan.queues[queue].x) - b.plan.machine.mem.read_latency
            at += piece.at * interval
            args = (address + rows.start, rows.stride, direction << 8 | base + byte)
            b.bundle.issue(chip, queue, "read", at, args, piece.count, interval)
            _wait(b, rows, piece.count, interval, at)


def _wait(b: _Builder, rows: Rows, count: int, interval: int, at: int) -> None:
    """No row is read before it is there: the latest of (ready - its place in the sequence)."""
    key = (id(rows.copy), rows.start, rows.stride, count, interval)
    if key not in b.kernel.due:
        steps = np.arange(count)
        ready = rows.copy.ready[rows.start + rows.stride * steps]
        last = int((ready - steps * interval).argmax())
        b.kernel.due[key] = last, int(ready[last])
    last, cycle = b.kernel.due[key]
    b.bundle.after(at + last * interval, cycle, rows.copy)


def _enter(b: _Builder, wave: Wave, origin: Origin, arrival: Arrival, feeds: Iterator[int]) -> None:
    """Bring one origin to its arrival."""
    plan, kernel = b.plan, b.kernel
    track = pieces(origin.rows, kernel.count)
    if isinstance(origin, FromMem):
        _read(b, track, arrival.x, arrival.cycle, arrival.direction, arrival.base)
        return
    station = _station(plan, origin)
    emitted = arrival.cycle - abs(arrival.x - station.x)
    base = next(feeds)
    stream = arrival.direction << 8 | arrival.base
    planes = track[0].rows.planes
    way = plan.way(plan.queues[planes[0][0]], station)
    operand = way.direction << 8 | base
    if isinstance(origin, FromSxm):
        sample = emitted - plan.machine.sxm.permute_latency
        args = (operand, len(planes), *origin.args, stream)
        b.bundle.issue(
            kernel.chip, station.id, origin.name, sample, args, kernel.count, kernel.interval
        )
    else:
        sample = _multiply(b, origin, emitted, operand, stream)
        _install(b, origin, sample)
    _read(b, track, station.x, sample, way.direction, base)
    b.bundle.choices.append(
        Choice(
            kernel.chip,
            way.direction,
            way.first,
            way.last,
            way.stretches,
            len(planes),
            base,
            phase(way.direction, sample, station.x),
            b.length,
            wave.taken(way.direction, way.first, way.last),
        )
    )


def _multiply(b: _Builder, origin: FromMxm, emitted: int, operand: int, stream: int) -> int:
    """`acc` and `abc` for a result emitted in a cycle; returns when the operand is sampled."""
    plan, kernel, mxm = b.plan, b.kernel, b.plan.machine.mxm
    side, plane = origin.array.side, origin.array.plane
    result = Type.I32 if origin.type == Type.I8 else Type.F32
    take = emitted - mxm.accumulate_latency
    sample = take - mxm.multiply_latency
    acc, abc = (plan.queue(u, side, plane).id for u in (Unit.ACC, Unit.ABC))
    b.bundle.issue(
        kernel.chip, acc, "acc", take, (int(result), stream), kernel.count, kernel.interval
    )
    args = (int(origin.type), operand, origin.depth)
    at = sample - mxm.activation_skew
    b.bundle.issue(
        kernel.chip, abc, "abc", at, args, kernel.count, kernel.interval, kernel.interval
    )
    return sample


def _install(b: _Builder, origin: FromMxm, sample: int) -> None:
    """Load the weights of a plane, and install them just before it samples the first row."""
    plan, mxm, array, chip = b.plan, b.plan.machine.mxm, origin.array, b.kernel.chip
    first = sample - mxm.install_latency
    lw = plan.queue(Unit.LW, array.side, array.plane)
    b.bundle.issue(chip, lw.id, "iw", first, (int(origin.type),), busy=mxm.install_latency)
    planes = mxm.fp16_planes if origin.type == Type.F16 else 1
    every = range(array.plane, array.plane + planes)
    resources = [plan.plane_resources(chip, array.side, plane) for plane in every]
    for buffer, held in resources:
        b.bundle.reservations.append((buffer, first, 1))
        b.bundle.reservations.append((held, first, sample + b.length - first))
    if id(origin) not in b.kernel.loading:
        loading = _Builder(plan, b.kernel, Bundle(plan))
        b.kernel.loading[id(origin)] = loading.bundle, _load(loading, origin, lw)
    bundle, cycles = b.kernel.loading[id(origin)]
    b.bundle.loads.append(Load(bundle, cycles, first, tuple(buffer for buffer, _ in resources)))
    b.bundle.after(first - cycles, max(bundle.not_before, -bundle.first))
    if bundle.source is not None and b.bundle.due == bundle.not_before:
        b.bundle.source, b.bundle.due = bundle.source, bundle.due


def _load(b: _Builder, origin: FromMxm, lw: Queue) -> int:
    """`lw` for every run of columns, and the reads that feed it; the cycles that this takes."""
    plan, chip, array = b.plan, b.kernel.chip, origin.array
    base = array.plane * plan.install_streams
    column = start = 0
    direction = plan.outward(array.side)
    for run in array.runs:
        column += run.skipped
        for i, (queue, address, stride, words) in enumerate(run.stripes):
            way = plan.way(plan.queues[queue], lw)
            at = start - way.hops - plan.machine.mem.read_latency
            feed: tuple[int, ...] = (address, stride, direction << 8 | base + i)
            name = "read"
            if run.numbers is not None:
                which = direction << 8 | base + plan.install_streams - 2
                name, feed = "gather", (which, 0, address, stride, run.reach, feed[-1])
            b.bundle.issue(chip, queue, name, at, feed, words)
            b.bundle.reservations += plan.hold(chip, way, base + i, 1, start, lw.x, words)
            for rows in run.rows:
                _wait(b, rows, words, 1, at)
        if run.numbers is not None:
            _bring_numbers(b, run.numbers, direction, base, start, lw, run.dispatches)
        args = (int(origin.type), direction << 8 | base, len(run.stripes), column, run.columns)
        b.bundle.issue(chip, lw.id, "lw", start, args, run.dispatches)
        start += run.dispatches
        column += run.dispatches * run.columns
    return start


def _bring_numbers(
    b: _Builder, numbers: Rows, direction: int, base: int, start: int, lw: Queue, words: int
) -> None:
    """The same number on the last two streams of a plane for as long as slices on the way to it
    read its weights, which are there `start` cycles on."""
    plan, chip = b.plan, b.kernel.chip
    latency, first = plan.machine.mem.read_latency, base + plan.install_streams - 2
    for i, (queue, address) in enumerate(numbers.planes):
        way = plan.way(plan.queues[queue], lw)
        at = start - way.hops - 2 * latency
        operand = (address + numbers.start, 0, direction << 8 | first + i)
        b.bundle.issue(chip, queue, "read", at, operand, words)
        b.bundle.reservations += plan.hold(chip, way, first + i, 1, start - latency, lw.x, words)
    _wait(b, numbers, words, 1, start - way.hops - 2 * latency)
