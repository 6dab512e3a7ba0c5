"""Partition: which chip, and which plane of it, holds the weights of every part of every product.

The unit is one tile of result columns and one group of K tiles, as many as the planes can take at
once; units fill the chips in the order of the model, each chip to the same level, so that a layer
that one chip cannot hold continues on the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from clockstep_compiler.expr import Acc, Expr, Op
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.memory import ChipMemory
from clockstep_compiler.steps import Compute, Lowered, Product, Term, Weights
from clockstep_compiler.storage import NoRoom, Storage
from clockstep_compiler.sums import group_size
from clockstep_isa.table import Type

__all__ = [
    "Group",
    "Member",
    "Partition",
    "find_product",
    "inner_tiles",
    "partition",
    "stripe_slices",
]


@dataclass(frozen=True, eq=False, slots=True)
class Member:
    """One K tile of one term of a product, on one plane.

    `stripes[w_set][i]` is the (slice, address) from which stream i of every `lw` comes; empty for
    weights that are computed.
    """

    term: Term
    k_tile: int
    side: str
    plane: int
    stripes: tuple[tuple[tuple[int, int], ...], ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Members whose products are summed in one wave, on one chip."""

    chip: int
    members: tuple[Member, ...]


@dataclass(slots=True)
class Partition:
    """Groups of every (step index, column tile), and the words of weights of every chip."""

    groups: dict[tuple[int, int], list[Group]]
    weight_words: list[int]


def find_product(expr: Expr) -> Product | None:
    """The product an expression starts from, if any."""
    if isinstance(expr, Acc):
        return expr.product
    if isinstance(expr, Op):
        return next((p for p in map(find_product, expr.args) if p is not None), None)
    return None


def inner_tiles(product: Product, tile: int, lanes: int) -> list[tuple[Term, int]]:
    """The K tiles of a tile of columns, one at least.

    Integers whose weights are all zero there are left out, as most of a convolution in groups are.
    """
    every = [(t, k) for t in product.terms for k in range(-(-t.weights.depth // lanes))]
    if product.type != Type.I8:
        return every
    columns = slice(tile * lanes, (tile + 1) * lanes)
    kept = [
        (t, k)
        for t, k in every
        if t.weights.data is None or t.weights.data[:, columns, k * lanes : (k + 1) * lanes].any()
    ]
    return kept or every[:1]


def _units(
    plan: Floorplan, lowered: Lowered
) -> list[tuple[int, int, Product, list[tuple[Term, int]]]]:
    units = []
    lanes = plan.machine.vector
    for index, step in enumerate(lowered.steps):
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None:
            continue
        size = group_size(plan, product.type)
        for tile in range(-(-product.columns // lanes)):
            inner = inner_tiles(product, tile, lanes)
            for start in range(0, len(inner), size):
                units.append((index, tile, product, inner[start : start + size]))
    return units


def unit_words(
    plan: Floorplan, product: Product, tile: int, members: list[tuple[Term, int]]
) -> int:
    """Words of constant weights of one unit."""
    lanes = plan.machine.vector
    columns = min(lanes, product.columns - tile * lanes)
    constant = sum(t.weights.sets for t, _ in members if t.weights.data is not None)
    return constant * columns * product.type.bytes


def total_words(plan: Floorplan, lowered: Lowered) -> int:
    """Words of constant weights of the whole model."""
    return sum(unit_words(plan, p, tile, members) for _, tile, p, members in _units(plan, lowered))


def partition(plan: Floorplan, lowered: Lowered, storage: Storage, reserve: int) -> Partition:
    """Deal the units over the chips and place their weights, leaving `reserve` words a slice.

    Raises `NoRoom` if the weights do not fit.
    """
    chips = storage.chips
    units = _units(plan, lowered)
    total = sum(unit_words(plan, p, tile, members) for _, tile, p, members in units)
    result = Partition({}, [0] * chips)
    before, turn = 0, [0] * chips
    for position, (index, tile, product, members) in enumerate(units):
        words = unit_words(plan, product, tile, members)
        share = (
            (2 * before + words) * chips // (2 * total) if total else position * chips // len(units)
        )
        chip = min(chips - 1, share)
        before += words
        arrays = plan.planes if product.type == Type.I8 else plan.pairs
        placed = []
        for term, k_tile in members:
            side, plane = arrays[turn[chip] % len(arrays)]
            turn[chip] += 1
            member = Member(term, k_tile, side, plane)
            if term.weights.data is not None:
                stripes = _place_weights(plan, storage, product, tile, member, chip, reserve)
                member = replace(member, stripes=stripes)
            placed.append(member)
        result.weight_words[chip] += words
        result.groups.setdefault((index, tile), []).append(Group(chip, tuple(placed)))
    return result


def _place_weights(
    plan: Floorplan,
    storage: Storage,
    product: Product,
    tile: int,
    member: Member,
    chip: int,
    reserve: int,
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Put the weights of a member, for every set, into the image; returns their stripes."""
    weights: Weights = member.term.weights
    lanes, width = plan.machine.vector, product.type.bytes
    streams = plan.install_streams // width * width
    n0, k0 = tile * lanes, member.k_tile * lanes
    assert weights.data is not None
    sets = []
    for w_set in range(weights.sets):
        part = weights.data[w_set, n0 : n0 + lanes, k0 : k0 + lanes]
        raw = np.ascontiguousarray(part).view(np.uint8).reshape(*part.shape, width)
        stripes = min(streams, len(part) * width)
        per_dispatch = stripes // width
        memory = storage.memories[chip]
        depth = -(-len(part) // per_dispatch)
        queues = stripe_slices(plan, memory, member.side, member.plane, stripes, depth, reserve)
        if queues is None:
            raise NoRoom(chip, "weights", stripes * depth)
        found = []
        for i, queue in enumerate(queues):
            words = raw[i // width :: per_dispatch, :, i % width]
            address = memory.take_virgin(queue, len(words))
            storage.image.append((chip, queue, address, words))
            found.append((queue, address))
        sets.append(tuple(found))
    return tuple(sets)


def stripe_slices(
    plan: Floorplan,
    memory: ChipMemory,
    side: str,
    plane: int,
    count: int,
    words: int,
    reserve: int,
) -> list[int] | None:
    """Slices for the stripes of a tile: the outer ones first, which leaves the inner to the rest.

    Tiles of different planes start from different slices, so that planes can load side by side.
    """
    slices = plan.slices[side]
    rooms = {q: memory.virgin_room(q) for q in slices}

    def key(position: int) -> tuple[bool, int, int]:
        load = memory.words - rooms[slices[position]]
        turned = (position + plane * count) % len(slices)
        return (slices[position] in plan.inner, load // max(1, 4 * words), -turned)

    order = sorted(range(len(slices)), key=key)
    fits = [slices[p] for p in order if rooms[slices[p]] >= words + reserve]
    return fits[:count] if len(fits) >= count else None
