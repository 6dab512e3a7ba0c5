"""Sums of products as wave programs, and how many K tiles one wave sums."""

from __future__ import annotations

from functools import lru_cache

from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.wave import Feed, WaveOp, WaveProgram, plan_wave, variants
from clockstep_isa.geometry import EAST, WEST
from clockstep_isa.table import Type

__all__ = ["fits", "group_size", "pack", "sum_program", "with_sum"]


def sum_program(kind: Type, count: int) -> WaveProgram:
    """The sum of `count` leaves, pairwise; one leaf alone is moved."""
    leaves = (kind,) * count
    if count == 1:
        return WaveProgram(leaves, (WaveOp("mov", kind, (0,), kind),))
    ops: list[WaveOp] = []
    nodes = list(range(count))
    while len(nodes) > 1:
        pairs = list(zip(nodes[::2], nodes[1::2], strict=False))
        rest = nodes[len(pairs) * 2 :]
        nodes = []
        for a, b in pairs:
            nodes.append(count + len(ops))
            ops.append(WaveOp("add", kind, (a, b), kind))
        nodes += rest
    return WaveProgram(leaves, tuple(ops))


def with_sum(program: WaveProgram, position: int, count: int) -> WaveProgram:
    """`program` with its leaf at `position` replaced by the sum of `count` new first leaves."""
    kind = program.leaves[position]
    if count > 1 and len(program.leaves) == 1 and [op.name for op in program.ops] == ["mov"]:
        return sum_program(kind, count)
    added = sum_program(kind, count).ops if count > 1 else ()
    others = [k for k in range(len(program.leaves)) if k != position]
    leaves = (kind,) * count + tuple(program.leaves[k] for k in others)
    total = count + len(others)
    shift = {position: total + len(added) - 1 if added else 0}
    shift.update({k: count + i for i, k in enumerate(others)})
    shift.update({len(program.leaves) + i: total + len(added) + i for i in range(len(program.ops))})
    first = {k: k for k in range(count)}
    first.update({count + i: total + i for i in range(len(added))})
    ops = [op._replace(args=tuple(first[a] for a in op.args)) for op in added]
    ops += [op._replace(args=tuple(shift[a] for a in op.args)) for op in program.ops]
    return WaveProgram(leaves, tuple(ops))


def _arrivals(
    plan: Floorplan, leaves: int, products: int, kind: Type
) -> list[tuple[tuple[int, ...], tuple[Feed, ...]]]:
    """Where leaves may come from: products, the first leaves, from both hemispheres in turn, the
    rest from either, alike or in turn. A product's operand goes the other way, at worst from one
    end of the chip to the other."""
    edge = plan.machine.vxm.ranks
    patterns = []
    for start in (EAST, WEST):
        turns = tuple((start + k) % 2 for k in range(leaves))
        feeds = tuple(Feed(1 - side, 0, edge, kind.bytes) for side in turns[:products])
        rest = leaves - products
        for others in (turns[products:], (EAST,) * rest, (WEST,) * rest):
            pattern = ((*turns[:products], *others), feeds)
            if pattern not in patterns:
                patterns.append(pattern)
    return patterns


@lru_cache(maxsize=4096)
def fits(
    plan: Floorplan, program: WaveProgram, products: int, kind: Type, blocks: tuple[int, ...]
) -> bool:
    """Whether some wave runs the program wherever its operands lie, and slices hold `blocks`.

    The first `products` leaves are products of operands of type `kind`; `blocks` are the bytes of
    an element of every matrix read or written meanwhile.
    """
    return pack(plan, blocks) and all(
        any(
            plan_wave(plan.machine, program, sides, feeds, out, variant) is not None
            for variant in range(0, variants(plan.machine), plan.machine.vxm.rows)
        )
        for sides, feeds in _arrivals(plan, len(program.leaves), products, kind)
        for out in (EAST, WEST)
    )


def pack(plan: Floorplan, blocks: tuple[int, ...]) -> bool:
    """Whether each block finds slices of its own in one hemisphere, with two left over if many."""
    slices = plan.machine.mem.slices_per_hemisphere
    room = [slices - 2 if slices >= 10 else slices] * 2
    for block in sorted(blocks, reverse=True):
        side = 0 if room[0] >= room[1] else 1
        room[side] -= block
    return min(room) >= 0


@lru_cache(maxsize=64)
def group_size(plan: Floorplan, kind: Type) -> int:
    """K tiles summed in one wave: as many as there are arrays, ALUs and slices for.

    Half of the slices stay for what else the last wave of a product reads and writes.
    """
    total = Type.I32 if kind == Type.I8 else Type.F32
    arrays = len(plan.planes) if kind == Type.I8 else len(plan.pairs)
    room = (2 * plan.machine.mem.slices_per_hemisphere - 12) // (2 * kind.bytes)
    for members in range(min(arrays, max(1, room)), 1, -1):
        blocks = (total.bytes, total.bytes, *(members * [kind.bytes]))
        if fits(plan, sum_program(total, members + 1), members, kind, blocks):
            return members
    return 1
