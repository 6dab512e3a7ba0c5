"""The verdict on one mutant: what interpreter, verifier and engines make of it.

All three are arguments, so that tests can put wrong ones in their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clockstep_isa import BY_NAME, Binding, Fault, Layout, Program, Type, geometry
from clockstep_runtime import Execution, Report, Session, interpret, verify
from tests.mutation.change import Mutant

__all__ = [
    "ENGINES",
    "PRECONDITIONS",
    "Engine",
    "Inputs",
    "Judge",
    "Place",
    "Subject",
    "Verdict",
    "observed",
    "reference",
    "remembering",
]

Inputs = Mapping[str, NDArray[Any]]
Engine = Callable[[Program, Inputs], Execution]
Place = tuple[str, int, str, int]
"""Code, chip, unit, cycle."""


def remembering(function: Callable[[Program], _T]) -> Callable[[Program], _T]:
    """The function, with its last result: a program is looked at from several sides in turn."""
    last: list[tuple[Program, _T]] = []

    def remembered(program: Program) -> _T:
        if not last or last[0][0] is not program:
            last[:] = [(program, function(program))]
        return last[0][1]

    return remembered


_session = remembering(Session)


def _fast(program: Program, inputs: Inputs) -> Execution:
    return _session(program).execute(inputs)


def _second_of_two(program: Program, inputs: Inputs) -> Execution:
    """The second run of a batch, the first one being on other values."""
    if not inputs:
        return _fast(program, inputs)
    both = {n: np.stack([np.roll(value, 1), value]) for n, value in inputs.items()}
    ran = _session(program).execute(both)
    return Execution({name: value[1] for name, value in ran.outputs.items()}, ran.cycles)


ENGINES: Mapping[str, Engine] = {"fast": _fast, "fast in a batch": _second_of_two}
"""The engines that must agree with the reference interpreter, by name."""

PRECONDITIONS = frozenset({"binding-range", "image-size"})
"""What the verifier refuses and the interpreter takes for granted, as it says: such programs
are not run."""

_SRAM = "\0sram"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome` is refused, harmless, equal or disagreement, of which `detail` says more.

    `fault` is the code of the fault that stopped the interpreter, `codes` those the verifier found.
    """

    outcome: str
    fault: str = ""
    codes: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A program to mutate, its inputs, and the outputs that it computes as it is."""

    program: Program
    inputs: Inputs
    outputs: Inputs


def reference(program: Program, inputs: Inputs) -> Execution | Place:
    """What the interpreter makes of a program, or where it stops; a wrong promise is a stop."""
    try:
        ran = interpret(program, inputs)
    except Fault as fault:
        return fault.diagnostic.code, fault.chip, fault.unit, fault.cycle
    if ran.cycles != program.cycles:
        return "cycles-promise", 0, "program", ran.cycles
    return ran


@dataclass(frozen=True, slots=True)
class Judge:
    """Who is compared: a verifier, and engines with the reference interpreter."""

    verify: Callable[[Program], Report] = verify
    engines: Mapping[str, Engine] = field(default_factory=lambda: ENGINES)
    reference: Callable[[Program, Inputs], Execution | Place] = reference

    def judge(self, subject: Subject, mutant: Mutant) -> Verdict:
        """The verdict on a mutant of `subject`; never raises."""
        try:
            report = self.verify(mutant.program)
        except Exception as error:
            return Verdict("disagreement", detail=f"the verifier raises {error!r}")
        codes = tuple(sorted({violation.code for violation in report.violations}))
        if report.ok == bool(codes):
            return Verdict("disagreement", "", codes, "the report contradicts itself")
        if not PRECONDITIONS.isdisjoint(codes):
            return Verdict("refused", "", codes)
        try:
            found = self.reference(mutant.program, subject.inputs)
        except Exception as error:
            return Verdict("disagreement", "", codes, f"the interpreter raises {error!r}")
        if not isinstance(found, Execution):
            return _refusal(found, report, codes)
        if not report.ok:
            return Verdict("disagreement", "", codes, f"runs, but is refused: {_list(report)}")
        return self._compared(subject, mutant, found)

    def _compared(self, subject: Subject, mutant: Mutant, wanted: Execution) -> Verdict:
        """The verdict on a mutant that runs."""
        program, inputs = mutant.program, subject.inputs
        for watched in (False, True) if self.engines else ():
            if watched:
                program = observed(program)
                wanted = interpret(program, inputs)
            for name, engine in self.engines.items():
                difference = _difference(engine, program, inputs, wanted)
                if difference:
                    return Verdict("disagreement", detail=f"{name} {difference}")
        outputs = {b.name: wanted.outputs[b.name] for b in subject.program.outputs}
        if _same(outputs, subject.outputs):
            return Verdict("harmless")
        if mutant.same:
            return Verdict("disagreement", detail="must not change what the program computes")
        return Verdict("equal")


def _refusal(place: Place, report: Report, codes: tuple[str, ...]) -> Verdict:
    if place in [(v.code, v.chip, v.unit, v.cycle) for v in report.violations]:
        return Verdict("refused", place[0], codes)
    said = f"but not by the verifier: {_list(report)}" if codes else "and the verifier accepts it"
    return Verdict("disagreement", place[0], codes, f"stopped by {_text(place)}, {said}")


def _list(report: Report) -> str:
    places = [(v.code, v.chip, v.unit, v.cycle) for v in report.violations]
    more = f" and {len(places) - 5} more" if len(places) > 5 else ""
    return ", ".join(map(_text, places[:5])) + more


def _text(place: Place) -> str:
    code, chip, unit, cycle = place
    return f"{code} at c{chip}.{unit} in {cycle}"


def _difference(engine: Engine, program: Program, inputs: Inputs, wanted: Execution) -> str:
    """How an engine's run differs from `wanted`; "" if in nothing."""
    try:
        ran = engine(program, inputs)
    except Exception as error:
        return f"raises {error!r}"
    if ran.cycles != wanted.cycles:
        return f"takes {ran.cycles} cycles, the interpreter {wanted.cycles}"
    if not _same(ran.outputs, wanted.outputs):
        return f"computes other values of {_wrong(ran.outputs, wanted.outputs)}"
    return ""


