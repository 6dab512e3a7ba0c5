"""What must pass from chip to chip, given where the weights lie.

Where the product that makes a matrix has all its weights on one chip, and a product that takes the
matrix has all of its own on others, every element must leave that chip, as a sum or as it is
stored. All links of the chip may share the work.
"""

from __future__ import annotations

from clockstep_compiler.bounds.parts import Parts, rows_used
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.partition import Partition
from clockstep_compiler.steps import Lowered
from clockstep_isa.geometry import wiring

__all__ = ["link_bound"]


def link_bound(
    plan: Floorplan,
    lowered: Lowered,
    parts: list[Parts | None],
    partition: Partition,
    chips: int,
) -> int:
    """Cycles from the first read to the last write of what leaves the busiest chip."""
    if chips == 1:
        return 0
    machine = plan.machine
    leaving = _leaving(lowered, parts, partition)
    ports = [0] * chips
    for chip, _ in wiring(machine, chips):
        ports[chip] += 1
    ends = machine.mem.read_latency + machine.link_latency + 1 + machine.mem.write_latency
    found = 0
    for chip, amount in sorted(leaving.items()):
        vectors = -(-amount // machine.vector)
        each = -(-vectors // max(1, ports[chip]))
        found = max(found, (each - 1) * machine.c2c.cycles_per_vector + ends)
    return found


def _leaving(lowered: Lowered, parts: list[Parts | None], partition: Partition) -> dict[int, int]:
    """Bytes that leave each chip."""
    chips_of: dict[int, set[int]] = {}
    for (number, _, _), groups in partition.groups.items():
        chips_of.setdefault(number, set()).update(group.chip for group in groups)
    home: dict[int, int] = {}
    sent: dict[tuple[int, int], int] = {}
    for index, (step, own) in enumerate(zip(lowered.steps, parts, strict=True)):
        if own is None or own.acc is None or index in partition.spread:
            continue
        assert own.terms is not None
        where, product = chips_of[index], own.acc[0].product
        for term, inner in zip(product.terms, own.terms.inner, strict=True):
            chip = home.get(term.a.number)
            if chip is not None and chip not in where:
                rows = rows_used(term.a.rows, [term.index], product.rows)
                width = 1 if term.byte is not None else min(4, term.a.type.bytes)
                known = sent.get((chip, term.a.number), 0)
                sent[chip, term.a.number] = max(known, rows * inner * width)
        if len(where) == 1 and any(t.weights.data is not None for t in product.terms):
            home[step.out.number] = min(where)
    found: dict[int, int] = {}
    for (chip, _), amount in sent.items():
        found[chip] = found.get(chip, 0) + amount
    return found
