"""What every step takes of the machine's resources, however it is scheduled and packed.

A demand is counted in elements, bytes or operations, never in vectors: a schedule may fill them
better than today's does. What can be used by several steps once it is there (weights, operands
that are read or enter the array) is counted at the first that needs it.

To add a resource, add a row to `resources` and its demand in `_compute` or `_other`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Leaf, Op
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.steps import (
    Broadcast,
    Compute,
    Outer,
    Product,
    Step,
    Transpose,
    Value,
    Weights,
)
from clockstep_isa.table import BY_NAME, Type

__all__ = ["Demand", "Parts", "Resource", "Tally", "Terms", "resources", "rows_used"]


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


class Terms(NamedTuple):
    """The multiplications of a product: those by a constant integer zero do not count.

    `macs` and `sums` (columns of the array that give a sum, for each row) are of all rows,
    `weights` elements by array, `inner` the elements of a row of each term that take part.
    `dense`: no multiplication is left out.
    """

    macs: int
    sums: int
    weights: tuple[tuple[object, int], ...]
    inner: tuple[int, ...]
    dense: bool


def _terms(product: Product, lanes: int) -> Terms:
    """Count the multiplications of a product."""
    rows = np.array([product.rows])
    if product.w_set is not None:
        rows = np.bincount(product.w_set)
    macs = np.zeros((len(rows), product.columns), np.int64)
    weights: list[tuple[object, int]] = []
    inner = []
    for term in product.terms:
        counts, used = _nonzero(product, term.weights, len(rows))
        macs += counts
        inner.append(used)
        weights.append((_array(term.weights), int(counts[rows > 0].sum())))
    total = int((rows[:, None] * macs).sum())
    sums = int((rows[:, None] * -(-macs // lanes)).sum())
    depth = sum(term.weights.depth for term in product.terms)
    return Terms(
        total, sums, tuple(weights), tuple(inner), total == product.rows * product.columns * depth
    )


def _nonzero(product: Product, weights: Weights, sets: int) -> tuple[NDArray[np.int64], int]:
    """Weights that count, by set and column, and the inner elements that meet any of them."""
    data, shape = weights.data, (sets, product.columns)
    if data is None or product.type != Type.I8:
        return np.full(shape, weights.depth), weights.depth
    present = data[:sets] != 0
    return np.count_nonzero(present, axis=2), int(np.count_nonzero(present.any(axis=(0, 1))))


def _array(weights: Weights) -> object:
    """Equal for weights that are the same elements."""
    if weights.data is None:
        assert weights.value is not None
        return weights.value.number, weights.byte
    array = weights.data.__array_interface__
    return array["data"][0], weights.data.shape, weights.data.strides, weights.data.dtype.str


def rows_used(rows: int, indices: list[NDArray[np.int64] | None], count: int) -> int:
    """How many of a matrix's rows are read by `count` rows of a result through any index."""
    if any(index is None for index in indices):
        return min(rows, count)
    used = np.zeros(rows, bool)
    for index in indices:
        used[index] = True
    return int(np.count_nonzero(used))


class Parts(NamedTuple):
    """An expression taken apart: its leaves and its product, each with its distance in operations
    from the result, and how many operations there are, large ones apart."""

    leaves: tuple[tuple[Leaf, int], ...]
    acc: tuple[Acc, int] | None
    ops: int
    large: int
    terms: Terms | None


def _parts(step: Compute, lanes: int) -> Parts:
    """Take the expression of a step apart."""
    above: dict[int, int] = {}
    order: list[Op | Leaf | Acc] = []

    def visit(e: object) -> None:
        if id(e) in above or not isinstance(e, Op | Leaf | Acc):
            return
        above[id(e)] = 0
        if isinstance(e, Op):
            for arg in e.args:
                visit(arg)
        order.append(e)

    visit(step.expr)
    for e in reversed(order):
        if isinstance(e, Op):
            for arg in e.args:
                if id(arg) in above:
                    above[id(arg)] = max(above[id(arg)], above[id(e)] + 1)
    ops = [e for e in order if isinstance(e, Op)]
    acc = next(((e, above[id(e)]) for e in order if isinstance(e, Acc)), None)
    return Parts(
        tuple((e, above[id(e)]) for e in order if isinstance(e, Leaf)),
        acc,
        len(ops),
        sum(BY_NAME[op.name].large for op in ops),
        None if acc is None else _terms(acc[0].product, lanes),
    )


