"""Every instruction by itself: does its queue exist, is its row known, are its fields allowed?

An instruction that fails is reported for its first fault and left out of all later checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.machine import Machine
from clockstep_isa.program import LAST_CYCLE, Code, Program
from clockstep_isa.table import (
    BY_OPCODE,
    ENUMS,
    INTERVAL_BITS,
    REPEAT_BITS,
    TABLE,
    Field,
    Instruction,
    Kind,
    Type,
)
from clockstep_runtime.verifier.columns import STREAM_WIDTHS, Columns
from clockstep_runtime.verifier.report import Findings

__all__ = ["legal_instructions"]

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def legal_instructions(program: Program, findings: Findings) -> Columns:
    """The instructions whose fields are in order, sorted; the others are reported."""
    code = program.code
    findings.count("fields", len(code))
    code = code.take(_located(program, code, findings))
    number = np.full(256, -1, np.int64)
    number[list(BY_OPCODE)] = [TABLE.index(row) for row in BY_OPCODE.values()]
    columns = Columns(
        program.machine,
        code.queue.astype(np.int64),
        number[code.opcode],
        code.cycle.astype(np.int64),
        code.repeat.astype(np.int64),
        code.interval.astype(np.int64),
        code.args.astype(np.int64),
    )
    columns = columns.take(np.lexsort((columns.start, columns.queue)))
    columns = columns.take(_known_rows(columns, findings))
    legal = np.ones(len(columns), np.bool_)
    for row in np.unique(columns.row).tolist():
        where = np.flatnonzero(columns.row == row)
        judge = _Judge(columns.take(where), TABLE[row], findings)
        legal[where] = judge.legal()
    return columns.take(legal)


def _located(program: Program, code: Code, findings: Findings) -> Mask:
    """Whether each instruction's queue is one of the program's chips."""
    queues = len(geometry(program.machine).queues)
    good = (code.queue >= 0) & (code.queue < program.chips * queues)

    def add(index: int, cycle: int) -> None:
        queue = int(code.queue[index])
        message = f"queue {queue} does not exist: the program has {program.chips} chips"
        findings.add("unit-missing", queue // queues, f"queue {queue}", cycle, message)

    bad = np.flatnonzero(~good)
    findings.add_all(bad, code.cycle[bad].astype(np.int64), add)
    return good


def _known_rows(columns: Columns, findings: Findings) -> Mask:
    """Whether each opcode is in the table, and belongs to the queue's unit."""
    units = list(Unit)
    of_row = [units.index(row.unit) if row.unit else -1 for row in TABLE]
    of_queue = np.array([units.index(q.unit) for q in columns.geometry.queues])[columns.local]
    known = columns.row >= 0
    fitting = np.array(of_row)[columns.row] == of_queue

    def add(index: int, cycle: int) -> None:
        unit, chip = columns.unit(index), int(columns.chip[index])
        if not known[index]:
            findings.add("opcode-unknown", chip, unit.name, cycle, "no such opcode")
            return
        row = TABLE[int(columns.row[index])]
        message = f"{row.name}: belongs to {row.unit or 'no'} queues"
        findings.add("unit-row", chip, unit.name, cycle, message)

    good: Mask = known & fitting
    bad = np.flatnonzero(~good)
    findings.add_all(bad, columns.start[bad], add)
    return good


