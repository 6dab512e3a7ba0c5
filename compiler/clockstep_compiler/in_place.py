"""Rows put into a matrix where it lies, at an address that is known when the program runs.

A `scatter` takes a row and its place from two streams that meet at a slice; there is one for each
set of rows and each byte of an element. Time does not depend on the place.
"""

from __future__ import annotations

import numpy as np

from clockstep_compiler.bundle import Bundle
from clockstep_compiler.floorplan import Way
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import Put, Value
from clockstep_compiler.storage import Block, Copy, NoRoom
from clockstep_isa.geometry import Queue

__all__ = ["confined", "put", "quiet"]


def put(s: Scheduler, step: Put, chunk: int, tile: int, chip: int) -> None:
    """One block of the result: that of the past, and what is new in it."""
    storage, past = s.storage, step.past
    rows = storage.rows_of(past, chunk)
    low = chunk * storage.block_rows(past)
    s.begin(step.nodes, f"{step.out.name}[{low}:{low + rows}, tile {tile}] in place")
    old: Block = (past.number, chunk, tile)
    if not storage.holders(old):
        storage.load(past, old, chip, frozenset())
    chip = storage.holders(old)[0]
    (copy,) = storage.copies.pop((old, chip))
    for number in range(low // step.rows, (low + rows - 1) // step.rows + 1):
        start = number * step.rows
        first, last = max(low, start), min(low + rows, start + step.rows)
        words = range(first - low, last - low)
        for byte in range(len(copy.planes)):
            _scatter(s, step, chip, copy, byte, number, tile, words, first - start)
    storage.add((step.out.number, chunk, tile), chip, copy)


def _scatter(
    s: Scheduler,
    step: Put,
    chip: int,
    copy: Copy,
    byte: int,
    row: int,
    tile: int,
    words: range,
    first: int,
) -> None:
    """One byte of a row of what is new, to some words of a block, the first of which is for row
    `first` of a set."""
    plan, machine = s.plan, s.plan.machine
    queue, address = copy.planes[byte]
    target = plan.queues[queue]
    chunk, local = divmod(row, s.storage.block_rows(step.new))
    new = _beside(s, step.new, chunk, tile, chip, target, frozenset())
    place = _beside(s, step.place, 0, 0, chip, target, new.slices)
    bundle, taken = Bundle(plan), set[tuple[int, int]]()
    operands = []
    for planes, at, source in ((new.planes[byte : byte + 1], local, new), (place.planes, 0, place)):
        ways = [plan.way(plan.queues[q], target) for q, _ in planes]
        base = quiet(s, chip, ways, taken)
        direction = ways[0].direction
        taken |= {(direction, base + i) for i in range(len(ways))}
        operands.append(direction << 8 | base)
        for i, ((source_queue, begin), way) in enumerate(zip(planes, ways, strict=True)):
            cycle = -way.hops - machine.mem.read_latency
            operand = (begin + at, 1, direction << 8 | base + i)
            bundle.issue(chip, source_queue, "read", cycle, operand)
            bundle.reservations += plan.hold(chip, way, base + i, 1, 0, target.x, 1)
            bundle.after(cycle, int(source.ready[at]), source)
    fields = (*operands, first, address + words.start, len(words))
    bundle.issue(chip, queue, "scatter", 0, fields)
    inside = slice(words.start, words.stop)
    bundle.after(0, max(int(copy.ready[inside].max()), copy.last_use), copy)
    time = s.earliest(chip, bundle)
    s.commit(bundle, time)
    done = time + machine.mem.write_latency
    for source in (new, place, copy):
        source.used(time + bundle.end)
    copy.ready[inside] = np.maximum(copy.ready[inside], done)
    copy.writers.append(s.trail.last)


def _beside(
    s: Scheduler,
    value: Value,
    chunk: int,
    tile: int,
    chip: int,
    target: Queue,
    avoid: frozenset[int],
) -> Copy:
    """A copy of a block that lies on one side of a slice: its streams go there the same way."""
    queues = s.plan.queues
    memory = [q for side in "WE" for q in s.plan.slices[side]]
    sides = (
        frozenset(q for q in memory if queues[q].x >= target.x),
        frozenset(q for q in memory if queues[q].x <= target.x),
    )
    for wrong in sides:
        copy = s.storage.find((value.number, chunk, tile), chip, wrong | avoid)
        if copy is not None:
            s.pinned.add(copy)
            return copy
    fuller = sorted(sides, key=len)
    try:
        return s.fetch(value, chunk, tile, chip, fuller[0] | avoid)
    except NoRoom:
        return s.fetch(value, chunk, tile, chip, fuller[1] | avoid)


def confined(
    s: Scheduler, value: Value, chunk: int, chip: int, own: frozenset[int], side: str
) -> Copy:
    """A copy of a block of the first tile in some slices of a hemisphere alone."""
    block: Block = (value.number, chunk, 0)
    others = frozenset(q for queues in s.plan.slices.values() for q in queues) - own
    copy = s.storage.find(block, chip, others, side)
    if copy is None:
        here = s.fetch(value, chunk, 0, chip, own)
        copy = s.duplicate(here, chip, value.type, others, value.name, side)
        s.storage.add(block, chip, copy)
    s.pinned.add(copy)
    return copy


def quiet(s: Scheduler, chip: int, ways: list[Way], taken: set[tuple[int, int]]) -> int:
    """The first of as many streams as there are ways, aligned, that have been free longest."""
    plan, width, direction = s.plan, len(ways), ways[0].direction

    def busy(base: int) -> tuple[bool, int, int]:
        ends = (
            s.calendars.busy_until(plan.stream_resource(chip, direction, stretch, base + i))
            for i, way in enumerate(ways)
            for stretch in way.stretches
        )
        clash = any((direction, base + i) in taken for i in range(width))
        return clash, max(ends), -base

    return min(range(0, plan.machine.streams.per_direction, width), key=busy)
