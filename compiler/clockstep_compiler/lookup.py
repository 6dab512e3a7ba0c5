"""Rows of a constant table by number, from addresses that are known when the program runs.

All bytes of a tile are taken by as many `gather` at once. Numbers and words go the same way: from
the outer slices of a hemisphere, past those of the table, to wherever the result is. Time does not
depend on the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from clockstep_compiler.bundle import Bundle
from clockstep_compiler.in_place import quiet
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import Lookup, Lowered, Value
from clockstep_compiler.storage import Copy, NoRoom

__all__ = ["look_up", "place_tables"]


def place_tables(s: Scheduler, lowered: Lowered, homes: Mapping[int, int]) -> None:
    """Give all tables their room before anything else can have been there.

    `homes` are the chips that steps were dealt to, by the number of the matrix that each makes.
    """
    for step in lowered.steps:
        if isinstance(step, Lookup):
            for tile in range(s.storage.tiles(step.out)):
                _table(s, step.table, tile, _home(s, step, tile, homes))


def _home(s: Scheduler, step: Lookup, tile: int, homes: Mapping[int, int]) -> int:
    """The chip of a tile of a table: the first with room for it, from where it would be if tiles
    filled all chips alike."""
    if step.out.number in homes:
        return homes[step.out.number]
    if step.out.chips:
        return step.out.chips[tile % len(step.out.chips)]
    first = tile * s.chips // s.storage.tiles(step.out)
    chips = [(first + i) % s.chips for i in range(s.chips)]
    key = step.table.number, 0, tile
    placed = (chip for chip in chips if (key, chip) in s.storage.tables)
    fitting = (chip for chip in chips if _has_room(s, step.table, chip))
    return next(placed, next(fitting, first))


def _has_room(s: Scheduler, table: Value, chip: int) -> bool:
    """Whether a chip has slices of one hemisphere for a tile of a table."""
    plan, memory = s.plan, s.storage.memories[chip]
    return any(
        sum(
            memory.virgin_room(q) >= table.rows
            for q in plan.slices[side]
            if q not in plan.rim[side]
        )
        >= table.type.bytes
        for side in "WE"
    )


def look_up(s: Scheduler, step: Lookup, chunk: int, homes: Mapping[int, int]) -> None:
    """The blocks of a chunk of rows, several tiles from one reading of the numbers."""
    width = max(1, s.plan.machine.streams.per_direction // (2 * step.out.type.bytes))
    chips = [_home(s, step, tile, homes) for tile in range(s.storage.tiles(step.out))]
    for chip in sorted(set(chips)):
        tiles = [tile for tile, home in enumerate(chips) if home == chip]
        for first in range(0, len(tiles), width):
            _look_up(s, step, chunk, tiles[first : first + width], chip)


def _look_up(s: Scheduler, step: Lookup, chunk: int, tiles: Sequence[int], chip: int) -> None:
    """Some tiles at once, from a hemisphere each."""
    storage = s.storage
    rows, first = storage.rows_of(step.out, chunk), chunk * storage.block_rows(step.out)
    tables = {tile: _table(s, step.table, tile, chip) for tile in tiles}
    for side in "WE":
        own = {tile: table for tile, table in tables.items() if table.side == side}
        if not own:
            continue
        s.begin(step.nodes, f"{step.out.name}[{first}:{first + rows}, tiles {[*own]}] looked up")
        above, below = _sides(s, side, list(own.values()))
        turn = 2 * (len(step.beside) % 2)
        others = frozenset(sorted(s.plan.rim[side])[turn : turn + 2])
        try:
            numbers = s.fetch(step.place, chunk, 0, chip, above | others, side)
        except NoRoom:
            numbers = s.fetch(step.place, chunk, 0, chip, above, side)
        results = {}
        taken = below | numbers.slices
        for tile in own:
            shun = s.neighbours(step.out, chunk, tile, chip, [])
            for value in step.beside:
                for copy in storage.copies.get(((value.number, chunk, tile), chip), ()):
                    shun |= copy.slices
            what = f"tensor {step.out.name!r}"
            results[tile] = s.room(chip, step.out.type, rows, taken, what, shun)
            taken |= results[tile][0].slices
        bundle = _bundle(s, step, chip, numbers, [(own[t], *results[t]) for t in own])
        time = s.earliest(chip, bundle)
        s.commit(bundle, time)
        for copy in (numbers, *own.values()):
            copy.used(time + bundle.end)
        for (tile, (out, _)), done in zip(results.items(), bundle.written, strict=True):
            out.ready[:] = time + done + np.arange(rows)
            out.writers.append(s.trail.last)
            storage.add((step.out.number, chunk, tile), chip, out)


def _bundle(
    s: Scheduler, step: Lookup, chip: int, numbers: Copy, tiles: list[tuple[Copy, Copy, int]]
) -> Bundle:
    """Numbers past tables, and what is taken of these to its room, free from a cycle on.

    Offsets count from the cycle in which the first number is on its stream where it comes from.
    """
    plan, bundle, rows = s.plan, Bundle(s.plan), len(numbers.ready)
    queues, latency = plan.queues, plan.machine.mem.read_latency
    sources = [queues[q] for q, _ in numbers.planes]
    pairs = [(queues[a], queues[b]) for t, o, _ in tiles for (a, _), (b, _) in _planes(t, o)]
    origin = max(sources, key=lambda q: abs(q.x - pairs[0][1].x))
    last = max((table for table, _ in pairs), key=lambda q: abs(q.x - origin.x))
    ways = [plan.way(source, last) for source in sources]
    base, direction = quiet(s, chip, ways, set()), ways[0].direction
    taken = {(direction, base + i) for i in range(len(ways))}
    waits = numbers.ready - np.arange(rows)
    row, there = int(waits.argmax()), int(numbers.ready[waits.argmax()])
    for i, (way, source) in enumerate(zip(ways, sources, strict=True)):
        at = abs(source.x - origin.x) - latency
        operand = (numbers.planes[i][1], 1, direction << 8 | base + i)
        bundle.issue(chip, source.id, "read", at, operand, rows)
        at = abs(last.x - origin.x)
        bundle.reservations += plan.hold(chip, way, base + i, 1, at, last.x, rows)
        bundle.after(abs(source.x - origin.x) - latency + row, there, numbers)
    for table, out, since in tiles:
        planes = [(queues[a], x, queues[b], y) for (a, x), (b, y) in _planes(table, out)]
        own = quiet(s, chip, [plan.way(a, b) for a, _, b, _ in planes], taken)
        taken |= {(direction, own + byte) for byte in range(len(planes))}
        bundle.written.append(-(1 << 60))
        for byte, (here, address, target, to) in enumerate(planes):
            stream = direction << 8 | own + byte
            fields = (direction << 8 | base, step.first, address, 0, step.table.rows, stream)
            bundle.issue(chip, here.id, "gather", abs(here.x - origin.x), fields, rows)
            at = abs(target.x - origin.x) + latency
            way = plan.way(here, target)
            bundle.reservations += plan.hold(chip, way, own + byte, 1, at, target.x, rows)
            bundle.issue(chip, target.id, "write", at, (stream, to, 1), rows)
            bundle.after(at, since)
            bundle.written[-1] = max(bundle.written[-1], at + plan.latency["write"])
    return bundle


def _planes(table: Copy, out: Copy) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where each byte is in a table, and where it goes."""
    return zip(table.planes, out.planes, strict=True)


