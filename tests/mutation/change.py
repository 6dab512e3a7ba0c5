"""What a mutant is, and the small steps that all changes are made of."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from clockstep_isa import BY_OPCODE, Code, Program, end_cycle, print_listing, queue_name

__all__ = ["Draw", "Mutant", "explain", "patched", "with_code"]

_T = TypeVar("_T")
_WIDEST = 200
"""Characters of a changed line that are shown; lines of data are longer."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed program. `what` names the field or the change; `same`: it has to act as before."""

    program: Program
    what: str
    same: bool = False


class Draw:
    """The random choices of one mutant."""

    def __init__(self, *seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(list(seed)))

    def below(self, count: int) -> int:
        return int(self._generator.integers(count))

    def one(self, options: Sequence[_T]) -> _T:
        return options[self.below(len(options))]

    def once_in(self, times: int) -> bool:
        return self.below(times) == 0


def patched(code: Code, row: int | list[int], **columns: Any) -> Code:
    """The code with some columns of an instruction, or several, replaced; `args` is a whole row."""
    changed = {}
    for name, value in columns.items():
        changed[name] = getattr(code, name).copy()
        changed[name][row] = value
    return dataclasses.replace(code, **changed)


def with_code(program: Program, code: Code) -> Program:
    """The program with other instructions, promising the cycles that these take."""
    code = code.sorted()
    return dataclasses.replace(program, code=code, cycles=end_cycle(program.machine, code))


def explain(before: Program, after: Program) -> str:
    """The lines of the listing that differ; columns as numbers where no listing can be printed."""
    lines = difflib.unified_diff(_lines(before, after), _lines(after, before), n=0, lineterm="")
    return "\n".join(line[:_WIDEST] for line in lines if line[:2] not in ("--", "++", "@@"))


def _lines(program: Program, other: Program) -> list[str]:
    if _printable(program) and _printable(other):
        return print_listing(program).splitlines()
    code = program.code
    columns = (code.queue, code.cycle, code.opcode, code.repeat, code.interval, code.args)
    return [
        f"queue {queue} cycle {cycle} opcode {opcode} repeat {repeat}/{interval} fields {args}"
        for queue, cycle, opcode, repeat, interval, args in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def _printable(program: Program) -> bool:
    """Whether the program can be written as a listing, which has no word for what is illegal."""
    known = all(opcode in BY_OPCODE for opcode in program.code.opcode.tolist())
    try:
        for queue in program.code.queue.tolist():
            queue_name(program.machine, queue)
        return known and bool(print_listing(program))
    except (IndexError, KeyError, ValueError):
        return False
