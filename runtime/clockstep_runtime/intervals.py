"""How often a program may be started: what is done of one run while another is under way.

Chips that have done their part of a run may begin that of the next. To let runs meet on a chip,
`_spans` would have to tell its units apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import geometry
from clockstep_isa.parts import PLACE, parts_of
from clockstep_isa.program import Program
from clockstep_isa.table import TABLE, figure

__all__ = ["interval"]


def interval(program: Program) -> int:
    """Cycles after which the next run may start: the longest for which a chip is busy with one.

    Copies take runs in turn: of n, each has n times as long, and they start an n-th of it apart,
    rounded up.

    A chip is busy from its first dispatch until all results are there, streams have run off the
    chip and links have taken what was sent. So no two runs ever share a unit, a stream, a word or
    a link, and on every chip each finds what the one before left, as if it had begun after its end.
    The host puts inputs where a chip reads them before its part of a run, and fetches outputs after
    it; that takes no time, as it does between runs that follow one another.
    """
    first, end = _spans(program)
    busy = end > first
    if not busy.any():
        return 0
    machine = program.machine
    settling = geometry(machine).positions + machine.c2c.cycles_per_vector
    alone = min(int(end.max()), int((end - first)[busy].max()) + settling)
    return -(-alone // program.copies)


def _spans(program: Program) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[chips]: the first dispatch of each chip, and one past the cycle of its last result."""
    machine = program.machine
    queues = len(geometry(machine).queues)
    latency = np.ones(256, np.int64)
    for row in TABLE:
        latency[row.opcode] = max(1, figure(machine, row.latency))
    first = np.full(program.chips, np.iinfo(np.int64).max)
    end = np.zeros(program.chips, np.int64)
    for part in parts_of(program):
        code, chip = part.code, part.code.queue // queues
        last = code.cycle + (code.repeat.astype(np.int64) - 1) * code.interval
        for place in part.places:
            at, start = (int(place[PLACE.index(name)]) for name in ("chip", "cycle"))
            np.minimum.at(first, chip + at, code.cycle + start)
            np.maximum.at(end, chip + at, last + latency[code.opcode] + start)
    return first, end
