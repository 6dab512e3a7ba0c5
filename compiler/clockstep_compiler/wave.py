"""Waves: one pass of vectors through the VXM, planned once and used at any time.

A wave runs an expression as a wavefront: level `i` of the expression runs on one rank of ALUs,
its results and the operands that join at level `i + 1` meet at the next rank. Ranks are visited
in a zigzag, so a chain longer than the ranks turns round. A value that is wanted later than one
level after it was made is carried by `mov`s. Everything is relative to the cycle in which level 0
samples its first vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from clockstep_isa.geometry import EAST, WEST, geometry
from clockstep_isa.machine import Machine
from clockstep_isa.table import BY_NAME, Type

__all__ = [
    "NOTHING",
    "Busy",
    "Feed",
    "Hold",
    "Wave",
    "WaveOp",
    "WaveProgram",
    "has_ranks",
    "plan_wave",
    "variants",
]

_SEARCH_STEPS = 250
"""Choices of ALUs and streams tried for one wave before it counts as impossible; of those that are
found, nearly all are after fewer than 100."""


class WaveOp(NamedTuple):
    """One operation: `args` index the leaves, then the operations, of the program.

    `extra` holds the fields after the type in the order of the row: the immediate's bits, or the
    codes of a cast's result type, rounding and overflow.
    """

    name: str
    type: Type
    args: tuple[int, ...]
    out: Type
    extra: tuple[int, ...] = ()


class WaveProgram(NamedTuple):
    """A single-result expression; the last operation is the result. Hashable, so plans are kept."""

    leaves: tuple[Type, ...]
    ops: tuple[WaveOp, ...]


class Feed(NamedTuple):
    """Streams that pass along with the wave without entering it: operands of the MXM or SXM."""

    direction: int
    first: int  # stretches first..last of the chip, west to east
    last: int
    streams: int


class Busy(NamedTuple):
    """ALUs at work for other waves, and streams as (direction, stretch, bits)."""

    alus: frozenset[int]
    streams: tuple[tuple[int, int, int], ...]


NOTHING = Busy(frozenset(), ())


class Hold(NamedTuple):
    """Streams base..base+streams-1 in one direction are taken on stretches first..last."""

    direction: int
    first: int
    last: int
    base: int
    streams: int
    phase: int  # of the first vector, relative to the wave


class Arrival(NamedTuple):
    """A leaf is sampled at `x` in `cycle` from the streams from `base` on, moving `direction`."""

    direction: int
    base: int
    cycle: int
    x: int


class Step(NamedTuple):
    """One ALU's bulk instruction: dispatch cycle, opcode and fields of its row."""

    alu: int
    cycle: int
    opcode: int
    args: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wave:
    """A planned wave; cycles and phases count from the sampling of level 0."""

    steps: tuple[Step, ...]
    arrivals: tuple[Arrival, ...]
    out: Arrival
    """The result enters the streams at `x` in cycle `cycle`."""
    feeds: tuple[int, ...]
    """First stream of each feed."""
    holds: tuple[Hold, ...]
    """What is taken inside; the first is the result."""

    def bound(self, out: int, feeds: tuple[int, ...]) -> Wave:
        """The same with the result and the feeds on other streams."""
        last = self.steps[-1]
        stream = self.out.direction << 8 | out
        return replace(
            self,
            steps=(*self.steps[:-1], last._replace(args=(*last.args[:-1], stream))),
            out=self.out._replace(base=out),
            feeds=feeds,
            holds=(self.holds[0]._replace(base=out), *self.holds[1:]),
        )

    def taken(self, direction: int, first: int, last: int) -> int:
        """Streams, as bits, that operands and results inside take on some stretches."""
        bits = 0
        for hold in self.holds[1:]:
            if hold.direction == direction and hold.first <= last and first <= hold.last:
                bits |= ((1 << hold.streams) - 1) << hold.base
        return bits


@dataclass(frozen=True, slots=True)
class _Item:
    """An operation or a carrying `mov`, at its level; `args` are keys into `_Plan.where`."""

    op: WaveOp
    level: int
    args: tuple[tuple[str, int], ...]


class _Need(NamedTuple):
    """An operand: the key of its value, and the stretches and streams it takes on its way."""

    key: tuple[str, int]
    direction: int
    first: int
    last: int
    streams: int


