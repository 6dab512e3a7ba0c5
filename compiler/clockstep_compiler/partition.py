"""Partition: which chip, and which plane of it, holds the weights of every part of every product.

The unit is one tile of result columns and one group of K tiles, as many as the planes can take at
once; units fill the chips in the order of the model (`shares.py`), so that a layer that one chip
cannot hold continues on the next. Products of the same array, as those of the steps of an unrolled
LSTM are, share its weights, and so chip and planes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from clockstep_compiler.expr import Acc, Expr, Op
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.liveness import live_words, peak_words, words_of
from clockstep_compiler.placed import Dealt, Key, Taken
from clockstep_compiler.shares import shares
from clockstep_compiler.steps import Compute, Lookup, Lowered, Product, Term
from clockstep_compiler.storage import Storage
from clockstep_compiler.stripes import Member, columns_of, place_chosen, place_weights
from clockstep_compiler.sums import group_size
from clockstep_isa.table import Type

__all__ = [
    "FULL_ROWS",
    "MANY_ROWS",
    "Group",
    "Partition",
    "busy_groups",
    "dealt_by",
    "find_product",
    "in_groups",
    "inner_tiles",
    "mostly_loads",
    "partition",
    "step_words",
]


FEW_ROWS = 4
"""Rows for which loading an array takes several times as long as multiplying."""

FULL_ROWS = 64
"""Rows up to which a group that does not fill the arrays goes beside another tile's."""

