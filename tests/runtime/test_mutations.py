"""One field of one instruction changed: interpreter and verifier agree on what that does.

The two share no code. Where the interpreter faults the verifier must report that very fault; what
the verifier accepts must run in the cycles the words imply; and it refuses nothing that runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from clockstep_isa.diagnostics import Fault
from clockstep_isa.geometry import geometry
from clockstep_isa.program import Program, end_cycle
from clockstep_isa.table import BY_OPCODE, TABLE, Kind, Type
from clockstep_runtime import interpret, random_inputs, verify
from tests.support.handmade import adder, matmul, two_chips

PROGRAMS: dict[str, Callable[[], Program]] = {
    "adder": lambda: adder(5, 2).program(),
    "int8": lambda: matmul(Type.I8, 6)[0].program(),
    "fp16": lambda: matmul(Type.F16, 6)[0].program(),
    "two-chips": lambda: two_chips().program(),
}
COUNT = 400


def mutated(program: Program, generator: np.random.Generator) -> Program:
    """A copy with one field of one instruction changed, and the promise as the words imply."""
    code = program.code
    row = int(generator.integers(len(code)))
    fields = BY_OPCODE[int(code.opcode[row])].fields
    names = ["queue", "cycle", "cycle", "opcode", "repeat", "interval", *["args"] * len(fields)]
    name = names[int(generator.integers(len(names)))]
    column = getattr(code, name).copy()
    if name == "queue":
        queues = geometry(program.machine).queues
        column[row] = generator.integers(program.chips * len(queues))
    elif name == "opcode":
        column[row] = TABLE[int(generator.integers(len(TABLE)))].opcode
    elif name == "args":
        index = int(generator.integers(len(fields)))
        item = fields[index]
        step = generator.choice([-4, -2, -1, 1, 2, 4])
        low = -(1 << (item.bits - 1)) if item.kind is Kind.SIGNED else 0
        column[row, index] = max(low, int(column[row, index]) + step)
    else:
        column[row] = max(int(name != "cycle"), column[row] + generator.choice([-2, -1, 1, 2, 5]))
    changed = dataclasses.replace(code, **{name: column}).sorted()
    cycles = end_cycle(program.machine, changed)
    return dataclasses.replace(program, code=changed, cycles=cycles)


@pytest.mark.parametrize("name", PROGRAMS)
def test_mutations(name: str) -> None:
    program = PROGRAMS[name]()
    inputs = random_inputs(program, 0)
    generator = np.random.default_rng(list(PROGRAMS).index(name))
    accepted = 0
    for _ in range(COUNT):
        mutant = mutated(program, generator)
        report = verify(mutant)
        try:
            cycles = interpret(mutant, inputs).cycles
        except Fault as fault:
            place = (fault.diagnostic.code, fault.chip, fault.unit, fault.cycle)
            assert place in [(v.code, v.chip, v.unit, v.cycle) for v in report.violations]
            continue
        assert report.violations == ()
        assert cycles == mutant.cycles
        accepted += 1
    # Both kinds occur, or the test would show nothing.
    assert 0 < accepted < COUNT