@dataclass(slots=True)
class _Plan:
    """The search state: who runs where, and which streams are taken on which stretch."""

    machine: Machine
    path: tuple[int, ...]
    order: tuple[int, ...]
    items: tuple[_Item, ...]
    sides: tuple[int, ...]
    first_row: int
    sparing: bool
    """Whether large ALUs are the last that other operations take, or the first."""
    sequence: list[int] = field(default_factory=list)
    """Items in the order of placing."""
    windows: tuple[frozenset[int], ...] = ()
    """Quads that each ALU can read."""
    steps_left: int = _SEARCH_STEPS
    taken: dict[tuple[int, int], int] = field(default_factory=dict)
    alus: dict[int, int] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    needs: list[tuple[_Need, ...]] = field(default_factory=list)
    able: list[tuple[int, ...]] = field(default_factory=list)
    """For every item the idle ALUs that could read each of its operands, the preferred first."""
    where: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Direction and first stream of each leaf or item result."""


@lru_cache(maxsize=4096)
def plan_wave(
    machine: Machine,
    program: WaveProgram,
    sides: tuple[int, ...],
    feeds: tuple[Feed, ...],
    out: int,
    variant: int,
    installing: int = 0,
    busy: Busy = NOTHING,
) -> Wave | None:
    """Find ALUs and streams for a wave, or None if the machine cannot run it in one pass.

    `sides[k]` is the direction in which leaf `k` moves; the result leaves in direction `out`. The
    first `installing` streams carry weights; what goes the same way takes others if it can.
    ALUs and streams that are `busy` are left to others.
    Variants differ in the ALU row they prefer, the rank and direction they start with, and the
    streams they prefer; neighbours among them share as little as may be.
    """
    bare = program._replace(ops=tuple(op._replace(extra=()) for op in program.ops))
    placed = _placed(machine, bare, sides, variant, busy)
    if placed is None:
        return None
    taken, where = dict(placed.taken), dict(placed.where)
    plan = replace(placed, items=_levelled(program), taken=taken, where=where)
    away = tuple(q for q in plan.order if 4 * q >= installing)
    outward = away + tuple(q for q in plan.order if 4 * q < installing)
    return _finish(plan, program, feeds, out, outward)


@lru_cache(maxsize=4096)
def _placed(
    machine: Machine,
    program: WaveProgram,
    sides: tuple[int, ...],
    variant: int,
    busy: Busy,
) -> _Plan | None:
    """ALUs for all operations and streams for all operands; immediates make no difference."""
    if not has_ranks(machine, program, variant, busy):
        return None
    items = _levelled(program)
    path = _path(machine, 1 + max(item.level for item in items), variant)
    assert path is not None
    quads = machine.quads
    order = tuple((quads - 1 - q + 3 * variant) % quads for q in range(quads))
    first_row = variant % machine.vxm.rows
    sparing = variant // (2 * machine.vxm.rows) % 2 == 0
    plan = _Plan(machine, path, order, items, sides, first_row, sparing, _sequence(items))
    plan.windows = _windows(machine)
    plan.used.update(busy.alus)
    plan.needs = _needs(plan)
    plan.taken.update(((way, stretch), streams) for way, stretch, streams in busy.streams)
    plan.able = [_able(plan, index) for index in range(len(items))]
    return plan if _has_alus(plan, plan.able) and _place(plan, 0) else None


def _alus_for(plan: _Plan, item: _Item) -> tuple[int, ...]:
    """The idle ALUs of an item's rank that do its operation, the preferred first."""
    large = BY_NAME[item.op.name].large
    rank = plan.path[item.level]
    every = _alus(plan.machine, rank, plan.first_row, large, plan.sparing)
    return tuple(alu for alu in every if alu not in plan.used)


def _able(plan: _Plan, index: int) -> tuple[int, ...]:
    """Those of them that could read every operand if it were the only one."""

    every, needs = _alus_for(plan, plan.items[index]), plan.needs[index]
    return tuple(
        alu
        for alu in every
        if all(
            _free_bases(plan, direction, first, last, width, plan.windows[alu])
            for _, direction, first, last, width in needs
        )
    )