MANY_ROWS = 1024
"""Rows from which on all arrays share those of a group that does not fill them, rather than take
another tile's beside it: loading is a small part of it, and no tile waits for another."""


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Members whose products are summed in one wave, on one chip.

    `beside` are all arrays at work at a time if other tiles of the step take those that are next in
    turn; 0 if that is not known.
    """

    chip: int
    members: tuple[Member, ...]
    beside: int = 0


def busy_groups(groups: Sequence[Group], w_set: int) -> list[Group]:
    """The groups without what is all zero in a set of weights, one member at least.

    Members that any plane can take are dealt anew, to as few groups as can be.
    """
    every = [member for group in groups for member in group.members]
    kept = [member for member in every if w_set not in member.idle] or every[:1]
    if len(kept) == len(every):
        return list(groups)
    size = max(len(group.members) for group in groups)
    if all(member.anywhere for member in kept):
        parts = [tuple(kept[i : i + size]) for i in range(0, len(kept), size)]
        return [Group(groups[0].chip, part) for part in parts]
    parts = [tuple(member for member in group.members if member in kept) for group in groups]
    return [Group(groups[0].chip, part) for part in parts if part]


@dataclass(slots=True)
class Partition:
    """Groups of every (step index, column tile, chip), and the words of weights of each chip.

    The chip is None but for the steps in `spread`. `tables` are the chips of tables that rows are
    looked up in, by number and tile.
    """

    groups: dict[tuple[int, int, int | None], list[Group]]
    weight_words: list[int]
    spread: frozenset[int] = frozenset()
    homes: Mapping[int, int] = field(default_factory=dict)
    """Chips that steps were dealt to, by the number of the matrix that each makes."""
    tables: dict[tuple[int, int], int] = field(default_factory=dict)
    wanted: Mapping[int, int] = field(default_factory=dict)
    """Chips of the first products that matrices go into, by their numbers."""
    multiplied: frozenset[int] = frozenset()
    """Numbers of matrices that come out of products."""

    def groups_of(self, step: int, tile: int, chip: int) -> list[Group]:
        """The groups of a tile, those on `chip` if the step is spread over all."""
        return self.groups.get((step, tile, chip if step in self.spread else None), [])


def find_product(expr: Expr) -> Product | None:
    """The product an expression starts from, if any."""
    if isinstance(expr, Acc):
        return expr.product
    if isinstance(expr, Op):
        return next((p for p in map(find_product, expr.args) if p is not None), None)
    return None


def mostly_loads(lowered: Lowered) -> bool:
    """Whether all products are of so few rows that loading weights takes most of their time."""
    products = (find_product(s.expr) for s in lowered.steps if isinstance(s, Compute))
    return max((p.rows for p in products if p is not None), default=FEW_ROWS + 1) <= FEW_ROWS


def inner_tiles(product: Product, tile: int, lanes: int) -> list[tuple[Term, int]]:
    """The K tiles of a tile of columns, one at least.

    Integers whose weights are all zero there are left out, as most of a convolution in groups are,
    and of what is computed what is known to be zero.
    """
    columns = range(tile * lanes, (tile + 1) * lanes)
    every = [
        (t, k)
        for t in product.terms
        for k in range(-(-t.weights.depth // lanes))
        if t.weights.interleaved is None or not t.weights.interleaved.is_zero(columns, k)
    ]
    if product.type != Type.I8:
        return every
    kept = [
        (t, k)
        for t, k in every
        if t.weights.data is None
        or t.weights.data[:, columns.start : columns.stop, k * lanes : (k + 1) * lanes].any()
    ]
    return kept or every[:1]


def in_groups(
    inner: list[tuple[Term, int]], size: int, busy: int | None = None
) -> list[list[tuple[Term, int]]]:
    """K tiles in groups of `size`, the first of what is left over: the others need its sums.

    Or, if it makes no more groups, the first goes beside `busy` K tiles of another tile.
    """
    count = -(-len(inner) // size)
    first = len(inner) - (count - 1) * size
    if busy is not None and busy + len(inner) <= count * size:
        first = size - busy
    starts = [0, *range(first, len(inner), size)]
    return [inner[a:b] for a, b in zip(starts, [*starts[1:], len(inner)], strict=True)]


@dataclass(frozen=True, slots=True)
class _Unit:
    """A tile of columns and a group of K tiles of the product of a step.

    `words` of constant weights are its own, none if `same`, an earlier unit by number, has them.
    `beside` is that of its `Group`, `chips` are those of the step's result. `group` is where an
    entry before has them, if one has.
    """

    step: int
    tile: int
    product: Product
    members: list[tuple[Term, int]]
    words: int
    same: int | None
    beside: int
    chips: tuple[int, ...]
    group: Group | None = None


def _units(plan: Floorplan, lowered: Lowered) -> list[_Unit]:
    units: list[_Unit] = []
    known: dict[object, int] = {}
    before = Counter[Key | None]()
    for index, step in enumerate(lowered.steps):
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None:
            continue
        dealt = None
        if lowered.placed is not None and lowered.placed.products:
            weights = lowered.placed.key(product, step.out.chips)
            dealt = lowered.placed.dealt(weights, before[weights])
            before[weights] += 1
        if dealt is not None:
            units += _units_of(plan, dealt, index, product, step.out.chips)
            continue
        for tile, members, beside in _grouped(plan, product):
            chips = step.out.chips
            key = _identity(product, tile, members, chips)
            same = None if key is None else known.get(key)
            words = 0 if same is not None else _words(plan, product, tile, members)
            known.setdefault(key, len(units))
            units.append(_Unit(index, tile, product, members, words, same, beside, chips))
    return units


def _units_of(
    plan: Floorplan, dealt: Dealt, step: int, product: Product, chips: tuple[int, ...]
) -> Iterator[_Unit]:
    """The units of a product whose weights have been placed."""
    for tile, groups in dealt.items():
        for terms, group in groups:
            pairs = zip(terms, group.members, strict=True)
            members = [(product.terms[term], member.k_tile) for term, member in pairs]
            words = _words(plan, product, tile, members)
            yield _Unit(step, tile, product, members, words, None, group.beside, chips, group)


def dealt_by(partition: Partition, lowered: Lowered) -> dict[Key, list[Dealt]]:
    """Where the constant weights of a model lie, for the entries that come after it."""
    found: dict[Key, list[Dealt]] = {}
    assert lowered.placed is not None
    for index, step in enumerate(lowered.steps):
        product = find_product(step.expr) if isinstance(step, Compute) else None
        key = lowered.placed.key(product, step.out.chips) if product is not None else None
        if product is None or key is None:
            continue
        numbers = {id(term): number for number, term in enumerate(product.terms)}
        dealt = {
            tile: [Taken(tuple(numbers[id(m.term)] for m in g.members), g) for g in groups]
            for (of, tile, _), groups in partition.groups.items()
            if of == index
        }
        found.setdefault(key, []).append(dealt)
    return found


def _grouped(
    plan: Floorplan, product: Product
) -> Iterator[tuple[int, list[tuple[Term, int]], int]]:
    """Tiles and groups of K tiles of a product, and what is `beside` each.

    Arrays go in turn: where a tile of few rows leaves some, the next begins with as many K tiles.
    Not so floats, whose sums depend on their order: columns alike give results alike.
    """
    lanes, size = plan.machine.vector, group_size(plan, product.type)
    arrays = len(plan.planes if product.type == Type.I8 else plan.pairs)
    tiles = -(-product.columns // lanes)
    few = product.rows <= FULL_ROWS and product.type == Type.I8
    filling = few and size == arrays and tiles > 1
    found: list[tuple[int, list[tuple[Term, int]]]] = []
    starts = [0]
    for tile in range(tiles):
        busy = starts[-1] % size if filling else None
        for members in in_groups(inner_tiles(product, tile, lanes), size, busy):
            found.append((tile, members))
            starts.append(starts[-1] + len(members))
    for (tile, members), start, end in zip(found, starts, starts[1:], strict=False):
        turn = start // arrays
        whole = turn == (end - 1) // arrays
        yield tile, members, min(arrays, starts[-1] - turn * arrays) if whole and filling else 0


def _identity(
    product: Product, tile: int, members: list[tuple[Term, int]], chips: tuple[int, ...]
) -> object:
    """Equal for units whose weights are the same part of the same arrays, wanted on the same chips.

    None if they are computed.
    """
    found: list[object] = [product.type, product.spread, tile, chips]
    for term, k_tile in members:
        data = term.weights.data
        if data is None:
            return None
        array = data.__array_interface__
        found.append((array["data"][0], data.shape, data.strides, data.dtype.str, k_tile))
    return tuple(found)


def _words(plan: Floorplan, product: Product, tile: int, members: list[tuple[Term, int]]) -> int:
    """Words of constant weights of one unit."""
    lanes, width = plan.machine.vector, product.type.bytes
    columns = columns_of(product, tile, lanes)
    constant = [(t, k_tile) for t, k_tile in members if t.weights.data is not None]
    if any(t.weights.which for t, _ in constant):
        words = plan.pitch(width, columns) * plan.chosen_streams(width)
        return sum(t.weights.sets * words for t, _ in constant)
    sets = sum(t.weights.sets - len(_idle(product, tile, t, k, lanes)) for t, k in constant)
    return sets * columns * width


def _idle(product: Product, tile: int, term: Term, k_tile: int, lanes: int) -> frozenset[int]:
    """Sets of integers that are all zero in a tile; one set alone is never idle."""
    data = term.weights.data
    weights = term.weights
    if data is None or weights.which or weights.sets == 1 or product.type != Type.I8:
        return frozenset()
    columns, depth = (slice(i * lanes, (i + 1) * lanes) for i in (tile, k_tile))
    found = data[:, columns, depth].any(axis=(1, 2))
    return frozenset(np.flatnonzero(~found).tolist())


def total_words(plan: Floorplan, lowered: Lowered) -> int:
    """Words of constant weights, and of tables, of the whole model."""
    return sum(step_words(plan, lowered))


def step_words(plan: Floorplan, lowered: Lowered) -> list[int]:
    """Words of constant weights of every step, those that several share at the first."""
    tables = (step.table if isinstance(step, Lookup) else None for step in lowered.steps)
    found = [0 if table is None else words_of(table, plan.machine.vector) for table in tables]
    for unit in _units(plan, lowered):
        found[unit.step] += unit.words
    return found


_SMALL = 256
"""Shared weights of no more than this part of a chip are on every chip that wants them."""

_PLENTY = 4
"""Weights that fill no more than this part of what matrices leave of the chips have room in both
hemispheres."""


def partition(
    plan: Floorplan,
    lowered: Lowered,
    storage: Storage,
    reserve: int,
    spread: frozenset[int] = frozenset(),
    dealt: Mapping[int, int] | None = None,
) -> Partition:
    """Deal the units over the chips and place their weights, leaving `reserve` words a slice.

    Those of a step that is `dealt` to a chip, by the number of its matrix, go there.

    The steps `spread` have theirs on every chip, as long as they share them with no other step.
    Raises `NoRoom` if the weights do not fit.
    """
    units = _units(plan, lowered)
    spread -= _sharing(units)
    result = Partition({}, [0] * storage.chips, spread, dealt or {})
    turn = [0] * storage.chips
    placed: list[Group] = []
    total = storage.chips * plan.machine.words_per_chip
    free = total - peak_words(lowered, plan.machine.vector)
    plenty = _PLENTY * sum(unit.words for unit in units) <= free and not spread
    room = plan.machine.words_per_chip - reserve * len(storage.memories[0].free)
    homes = _homes(plan, lowered, units, storage, room, result)
    copies: dict[tuple[int, int], Group] = {}
    for unit, share in zip(units, homes, strict=True):
        made = lowered.steps[unit.step].out.number
        home = unit.chips[unit.tile % len(unit.chips)] if unit.chips else share
        home = result.homes.get(made, home)
        everywhere = unit.step in spread
        for chip in range(storage.chips) if everywhere else (home,):
            if unit.group is not None:
                group = _shared(unit, unit.group)
            elif unit.same is not None:
                first = placed[unit.same]
                if first.chip != chip and _is_small(plan, unit):
                    if (unit.same, chip) not in copies:
                        copy = _dealt(plan, storage, unit, chip, turn, reserve, plenty)
                        copies[unit.same, chip] = copy
                    first = copies[unit.same, chip]
                group = _shared(unit, first)
            else:
                group = _dealt(plan, storage, unit, chip, turn, reserve, plenty)
            result.weight_words[group.chip] += unit.words
            key = (unit.step, unit.tile, chip if everywhere else None)
            result.groups.setdefault(key, []).append(group)
        placed.append(group)
    return result


def _homes(
    plan: Floorplan,
    lowered: Lowered,
    units: list[_Unit],
    storage: Storage,
    room: int,
    result: Partition,
) -> list[int]:
    """The chip of every unit, if it is not to be elsewhere; tables are dealt with them, and placed
    first, since they take many words of a slice."""
    loads = [(u.step, 0 if u.step in result.spread else u.words, -1) for u in units]
    tables: set[int] = set()
    for index, step in enumerate(lowered.steps):
        if isinstance(step, Lookup) and step.table.number not in tables:
            tables.add(step.table.number)
            tiles = storage.tiles(step.table)
            each = words_of(step.table, plan.machine.vector) // tiles
            loads += [(index, each, tile) for tile in range(tiles)]
    loads.sort(key=lambda load: load[0])
    needs = _needs(plan, lowered, [step for step, _, _ in loads])
    found = shares([words for _, words, _ in loads], needs, storage.chips, room)
    for (index, _, tile), share in zip(loads, found, strict=True):
        step = lowered.steps[index]
        if isinstance(step, Lookup):
            home = step.out.chips[tile % len(step.out.chips)] if step.out.chips else share
            home = result.homes.get(step.out.number, home)
            there = storage.table_home(step.table, tile)
            home = home if there is None else there
            result.tables[step.table.number, tile] = home
            storage.table(step.table, tile, home)
    return [share for (_, _, tile), share in zip(loads, found, strict=True) if tile < 0]


def _needs(plan: Floorplan, lowered: Lowered, of: list[int]) -> list[int]:
    """Words of matrices from every of some steps on until the next of them."""
    if not of:
        return []
    live = np.array(live_words(lowered, plan.machine.vector))
    steps, which = np.unique(of, return_inverse=True)
    steps[0] = 0
    return [int(need) for need in np.maximum.reduceat(live, steps)[which]]


def _sharing(units: list[_Unit]) -> frozenset[int]:
    """Steps that have weights in common with another."""
    pairs = [(unit.step, units[unit.same].step) for unit in units if unit.same is not None]
    return frozenset(step for pair in pairs for step in pair)


def _is_small(plan: Floorplan, unit: _Unit) -> bool:
    """Whether a copy of a unit's weights on another chip is no matter, so nothing need be sent."""
    words = _words(plan, unit.product, unit.tile, unit.members)
    return _SMALL * words <= plan.machine.words_per_chip


