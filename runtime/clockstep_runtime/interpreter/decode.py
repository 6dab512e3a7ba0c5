"""Read one instruction of a program and refuse what no unit could execute.

Everything that can be said of an instruction without knowing what else happens is checked here,
when its first dispatch comes. To add a check, add a function to `_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clockstep_isa.diagnostics import Fault
from clockstep_isa.geometry import Queue, Unit
from clockstep_isa.machine import Machine
from clockstep_isa.program import LAST_CYCLE, Code
from clockstep_isa.table import (
    BY_OPCODE,
    ENUMS,
    INTERVAL_BITS,
    REPEAT_BITS,
    Field,
    Instruction,
    Kind,
    Type,
    busy,
    figure,
)

__all__ = ["Issue", "Operand", "decode"]


@dataclass(frozen=True, slots=True)
class Operand:
    """A stream group: `width` adjacent streams from `base` on, in one direction."""

    direction: int
    base: int
    width: int

    @property
    def text(self) -> str:
        name = f"{'EW'[self.direction]}{self.base}"
        return name if self.width == 1 else f"{name} x {self.width}"


@dataclass(slots=True)
class Issue:
    """One instruction of one queue. Dispatch `i` is in cycle `start + i * interval`.

    `index` is its place in `Program.code`.
    """

    row: Instruction
    machine: Machine
    chip: int
    queue: Queue
    start: int
    repeat: int
    interval: int
    fields: dict[str, int]
    inputs: dict[str, Operand]
    output: Operand | None
    type: Type | None
    skew: int
    latency: int
    busy: int
    index: int

    def fault(self, code: str, message: str, cycle: int) -> Fault:
        """A fault of this instruction in `cycle`."""
        text = f"{self.row.name}: {message}"
        return Fault(code, text, chip=self.chip, unit=self.queue.name, cycle=cycle)


def decode(machine: Machine, chip: int, queue: Queue, code: Code, index: int) -> Issue:
    """Instruction `index` of `code`; raises `Fault` if its fields are not what its row allows."""
    start, repeat, interval = (
        int(column[index]) for column in (code.cycle, code.repeat, code.interval)
    )
    row = _row(queue, chip, int(code.opcode[index]), start)
    values = code.args[index].tolist()
    fields = {item.name: value for item, value in zip(row.fields, values, strict=False)}
    latency, skew = figure(machine, row.latency), figure(machine, row.skew)
    issue = Issue(
        row=row,
        machine=machine,
        chip=chip,
        queue=queue,
        start=start,
        repeat=repeat,
        interval=interval,
        fields=fields,
        inputs={},
        output=None,
        type=None,
        skew=skew,
        latency=latency,
        busy=1,
        index=index,
    )
    for check in _CHECKS:
        check(issue)
    issue.busy = busy(row, machine, tuple(values))
    return issue


def _row(queue: Queue, chip: int, opcode: int, cycle: int) -> Instruction:
    row = BY_OPCODE.get(opcode)
    if row is None:
        message = f"no instruction has opcode {opcode:#04x}"
        raise Fault("opcode-unknown", message, chip=chip, unit=queue.name, cycle=cycle)
    if row.unit is not queue.unit:
        message = f"{row.name}: belongs to {row.unit or 'no'} queues, this is a {queue.unit} queue"
        raise Fault("unit-row", message, chip=chip, unit=queue.name, cycle=cycle)
    return row


def _check_timing(issue: Issue) -> None:
    ranges = (
        ("cycle", issue.start, 0, LAST_CYCLE),
        ("repeat", issue.repeat, 1, min(issue.machine.icu.repeat_max, (1 << REPEAT_BITS) - 1)),
        ("interval", issue.interval, 1, (1 << INTERVAL_BITS) - 1),
    )
    for name, value, low, high in ranges:
        _check_range(issue, name, value, low, high)


def _check_range(issue: Issue, name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        message = f"{name} {value} is outside {low} to {high}"
        raise issue.fault("field-range", message, issue.start)


def _check_fields(issue: Issue) -> None:
    for item in issue.row.fields:
        if item.kind is not Kind.TYPE:
            _check_range(issue, item.name, issue.fields[item.name], *_bounds(item))


def _bounds(item: Field) -> tuple[int, int]:
    if item.kind is Kind.SIGNED:
        return -(1 << (item.bits - 1)), (1 << (item.bits - 1)) - 1
    if item.kind in ENUMS:
        return 0, len(ENUMS[item.kind]) - 1
    return 0, (1 << item.bits) - 1


def _check_types(issue: Issue) -> None:
    for item in issue.row.fields:
        if item.kind is not Kind.TYPE:
            continue
        allowed = issue.row.types if item.name == "type" else tuple(Type)
        value = issue.fields[item.name]
        if value not in allowed:
            known = ", ".join(kind.text for kind in allowed)
            message = f"{item.name} code {value} is none of {known}"
            raise issue.fault("type-illegal", message, issue.start)
    if "type" in issue.fields:
        issue.type = Type(issue.fields["type"])


def _check_widths(issue: Issue) -> None:
    """Ranges that depend on the machine and not on the word's bits."""
    machine, unit, fields = issue.machine, issue.row.unit, issue.fields
    if unit is Unit.PERMUTE and fields["width"] not in (1, 2, 4):
        message = f"width {fields['width']} is none of 1, 2, 4"
        raise issue.fault("field-range", message, issue.start)
    if unit is Unit.TRANSPOSE:
        lanes = machine.lanes.per_superlane
        _check_range(issue, "width", fields["width"], lanes, lanes)
    if issue.row.name == "scatter":
        _check_range(issue, "repeat", issue.repeat, 1, 1)
        _check_range(issue, "words", fields["words"], 1, machine.words_per_slice)
    if issue.row.name == "gather":
        _check_range(issue, "words", fields["words"], 1, machine.words_per_slice)
    if issue.row.name == "broadcast":
        _check_range(issue, "lane", fields["lane"], 0, machine.vector - 1)
    if issue.row.name == "abc":
        _check_range(issue, "rows", fields["rows"], 1, machine.vector)
    if issue.row.name == "lw":
        assert issue.type is not None
        _check_range(issue, "count", fields["count"], 1, machine.mxm.install_streams)
        if fields["count"] % issue.type.bytes:
            message = f"count {fields['count']} is not a multiple of {issue.type.bytes}"
            raise issue.fault("field-range", message, issue.start)