def _table(s: Scheduler, table: Value, tile: int, chip: int) -> Copy:
    """All rows of a tile of a table, one word after another in a slice for each byte."""
    plan, storage = s.plan, s.storage
    key = (table.number, 0, tile), chip
    if key not in storage.tables:
        outer = s.plan.rim["W"] | s.plan.rim["E"]
        what, lanes = f"table {table.name!r}", plan.machine.vector
        copy = storage.initial(chip, table.type.bytes, table.rows, outer, what, "WE")
        assert table.data is not None
        part = table.data[:, tile * lanes : (tile + 1) * lanes]
        storage.fill(chip, copy, part)
        storage.tables[key] = copy
    return storage.tables[key]


def _sides(s: Scheduler, side: str, tables: list[Copy]) -> tuple[frozenset[int], frozenset[int]]:
    """Slices of a hemisphere where numbers cannot come from, and where results cannot go: all words
    move inward, and those of a slice are seen by the next."""
    queues, own = s.plan.queues, s.plan.slices[side]
    inner = queues[own[0]].x
    places = [abs(queues[q].x - inner) for table in tables for q in table.slices]
    above = frozenset(q for q in own if abs(queues[q].x - inner) <= max(places))
    below = frozenset(q for q in own if abs(queues[q].x - inner) >= min(places))
    return above, below