@lru_cache(maxsize=8192)
def _ranks_wanted(
    machine: Machine, program: WaveProgram, variant: int
) -> tuple[tuple[int, int], ...] | None:
    """ALUs that a program wants in each rank, and how many of these must be large."""
    items = _levelled(program)
    path = _path(machine, 1 + max(item.level for item in items), variant)
    if path is None:
        return None
    wanted = [[0, 0] for _ in range(machine.vxm.ranks)]
    for item in items:
        wanted[path[item.level]][0] += 1
        wanted[path[item.level]][1] += BY_NAME[item.op.name].large
    return tuple((every, large) for every, large in wanted)


def has_ranks(machine: Machine, program: WaveProgram, variant: int, busy: Busy) -> bool:
    """Whether every rank has as many ALUs idle as a variant wants, and as many of them large."""
    wanted = _ranks_wanted(machine, program, variant)
    return wanted is not None and all(
        every <= idle and large <= idle_large
        for (every, large), (idle, idle_large) in zip(
            wanted, _idle(machine, busy.alus), strict=True
        )
    )


@lru_cache(maxsize=4096)
def _idle(machine: Machine, busy: frozenset[int]) -> tuple[tuple[int, int], ...]:
    """ALUs of each rank that are not busy, and how many of these are large."""
    rows, ranks = machine.vxm.rows, machine.vxm.ranks
    idle = [[row * ranks + rank for row in range(rows)] for rank in range(ranks)]
    idle = [[alu for alu in alus if alu not in busy] for alus in idle]
    return tuple((len(alus), sum(map(machine.is_large, alus))) for alus in idle)


def _has_alus(plan: _Plan, able: list[tuple[int, ...]]) -> bool:
    """Whether every item can have an ALU of its own among those that are `able`."""
    owner: dict[int, int] = {}

    def settle(item: int, asked: set[int]) -> bool:
        for alu in able[item]:
            if alu in asked:
                continue
            asked.add(alu)
            if alu not in owner or settle(owner[alu], asked):
                owner[alu] = item
                return True
        return False

    return all(settle(item, set()) for item in range(len(able)))


@lru_cache(maxsize=64)
def _windows(machine: Machine) -> tuple[frozenset[int], ...]:
    """Quads that each ALU can read."""
    return tuple(machine.window(alu) for alu in range(machine.vxm.rows * machine.vxm.ranks))


@lru_cache(maxsize=1024)
def _levelled(program: WaveProgram) -> tuple[_Item, ...]:
    """Operations as late as possible, with `mov`s wherever a value must wait for a level."""
    leaves, ops = program
    first_op = len(leaves)
    uses: dict[int, list[int]] = {}
    for k, op in enumerate(ops):
        for arg in op.args:
            uses.setdefault(arg, []).append(k)
    above: list[int] = [0] * len(ops)  # levels between an operation and the result
    for k in range(len(ops) - 2, -1, -1):
        above[k] = 1 + max(above[u] for u in uses[first_op + k])
    level = [max(above) - a for a in above]
    items: list[_Item] = []
    at: dict[tuple[int, int], tuple[str, int]] = {}

    def value(node: int, wanted: int) -> tuple[str, int]:
        """The key of `node`'s value as it stands at level `wanted`."""
        if (node, wanted) not in at:
            carried = value(node, wanted - 1)
            kind = leaves[node] if node < first_op else ops[node - first_op].out
            items.append(_Item(WaveOp("mov", kind, (0,), kind), wanted - 1, (carried,)))
            at[node, wanted] = ("item", len(items) - 1)
        return at[node, wanted]

    for leaf in range(first_op):
        at[leaf, min((level[u] for u in uses.get(leaf, ())), default=0)] = ("leaf", leaf)
    for k in sorted(range(len(ops)), key=lambda k: (level[k], k)):
        args = tuple(value(arg, level[k]) for arg in ops[k].args)
        items.append(_Item(ops[k], level[k], args))
        at[first_op + k, level[k] + 1] = ("item", len(items) - 1)
    return tuple(items)


def variants(machine: Machine) -> int:
    """How many variants of a wave there are."""
    return 4 * machine.vxm.rows * machine.vxm.ranks


