"""The algorithms of collectives: who sends which block to whom, and in what order sums are made.

Sums of several blocks are trees over the chips in the order in which they are given (`sum_tree`),
so that every chip gets the same bits, unless an algorithm says otherwise. To add one, write its
generator, name it in `ALGORITHMS` and model its cost in `collective_cost.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from clockstep_compiler.collective_cost import Fabric
from clockstep_compiler.collectives import Collective, Held, Phases
from clockstep_compiler.storage import Copy, NoRoom

__all__ = ["ALGORITHMS", "Algorithm", "by_node"]


def send(c: Collective, held: Held) -> Phases:
    """Blocks from the first chip to the last, each over a route of its own."""
    first, last = c.chips[0], c.chips[-1]
    count = len(held)
    ways = c.s.links.ways(first, last, count)
    out: Held = {}
    for k in range(count):
        copy = held[first, k]
        for a, b in pairwise(ways[k % len(ways)]):
            c.meet(b, ())
            copy = c.deliver(copy, a, [b])[b]
        out[last, k] = copy
    yield
    return out


def broadcast(c: Collective, held: Held) -> Phases:
    """Blocks of the first chip to all others, over the shortest routes."""
    out = dict(held)
    for (chip, k), copy in held.items():
        _forget(c)
        out |= {(to, k): sent for to, sent in c.deliver(copy, chip, c.chips).items()}
    yield
    return out


def broadcast_scattered(c: Collective, held: Held) -> Phases:
    """The first chip deals out blocks, and each of the others passes its own on to the rest."""
    _forget(c)
    first, *others = c.chips
    out = dict(held)
    for (_, k), copy in held.items():
        out[others[k], k] = c.deliver(copy, first, [others[k]])[others[k]]
    yield
    _forget(c)
    for _, k in held:
        sent = c.deliver(out[others[k], k], others[k], others)
        out |= {(to, k): copy for to, copy in sent.items()}
    yield
    return out


def all_gather(c: Collective, held: Held) -> Phases:
    """Block k of the k-th chip to all others, over the shortest routes."""
    _forget(c)
    out = dict(held)
    for k, chip in enumerate(c.chips):
        if (chip, k) in held:
            sent = c.deliver(held[chip, k], chip, c.chips)
            out |= {(to, k): copy for to, copy in sent.items()}
    yield
    return out


def all_gather_ring(c: Collective, held: Held) -> Phases:
    """Block k of the k-th chip to the next, and so on round the ring."""
    out, count = dict(held), len(c.chips)
    for step in range(count - 1):
        _forget(c)
        for k in range(count):
            a, b = c.chips[(k + step) % count], c.chips[(k + step + 1) % count]
            if (a, k) in out:
                out[b, k] = c.deliver(out[a, k], a, [b])[b]
        yield
    return out


def reduce_scatter(c: Collective, held: Held) -> Phases:
    """Block k of every chip to the k-th, which adds them in the order of chips."""
    count = len(c.chips)
    got: dict[int, dict[int, Copy]] = {chip: {} for chip in c.chips}
    for k, chip in enumerate(c.chips):
        c.meet(chip, [held[chip, k]] if (chip, k) in held else ())
    for offset in range(1, count):
        for i, chip in enumerate(c.chips):
            k = (i + offset) % count
            if (chip, k) in held:
                owner = c.chips[k]
                got[owner][chip] = c.deliver(held[chip, k], chip, [owner])[owner]
    yield
    return {
        (chip, k): c.sum_up(chip, held[chip, k], got[chip], c.chips)
        for k, chip in enumerate(c.chips)
        if (chip, k) in held
    }


def reduce_scatter_ring(c: Collective, held: Held) -> Phases:
    """Block k goes round from the chip after the k-th, and every chip adds its own to it."""
    count = len(c.chips)
    blocks = [k for k in range(count) if (c.chips[0], k) in held]
    partial = {k: held[c.chips[(k + 1) % count], k] for k in blocks}
    for step in range(1, count):
        for k in blocks:
            a, b = c.chips[(k + step) % count], c.chips[(k + step + 1) % count]
            c.meet(b, [held[b, k]])
            came = c.deliver(partial[k], a, [b])[b]
            if step > 1:
                c.free(a, partial[k])
            partial[k] = c.add(b, [came, held[b, k]])
            c.free(b, came)
        yield
    return {(c.chips[k], k): copy for k, copy in partial.items()}


def all_reduce(c: Collective, held: Held) -> Phases:
    """Every chip sends its block to all others, and adds what it gets in the order of chips."""
    sums = yield from _reduce_groups(c, held, [list(c.chips)])
    return sums


def all_reduce_scattered(c: Collective, held: Held) -> Phases:
    """`reduce_scatter`, and the sums to all."""
    sums = yield from reduce_scatter(c, held)
    out = yield from all_gather(c, sums)
    return out


def all_reduce_ring(c: Collective, held: Held) -> Phases:
    """`reduce_scatter_ring`, and the sums once more round the ring."""
    sums = yield from reduce_scatter_ring(c, held)
    out = yield from all_gather_ring(c, sums)
    return out


def all_reduce_hierarchical(c: Collective, held: Held) -> Phases:
    """The sum of each node, from every node to every other over their link, then in each node.

    The chip of a node at which no or the fewest other nodes' sums arrive adds that of its own. So
    a chip's result is a sum by the chips of its node of sums by nodes: the same terms everywhere,
    in an order that differs from node to node.
    """
    groups = by_node(c)
    sums = yield from _reduce_groups(c, held, groups)
    routes = _between(c, groups)
    got: dict[int, dict[int, Copy]] = {chip: {} for chip in c.chips}
    for chip in c.chips:
        c.meet(chip, [sums[chip, 0]])
    for a in c.chips:
        nexts = [b for x, b in routes if x == a]
        for b, copy in c.deliver(sums[a, 0], a, nexts).items():
            got[b][a] = copy
    yield
    partial: Held = {}
    for group in groups:
        keeper = min(group, key=lambda chip: (len(got[chip]), chip))
        for chip in group:
            copies = [sums[chip, 0]] if chip == keeper else []
            copies += [got[chip][a] for a in sorted(got[chip])]
            if copies:
                partial[chip, 0] = c.add(chip, copies)
    out = yield from _reduce_groups(c, partial, groups)
    return out


def all_reduce_nested(c: Collective, held: Held) -> Phases:
    """`reduce_scatter` in each node, then its k-th chip with the k-th of every other, then back.

    Sums are made by the chips of a node, and of these by nodes.
    """
    groups = by_node(c)
    inside = [replace(c, chips=group) for group in groups]
    scattered = [reduce_scatter(sub, _of(held, sub.chips)) for sub in inside]
    sums = yield from _together(scattered)
    twins = [replace(c, chips=chips) for chips in zip(*groups, strict=True)]
    alike = [
        all_reduce(sub, {(chip, 0): sums[chip, k] for chip in sub.chips if (chip, k) in sums})
        for k, sub in enumerate(twins)
    ]
    totals = yield from _together(alike)
    owned = {
        (chip, k): totals[chip, 0]
        for group in groups
        for k, chip in enumerate(group)
        if (chip, 0) in totals
    }
    out = yield from _together([all_gather(sub, _of(owned, sub.chips)) for sub in inside])
    return out


def _of(held: Held, chips: Sequence[int]) -> Held:
    """The blocks that some chips hold."""
    return {(chip, k): copy for (chip, k), copy in held.items() if chip in chips}


def _together(parts: Sequence[Phases]) -> Phases:
    """Collectives of other chips each, phase by phase side by side."""
    out: Held = {}
    active = list(parts)
    while active:
        for part in list(active):
            try:
                next(part)
            except StopIteration as done:
                out |= done.value
                active.remove(part)
        if active:
            yield
    return out


def all_reduce_tree(c: Collective, held: Held) -> Phases:
    """Sums go to the first chip along shortest routes, and the total back."""
    levels = c.s.links.levels(c.chips[0], c.chips)
    partial = {chip: held[chip, 0] for chip in c.chips}
    for level in reversed(levels):
        got: dict[int, dict[int, Copy]] = {}
        for _, parent in level:
            c.meet(parent, [partial[parent]])
        for chip, parent in level:
            arrived = c.deliver(partial[chip], chip, [parent])[parent]
            got.setdefault(parent, {})[chip] = arrived
        yield
        for parent, copies in got.items():
            partial[parent] = c.sum_up(parent, partial[parent], copies, [parent, *sorted(copies)])
    _forget(c)
    root = c.chips[0]
    out = {(root, 0): partial[root]}
    out |= {(to, 0): copy for to, copy in c.deliver(partial[root], root, c.chips).items()}
    yield
    return out


def _reduce_groups(c: Collective, held: Held, groups: Sequence[Sequence[int]]) -> Phases:
    """In every group all blocks 0 to all chips, which add them; chips that have none get sums."""
    got: dict[int, dict[int, Copy]] = {chip: {} for group in groups for chip in group}
    for chip in got:
        c.meet(chip, [held[chip, 0]] if (chip, 0) in held else ())
    for group in groups:
        for chip in group:
            if (chip, 0) in held:
                for to, copy in c.deliver(held[chip, 0], chip, group).items():
                    got[to][chip] = copy
    yield
    out: Held = {}
    for group in groups:
        order = [chip for chip in group if (chip, 0) in held]
        for chip in group if order else ():
            own = held.get((chip, 0))
            out[chip, 0] = c.sum_up(chip, own, got[chip], order)
    return out


def by_node(c: Collective) -> list[list[int]]:
    """The chips, node by node."""
    size = c.s.plan.machine.system.chips_per_node
    groups: dict[int, list[int]] = {}
    for chip in c.chips:
        groups.setdefault(chip // size, []).append(chip)
    return list(groups.values())


def _between(c: Collective, groups: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """For every group and every other the (chip, chip) whose link carries its sum there.

    Of several the one at whose ends the fewest others have been chosen.
    """
    used: dict[int, int] = dict.fromkeys(c.chips, 0)
    found = []
    for g, group in enumerate(groups):
        for h, other in enumerate(groups):
            linked = [(a, b) for a in group for b in other if c.s.links.linked(a, b)]
            if g == h:
                continue
            if not linked:
                raise NoRoom(other[0], f"a link that leads to its node from chip {group[0]}", 0)
            a, b = min(linked, key=lambda pair: (used[pair[0]] + used[pair[1]], pair))
            used[a] += 1
            used[b] += 1
            found.append((a, b))
    return found


def _forget(c: Collective) -> None:
    """What arrives from here on is added to nothing."""
    for chip in c.chips:
        c.meet(chip, ())


class Algorithm(NamedTuple):
    """How it goes, and into how many blocks it cuts a message that goes over a fabric."""

    begin: Callable[[Collective, Held], Phases]
    blocks: Callable[[Fabric], int]


def _one(fabric: Fabric) -> int:
    return 1


def _each(fabric: Fabric) -> int:
    return fabric.chips


def _mates(fabric: Fabric) -> int:
    return fabric.chips // fabric.nodes


ALGORITHMS: Mapping[str, Mapping[str, Algorithm]] = {
    "send": {
        "direct": Algorithm(send, _one),
        "spread": Algorithm(send, lambda fabric: fabric.degree),
    },
    "broadcast": {
        "direct": Algorithm(broadcast, _one),
        "scatter": Algorithm(broadcast_scattered, lambda fabric: fabric.chips - 1),
    },
    "all-gather": {
        "direct": Algorithm(all_gather, _each),
        "ring": Algorithm(all_gather_ring, _each),
    },
    "reduce-scatter": {
        "direct": Algorithm(reduce_scatter, _each),
        "ring": Algorithm(reduce_scatter_ring, _each),
    },
    "all-reduce": {
        "direct": Algorithm(all_reduce, _one),
        "scatter": Algorithm(all_reduce_scattered, _each),
        "ring": Algorithm(all_reduce_ring, _each),
        "hierarchical": Algorithm(all_reduce_hierarchical, _one),
        "tree": Algorithm(all_reduce_tree, _one),
        "nested": Algorithm(all_reduce_nested, _mates),
    },
}
"""By collective and name."""
