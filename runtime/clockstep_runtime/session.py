"""A session: a program verified once and run as often as wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import ScheduleViolation, UsageError
from clockstep_isa.program import Program
from clockstep_runtime.interpreter import Execution, interpret
from clockstep_runtime.verifier import verify

__all__ = ["Session"]

Tensor = NDArray[Any]


class Session:
    """Runs one program. Making it verifies the program: `ScheduleViolation` if that fails."""

    def __init__(self, program: Program) -> None:
        report = verify(program)
        if not report.ok:
            raise ScheduleViolation(report.violations)
        self.program = program

    def execute(self, inputs: Mapping[str, Tensor]) -> Execution:
        """Run on inputs by name, with the bindings' shapes and types.

        If the inputs have one leading axis more than their bindings, of the same length for all,
        the program runs once for each index, and the outputs are stacked along such an axis; the
        cycles are those of one run. Raises `UsageError` if they are not what the program wants.
        """
        batch = self._batch(inputs)
        if batch is None:
            return interpret(self.program, inputs)
        runs = [
            interpret(self.program, {name: np.asarray(value)[i] for name, value in inputs.items()})
            for i in range(batch)
        ]
        assert len({run.cycles for run in runs}) == 1, "data changed the cycles"
        outputs = {
            b.name: np.stack([run.outputs[b.name] for run in runs]) for b in self.program.outputs
        }
        return Execution(outputs, runs[0].cycles)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of `execute`, by name."""
        return self.execute(inputs).outputs

    def _batch(self, inputs: Mapping[str, Tensor]) -> int | None:
        """The length of the leading axis that all inputs have more than asked; None if none has."""
        sizes: set[int | None] = set()
        for binding in self.program.inputs:
            shape = np.shape(inputs.get(binding.name, ()))
            extra = len(shape) == len(binding.shape) + 1 and shape[1:] == binding.shape
            sizes.add(shape[0] if extra else None)
        if not sizes or sizes == {None}:
            return None
        size = sizes.pop()
        if sizes or not size:
            raise UsageError(
                "input-batch",
                "a batch of runs needs the same leading axis, not empty, on every input",
            )
        return size