@dataclass(slots=True)
class _Judge:
    """Judges all instructions of one row at once."""

    columns: Columns
    row: Instruction
    findings: Findings

    def legal(self) -> Mask:
        """Which instructions pass every test; each of the others is reported once."""
        good = np.ones(len(self.columns), np.bool_)
        for code, passed, text in self._tests():
            bad = np.flatnonzero(good & ~passed)
            good &= passed
            self._report(code, bad, text)
        return good

    def _report(self, code: str, bad: Ints, text: str) -> None:
        columns, name = self.columns, self.row.name

        def add(index: int, cycle: int) -> None:
            unit, chip = columns.unit(index), int(columns.chip[index])
            self.findings.add(code, chip, unit.name, cycle, f"{name}: {text}")

        self.findings.add_all(bad, columns.start[bad], add)

    def _tests(self) -> Iterator[tuple[str, Mask, str]]:
        yield from self._timing()
        yield from self._ranges()
        yield from self._types()
        yield from self._widths()
        yield from self._streams()
        if self.row.unit is Unit.VXM:
            yield from self._alus()
        if self.row.unit in (Unit.LW, Unit.ABC, Unit.ACC):
            yield self._planes()

    def _timing(self) -> Iterator[tuple[str, Mask, str]]:
        most = min(self.columns.machine.icu.repeat_max, (1 << REPEAT_BITS) - 1)
        for name, values, low, high in (
            ("cycle", self.columns.start, 0, LAST_CYCLE),
            ("repeat", self.columns.count, 1, most),
            ("interval", self.columns.step, 1, (1 << INTERVAL_BITS) - 1),
        ):
            yield self._within(name, values, low, high)

    def _within(self, name: str, values: Ints, low: int, high: int) -> tuple[str, Mask, str]:
        text = f"{name} is outside {low} to {high}"
        return "field-range", (low <= values) & (values <= high), text

    def _ranges(self) -> Iterator[tuple[str, Mask, str]]:
        for item in self.row.fields:
            if item.kind is not Kind.TYPE:
                yield self._within(item.name, self._values(item.name), *_limits(item))

    def _values(self, name: str) -> Ints:
        return self.columns.args[:, self.row.field(name)]

    def _types(self) -> Iterator[tuple[str, Mask, str]]:
        for item in self.row.fields:
            if item.kind is Kind.TYPE:
                allowed = self.row.types if item.name == "type" else tuple(Type)
                names = ", ".join(kind.text for kind in allowed)
                good = np.isin(self._values(item.name), [int(kind) for kind in allowed])
                yield "type-illegal", good, f"{item.name} is none of {names}"

    def _widths(self) -> Iterator[tuple[str, Mask, str]]:
        machine, name = self.columns.machine, self.row.name
        if self.row.unit is Unit.PERMUTE:
            yield "field-range", np.isin(self._values("width"), (1, 2, 4)), "width is not 1, 2 or 4"
        if self.row.unit is Unit.TRANSPOSE:
            lanes = machine.lanes.per_superlane
            yield self._within("width", self._values("width"), lanes, lanes)
        if name == "scatter":
            yield self._within("repeat", self.columns.count, 1, 1)
            yield self._within("words", self._values("words"), 1, machine.words_per_slice)
        if name == "gather":
            yield self._within("words", self._values("words"), 1, machine.words_per_slice)
        if name == "broadcast":
            yield self._within("lane", self._values("lane"), 0, machine.vector - 1)
        if name == "abc":
            yield self._within("rows", self._values("rows"), 1, machine.vector)
        if name == "lw":
            count, width = self._values("count"), self._type_bytes()
            yield self._within("count", count, 1, machine.mxm.install_streams)
            yield "field-range", count % width == 0, "count is no multiple of the type's bytes"

    def _type_bytes(self) -> Ints:
        """Bytes of each instruction's type; types out of range are reported before they matter."""
        return STREAM_WIDTHS[np.clip(self._values("type"), 0, len(STREAM_WIDTHS) - 1)]

    def _streams(self) -> Iterator[tuple[str, Mask, str]]:
        total = self.columns.machine.streams.per_direction
        for item in self.row.fields:
            if item.kind is Kind.STREAM:
                base, width = self._values(item.name) & 255, self.columns.widths(item)
                text = f"{item.name} ends beyond stream {total - 1}"
                yield "stream-range", base + width <= total, text
                text = f"{item.name} does not begin at a multiple of its width"
                yield "stream-align", base % self._alignment(width) == 0, text

    def _alignment(self, width: Ints) -> Ints:
        if self.row.unit is Unit.TRANSPOSE:
            return np.ones_like(width)
        if self.row.unit is Unit.LW:
            return self._type_bytes()
        return np.maximum(width, 1)

    def _alus(self) -> Iterator[tuple[str, Mask, str]]:
        machine = self.columns.machine
        alu = np.array([q.index for q in self.columns.geometry.queues])[self.columns.local]
        count = machine.vxm.rows * machine.vxm.ranks
        if self.row.large:
            large = np.array([machine.is_large(a) for a in range(count)])[alu]
            yield "alu-kind", large, "the ALU is not a large one"
        windows = _windows(machine, count)
        operands = [f.name for f in self.row.fields if f.role == "in"]
        quads = [np.minimum((self._values(n) & 255) // 4, machine.quads - 1) for n in operands]
        for name, quad in zip(operands, quads, strict=True):
            yield "alu-window", windows[alu, quad], f"{name} is outside the ALU's window"
        if len(operands) == 2:
            a, b = (self._values(name) >> 8 for name in operands)
            apart = (quads[0] != quads[1]) | (a == b)
            yield "alu-ports", apart, "a and b come from one quad, in both directions"

    def _planes(self) -> tuple[str, Mask, str]:
        group = self.columns.machine.mxm.fp16_planes
        plane = np.array([q.index for q in self.columns.geometry.queues])[self.columns.local]
        wide = np.isin(self._values("type"), (int(Type.F16), int(Type.F32)))
        text = "a 16-bit array is driven from the first plane of its group"
        return "mxm-type", ~wide | (plane % group == 0), text


def _limits(item: Field) -> tuple[int, int]:
    if item.kind in ENUMS:
        return 0, len(ENUMS[item.kind]) - 1
    if item.kind is Kind.SIGNED:
        return -(2 ** (item.bits - 1)), 2 ** (item.bits - 1) - 1
    return 0, 2**item.bits - 1


def _windows(machine: Machine, alus: int) -> Mask:
    """[ALU, quad]: whether the ALU can read the quad."""
    windows = np.zeros((alus, machine.quads), np.bool_)
    for alu in range(alus):
        windows[alu, sorted(machine.window(alu))] = True
    return windows
