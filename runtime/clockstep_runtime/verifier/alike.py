"""Programs whose parts run at several places: chips that do the same are checked once.

Two chips do the same if they run the same instructions of the same parts, as far apart in time,
with the same image and the same pieces of inputs and outputs in their words. All checks but those
of links look at one chip alone and ask only how far cycles lie apart. Where a chip of such a group
breaks a rule, every chip of it is checked by itself, so that each is reported as what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import geometry
from clockstep_isa.layout import PIECE, Binding
from clockstep_isa.parts import Part
from clockstep_isa.program import ARGS, LAST_CYCLE, Code, Image, Program, end_cycle
from clockstep_runtime.verifier.chips import check_chips
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.links import check_links
from clockstep_runtime.verifier.report import Findings, Report
from clockstep_runtime.verifier.states import check_state_words, check_states

__all__ = ["verify_parts"]

Ints = NDArray[np.int64]
_CHIP = PIECE.index("chip")
_NOTHING = Image(np.zeros((0, 4), np.int64), None)

_Run = tuple[int, int, int]
"""A chip of a part, and the cycle in which the part starts: (part, chip in it, cycle)."""


def verify_parts(program: Program, parts: tuple[Part, ...]) -> Report:
    """What `verify` says of the program that has these parts at all their places."""
    checker = _Checker(program, parts)
    findings = Findings()
    columns = checker.check(findings)
    if not findings.any and checker.end != program.cycles:
        message = f"the program takes {checker.end} cycles and promises {program.cycles}"
        findings.add("cycles-promise", 0, "program", checker.end, message)
    _check_image_size(program, findings)
    check_links(program, columns, findings)
    check_states(replace(program, image=_NOTHING), findings)
    return findings.report(len(program.code))


def _check_image_size(program: Program, findings: Findings) -> None:
    want, data = (program.image.words, program.machine.vector), program.image.data
    if data is not None and data.shape != want:
        message = f"the image is {list(data.shape)} bytes, its regions say {list(want)}"
        findings.add("image-size", 0, "image", 0, message)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Pieces of one layout of an input or output that lie on one chip."""

    output: bool
    state: bool
    binding: Binding
    layout: int
    rows: Ints

    @property
    def key(self) -> tuple[object, ...]:
        """All that a check may look at, but for the chip and the name."""
        layout = self.binding.layouts[self.layout]
        rows = np.delete(self.rows, _CHIP, axis=1)
        return (self.output, self.state, layout.stored, layout.rows, layout.columns, rows.tobytes())