def _wrong(have: Inputs, want: Inputs) -> str:
    """The outputs that differ, by name."""
    names = [n for n in want if n not in have or not _same({n: have[n]}, {n: want[n]})]
    return ", ".join("SRAM" if name == _SRAM else repr(name) for name in names) or "no output"


def _same(one: Inputs, two: Inputs) -> bool:
    """Whether tensors have the same names, types, shapes and bits."""
    if sorted(one) != sorted(two):
        return False
    pairs = [(one[name], two[name]) for name in one]
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs
    )


def observed(program: Program) -> Program:
    """The program with one more output: every word that anything puts into SRAM.

    So runs are compared on all that they leave behind. The program must be one that runs.
    """
    spans = _spans(program)
    words = sum(rows for _, _, _, rows in spans)
    lanes = program.machine.vector
    pieces, row = [], 0
    for chip, queue, address, rows in spans:
        pieces.append((0, row, rows, 0, lanes, chip, queue, address))
        row += rows
    table = np.array(pieces, np.int64).reshape(-1, 8)
    layout = Layout(Type.I8, 0, (0, 1), words, lanes, table)
    sram = Binding(_SRAM, "int8", (words, lanes), (layout,))
    return dataclasses.replace(program, outputs=(*program.outputs, sram))


def _spans(program: Program) -> list[tuple[int, int, int, int]]:
    """(chip, queue, address, words) of all that holds something when the program ends."""
    queues = len(geometry(program.machine).queues)
    touched: dict[tuple[int, int], set[int]] = {}

    def put(chip: int, queue: int, words: Iterable[int]) -> None:
        touched.setdefault((chip, queue), set()).update(words)

    for chip, queue, address, rows in program.image.regions.tolist():
        put(chip, queue, range(address, address + rows))
    for binding in program.inputs:
        for layout in binding.layouts:
            for _, _, rows, _, _, chip, queue, address in layout.pieces.tolist():
                put(chip, queue, range(address, address + rows))
    write, code = BY_NAME["write"], program.code
    for i in np.flatnonzero(code.opcode == write.opcode).tolist():
        address, stride = (int(code.args[i, write.field(f)]) for f in ("address", "stride"))
        words = (address + k * stride for k in range(int(code.repeat[i])))
        put(*divmod(int(code.queue[i]), queues), words)
    return [
        (*place, first, count)
        for place, words in sorted(touched.items())
        for first, count in _runs(np.array(sorted(words), np.int64))
    ]


def _runs(numbers: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and length of every run of successive numbers."""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    begins = np.concatenate([[0], breaks])
    ends = np.concatenate([breaks, [len(numbers)]])
    return list(zip(numbers[begins].tolist(), (ends - begins).tolist(), strict=True))
