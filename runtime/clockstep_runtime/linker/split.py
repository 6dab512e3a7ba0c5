"""Instructions taken apart: the same dispatches, as several instructions.

An activation across which the array changes, and instructions that feed each other element by
element, cannot be executed as one operation each. Compiled programs have none of these.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.program import Code, Program
from clockstep_isa.table import TABLE
from clockstep_runtime.verifier import Columns, expand

__all__ = ["taken_apart"]

Ints = NDArray[np.int64]


def taken_apart(program: Program, columns: Columns, which: Ints) -> Program:
    """The program with every dispatch of the instructions `which` one of its own."""
    pieces = np.ones(len(columns), np.int64)
    pieces[which] = columns.count[which]
    each, number = expand(pieces)
    parts = columns.take(each)
    apart = np.isin(each, which)
    args = parts.args.copy()
    for name in ("address", "column"):
        for index, row in enumerate(TABLE):
            names = [item.name for item in row.fields]
            if name in names and "stride" in names:
                mine = np.flatnonzero(apart & (parts.row == index))
                stride = parts.args[mine, names.index("stride")]
                args[mine, names.index(name)] += number[mine] * stride
    opcode = np.array([row.opcode for row in TABLE], np.uint8)
    code = Code(
        parts.queue.astype(np.int32),
        parts.start + np.where(apart, number * parts.step, 0),
        opcode[parts.row],
        np.where(apart, 1, parts.count).astype(np.int32),
        parts.step.astype(np.int32),
        args,
        np.full(len(each), -1, np.int32),
    )
    return replace(program, code=code)
