"""A stretch of steps as calls: what each needs is looked up once, however often it is run."""

from __future__ import annotations

import numpy as np

from clockstep_isa.table import BY_NAME, TABLE
from clockstep_runtime.engine.compute import Compute, compute_of
from clockstep_runtime.engine.gather import Gatherer, Known
from clockstep_runtime.engine.mxm import Arrays, Make
from clockstep_runtime.linker import Linked

__all__ = ["Planned", "plan"]

Planned = tuple[int, Make, list[int]]
"""The value that a step makes, how to make it of all values so far, and those dead after it."""

_INSTALL, _ABC = (TABLE.index(BY_NAME[name]) for name in ("iw", "abc"))


def plan(linked: Linked, known: Known, arrays: Arrays, begin: int, end: int) -> list[Planned]:
    """The steps `begin` to `end` of a linked program."""
    steps = linked.steps[begin:end]
    rows, fields = linked.columns.row[steps], linked.columns.args[steps].tolist()
    products = ((rows == _ABC) | linked.is_sum[begin:end]).tolist()
    # What `iw` takes is left to `arrays`, which keep what they made of it.
    loads = rows == _INSTALL
    sizes = np.diff(linked.operands_of[begin : end + 1])
    operands = linked.operands.between(*linked.operands_of[[begin, end]].tolist())
    operands = operands.take(np.flatnonzero(np.repeat(~loads, sizes)))
    gather, owners = Gatherer(known, operands), operands.owner.tolist()
    bounds = np.cumsum([0, *np.where(loads, 0, sizes)]).tolist()
    deaths = linked.dead_after[begin : end + 1].tolist()
    lanes = linked.program.machine.lanes.per_superlane
    planned: list[Planned] = []
    for i, (value, row) in enumerate(zip(steps.tolist(), rows.tolist(), strict=True)):
        first, last = bounds[i], bounds[i + 1]
        if products[i]:
            make = arrays.multiplier(gather, owners[first:last], first)
        elif row == _INSTALL:
            make = arrays.installer(begin + i)
        else:
            make = _computer(compute_of(row, fields[i], lanes), gather, first, last)
        planned.append((value, make, linked.dead[deaths[i] : deaths[i + 1]].tolist()))
    return planned


def _computer(compute: Compute, gather: Gatherer, first: int, last: int) -> Make:
    value = gather.value
    if last == first + 1:
        return lambda values: compute(value(first, values))
    numbers = range(first, last)
    return lambda values: compute(*[value(number, values) for number in numbers])