def _path(machine: Machine, depth: int, variant: int) -> tuple[int, ...] | None:
    """The rank of every level, from where and which way first the variant says.

    A zigzag, or in variants beyond those round and round: back to where the others began.
    """
    ranks = machine.vxm.ranks
    if ranks == 1 and depth > 1:
        return None
    start = variant // (4 * machine.vxm.rows) % ranks
    east = variant // machine.vxm.rows % 2 == 0
    step, rank = (1, start) if east else (-1, ranks - 1 - start)
    if variant >= variants(machine):
        return tuple((rank + step * level) % ranks for level in range(depth))
    path = []
    for _ in range(depth):
        path.append(rank)
        if not 0 <= rank + step < ranks:
            step = -step
        rank += step
    return tuple(path)


def _needs(plan: _Plan) -> list[tuple[_Need, ...]]:
    """The operands of every item."""
    return [
        tuple(
            _Need(key, *_stretch(plan, key, item.level), _type_of(plan, key, item, position).bytes)
            for position, key in enumerate(item.args)
        )
        for item in plan.items
    ]


def _place(plan: _Plan, done: int) -> bool:
    """Give items `order[done:]` an ALU each and their operands streams, backtracking."""
    if done == len(plan.items):
        return True
    index = plan.sequence[done]
    for alu in plan.able[index]:
        if alu in plan.used:
            continue
        plan.alus[index] = alu
        plan.used.add(alu)
        for _ in _operands(plan, plan.needs[index], alu, 0):
            plan.steps_left -= 1
            if _place(plan, done + 1):
                return True
            if plan.steps_left < 0:
                break
        del plan.alus[index]
        plan.used.remove(alu)
        if plan.steps_left < 0:
            return False
    return False


@lru_cache(maxsize=1024)
def _alus(
    machine: Machine, rank: int, first_row: int, large: bool, sparing: bool
) -> tuple[int, ...]:
    """The ALUs of a rank that an operation may take, in an order of preference."""
    rows, ranks = machine.vxm.rows, machine.vxm.ranks
    every = [(r + first_row) % rows * ranks + rank for r in range(rows)]
    if large:
        return tuple(alu for alu in every if machine.is_large(alu))
    return tuple(sorted(every, key=lambda alu: machine.is_large(alu) == sparing))


def _sequence(items: Sequence[_Item]) -> list[int]:
    """Items by level; inside a level those that need a large ALU first, small ALUs kept last."""
    return sorted(
        range(len(items)),
        key=lambda i: (items[i].level, not BY_NAME[items[i].op.name].large, i),
    )


def _operands(plan: _Plan, needs: tuple[_Need, ...], alu: int, position: int) -> Iterator[None]:
    """Every way to give the operands from `position` on streams that the ALU can read."""
    if position == len(needs):
        if _ports_meet(plan, needs):
            yield
        return
    key, direction, first, last, width = needs[position]
    window = plan.windows[alu]
    if key in plan.where:
        if plan.where[key][1] // 4 in window:
            yield from _operands(plan, needs, alu, position + 1)
        return
    taken = plan.taken
    keys = [(direction, stretch) for stretch in range(first, last + 1)]
    before = [taken.get(stretch, 0) for stretch in keys]
    for base in _free_bases(plan, direction, first, last, width, window):
        mask = ((1 << width) - 1) << base
        taken.update((stretch, busy | mask) for stretch, busy in zip(keys, before, strict=True))
        plan.where[key] = (direction, base)
        yield from _operands(plan, needs, alu, position + 1)
        del plan.where[key]
        taken.update(zip(keys, before, strict=True))


