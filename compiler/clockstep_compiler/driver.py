"""From lowered steps to a schedule: which chip makes which block, and how many chips it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.blocks import BlockMaker
from clockstep_compiler.exact import Summer
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.in_place import put
from clockstep_compiler.joins import Joiner
from clockstep_compiler.liveness import last_readers, peak_words, read_until, words_of
from clockstep_compiler.lookup import look_up
from clockstep_compiler.movement import Mover
from clockstep_compiler.partition import (
    FULL_ROWS,
    Group,
    Partition,
    find_product,
    partition,
    total_words,
)
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import (
    Broadcast,
    Compute,
    Lookup,
    Lowered,
    Move,
    Outer,
    Put,
    Relayout,
    Step,
    Transpose,
    Value,
    sources_of,
)
from clockstep_compiler.storage import MANY_SLICES, NoWave
from clockstep_compiler.sweep_reader import Reader
from clockstep_compiler.sweep_room import Room, read_at_once
from clockstep_compiler.sweeps import Sweeper
from clockstep_compiler.turns import Turner
from clockstep_compiler.write_back import WriteBack
from clockstep_isa.table import Type

__all__ = ["TALL", "Schedule", "chunk_rows", "least_chips", "schedule"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A finished schedule and the partition it follows.

    `held` words of every chip were kept free for instructions.
    """

    scheduler: Scheduler
    partition: Partition
    held: int
    bundles: tuple[int, ...] = ()
    """One past the last bundle of every step, as the trail of the scheduler counts them."""


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
    many tiles overlap by tiles as they are. Never more than an eighth of a slice; nor more than an
    array takes, where the weights of few rows are computed: arrays load from slices of their own.
    """
    machine, lanes = plan.machine, plan.machine.vector
    rows, loading, tiles, few, loaded = 1, 1, 1, True, False
    for step in lowered.steps:
        rows = max(rows, step.out.rows)
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None:
            continue
        computed = [value for t in product.terms for value in t.weights.matrices]
        rows = max(rows, *(value.rows for value in computed), 1)
        few, loaded = few and product.rows <= FULL_ROWS, loaded or bool(computed)
        width = min(lanes, product.columns) * product.type.bytes
        pace = 1 if product.type == Type.I8 else machine.mxm.fp16_interval
        loading = max(loading, -(-width // plan.install_streams) // pace)
        inner = sum(-(-t.weights.depth // lanes) for t in product.terms)
        tiles = max(tiles, inner * -(-product.columns // lanes))
    blocks = min(4, rows // loading) if tiles <= _FEW_TILES else 1
    most = min(machine.icu.repeat_max, machine.words_per_slice // 8)
    most = min(most, lanes) if few and loaded else most
    return max(1, min(most, -(-rows // max(1, blocks))))


_FULL = 4
"""From this part of a chip on, matrices are given back block by block while a step reads them:
room for larger models, where small ones gain more by results in other slices than the operands."""


def schedule(
    plan: Floorplan,
    lowered: Lowered,
    chips: int,
    effort: str,
    reserve: int,
    trial: int = 0,
    *,
    sweep: bool = True,
    dealt: Mapping[int, int] | None = None,
) -> Schedule:
    """Place and schedule everything on exactly `chips` chips; `sweep`: all rows at once.

    Steps `dealt` to chips are made there, by the number of the matrix that each makes.

    Trials after the first differ in the rows of a block and in the waves that steps begin with.
    Raises `NoRoom` if something does not fit.
    """
    up, down = _BLOCKS[trial % len(_BLOCKS)]
    chunk = max(1, chunk_rows(plan, lowered) * up // down)
    most = min(plan.machine.icu.repeat_max, max(1, plan.machine.words_per_slice // 8))
    placed = lowered.placed
    chunk = placed.chunk if placed and placed.chunk else min(chunk, most)
    s = Scheduler(plan, chips, effort, chunk=chunk, placed=placed)
    spread = frozenset() if dealt or placed else _spread(s, lowered)
    filled = peak_words(lowered, plan.machine.vector) / (chips if spread else 1)
    held = _hold(s, filled) + (placed.held if placed else 0)
    tight = _FULL * filled > plan.machine.words_per_chip
    parts = partition(plan, lowered, s.storage, reserve, spread, dealt)
    parts.wanted, parts.multiplied = _wanted(lowered, parts), _multiplied(lowered, parts)
    bundles: list[int] = []
    maker, mover = BlockMaker(s), Mover(s)
    sweeper = Sweeper(s, maker, Room(s, read_at_once(plan, lowered)), Reader(s))
    turner = Turner(sweeper)
    joiner = Joiner(turner, mover)
    sweeping = plan.machine.mem.slices_per_hemisphere >= MANY_SLICES and sweep
    s.storage.settle(lowered.values)
    _load_large_inputs(s, lowered, parts)
    _keep(s, lowered, spread)
    last_reader = last_readers(lowered)
    kept = {value.number for _, value in lowered.outputs}
    kept.update(value.number for pair in lowered.returned for value in pair)
    states = WriteBack.of(s, lowered, last_reader)
    s.names = {value.number: value.name for value in lowered.values}
    for index, step in enumerate(lowered.steps):
        s.wave = index + trial
        ending = {
            v.number: v
            for v in sources_of(step)
            if last_reader[v.number] == index and v.number not in kept and v.origin != "const"
        }
        chunks = s.storage.chunks(step.out)
        until = [
            (v, _until(s, step, v) if tight else np.full(s.storage.chunks(v), chunks))
            for v in ending.values()
        ]
        swept = _sweep(s, sweeper, joiner, step, index, parts) if sweeping else frozenset()
        for chunk in range(chunks):
            try:
                _make_blocks(s, maker, mover, step, index, chunk, parts, swept)
            except NoWave as error:
                error.step = step.out.number
                raise
            for value, last in until:
                _release(s, value, np.flatnonzero(last == chunk))
        for value, last in until:
            _release(s, value, np.flatnonzero((last < 0) | (last == chunks)))
        states.after(index)
        bundles.append(s.trail.last + 1)
    for _, value in lowered.outputs:
        _load_if_unused(s, value)
    s.names.update({v.number: v.name for v in maker.consts.values()})
    s.names.update({v.number: v.name for v in (mover.identity, mover.zero) if v is not None})
    s.names.update({v.number: v.name for v in turner.identities.values()})
    s.storage.finish(s.names)
    return Schedule(s, parts, held, tuple(bundles))


def _sweep(
    s: Scheduler, sweeper: Sweeper, joiner: Joiner, step: Step, index: int, parts: Partition
) -> frozenset[tuple[int, int]]:
    """Blocks (chunk, tile) of a step that have been made in sweeps.

    A product or a move is made tile by tile, all rows at once; what else there is block of rows by
    block, so that what needs all tiles of a row can follow closely.
    """
    if isinstance(step, Transpose | Move) and index not in parts.spread:
        return _move(s, joiner, step, parts)
    if not isinstance(step, Compute):
        return frozenset()
    chunks, tiles = s.storage.chunks(step.out), s.storage.tiles(step.out)
    product = find_product(step.expr) is not None
    pieces = [range(c, c + 1) for c in range(chunks)]
    if product:
        pieces = _shares(chunks, s.chips) if index in parts.spread else [range(chunks)]
    found: set[tuple[int, int]] = set()
    for piece in pieces:
        places = [(tile, *_place(s, step, index, piece[0], tile, parts)) for tile in range(tiles)]
        made = sweeper.make(step, piece, places)
        found.update((chunk, tile) for chunk in piece for tile in made)
    return frozenset(found)


def _move(
    s: Scheduler, joiner: Joiner, step: Transpose | Move, parts: Partition
) -> frozenset[tuple[int, int]]:
    """Blocks of a move that have been made, tile by tile."""
    chunks, made = range(s.storage.chunks(step.out)), []
    for tile in range(s.storage.tiles(step.out)):
        chip = parts.homes.get(step.out.number, _home(s, step, (tile, 0, tile), parts))
        if isinstance(step, Move):
            done = joiner.make(step, tile, chip)
        else:
            done = joiner.turner.make(step, tile, chip)
        made += [(chunk, tile) for chunk in chunks] if done else []
    return frozenset(made)


def _shares(chunks: int, chips: int) -> list[range]:
    """The chunks of each chip, where a step is spread over all."""
    ends = [-(-chunks * chip // chips) for chip in range(chips + 1)]
    return [range(low, high) for low, high in pairwise(ends) if low < high]


def _until(s: Scheduler, step: Step, value: Value) -> NDArray[np.int64]:
    """For each block of a matrix, the last block of a step's result that reads it."""
    return read_until(step, value, s.storage.block_rows(value), s.storage.block_rows(step.out))


