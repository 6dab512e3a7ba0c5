"""A session: a program verified and linked once, and run as often as wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import ScheduleViolation, UsageError
from clockstep_isa.layout import tensor_dtype
from clockstep_isa.program import Program
from clockstep_runtime.engine import Engine
from clockstep_runtime.inputs import Execution, StateWords, check_inputs
from clockstep_runtime.interpreter import interpret
from clockstep_runtime.linker import link
from clockstep_runtime.verifier import check_entries, verify

__all__ = ["ENGINES", "Session"]

Tensor = NDArray[Any]
ENGINES = ("fast", "reference")
"""Ways to execute: the linked graph with numpy, or the interpreter, one cycle at a time."""


class Session:
    """Runs one program. Making it verifies the program: `ScheduleViolation` if that fails.

    `engine` is one of `ENGINES`; both give the same bits and the same cycles. A state that a run
    is not given is what the run before left, whichever entry that was of; zeros before the first.
    `reset` forgets them all.
    """

    def __init__(self, program: Program, engine: str = "fast") -> None:
        if engine not in ENGINES:
            raise UsageError(
                "option-engine", f"no engine {engine!r}; there is {' and '.join(ENGINES)}"
            )
        self.program = program
        self.engine = engine
        self._entries = program.entries
        self._engines: dict[str, Engine] = {}
        self._states = dict(program.states)
        self._left: dict[str, Tensor] = {}
        self._words: list[dict[str, StateWords]] = []  # of each run, where runs are stepped
        reports = [check_entries(program)] if program.others else []
        if engine == "fast":
            self._engines = {name: Engine(link(one)) for name, one in self._entries.items()}
        else:
            reports += map(verify, self._entries.values())
        for report in reports:
            if not report.ok:
                raise ScheduleViolation(report.violations)

    @property
    def cycles(self) -> int:
        """The cycles of every run, found without one: by the linker, or by stepping blank words.

        Needs neither inputs nor weights, so it is there for programs compiled without these.
        """
        if self._engines:
            return self._engines[self.program.name].linked.cycles
        words, lanes = int(self.program.image.regions[:, 3].sum()), self.program.machine.vector
        blank = np.broadcast_to(np.zeros((1, lanes), np.uint8), (words, lanes))
        image = replace(self.program.image, data=blank)
        inputs = {b.name: np.zeros(b.shape, tensor_dtype(b.dtype)) for b in self.program.inputs}
        return interpret(replace(self.program, image=image), inputs).cycles

    def reset(self) -> None:
        """Forget what runs have left: states are zeros again."""
        self._left, self._words = {}, []

    def execute(self, inputs: Mapping[str, Tensor], entry: str | None = None) -> Execution:
        """Run on inputs by name, with the bindings' shapes and types; an `entry`, or the first.

        If the inputs have one leading axis more than their bindings, of the same length for all,
        every index is a run of its own, with states of its own from then on, and the outputs are
        stacked along such an axis; the cycles are those of one run. Raises `UsageError` if they
        are not what the program wants.
        """
        program = self._entries[self.program.name]
        if entry is not None:
            program = self.program.entry(entry)
        check_inputs(program, inputs, self._states)
        batch = self._batch(program, inputs)
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        arrays |= {n: self._kept(n, batch) for n in self._states if n not in inputs}
        engine = self._engines.get(program.name)
        if engine is None:
            done = self._stepped(program, arrays, batch, frozenset(inputs))
        else:
            many = arrays if batch is not None else {n: value[None] for n, value in arrays.items()}
            outputs = engine.run(many, batch or 1)
            if batch is None:
                outputs = {name: value[0] for name, value in outputs.items()}
            done = Execution(outputs, engine.linked.cycles)
        self._left = {given: done.outputs[made] for given, made in self._states.items()}
        return done

    def _stepped(
        self,
        program: Program,
        arrays: Mapping[str, Tensor],
        batch: int | None,
        given: frozenset[str],
    ) -> Execution:
        """As `execute`, one cycle at a time. States that are not `given` are words as they were
        left, in every lane."""
        count = batch or 1
        left = self._words * (count if len(self._words) == 1 else 1) or [{}] * count
        left = [{n: words for n, words in one.items() if n not in given} for one in left]
        runs = [
            interpret(
                program,
                {n: v if batch is None else v[i] for n, v in arrays.items() if n not in left[i]},
                left[i],
            )
            for i in range(count)
        ]
        self._words = [run.words for run in runs]
        if batch is None:
            return runs[0]
        assert len({run.cycles for run in runs}) == 1, "data changed the cycles"
        outputs = {b.name: np.stack([run.outputs[b.name] for run in runs]) for b in program.outputs}
        return Execution(outputs, runs[0].cycles)

    def _kept(self, name: str, batch: int | None) -> Tensor:
        """A state as it was left, for each run of a batch."""
        binding = next(b for b in self.program.inputs if b.name == name)
        left = self._left.get(name)
        if left is None:
            left = np.zeros(binding.shape, tensor_dtype(binding.dtype))
        runs = left.shape[: left.ndim - len(binding.shape)]
        if runs and runs != (batch,):
            message = f"states were left by a batch of {runs[0]} runs, not by {batch or 'one'}"
            raise UsageError("state-batch", message, help="reset the session, or give the states")
        return np.broadcast_to(left, left.shape if batch is None else (batch, *binding.shape))

    def run(self, inputs: Mapping[str, Tensor], entry: str | None = None) -> dict[str, Tensor]:
        """The outputs of `execute`, by name."""
        return self.execute(inputs, entry).outputs

    def _batch(self, program: Program, inputs: Mapping[str, Tensor]) -> int | None:
        """The length of the leading axis that all inputs have more than asked; None if none has.

        States that are not given do not count.
        """
        sizes: set[int | None] = set()
        for binding in program.inputs:
            if binding.name in self._states and binding.name not in inputs:
                continue
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
