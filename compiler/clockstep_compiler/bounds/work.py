"""What every step takes of the machine's resources, however it is scheduled.

A demand is counted in elements, bytes or operations, not in vectors: another layout may fill these
better than today's does. Counted in `whole` vectors, a row of a matrix after the other, it is what
the steps take as they are laid out. What can be used by several steps once it is there (weights,
operands that are read or enter the array) is counted at the first that needs it.

To add a resource, add a row to `resources` and its demand in `_compute` or `_other`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from clockstep_compiler.bounds.parts import Parts, Terms, rows_used
from clockstep_compiler.expr import Leaf
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.steps import (
    Broadcast,
    Compute,
    Lookup,
    Outer,
    Product,
    Step,
    Transpose,
    Value,
)
from clockstep_isa.table import Type

__all__ = ["Resource", "Tally", "resources"]


class Resource(NamedTuple):
    """`key` names a demand, `name` the bound; `capacity` is that of one chip in one cycle.

    `ends` are the cycles that a program takes before the first and after the last use.
    """

    key: str
    name: str
    capacity: int
    ends: int


def resources(plan: Floorplan) -> tuple[Resource, ...]:
    """Everything that is counted, with what the machine has of it."""
    m = plan.machine
    lanes, mxm, vxm = m.vector, m.mxm, m.vxm
    planes = 2 * mxm.planes_per_hemisphere
    streams = 2 * m.streams.per_direction * lanes
    fed = min(m.streams.per_direction, mxm.planes_per_hemisphere * mxm.install_streams)
    alus = range(vxm.rows * vxm.ranks)
    large = sum(m.is_large(alu) for alu in alus)
    read, write = m.mem.read_latency, m.mem.write_latency
    arrive = read + mxm.hops_from_mem
    multiply, leave = mxm.multiply_latency, mxm.hops_from_mem + write
    install, emit = 1 + mxm.install_latency, mxm.accumulate_latency
    matrix = arrive + install + multiply + emit + leave - 1
    vector = read + 2 * vxm.hops_from_mem + vxm.op_latency + write - 1
    return (
        Resource("macs", "mxm", planes * lanes * lanes, matrix),
        Resource("entries", "mxm", planes * lanes, matrix),
        Resource("weights", "weights", 2 * fed * lanes, matrix),
        Resource("to_mxm", "streams", streams, matrix - install),
        Resource("from_mxm", "streams", streams, matrix),
        Resource("to_vxm", "streams", streams, read + vxm.op_latency + write - 1),
        Resource("from_vxm", "streams", streams, read + vxm.op_latency + write - 1),
        Resource("accesses", "banks", 2 * m.mem.slices_per_hemisphere * lanes, 0),
        Resource("ops", "alus", len(alus) * lanes, vector),
        Resource("large", "large alus", max(1, large) * lanes, vector),
    )


@dataclass(slots=True)
class Tally:
    """Demands step by step, in the order of the model."""

    plan: Floorplan
    whole: bool = False
    seen: dict[object, int] = field(default_factory=dict)
    """What has been counted of things that are there for all once they are there."""

    def step(self, step: Step, parts: Parts | None) -> dict[str, int]:
        """What one step takes, by the `key` of each resource; `parts` if it is an expression."""
        found = dict.fromkeys((r.key for r in resources(self.plan)), 0)
        if not isinstance(step, Compute) or parts is None:
            self._other(step, found)
            return found
        self._compute(step, parts, found)
        if parts.acc is not None and parts.terms is not None:
            self._product(parts.acc[0].product, parts.terms, found)
        return found

    def _lanes(self, columns: int) -> int:
        """The lanes that a row of so many elements takes."""
        lanes = self.plan.machine.vector
        return -(-columns // lanes) * lanes if self.whole else columns

    def _once(self, thing: object, amount: int) -> int:
        """The part of an amount that no earlier step asked for."""
        before = self.seen.get(thing, 0)
        self.seen[thing] = max(before, amount)
        return max(0, amount - before)

    def _read(self, value: Value, rows: int, columns: int) -> int:
        amount = rows * self._lanes(columns) * value.type.bytes
        return self._once(("read", value.number), amount)

    def _compute(self, step: Compute, parts: Parts, found: dict[str, int]) -> None:
        """Leaves and operations; sums of a product enter the VXM if anything uses them there."""
        out = step.out
        elements = out.rows * self._lanes(out.columns)
        written = elements * out.type.bytes
        found |= {"accesses": written, "ops": parts.ops * elements, "large": parts.large * elements}
        if parts.ops:
            found["from_vxm"] = written
            found["to_vxm"] = 0 if parts.acc is None else 4 * elements
        leaves: dict[int, list[Leaf]] = {}
        for leaf, _ in parts.leaves:
            leaves.setdefault(leaf.value.number, []).append(leaf)
        for number, same in leaves.items():
            value = same[0].value
            rows = rows_used(value.rows, [leaf.index for leaf in same], out.rows)
            columns = self._columns_read(same)
            found["accesses"] += self._read(value, rows, columns)
            if parts.ops:
                amount = rows * self._lanes(columns) * value.type.bytes
                found["to_vxm"] += self._once(("enter", number), amount)

    def _columns_read(self, leaves: list[Leaf]) -> int:
        """Columns of one matrix that some leaves read: all, or those of the tiles they name."""
        columns, tiles = leaves[0].value.columns, {leaf.tile for leaf in leaves}
        return columns if None in tiles else min(columns, len(tiles) * self.plan.machine.vector)

    def _product(self, product: Product, counted: Terms, found: dict[str, int]) -> None:
        """Add what a product takes. fp16 takes several planes for several cycles a vector."""
        mxm, lanes = self.plan.machine.mxm, self.plan.machine.vector
        cost = 1 if product.type == Type.I8 else mxm.fp16_planes * mxm.fp16_interval
        width = product.type.bytes
        found["macs"] += cost * (counted.passes * lanes**2 if self.whole else counted.macs)
        found["from_mxm"] += 4 * product.rows * self._lanes(product.columns)
        for (array, elements), term in zip(counted.weights, product.terms, strict=True):
            new = width * self._once(("weights", array), elements)
            found["weights"] += new
            found["to_mxm"] += new
            if term.weights.data is not None:
                found["accesses"] += new
        for term, inner in zip(product.terms, counted.inner, strict=True):
            rows = rows_used(term.a.rows, [term.index], product.rows)
            new = self._once(("row", term.a.number, term.byte), rows * self._lanes(inner))
            found["entries"] += cost * new
            found["to_mxm"] += width * new
            if term.byte is None:
                found["accesses"] += self._read(term.a, rows, inner)

    def _other(self, step: Step, found: dict[str, int]) -> None:
        """Movement by itself may vanish into its neighbours and counts nothing."""
        elements = step.out.rows * self._lanes(step.out.columns)
        if isinstance(step, Transpose | Broadcast | Outer | Lookup):
            found["accesses"] = elements * step.out.type.bytes
        if isinstance(step, Outer):
            found["ops"] = (2 * step.a.columns - 1) * elements