def least_chips(plan: Floorplan, lowered: Lowered) -> int:
    """Chips below which weights and matrices cannot fit."""
    words = total_words(plan, lowered) + peak_words(lowered, plan.machine.vector)
    return max(1, -(-words // plan.machine.words_per_chip))


_BLOCKS_A_CHIP = 2
"""Blocks for each chip from which on a step is spread."""


def _spread(s: Scheduler, lowered: Lowered) -> frozenset[int]:
    """Steps whose blocks of rows are spread over all chips, if weights are not what fills them.

    Elsewhere a step is where its weights are, and what it reads comes there.
    """
    words = s.plan.machine.words_per_chip
    large = peak_words(lowered, s.plan.machine.vector) >= words
    if s.chips == 1 or (not large and 4 * total_words(s.plan, lowered) >= words):
        return frozenset()
    least = _BLOCKS_A_CHIP * s.chips
    steps = [(i, t) for i, t in enumerate(lowered.steps) if not isinstance(t, Lookup)]
    return frozenset(
        i for i, step in steps if s.storage.chunks(step.out) >= least and not step.out.chips
    )


_INSTRUCTIONS = 16
"""The part of a chip that is kept for instructions where matrices fill half of it."""


def _hold(s: Scheduler, filled: float) -> int:
    """Keep words of every slice for instructions, which need such as nothing else ever uses.

    `filled` words of a chip are those of matrices.
    """
    machine = s.plan.machine
    if not machine.icu.instructions_in_sram or 2 * filled < machine.words_per_chip:
        return 0
    words = machine.words_per_slice // _INSTRUCTIONS
    for memory in s.storage.memories:
        memory.hold(words)
    return words * sum(map(len, s.plan.slices.values()))


_MOST_KEPT = 4
"""The part of a slice that results may be kept from."""

_SPARE = 6
"""There is room to spare from this part of the chips on."""

_SPARE_SPREAD = 3
"""The same where steps are spread: each block has its chip, room on others is of no use to it."""


def _keep(s: Scheduler, lowered: Lowered, spread: frozenset[int]) -> None:
    """Keep half of the room to spare for constants yet to come, and for instructions.

    Only where results would come to fill it: they go round all words that they are given, in time,
    so as not to wait for the readers of others.
    """
    machine = s.plan.machine
    words = s.chips * machine.words_per_chip
    made = sum(words_of(step.out, machine.vector) for step in lowered.steps)
    spare = words - total_words(s.plan, lowered) - peak_words(lowered, machine.vector)
    if made <= words or (_SPARE_SPREAD if spread else _SPARE) * spare < words:
        return
    share = spare // (2 * s.chips * sum(map(len, s.plan.slices.values())))
    for memory in s.storage.memories:
        memory.keep(min(share, machine.words_per_slice // _MOST_KEPT))


_LARGE = 8
"""An input is large from this part of a chip on."""


def _load_large_inputs(s: Scheduler, lowered: Lowered, parts: Partition) -> None:
    """Give large inputs their room before results can take it: nothing may have been there."""
    words = s.plan.machine.words_per_chip
    for index, step in enumerate(lowered.steps):
        for value in sources_of(step):
            chunks, tiles = s.storage.chunks(value), s.storage.tiles(value)
            large = _LARGE * value.rows * tiles * value.type.bytes >= words
            known = s.chips == 1 or index in parts.spread
            if value.origin != "input" or not large or not known:
                continue
            for chunk, tile in np.ndindex(chunks, tiles):
                chip, block = chunk * s.chips // chunks, (value.number, chunk, tile)
                if not s.storage.holders(block):
                    s.storage.load(value, block, chip, frozenset())


def _place(
    s: Scheduler, step: Step, index: int, chunk: int, tile: int, parts: Partition
) -> tuple[int, list[Group]]:
    """The chip on which a block is made, and the groups of its product there."""
    share = chunk * s.chips // s.storage.chunks(step.out)
    groups = parts.groups_of(index, tile, share)
    if groups:
        return groups[-1].chip, groups
    if index in parts.spread:
        return share, groups
    if step.out.number in parts.homes:
        return parts.homes[step.out.number], groups
    turn = chunk * s.storage.tiles(step.out) + tile
    return _home(s, step, (turn, chunk, tile), parts), groups


def _make_blocks(
    s: Scheduler,
    maker: BlockMaker,
    mover: Mover,
    step: Step,
    index: int,
    chunk: int,
    parts: Partition,
    swept: frozenset[tuple[int, int]],
) -> None:
    """All blocks of a chunk of rows of a step, but for those that have been swept."""
    if isinstance(step, Lookup):
        look_up(s, step, chunk, parts)
        return
    for tile in range(s.storage.tiles(step.out)):
        if (chunk, tile) in swept:
            continue
        chip, groups = _place(s, step, index, chunk, tile, parts)
        if isinstance(step, Compute):
            maker.make(step, chunk, tile, chip, groups)
        elif isinstance(step, Outer):
            Summer(s).outer(step, chunk, tile, chip)
        elif isinstance(step, Put):
            put(s, step, chunk, tile, chip)
        elif isinstance(step, Move):
            mover.move(step, chunk, tile, chip)
        elif isinstance(step, Relayout):
            mover.relayout(step, chunk, tile, chip)
        elif isinstance(step, Broadcast):
            mover.broadcast(step, chunk, tile, chip)
        else:
            mover.transpose(step, chunk, tile, chip)


def _home(s: Scheduler, step: Step, position: tuple[int, int, int], parts: Partition) -> int:
    """The chip of a block without weights: where its largest computed source is, of those that come
    out of products if any does; without any where what it makes is wanted, else in turn.

    A step that is pinned to chips has its blocks there, in turn. One row that all rows of the
    result read, such as a scale, may be sent anywhere; not so one that is cut in several.
    """
    turn, chunk, tile = position
    if step.out.chips:
        return step.out.chips[turn % len(step.out.chips)]
    lanes, made = s.plan.machine.vector, parts.multiplied
    sources = sources_of(step)
    sources.sort(key=lambda value: (value.number not in made, -words_of(value, lanes)))
    for value in sources:
        repeated = isinstance(step, Compute | Broadcast) and value.rows == 1 < step.out.rows
        if value.origin != "step" or repeated:
            continue
        for c in (chunk, 0):
            for t in (tile, 0):
                home = s.storage.homes.get((value.number, c, t))
                if home is not None:
                    return home[0]
    if step.out.number in parts.wanted:
        return parts.wanted[step.out.number]
    return turn * s.chips // (s.storage.chunks(step.out) * s.storage.tiles(step.out))


def _wanted(lowered: Lowered, parts: Partition) -> dict[int, int]:
    """The chip of the first product that each matrix goes into, as it is or by way of others."""
    found: dict[int, int] = {}
    for index, step in reversed(list(enumerate(lowered.steps))):
        groups = parts.groups_of(index, 0, 0)
        chip = groups[-1].chip if groups else found.get(step.out.number)
        if chip is not None:
            found.update((value.number, chip) for value in sources_of(step))
    return found


def _multiplied(lowered: Lowered, parts: Partition) -> frozenset[int]:
    """The numbers of matrices that come out of products, directly or by way of others."""
    found: set[int] = set()
    for index, step in enumerate(lowered.steps):
        if parts.groups_of(index, 0, 0) or any(v.number in found for v in sources_of(step)):
            found.add(step.out.number)
    return frozenset(found)


def _release(s: Scheduler, value: Value, chunks: NDArray[np.int64]) -> None:
    """Give back the room of blocks that nobody reads again."""
    for chunk in chunks.tolist():
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
