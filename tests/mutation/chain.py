"""A few changes that the verifier accepts, one after the other, and then one more.

So mutants stray from what a compiler would write, while they stay programs that run.
"""

from __future__ import annotations

from clockstep_isa import Program
from clockstep_runtime import verify
from tests.mutation.change import Draw, Mutant
from tests.mutation.fields import field_mutant
from tests.mutation.structure import structural_mutant

__all__ = ["chained_mutant"]

_LONGEST = 12


def chained_mutant(program: Program, draw: Draw) -> Mutant:
    """A mutant of a mutant of a mutant, of which all but the last one are legal programs."""
    for _ in range(1 + draw.below(_LONGEST)):
        changed = _step(program, draw).program
        if verify(changed).ok:
            program = changed
    last = _step(program, draw)
    return Mutant(last.program, last.what)


def _step(program: Program, draw: Draw) -> Mutant:
    return structural_mutant(program, draw) if draw.once_in(4) else field_mutant(program, draw)
