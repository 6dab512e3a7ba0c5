"""Steps that are executed together: what makes a vector, and all that is then done to its elements.

A value that only instructions of the VXM use, vector by vector, is no more than a register between
them: with its users it can be computed a few vectors at a time, and is never there as a whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.table import TABLE
from clockstep_runtime.linker.operands import Operands
from clockstep_runtime.verifier import Columns

__all__ = ["together"]

Ints = NDArray[np.int64]


def together(
    columns: Columns, operands: Operands, place: Ints, steps: Ints, is_sum: NDArray[np.bool_]
) -> Ints:
    """For each step the last one of those that it is executed with: itself, or one after it.

    `place` says for each operand which step, or after these which output, uses it, or -1.
    Nothing outside of a group uses what its steps make, but for the last one.
    """
    root = np.arange(len(steps))
    step_of = np.full(int(max(len(columns) - 1, operands.value.max(initial=-1))) + 1, -1, np.int64)
    step_of[steps] = root
    each = np.repeat(np.arange(len(operands)), np.diff(operands.begin))
    maker, user = step_of[operands.value], place[each]
    edges = np.flatnonzero((maker >= 0) & (user >= 0))
    edges = edges[np.argsort(maker[edges], kind="stable")]
    maker, user, each = maker[edges], user[edges], each[edges]
    vxm = np.array([row.unit is Unit.VXM for row in TABLE])[columns.row[steps]]
    makes = vxm.copy()
    makes[np.isin(steps, columns.where("abc"))] = True
    takes = np.append(vxm & ~is_sum, False)[np.minimum(user, len(steps))]
    makes[maker[~(takes & operands.entire(columns)[each])]] = False
    inner = makes[maker]
    maker, user = maker[inner], user[inner]
    begins = np.flatnonzero(np.diff(maker, prepend=-1))
    if not len(begins):
        return root
    while True:
        of = root[user]
        first, last = np.minimum.reduceat(of, begins), np.maximum.reduceat(of, begins)
        joined = root.copy()
        joined[maker[begins]] = np.where(first == last, first, root[maker[begins]])
        joined = joined[joined]
        if np.array_equal(joined, root):
            return root
        root = joined