def _ports_meet(plan: _Plan, needs: tuple[_Need, ...]) -> bool:
    """Whether the two operands come through different quads, or from one direction."""
    if len(needs) < 2:
        return True
    ends = [plan.where[need.key] for need in needs]
    return all(a[0] == b[0] or a[1] // 4 != b[1] // 4 for a in ends for b in ends)


def _type_of(plan: _Plan, key: tuple[str, int], item: _Item, position: int) -> Type:
    return plan.items[key[1]].op.out if key[0] == "item" else item.op.type


def _stretch(plan: _Plan, key: tuple[str, int], level: int) -> tuple[int, int, int]:
    """Direction and stretches over which a value travels to the rank of `level`.

    Stretch 0 is west of rank 0, stretch r lies between ranks r - 1 and r, the last is the east.
    """
    here = plan.path[level]
    if key[0] == "leaf":
        direction = plan.sides[key[1]]
        return (EAST, 0, here) if direction == EAST else (WEST, here + 1, plan.machine.vxm.ranks)
    origin = plan.path[plan.items[key[1]].level]
    return (EAST, origin + 1, here) if here > origin else (WEST, here + 1, origin)


def _free_bases(
    plan: _Plan,
    direction: int,
    first: int,
    last: int,
    width: int,
    window: frozenset[int] | None,
    order: tuple[int, ...] = (),
) -> list[int]:
    """First streams of free, aligned groups, one a quad, in an order of preference."""
    busy = 0
    for stretch in range(first, last + 1):
        busy |= plan.taken.get((direction, stretch), 0)
    ones = (1 << width) - 1
    found = []
    for quad in order or plan.order:
        if window is not None and quad not in window:
            continue
        for base in range(4 * quad, 4 * quad + 4, width):
            if not busy >> base & ones:
                found.append(base)
                break
    return found


def _mark(plan: _Plan, direction: int, first: int, last: int, base: int, width: int) -> None:
    mask = ((1 << width) - 1) << base
    for stretch in range(first, last + 1):
        plan.taken[direction, stretch] = plan.taken.get((direction, stretch), 0) | mask


def _finish(
    plan: _Plan,
    program: WaveProgram,
    feeds: tuple[Feed, ...],
    out: int,
    outward: tuple[int, ...],
) -> Wave | None:
    """Choose the streams of the result and the feeds, and work out every cycle and phase."""
    machine, ranks = plan.machine, plan.machine.vxm.ranks
    rank_x = geometry(machine).rank_x
    cycles = [0]
    for a, b in zip(plan.path, plan.path[1:], strict=False):
        cycles.append(cycles[-1] + machine.vxm.op_latency + abs(rank_x[b] - rank_x[a]))
    feed_bases = []  # before the result: they are the ones that cross the chip
    for feed in feeds:
        free = _free_bases(plan, feed.direction, feed.first, feed.last, feed.streams, None, outward)
        if not free:
            return None
        _mark(plan, feed.direction, feed.first, feed.last, free[0], feed.streams)
        feed_bases.append(free[0])

    final_rank = plan.path[-1]
    first, last = (final_rank + 1, ranks) if out == EAST else (0, final_rank)
    result = len(plan.items) - 1
    width = plan.items[result].op.out.bytes
    bases = _free_bases(plan, out, first, last, width, None, outward)
    if not bases:
        return None
    base = bases[0]
    _mark(plan, out, first, last, base, width)
    out_cycle = cycles[-1] + machine.vxm.op_latency
    holds = [Hold(out, first, last, base, width, _phase(out, out_cycle, rank_x[final_rank]))]
    plan.where["item", result] = (out, base)

    arrivals: dict[int, Arrival] = {}
    steps = []
    held: set[tuple[str, int]] = set()
    for index, item in enumerate(plan.items):
        cycle, x = cycles[item.level], rank_x[plan.path[item.level]]
        for position, key in enumerate(item.args):
            direction, stream = plan.where[key]
            if key[0] == "leaf":
                arrivals[key[1]] = Arrival(direction, stream, cycle, x)
            if key not in held:
                held.add(key)
                _, lo, hi = _stretch(plan, key, item.level)
                streams = _type_of(plan, key, item, position).bytes
                holds.append(Hold(direction, lo, hi, stream, streams, _phase(direction, cycle, x)))
        steps.append(_step(plan, index, cycle))
    return Wave(
        tuple(steps),
        tuple(arrivals[k] for k in range(len(program.leaves))),
        Arrival(out, base, out_cycle, rank_x[final_rank]),
        tuple(feed_bases),
        tuple(holds),
    )


def _phase(direction: int, cycle: int, x: int) -> int:
    return cycle - x if direction == EAST else cycle + x


def _step(plan: _Plan, index: int, cycle: int) -> Step:
    """The ALU's instruction, its fields in the order of the row."""
    op = plan.items[index].op
    operands = [d << 8 | s for d, s in (plan.where[key] for key in plan.items[index].args)]
    direction, stream = plan.where["item", index]
    out = direction << 8 | stream
    if op.name == "cast":
        args = (int(op.type), *op.extra, *operands, out)
    else:
        args = (int(op.type), *operands, *op.extra, out)
    return Step(plan.alus[index], cycle, BY_NAME[op.name].opcode, args)
