"""The clock: one cycle at a time over all chips, in the order the machine works in.

In every cycle: the queues dispatch; every instruction that is due samples its operands and acts;
results due are written into the registers at their units; all registers move one hop.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import Fault
from clockstep_isa.geometry import Queue, Unit, geometry
from clockstep_isa.layout import Binding
from clockstep_isa.program import Program
from clockstep_runtime.inputs import Execution, StateWords, check_inputs
from clockstep_runtime.interpreter.chip import Chip, Network
from clockstep_runtime.interpreter.decode import Issue, decode
from clockstep_runtime.interpreter.memory import NEVER, Slice
from clockstep_runtime.interpreter.observer import Observer

__all__ = ["interpret", "observe"]

Tensor = NDArray[Any]


def interpret(
    program: Program,
    inputs: Mapping[str, Tensor],
    words: Mapping[str, StateWords] | None = None,
) -> Execution:
    """Run a program on one set of inputs, given by name with the bindings' shapes and types.

    `words` are what another run left of states, by their inputs, which then need no tensor.

    The cycles are found by running until every queue is empty and every latency has passed.
    Raises `UsageError` if the inputs are not those of the program, or it has no weights;
    `Fault`, naming chip, unit and cycle, at the first hard error of the time model. Pieces of
    bindings are taken to lie inside their tensors, which `verify` checks.
    """
    left = words or {}
    check_inputs(program, inputs, left)
    run = _Run(program, Observer())
    run.load(inputs, left)
    cycles = run.run()
    outputs = {binding.name: run.fetch(binding, cycles) for binding in program.outputs}
    return Execution(outputs, cycles, run.left())


def observe(
    program: Program, inputs: Mapping[str, Tensor], observer: Observer, until: int | None = None
) -> None:
    """Run a program as `interpret` does and tell `observer` what happens.

    With `until`, the run ends after that cycle; outputs are never fetched. Same errors.
    """
    check_inputs(program, inputs)
    run = _Run(program, observer)
    run.load(inputs, {})
    run.run(until)


@dataclass(slots=True)
class _QueueState:
    """A queue is held until `span_end`, and its unit by one dispatch until `free`."""

    span_end: int = 0
    free: int = 0


@dataclass(slots=True)
class _Agenda:
    """What acts in one cycle: (issue, dispatch number), sources before samplers."""

    sources: list[tuple[Issue, int]] = field(default_factory=list)
    samplers: list[tuple[Issue, int]] = field(default_factory=list)


class _Run:
    def __init__(self, program: Program, observer: Observer) -> None:
        self._program = program
        self._observer = observer
        self._queues = geometry(program.machine).queues
        network = Network(program.machine, program.chips)
        self._chips = [Chip(program.machine, n, network, observer) for n in range(program.chips)]
        self._states: dict[int, _QueueState] = {}
        self._agendas: dict[int, _Agenda] = {}
        self._end = 0
        # Dispatches to come: (cycle, queue, index of the instruction, dispatch number).
        code = program.code
        self._pending = [
            (cycle, queue, index, 0)
            for index, (cycle, queue) in enumerate(
                zip(code.cycle.tolist(), code.queue.tolist(), strict=True)
            )
        ]
        self._issues: dict[int, Issue] = {}
        heapq.heapify(self._pending)

    def load(self, inputs: Mapping[str, Tensor], words: Mapping[str, StateWords]) -> None:
        """Put the image, the inputs and the `words` of states into SRAM, and see that there is a
        place for outputs."""
        image, at = self._program.image, 0
        for chip, queue, address, count in image.regions.tolist():
            assert image.data is not None
            self._place(chip, queue, address, image.data[at : at + count])
            at += count
        for binding in self._program.inputs:
            if binding.name not in words:
                binding.encode(inputs[binding.name], self._place)
                continue
            for place, block in zip(_pieces(binding), words[binding.name], strict=True):
                self._place(*place[:3], block)
        for layout in (layout for b in self._program.outputs for layout in b.layouts):
            for _, _, rows, _, _, chip, queue, address in layout.pieces.tolist():
                self._memory(chip, queue, address, rows, 0)

    def run(self, last: int | None = None) -> int:
        """Step until nothing is left to do, or through cycle `last`; how many cycles that took."""
        cycle = 0
        while self._pending or cycle < self._end:
            if self._idle():
                # Nothing moves or waits anywhere: let the cycles up to the next dispatch pass.
                cycle = self._pending[0][0] if self._pending else self._end
            if last is not None and cycle > last:
                return last + 1
            if cycle < self._end or self._pending:
                self._step(cycle)
                cycle += 1
        for chip in self._chips:
            # The last results reach their registers as the program ends.
            chip.deliver(cycle)
        return cycle

    def _idle(self) -> bool:
        quiet = not any(chip.streams.occupied or chip.results for chip in self._chips)
        return quiet and not self._agendas

    def _step(self, cycle: int) -> None:
        self._dispatch(cycle)
        agenda = self._agendas.pop(cycle, None)
        if agenda:
            # An array installed in this cycle meets the vectors sampled in it, and nothing that
            # has no operands depends on one that has: so those act first.
            for issue, step in agenda.sources + agenda.samplers:
                self._chips[issue.chip].act(issue, step, cycle)
        for chip in self._chips:
            if chip.results:
                chip.deliver(cycle)
        for chip in self._chips:
            if chip.streams.occupied:
                chip.streams.move()

    def _dispatch(self, cycle: int) -> None:
        pending = self._pending
        while pending and pending[0][0] == cycle:
            _, queue, index, step = pending[0]
            issue = self._issues.get(index) or self._decode(queue, index)
            if issue.row.unit is Unit.MEM:
                self._chips[issue.chip].claim_bank(issue, step, cycle)
            self._claim_queue(queue, issue, step, cycle)
            self._observer.dispatched(issue, step, cycle)
            self._end = max(self._end, cycle + max(1, issue.latency))
            agenda = self._agendas.setdefault(cycle + issue.skew, _Agenda())
            (agenda.samplers if issue.inputs else agenda.sources).append((issue, step))
            if step + 1 < issue.repeat:
                heapq.heapreplace(pending, (cycle + issue.interval, queue, index, step + 1))
            else:
                heapq.heappop(pending)
                del self._issues[index]

    def _decode(self, queue: int, index: int) -> Issue:
        code = self._program.code
        chip, local = self._locate(queue, int(code.cycle[index]))
        issue = decode(self._program.machine, chip, local, code, index)
        self._issues[index] = issue
        return issue

    def _locate(self, queue: int, cycle: int) -> tuple[int, Queue]:
        chip, local = divmod(queue, len(self._queues))
        if not 0 <= chip < self._program.chips:
            message = f"queue {queue} does not exist: the program has {self._program.chips} chips"
            raise Fault("unit-missing", message, chip=chip, unit=f"queue {queue}", cycle=cycle)
        return chip, self._queues[local]

    def _claim_queue(self, queue: int, issue: Issue, step: int, cycle: int) -> None:
        state = self._states.setdefault(queue, _QueueState())
        if step == 0:
            if cycle < state.span_end:
                message = f"its queue is held until cycle {state.span_end}"
                raise issue.fault("queue-overlap", message, cycle)
            state.span_end = cycle + (issue.repeat - 1) * issue.interval + 1
        if cycle < state.free:
            code = "link-busy" if issue.row.unit is Unit.SEND else "unit-busy"
            message = f"the unit is busy until cycle {state.free}"
            raise issue.fault(code, message, cycle)
        state.free = cycle + issue.busy

    def fetch(self, binding: Binding, cycle: int) -> Tensor:
        """An output tensor from SRAM after the last cycle."""

        def words(chip: int, queue: int, address: int, rows: int) -> NDArray[np.uint8]:
            memory = self._memory(chip, queue, address, rows, cycle)
            if (memory.readable[address : address + rows] == NEVER).any():
                message = f"output {binding.name!r} lies in words that were never written"
                unit = self._queues[queue].name
                raise Fault("word-unwritten", message, chip=chip, unit=unit, cycle=cycle)
            return memory.words[address : address + rows]

        return binding.decode(words)

    def left(self) -> dict[str, StateWords]:
        """The words of all states, as they are now."""
        states = dict(self._program.states)
        return {
            binding.name: tuple(self._held(*place) for place in _pieces(binding))
            for binding in self._program.inputs
            if binding.name in states
        }

    def _held(self, chip: int, queue: int, address: int, rows: int) -> NDArray[np.uint8]:
        memory = self._memory(chip, queue, address, rows, 0)
        return memory.words[address : address + rows].copy()

    def _place(self, chip: int, queue: int, address: int, words: NDArray[np.uint8]) -> None:
        self._memory(chip, queue, address, len(words), 0).load(address, words)

    def _memory(self, chip: int, queue: int, address: int, rows: int, cycle: int) -> Slice:
        if not 0 <= chip < self._program.chips or not 0 <= queue < len(self._queues):
            message = f"a tensor lies on chip {chip}, queue {queue}, which does not exist"
            raise Fault("unit-missing", message, chip=chip, unit=f"queue {queue}", cycle=cycle)
        unit = self._queues[queue]
        if unit.unit is not Unit.MEM:
            message = "a tensor lies in a unit that is not a MEM slice"
            raise Fault("unit-row", message, chip=chip, unit=unit.name, cycle=cycle)
        last = address + rows - 1
        if address < 0 or last >= self._program.machine.words_per_slice:
            message = f"words {address} to {last} of a tensor are outside the slice"
            raise Fault("address-range", message, chip=chip, unit=unit.name, cycle=cycle)
        return self._chips[chip].slice(unit)


def _pieces(binding: Binding) -> Iterator[tuple[int, int, int, int]]:
    """(chip, queue, address, rows) of the pieces of a binding, in their order."""
    for layout in binding.layouts:
        for _, _, rows, _, _, chip, queue, address in layout.pieces.tolist():
            yield chip, queue, address, rows