def _shared(unit: _Unit, group: Group) -> Group:
    """The unit's members where those of the same weights are."""
    pairs = zip(unit.members, group.members, strict=True)
    members = tuple(replace(member, term=term) for (term, _), member in pairs)
    return Group(group.chip, members, unit.beside)


def _dealt(
    plan: Floorplan,
    storage: Storage,
    unit: _Unit,
    chip: int,
    turn: list[int],
    reserve: int,
    plenty: bool,
) -> Group:
    """The unit's members on the next planes of a chip, their weights placed.

    With `plenty` of room they are in both hemispheres, and any plane can take them.
    """
    product = unit.product
    arrays = plan.planes if product.type == Type.I8 else plan.pairs
    placed = []
    for term, k_tile in unit.members:
        side, plane = arrays[turn[chip] % len(arrays)]
        turn[chip] += 1
        member = Member(term, k_tile, side, plane)
        if term.weights.data is not None:
            idle = _idle(product, unit.tile, term, k_tile, plan.machine.vector)
            member = replace(member, idle=idle)
            place = place_chosen if term.weights.which else place_weights
            stripes = place(plan, storage, product, unit.tile, member, chip, reserve)
            other = replace(member, side="E" if side == "W" else "W")
            twins = place(plan, storage, product, unit.tile, other, chip, reserve) if plenty else ()
            member = replace(member, stripes=stripes, twins=twins)
        placed.append(member)
    return Group(chip, tuple(placed), unit.beside)