def _check_streams(issue: Issue) -> None:
    for item in issue.row.fields:
        if item.kind is not Kind.STREAM:
            continue
        value = issue.fields[item.name]
        operand = Operand(value >> 8, value & 255, _width(issue, item))
        last = operand.base + operand.width - 1
        if last >= issue.machine.streams.per_direction:
            message = f"{operand.text} ends at stream {last}"
            raise issue.fault("stream-range", message, issue.start)
        if operand.base % _alignment(issue, operand.width):
            message = f"{operand.text} does not begin at a multiple of its width"
            raise issue.fault("stream-align", message, issue.start)
        if item.role == "out":
            issue.output = operand
        else:
            issue.inputs[item.name] = operand


def _width(issue: Issue, item: Field) -> int:
    if isinstance(item.width, int):
        return item.width
    value = issue.fields[item.width]
    by_name = {f.name: f for f in issue.row.fields}
    return Type(value).bytes if by_name[item.width].kind is Kind.TYPE else value


def _alignment(issue: Issue, width: int) -> int:
    """What the first stream of a group must divide by."""
    if issue.row.unit is Unit.TRANSPOSE:
        return 1
    if issue.row.unit is Unit.LW:
        assert issue.type is not None
        return issue.type.bytes
    return width


def _check_alu(issue: Issue) -> None:
    if issue.row.unit is not Unit.VXM:
        return
    machine, alu = issue.machine, issue.queue.index
    if issue.row.large and not machine.is_large(alu):
        raise issue.fault("alu-kind", f"ALU {alu} is not a large one", issue.start)
    quads = [(operand.base // 4, operand.direction) for operand in issue.inputs.values()]
    window = machine.window(alu)
    for operand, (quad, _) in zip(issue.inputs.values(), quads, strict=True):
        if quad not in window:
            message = f"{operand.text} is outside the quads {sorted(window)} of ALU {alu}"
            raise issue.fault("alu-window", message, issue.start)
    if len({quad for quad, _ in quads}) < len(set(quads)):
        message = "both operands come from one quad, in both directions"
        raise issue.fault("alu-ports", message, issue.start)


def _check_plane(issue: Issue) -> None:
    """A 16-bit array is driven from the first plane of its group."""
    if issue.queue.unit not in (Unit.LW, Unit.ABC, Unit.ACC):
        return
    planes = issue.machine.mxm.fp16_planes
    if issue.type in (Type.F16, Type.F32) and issue.queue.index % planes:
        first = issue.queue.index - issue.queue.index % planes
        message = f"{issue.type.text} on plane {issue.queue.index}: its group begins at {first}"
        raise issue.fault("mxm-type", message, issue.start)


_CHECKS: tuple[Callable[[Issue], None], ...] = (
    _check_timing,
    _check_fields,
    _check_types,
    _check_widths,
    _check_streams,
    _check_alu,
    _check_plane,
)
