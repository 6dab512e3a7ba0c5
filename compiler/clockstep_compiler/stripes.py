"""Where the weights of an array lie: in stripes, a slice for every stream of its loads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.memory import ChipMemory
from clockstep_compiler.steps import Product, Term, Weights
from clockstep_compiler.storage import NoRoom, Storage
from clockstep_compiler.uniform import different, in_order, spread

__all__ = [
    "WEIGHTS",
    "Member",
    "Stripes",
    "columns_of",
    "place_chosen",
    "place_weights",
    "stripe_slices",
]

Stripes = tuple[tuple[tuple[int, int], ...], ...]

WEIGHTS = "weights"
"""What there is no room for where weights do not fit."""


@dataclass(frozen=True, eq=False, slots=True)
class Member:
    """One K tile of one term of a product, on one plane.

    `stripes[w_set][i]` is the (slice, address) from which stream i of every `lw` comes; empty for
    weights that are computed. `twins` are the same in the other hemisphere, if there is room.
    `idle` are the sets of integers that are all zero here.
    """

    term: Term
    k_tile: int
    side: str
    plane: int
    stripes: Stripes = ()
    twins: Stripes = ()
    idle: frozenset[int] = frozenset()

    @property
    def anywhere(self) -> bool:
        """Whether any plane can take it."""
        return bool(self.twins) or bool(self.term.weights.matrices)

    def from_side(self, side: str) -> Stripes:
        """Stripes in a hemisphere, those in the other if there are none."""
        return self.twins if side != self.side and self.twins else self.stripes


def columns_of(product: Product, tile: int, lanes: int) -> int:
    """Columns of an array that holds a tile of a product's weights."""
    return lanes if product.spread else min(lanes, product.columns - tile * lanes)


def place_weights(
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
    sets: list[tuple[tuple[int, int], ...]] = []
    nothing: tuple[tuple[int, int], ...] | None = None
    for w_set in range(weights.sets):
        if nothing is not None and w_set in member.idle:
            sets.append(nothing)  # zeros are alike in all sets
            continue
        part = weights.data[w_set, n0 : n0 + lanes, k0 : k0 + lanes]
        part = np.repeat(part, lanes, axis=0) if product.spread else part
        few = in_order(different(part))
        raw = spread(few.view(np.uint8).reshape(*few.shape, width), (*part.shape, width))
        stripes = min(streams, len(part) * width)
        per_dispatch = stripes // width
        memory = storage.memories[chip]
        depth = -(-len(part) // per_dispatch)
        where = (member.side, member.plane)
        queues = stripe_slices(plan, memory, *where, stripes, depth, reserve, level=not reserve)
        if queues is None:
            raise NoRoom(chip, WEIGHTS, stripes * depth)
        found = []
        for i, queue in enumerate(queues):
            words = raw[i // width :: per_dispatch, :, i % width]
            address = memory.take_virgin(queue, len(words))
            storage.image.append((chip, queue, address, words))
            found.append((queue, address))
        sets.append(tuple(found))
        nothing = sets[-1] if w_set in member.idle else nothing
    return tuple(sets)


def place_chosen(
    plan: Floorplan,
    storage: Storage,
    product: Product,
    tile: int,
    member: Member,
    chip: int,
    reserve: int,
) -> Stripes:
    """As `place_weights`, for sets that lie one after the other in the same slices: the stripes
    of the first. None is in the slices that the numbers come from."""
    weights, lanes, width = member.term.weights, plan.machine.vector, product.type.bytes
    assert weights.data is not None
    streams, columns = plan.chosen_streams(width), columns_of(product, tile, lanes)
    a_dispatch, pitch = streams // width, plan.pitch(width, columns)
    n0, k0 = tile * lanes, member.k_tile * lanes
    part = weights.data[:, n0 : n0 + columns, k0 : k0 + lanes]
    few = in_order(different(part))
    raw = few.view(np.uint8).reshape(*few.shape, width)
    sets, _, depth = part.shape
    whole = (sets, pitch * a_dispatch, depth, width)
    if few.shape == part.shape:
        padded = np.zeros(whole, np.uint8)
        padded[:, :columns] = raw
    else:
        padded = np.broadcast_to(raw, whole)
    memory, words = storage.memories[chip], sets * pitch
    where, hub = (member.side, member.plane), plan.hub[member.side]
    queues = stripe_slices(
        plan, memory, *where, streams, words, reserve, level=not reserve, avoid=hub
    )
    if queues is None:
        raise NoRoom(chip, WEIGHTS, streams * words)
    found = []
    for i, queue in enumerate(queues):
        own = padded[:, i // width :: a_dispatch, :, i % width].reshape(words, depth)
        address = memory.take_virgin(queue, words)
        storage.image.append((chip, queue, address, own))
        found.append((queue, address))
    return (tuple(found),)


_KEPT = 64
"""Words that weights leave where numbers come from, however little room there is."""

_NEARLY = 16
"""A slice is nearly full with less room than this part of it."""


def stripe_slices(
    plan: Floorplan,
    memory: ChipMemory,
    side: str,
    plane: int,
    count: int,
    words: int,
    reserve: int,
    *,
    level: bool = False,
    avoid: frozenset[int] = frozenset(),
) -> list[int] | None:
    """Slices for the stripes of a tile: the outer ones first, which leaves the inner to the rest.

    Those that are nearly full come last, with the inner ones, which alone are too few. Each plane
    has slices of its own as long as there are some, so that planes can load side by side. `level`:
    the emptiest first instead, so that in the end there are as many as a tile has stripes.
    """
    slices = [q for q in plan.slices[side] if q not in avoid]
    outer = sum(q not in plan.inner for q in slices)
    zone = max(count, outer // plan.machine.mxm.planes_per_hemisphere)
    rooms = {q: memory.virgin_room(q) for q in slices}
    full = words + reserve + memory.words // _NEARLY

    def key(position: int) -> tuple[bool, bool, int, int]:
        load = memory.words - rooms[slices[position]]
        turned = (position + plane * count) % len(slices)
        last = slices[position] in plan.inner or rooms[slices[position]] < full
        foreign = (len(slices) - 1 - position) // zone != plane
        return (last and not level, foreign and not level, load // max(1, 4 * words), -turned)

    order = sorted(range(len(slices)), key=key)
    numbers = plan.hub[side] | plan.rim[side] if level else frozenset[int]()
    fits = [
        q
        for q in (slices[p] for p in order)
        if rooms[q] >= words + reserve + _KEPT * (q in numbers)
    ]
    return fits[:count] if len(fits) >= count else None