class Demand(NamedTuple):
    """What a step takes, by the `key` of each resource; `parts` if it is an expression."""

    amounts: dict[str, int]
    parts: Parts | None


@dataclass(slots=True)
class Tally:
    """Demands step by step, in the order of the model."""

    plan: Floorplan
    seen: dict[object, int] = field(default_factory=dict)
    """What has been counted of things that are there for all once they are there."""

    def step(self, step: Step) -> Demand:
        """What one step takes."""
        found = dict.fromkeys((r.key for r in resources(self.plan)), 0)
        if not isinstance(step, Compute):
            self._other(step, found)
            return Demand(found, None)
        parts = _parts(step, self.plan.machine.vector)
        self._compute(step, parts, found)
        if parts.acc is not None and parts.terms is not None:
            self._product(parts.acc[0].product, parts.terms, found)
        return Demand(found, parts)

    def _once(self, thing: object, amount: int) -> int:
        """The part of an amount that no earlier step asked for."""
        before = self.seen.get(thing, 0)
        self.seen[thing] = max(before, amount)
        return max(0, amount - before)

    def _read(self, value: Value, rows: int, columns: int) -> int:
        return self._once(("read", value.number), rows * columns * value.type.bytes)

    def _compute(self, step: Compute, parts: Parts, found: dict[str, int]) -> None:
        """Leaves and operations; sums of a product enter the VXM if anything uses them there."""
        out = step.out
        elements = out.rows * out.columns
        written = elements * out.type.bytes
        found |= {"accesses": written, "ops": parts.ops * elements, "large": parts.large * elements}
        if parts.ops:
            found["from_vxm"] = written
            found["to_vxm"] = 0 if parts.acc is None else 4 * elements
        indices: dict[int, list[NDArray[np.int64] | None]] = {}
        values: dict[int, Value] = {}
        for leaf, _ in parts.leaves:
            indices.setdefault(leaf.value.number, []).append(leaf.index)
            values[leaf.value.number] = leaf.value
        for number, value in values.items():
            rows = rows_used(value.rows, indices[number], out.rows)
            found["accesses"] += self._read(value, rows, value.columns)
            if parts.ops:
                amount = rows * value.columns * value.type.bytes
                found["to_vxm"] += self._once(("enter", number), amount)

    def _product(self, product: Product, counted: Terms, found: dict[str, int]) -> None:
        """Add what a product takes. fp16 takes several planes for several cycles a vector."""
        mxm, lanes = self.plan.machine.mxm, self.plan.machine.vector
        cost = 1 if product.type == Type.I8 else mxm.fp16_planes * mxm.fp16_interval
        width = product.type.bytes
        found["macs"] += cost * max(counted.macs, counted.sums * lanes)
        found["from_mxm"] += 4 * product.rows * product.columns
        for (array, elements), term in zip(counted.weights, product.terms, strict=True):
            new = width * self._once(("weights", array), elements)
            found["weights"] += new
            found["to_mxm"] += new
            if term.weights.data is not None:
                found["accesses"] += new
        for term, inner in zip(product.terms, counted.inner, strict=True):
            rows = rows_used(term.a.rows, [term.index], product.rows)
            new = self._once(("row", term.a.number, term.byte), rows * inner)
            found["entries"] += cost * new
            found["to_mxm"] += width * new
            if term.byte is None:
                found["accesses"] += self._read(term.a, rows, inner)

    def _other(self, step: Step, found: dict[str, int]) -> None:
        """Movement by itself may vanish into its neighbours and counts nothing."""
        out = step.out
        elements = out.rows * out.columns
        if isinstance(step, Transpose | Broadcast):
            found["accesses"] = elements * out.type.bytes
        elif isinstance(step, Outer):
            found["accesses"] = elements * out.type.bytes
            found["ops"] = (2 * step.a.columns - 1) * elements
