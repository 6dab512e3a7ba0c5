"""The longest chain of dependent steps, each at its least latency and the machine's full rate.

Of every matrix three times are known: before the first no element is there, before the second no
whole row, before the third not all of it. A step that starts while the one before it still runs
waits for an element or a row; one that needs all (the columns of an array) for everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from clockstep_compiler.bounds.parts import Ints, Parts, rows_used
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.steps import (
    Broadcast,
    Compute,
    Lookup,
    Move,
    Outer,
    Put,
    Relayout,
    Step,
    Value,
    Weights,
    sources_of,
)

__all__ = ["Path", "Ready"]


class Ready(NamedTuple):
    """The cycles before which no element, no row, not all of a matrix can be read."""

    element: int = 0
    row: int = 0
    all: int = 0


@dataclass(slots=True)
class _Times:
    """The latest of what the three times of a result follow from."""

    element: int = 0
    row: int = 0
    all: int = 0

    def after(self, element: int = 0, row: int = 0, every: int = 0) -> None:
        self.element = max(self.element, element)
        self.row = max(self.row, row, self.element)
        self.all = max(self.all, every, self.row)

    def ready(self) -> Ready:
        return Ready(self.element, self.row, self.all)


@dataclass(slots=True)
class Path:
    """Times of the results of steps, in the order of the model.

    `cycles_of` says how long a demand takes at the full rate of all chips. Constant weights have to
    be installed first, unless `alone`: then an earlier node may have left them there.
    """

    plan: Floorplan
    cycles_of: Callable[[str, int], int]
    alone: bool = False
    times: dict[int, Ready] = field(default_factory=dict)

    def step(self, step: Step, parts: Parts | None, demand: Mapping[str, int]) -> Ready:
        """The times of a step's result, kept for those that read it."""
        times = _Times()
        if isinstance(step, Compute):
            assert parts is not None
            self._compute(step, parts, demand, times)
        elif isinstance(step, Outer):
            self._sums(step, demand, times)
        else:
            self._moved(step, times)
        self.times[step.out.number] = times.ready()
        return times.ready()

    def _of(self, value: Value) -> Ready:
        return self.times.get(value.number, Ready())

    # -- latencies ----------------------------------------------------------------------------

    @property
    def _memory(self) -> int:
        """From one place of SRAM to another, on a stream."""
        mem = self.plan.machine.mem
        return mem.read_latency + 1 + mem.write_latency

    def _inner(self, width: int) -> int:
        """From as many slices as an element has bytes to the VXM, or back; each has one byte."""
        m = self.plan.machine
        return m.vxm.hops_from_mem + (width - 1) // m.mem.slices_per_hop

    def _outer(self, width: int) -> int:
        """The same to the MXM, from the outermost slices."""
        m = self.plan.machine
        count, a_hop = m.mem.slices_per_hemisphere, m.mem.slices_per_hop
        return m.mxm.hops_from_mem + (count - 1) // a_hop - max(0, count - width) // a_hop

    def _vector(self, ops: int, read: int, written: int) -> int:
        """From SRAM through that many operations, one after the other, back to SRAM.

        `read` and `written` are the bytes of an element before and after.
        """
        if not ops:
            return self._memory
        mem = self.plan.machine.mem
        return mem.read_latency + self._inner(read) + self._operations(ops, written)

    def _operations(self, ops: int, written: int) -> int:
        """From the sampling of the first operation to the result in SRAM."""
        vxm, mem = self.plan.machine.vxm, self.plan.machine.mem
        steps = ops * vxm.op_latency + (ops - 1) * vxm.hops_per_rank
        return steps + self._inner(written) + mem.write_latency

    def _matrix(self, ops: int, read: int, written: int) -> int:
        """From SRAM through the array and the operations, back to SRAM."""
        m, mxm = self.plan.machine, self.plan.machine.mxm
        array = m.mem.read_latency + self._outer(read)
        array += mxm.multiply_latency + mxm.accumulate_latency
        if not ops:
            return array + self._outer(written) + m.mem.write_latency
        across = (m.mem.slices_per_hemisphere - 1) // m.mem.slices_per_hop
        edge = mxm.hops_from_mem + across + m.vxm.hops_from_mem
        return array + edge + self._operations(ops, written)

    # -- steps --------------------------------------------------------------------------------

    def _compute(
        self, step: Compute, parts: Parts, demand: Mapping[str, int], times: _Times
    ) -> None:
        """Elements of leaves; where all operations follow from one source, all of them take time.

        Of operations in a chain the last of all may be the only one that is left to do.
        """
        alone = len(parts.leaves) + (parts.acc is not None) == 1
        work = self.cycles_of("ops", demand["ops"]) if alone else 1
        for leaf, ops in parts.leaves:
            ends = leaf.value.type.bytes, step.out.type.bytes
            ready, latency = self._of(leaf.value), self._vector(ops, *ends)
            whole = rows_used(leaf.value.rows, [leaf.index], step.out.rows) == leaf.value.rows
            row = ready.row if leaf.tile is None else ready.element
            every = ready.all if whole and leaf.tile is None else 0
            times.after(ready.element + latency, row + latency, every + latency)
            times.after(every=ready.element + work - 1 + self._vector(min(ops, 1), *ends))
        if parts.acc is not None:
            self._product(parts, demand, work, step.out.type.bytes, times)

    def _product(
        self, parts: Parts, demand: Mapping[str, int], work: int, written: int, times: _Times
    ) -> None:
        assert parts.acc is not None
        assert parts.terms is not None
        (acc, ops), counted = parts.acc, parts.terms
        product = acc.product
        latency = self._matrix(ops, product.type.bytes, written)
        alone = len({term.a.number for term in product.terms}) == 1
        passes = self.cycles_of("macs", demand["macs"]) if alone else 1
        for term, inner in zip(product.terms, counted.inner, strict=True):
            ready = self._of(term.a)
            indices = [t.index for t in product.terms if t.a is term.a]
            every = inner == term.a.columns
            whole = every and rows_used(term.a.rows, indices, product.rows) == term.a.rows
            row = ready.row if every else ready.element
            element = row if counted.dense else ready.element
            times.after(element + latency, row + latency, ready.all * whole + latency)
            times.after(every=ready.element + passes - 1 + latency)
            if alone:
                times.after(every=ready.element + work - 1 + self._matrix(min(ops, 1), 1, written))
        installed = latency + 1 + self.plan.machine.mxm.install_latency
        for term in product.terms:
            self._weights(term.weights, product.w_set, installed, times)

    def _weights(self, weights: Weights, w_set: Ints | None, latency: int, times: _Times) -> None:
        """A row of the result needs every column of its set."""
        if not weights.matrices:
            if not self.alone:
                times.after(latency, latency, latency)
            return
        ready = self._of(weights.matrices[0])
        row = ready.all if weights.sets == 1 else ready.row
        every = w_set is None or len(np.unique(w_set)) == weights.sets
        whole = every and weights.sets * weights.columns == weights.matrices[0].rows
        times.after(
            ready.row + latency,
            (row if whole else ready.row) + latency,
            (ready.all if whole else ready.row) + latency,
        )

    def _sums(self, step: Outer, demand: Mapping[str, int], times: _Times) -> None:
        """A product and, one after the other, the sums."""
        a, b = self._of(step.a), self._of(step.b)
        ends = step.a.type.bytes, step.out.type.bytes
        depth = step.a.columns
        last, chain = self._vector(min(2, depth), *ends), self._vector(depth, *ends)
        work = self.cycles_of("ops", demand["ops"])
        whole = rows_used(step.a.rows, [step.index], step.out.rows) == step.a.rows
        times.after(
            max(a.element + chain, a.row + last, b.element + last), every=a.all * whole + last
        )
        times.after(every=min(a.element, b.element) + work - 1 + self._vector(1, *ends))

    def _moved(self, step: Step, times: _Times) -> None:
        latency = 0 if isinstance(step, Move | Relayout | Put) else self._memory
        for source in sources_of(step):
            ready = self._of(source)
            element, row, every = _needs(step, source)
            times.after(
                ready.element + latency if element else 0,
                {"row": ready.row, "all": ready.all}.get(row, 0) + latency,
                (ready.all if every else 0) + latency,
            )


def _needs(step: Step, source: Value) -> tuple[bool, str, bool]:
    """What a movement asks of a source: whether all that it moves is from there; what a row of the
    result needs, a "row", "all" or ""; whether it takes every element.

    A `Move` or a `Relayout` may vanish into what stands beside it, and has no latency of its own.
    """
    out = step.out
    if isinstance(step, Move):
        alone = len(step.sources) == 1 and bool((step.index >= 0).all())
        if len(step.sources) > 1 or step.index.size < source.rows * source.columns:
            return alone, "", False
        taken = np.zeros(source.rows * source.columns, bool)
        taken[step.index[step.index >= 0]] = True
        every = bool(taken.all())
        return alone, "all" if every and out.rows == 1 else "", every
    if isinstance(step, Lookup):
        return True, "row", True
    if isinstance(step, Put):
        return False, "", False  # all rows but one are there from the start
    if isinstance(step, Broadcast):
        return True, "row", True
    if isinstance(step, Relayout):
        joined = out.columns % source.columns == 0
        return True, "all" if out.rows == 1 else "row" if joined else "", True
    return True, "", True
