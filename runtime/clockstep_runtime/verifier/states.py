"""States: the words in which an input finds what an output left are theirs alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import geometry
from clockstep_isa.layout import PIECE, Binding
from clockstep_isa.metadata import state_problem
from clockstep_isa.program import Program
from clockstep_runtime.verifier.report import Findings

__all__ = ["check_state_words", "check_states"]

Ints = NDArray[np.int64]


def check_states(program: Program, findings: Findings) -> None:
    """Every state is an input and an output in the same words, which nothing else is loaded into.

    Whether an output was written at all is a matter of the words, as for any other.
    """
    if program.states:
        findings.count("states", len(program.states))
    given, made = ({b.name: b for b in some} for some in (program.inputs, program.outputs))
    held: list[Binding] = []
    for names in program.states:
        source, result = given.get(names[0]), made.get(names[1])
        problem: str | None = f"no input {names[0]!r}, or no output {names[1]!r}"
        if source is not None and result is not None:
            problem = state_problem(source, result)
            held.append(source)
        if problem:
            findings.add("state-binding", 0, "binding", 0, problem)
    if held:
        check_state_words(program, held, findings)


def check_state_words(program: Program, held: list[Binding], findings: Findings) -> None:
    """Report the first word of each run of a state's words that something else is loaded into."""
    names = {binding.name for binding in held}
    own = _places(held)
    rest = [binding for binding in program.inputs if binding.name not in names]
    every = np.concatenate([own, program.image.regions, _places(rest)])
    mine = np.arange(len(every)) < len(own)
    order = np.lexsort((every[:, 2], every[:, 1], every[:, 0]))
    chip, queue, address, words = every[order].T
    same = (np.diff(chip) == 0) & (np.diff(queue) == 0)
    over = same & (address[:-1] + words[:-1] > address[1:])
    over &= mine[order][:-1] | mine[order][1:]
    queues = geometry(program.machine).queues
    for at in np.flatnonzero(over).tolist():
        local = int(queue[at + 1])
        unit = queues[local].name if 0 <= local < len(queues) else f"queue {local}"
        message = f"word {int(address[at + 1])} is of a state and of something else"
        findings.add("state-words", int(chip[at + 1]), unit, 0, message)


def _places(bindings: Iterable[Binding]) -> Ints:
    """(chip, queue, address, words) of all pieces."""
    columns = [PIECE.index(name) for name in ("chip", "queue", "address", "rows")]
    tables = [layout.pieces[:, columns] for b in bindings for layout in b.layouts]
    return np.concatenate([np.zeros((0, 4), np.int64), *tables])