class _Checker:
    """Sorts the chips of a program into groups and checks them."""

    def __init__(self, program: Program, parts: tuple[Part, ...]) -> None:
        self._program, self._parts = program, parts
        self._queues = len(geometry(program.machine).queues)
        self._codes = [_by_chip(part.code.queue // self._queues, part.chips) for part in parts]
        self._regions = [_by_chip(part.regions[:, 0], part.chips) for part in parts]
        self._pieces = _pieces(program)
        self._runs = self._found_runs()
        self.end = max(
            (
                end_cycle(program.machine, part.code) + int(part.places[:, 1].max())
                for part in parts
                if len(part.code) and len(part.places)
            ),
            default=0,
        )

    def check(self, findings: Findings) -> Columns:
        """Check every group, of each the chip that is first in time; all sends and receives."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for chip in sorted({*self._runs, *self._pieces}):
            groups.setdefault(self._key(chip), []).append(chip)
        none = np.zeros(0, np.int64)
        empty = np.zeros((0, ARGS), np.int64)
        found = [Columns(self._program.machine, none, none, none, none, none, empty)]
        for alike in groups.values():
            chips = sorted(alike, key=lambda chip: (self._start(chip), chip))
            columns, ok = self._checked(chips[0], len(chips), findings)
            if ok and self.end <= LAST_CYCLE:
                found += [self._moved(columns, chips[0], chip) for chip in chips]
                continue
            found.append(columns)
            found += [self._checked(chip, 1, findings)[0] for chip in chips[1:]]
        return _stacked(found)

    def _checked(self, chip: int, times: int, findings: Findings) -> tuple[Columns, bool]:
        """Check one chip that stands for so many; its links, and whether all is well."""
        own = Findings()
        alone = self._alone(chip)
        columns = check_chips(alone, own, self.end).columns
        states = [_only(piece) for piece in self._pieces.get(chip, ()) if piece.state]
        if states:
            check_state_words(alone, states, own)
        ok = not own.any
        findings.merge(own, times if ok else 1)
        return columns.named("send", "receive"), ok

    def _moved(self, columns: Columns, chip: int, other: int) -> Columns:
        """The instructions of a chip as another of its group has them."""
        queues = (other - chip) * self._queues
        cycles = self._start(other) - self._start(chip)
        return replace(columns, queue=columns.queue + queues, start=columns.start + cycles)

    def _found_runs(self) -> Mapping[int, list[_Run]]:
        """By chip what it runs, or has in its image."""
        found: dict[int, list[_Run]] = {}
        for number, part in enumerate(self._parts):
            busy = [
                chip
                for chip in range(part.chips)
                if len(self._codes[number][chip]) or len(self._regions[number][chip])
            ]
            for first, cycle, _ in part.places.tolist():
                for chip in busy:
                    found.setdefault(first + chip, []).append((number, chip, cycle))
        return found

    def _start(self, chip: int) -> int:
        """The first cycle in which a part starts that a chip has something of."""
        return min((cycle for _, _, cycle in self._runs.get(chip, ())), default=0)

    def _key(self, chip: int) -> tuple[object, ...]:
        """The same for chips that do the same."""
        start = self._start(chip)
        runs = sorted((part, at, cycle - start) for part, at, cycle in self._runs.get(chip, ()))
        inside = 0 <= chip < self._program.chips
        pieces = tuple(piece.key for piece in self._pieces.get(chip, ()))
        return (*runs, pieces, inside or chip)

    def _code(self, chip: int) -> Code:
        found = []
        for number, at, cycle in self._runs.get(chip, ()):
            code = self._parts[number].code.take(self._codes[number][at])
            queue = code.queue + np.int32((chip - at) * self._queues)
            found.append(replace(code, queue=queue, cycle=code.cycle + cycle))
        columns = ("queue", "cycle", "opcode", "repeat", "interval", "args", "note")
        if not found:
            return self._parts[0].code.take(np.zeros(0, np.int64))
        return Code(*(np.concatenate([getattr(c, name) for c in found]) for name in columns))

    def _alone(self, chip: int) -> Program:
        """The program as far as it concerns one chip."""
        regions = [np.zeros((0, 4), np.int64)]
        for number, at, _ in self._runs.get(chip, ()):
            some = self._parts[number].regions[self._regions[number][at]]
            regions.append(some + np.array([chip - at, 0, 0, 0]))
        pieces = self._pieces.get(chip, ())
        return replace(
            self._program,
            code=self._code(chip),
            image=Image(np.concatenate(regions), None),
            inputs=tuple(_only(piece) for piece in pieces if not piece.output),
            outputs=tuple(_only(piece) for piece in pieces if piece.output),
            notes=(),
        )


def _by_chip(chip: NDArray[np.integer], chips: int) -> list[Ints]:
    """For each chip of a part the rows that are on it."""
    order = np.argsort(chip, kind="stable")
    ends = np.searchsorted(chip[order], np.arange(chips + 1))
    return [order[ends[i] : ends[i + 1]] for i in range(chips)]


def _pieces(program: Program) -> Mapping[int, list[_Piece]]:
    """By chip the pieces of inputs and outputs that lie there."""
    found: dict[int, list[_Piece]] = {}
    states = {given for given, _ in program.states}
    for output, bindings in ((False, program.inputs), (True, program.outputs)):
        for binding in bindings:
            for number, layout in enumerate(binding.layouts):
                chips = layout.pieces[:, _CHIP]
                for chip in np.unique(chips).tolist():
                    rows = layout.pieces[chips == chip]
                    state = not output and binding.name in states
                    piece = _Piece(output, state, binding, number, rows)
                    found.setdefault(chip, []).append(piece)
    return found


def _only(piece: _Piece) -> Binding:
    """An input or output with these pieces alone."""
    layout = replace(piece.binding.layouts[piece.layout], pieces=piece.rows)
    return replace(piece.binding, layouts=(layout,))


def _stacked(found: list[Columns]) -> Columns:
    names = ("queue", "row", "start", "count", "step", "args")
    columns = {name: np.concatenate([getattr(c, name) for c in found]) for name in names}
    whole = Columns(found[0].machine, **columns)
    return whole.take(np.lexsort((whole.start, whole.queue)))
