"""From lowered steps to a schedule: which chip makes which block, and how many chips it takes."""

from __future__ import annotations

from dataclasses import dataclass

from clockstep_compiler.blocks import BlockMaker
from clockstep_compiler.exact import Summer
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.movement import Mover
from clockstep_compiler.partition import Partition, find_product, partition
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import (
    Broadcast,
    Compute,
    Lowered,
    Move,
    Outer,
    Relayout,
    Step,
    Value,
    sources_of,
)
from clockstep_isa.table import Type

__all__ = ["TALL", "Schedule", "chunk_rows", "schedule"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A finished schedule and the partition it follows."""

    scheduler: Scheduler
    partition: Partition


_BLOCKS = ((1, 1), (2, 1), (1, 2), (4, 1))
"""Rows of a block in trials of a schedule, as fractions of what `chunk_rows` says."""

TALL = _BLOCKS.index((4, 1))
"""The trial of the largest blocks."""

_FEW_TILES = 4
"""Weight tiles of a layer up to which it is worth loading them again for every block of rows."""


def chunk_rows(plan: Floorplan, lowered: Lowered) -> int:
    """Rows of a block.

    A slice cannot be read while it is written, so a layer can start on the rows of the one before
    only if those are in blocks, and so slices, of their own. Layers of few tiles get up to four
    blocks, as long as loading weights again for each takes no longer than its rows do; layers of
    many tiles overlap by tiles as they are. Never more than an eighth of a slice.
    """
    machine, lanes = plan.machine, plan.machine.vector
    rows, loading, tiles = 1, 1, 1
    for step in lowered.steps:
        rows = max(rows, step.out.rows)
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None:
            continue
        computed = [t.weights.value for t in product.terms if t.weights.value is not None]
        rows = max(rows, *(value.rows for value in computed), 1)
        width = min(lanes, product.columns) * product.type.bytes
        pace = 1 if product.type == Type.I8 else machine.mxm.fp16_interval
        loading = max(loading, -(-width // plan.install_streams) // pace)
        inner = sum(-(-t.weights.depth // lanes) for t in product.terms)
        tiles = max(tiles, inner * -(-product.columns // lanes))
    blocks = min(4, rows // loading) if tiles <= _FEW_TILES else 1
    most = min(machine.icu.repeat_max, machine.words_per_slice // 8)
    return max(1, min(most, -(-rows // max(1, blocks))))


def schedule(
    plan: Floorplan, lowered: Lowered, chips: int, effort: str, reserve: int, trial: int = 0
) -> Schedule:
    """Place and schedule everything on exactly `chips` chips.

    Trials after the first differ in the rows of a block and in the waves that steps begin with.
    Raises `NoRoom` if something does not fit.
    """
    up, down = _BLOCKS[trial % len(_BLOCKS)]
    chunk = max(1, chunk_rows(plan, lowered) * up // down)
    most = min(plan.machine.icu.repeat_max, max(1, plan.machine.words_per_slice // 8))
    s = Scheduler(plan, chips, effort, chunk=min(chunk, most))
    parts = partition(plan, lowered, s.storage, reserve)
    maker, mover = BlockMaker(s), Mover(s)
    last_reader = {v.number: i for i, step in enumerate(lowered.steps) for v in sources_of(step)}
    kept = {value.number for _, value in lowered.outputs}
    s.names = {value.number: value.name for value in lowered.values}
    for index, step in enumerate(lowered.steps):
        s.wave = index + trial
        _make_blocks(s, maker, mover, step, index, parts)
        for value in sources_of(step):
            if last_reader[value.number] == index and value.number not in kept:
                _release(s, value)
    for _, value in lowered.outputs:
        _load_if_unused(s, value)
    s.names.update({v.number: v.name for v in maker.consts.values()})
    s.names.update({v.number: v.name for v in (mover.identity, mover.zero) if v is not None})
    s.storage.finish(s.names)
    return Schedule(s, parts)


def _make_blocks(
    s: Scheduler, maker: BlockMaker, mover: Mover, step: Step, index: int, parts: Partition
) -> None:
    """All blocks of a step, row chunks outside, tiles inside."""
    chunks, tiles = s.storage.chunks(step.out), s.storage.tiles(step.out)
    for position in range(chunks * tiles):
        chunk, tile = divmod(position, tiles)
        groups = parts.groups.get((index, tile), [])
        chip = groups[-1].chip if groups else _home(s, step, chunk, tile, position)
        if isinstance(step, Compute):
            maker.make(step, chunk, tile, chip, groups)
        elif isinstance(step, Outer):
            Summer(s).outer(step, chunk, tile, chip)
        elif isinstance(step, Move):
            mover.move(step, chunk, tile, chip)
        elif isinstance(step, Relayout):
            mover.relayout(step, chunk, tile, chip)
        elif isinstance(step, Broadcast):
            mover.broadcast(step, chunk, tile, chip)
        else:
            mover.transpose(step, chunk, tile, chip)


def _home(s: Scheduler, step: Step, chunk: int, tile: int, position: int) -> int:
    """The chip of a block without weights: where its first computed source is, else in turn."""
    for value in sources_of(step):
        if value.origin != "step":
            continue
        for c in (chunk, 0):
            for t in (tile, 0):
                holders = s.storage.holders((value.number, c, t))
                if holders:
                    return holders[0]
    total = s.storage.chunks(step.out) * s.storage.tiles(step.out)
    return position * s.chips // total


def _release(s: Scheduler, value: Value) -> None:
    """Give back the room of a matrix that nobody reads again; constants stay for the next run."""
    if value.origin == "const":
        return
    for chunk in range(s.storage.chunks(value)):
        for tile in range(s.storage.tiles(value)):
            for chip in s.storage.holders((value.number, chunk, tile)):
                for copy in s.storage.copies.pop(((value.number, chunk, tile), chip)):
                    s.storage.give(chip, copy, value.name, value.origin)


def _load_if_unused(s: Scheduler, value: Value) -> None:
    """An output that is an input or a constant lies in SRAM like any other."""
    if value.origin == "step":
        return
    for chunk in range(s.storage.chunks(value)):
        for tile in range(s.storage.tiles(value)):
            block = (value.number, chunk, tile)
            if not s.storage.holders(block):
                s.storage.load(value, block, 0, frozenset())
