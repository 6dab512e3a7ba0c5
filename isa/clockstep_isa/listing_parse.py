"""Read a listing: split every line, and let the grammar read each shape of instruction once.

Instructions that differ only in their operands have one shape (`read 64+1 -> E4` and
`read 3-1 -> W0`); lark parses the first of each shape, and the rest follow its plan.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from clockstep_isa.diagnostics import MalformedFile, UsageError, shown
from clockstep_isa.listing_grammar import parse_instruction
from clockstep_isa.listing_header import Directive, Header, read_header
from clockstep_isa.metadata import states_from_json
from clockstep_isa.program import (
    ARGS,
    LAST_CYCLE,
    Code,
    Node,
    Note,
    Program,
    canonical_notes,
    end_cycle,
)
from clockstep_isa.table import INTERVAL_BITS, REPEAT_BITS
from clockstep_isa.values import value_parser

__all__ = ["parse_listing", "read_listing"]

_REPEAT = re.compile(r"\*\s*([0-9]+)\s*(?:/\s*([0-9]+)\s*)?")
_OPERAND = re.compile(r"(#[^\s,]+|(?<![\w.])[EW]?[0-9]+(?!\w)|[+-][0-9]+)")
_FIRST = {
    **dict.fromkeys("0123456789", "0"),
    **dict.fromkeys("+-", "+"),
    "E": "E",
    "W": "E",
    "#": "#",
}
"""What the first character of an operand says about its kind."""

_Plan = tuple[tuple[int, Callable[[str], int]], ...]


def read_listing(path: str | Path) -> Program:
    """Read a listing from a file; raises `UsageError` if there is none, else as `parse_listing`."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise MalformedFile("listing-text", "not a text file", where=str(path)) from None
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UsageError("file-missing", reason, where=str(path)) from None
    return parse_listing(text, file.name)


def parse_listing(text: str, where: str = "listing") -> Program:
    """The program that a listing describes; `where` names it in messages.

    Raises `MalformedFile` with the line, the offending token and what was expected there.
    """
    directives: list[Directive] = []
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if bare.startswith("."):
            name, _, rest = bare[1:].partition(" ")
            directives.append(Directive(_place(where, number), name, rest.strip()))
        elif bare and not bare.startswith("#"):
            lines.append((number, bare))
    header = read_header(directives, where)
    reader = _Reader(header, where)
    for number, line in lines:
        reader.read(number, line)
    return _program(header, reader, where)


def _program(header: Header, reader: _Reader, where: str) -> Program:
    code = reader.code().sorted()
    note, notes = canonical_notes(code.note, tuple(reader.notes))
    code = Code(code.queue, code.cycle, code.opcode, code.repeat, code.interval, code.args, note)
    return Program(
        machine=header.machine,
        chips=header.chips,
        code=code,
        image=header.image(),
        inputs=tuple(header.inputs),
        outputs=tuple(header.outputs),
        nodes=tuple(header.nodes),
        notes=notes,
        cycles=end_cycle(header.machine, code) if header.cycles is None else header.cycles,
        info=header.info,
        probes=tuple(header.probes),
        states=states_from_json(header.states, header.inputs, header.outputs, where),
        copies=header.copies,
    )


def _place(where: str, line: int) -> str:
    return f"{where}: line {line}"


@dataclass(slots=True)
class _Reader:
    """Reads instruction lines into columns."""

    header: Header
    where: str
    rows: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    args: list[list[int]] = field(default_factory=list)
    notes: dict[Note, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(init=False)
    _plans: dict[tuple[str, ...], tuple[int, list[int], _Plan]] = field(default_factory=dict)
    _texts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = _node_numbers(self.header.nodes)

    def read(self, line: int, text: str) -> None:
        """One line: cycle, queue, instruction, `*repeat/interval`, `; node | tile`."""
        parts = _parts(text)
        if parts is None:
            _refuse_line(text, _place(self.where, line))
        cycle, queue, instruction, repeat, interval, note = parts
        number = self.header.queue(queue, _place(self.where, line))
        try:
            opcode, args = self._instruction(instruction)
            timing = (
                _bounded("cycle", cycle, 0, LAST_CYCLE),
                _bounded("repeat", repeat, 1, (1 << REPEAT_BITS) - 1),
                _bounded("interval", interval, 1, (1 << INTERVAL_BITS) - 1),
            )
            index = self._note(note) if note else -1
        except UsageError as error:
            found = error.diagnostic
            place = _place(self.where, line)
            raise MalformedFile(found.code, found.message, where=place, help=found.help) from None
        self.rows.append((number, opcode, *timing, index))
        self.args.append(args)

    def _instruction(self, text: str) -> tuple[int, list[int]]:
        parts = _OPERAND.split(text)
        operands = parts[1::2]
        parts[1::2] = [_FIRST[operand[0]] for operand in operands]
        shape = tuple(parts)
        known = self._plans.get(shape)
        if known is None:
            known = self._plans[shape] = self._plan(text)
        opcode, fixed, plan = known
        args = fixed.copy()
        for (index, parse), operand in zip(plan, operands, strict=True):
            args[index] = parse(operand)
        return opcode, args

    def _plan(self, text: str) -> tuple[int, list[int], _Plan]:
        """How to read every instruction of this shape: the fixed fields, and a parser a hole."""
        row, operands = parse_instruction(text)
        fixed = [0] * ARGS
        holes = {match.start() for match in _OPERAND.finditer(text)}
        plan = []
        kind = 0
        for operand in operands:
            item = row.fields[operand.field]
            parse = value_parser(item, self.header.machine, kind)
            if operand.start in holes:
                plan.append((operand.field, parse))
                continue
            fixed[operand.field] = parse(operand.text)
            if item.name == "type":
                kind = fixed[operand.field]
        return row.opcode, fixed, tuple(plan)

    def _note(self, text: str) -> int:
        if text not in self._texts:
            note = _read_note(text, self.nodes)
            self._texts[text] = self.notes.setdefault(note, len(self.notes))
        return self._texts[text]

    def code(self) -> Code:
        """The columns so far, in the order of the lines."""
        rows = np.array(self.rows, np.int64).reshape(-1, 6)
        queue, opcode, cycle, repeat, interval, note = rows.T.copy()
        return Code(
            queue.astype(np.int32),
            cycle,
            opcode.astype(np.uint8),
            repeat.astype(np.int32),
            interval.astype(np.int32),
            np.array(self.args, np.int64).reshape(-1, ARGS),
            note.astype(np.int32),
        )


def _parts(text: str) -> tuple[str, str, str, str, str, str] | None:
    """Cycle, queue, instruction, repeat, interval and note of a line, or None if it is none.

    Step by step and not by one expression, which could take very long to find that it fails.
    """
    head, _, note = text.partition(";")
    head, star, tail = head.partition("*")
    words = head.split(None, 2)
    repeat = _REPEAT.fullmatch(star + tail)
    if len(words) != 3 or not re.fullmatch("[0-9]+", words[0]) or (star and repeat is None):
        return None
    times, interval = repeat.groups(default="1") if repeat else ("1", "1")
    return words[0], words[1], words[2].rstrip(), times, interval, note.strip()


def _bounded(name: str, text: str, low: int, high: int) -> int:
    value = int(text) if len(text) < 20 else high + 1
    if not low <= value <= high:
        raise UsageError("field-range", f"{name} {text[:40]} is not in {low} to {high}")
    return value


def _node_numbers(nodes: list[Node]) -> dict[str, int]:
    """How a note may name each node: by its name if no other has it, and by `#` and its index."""
    count = Counter(node.name for node in nodes)
    names = {node.name: i for i, node in enumerate(nodes) if count[node.name] == 1}
    return {**names, **{f"#{i}": i for i in range(len(nodes))}, "": -1}


def _read_note(text: str, nodes: dict[str, int]) -> Note:
    """`node | tile`; without a bar, a tile that serves no node."""
    left, bar, tile = f" {text} ".partition(" | ")
    name = left.strip()
    if not bar:
        return Note(-1, _tile(name))
    if name not in nodes:
        raise UsageError("listing-node", f"no .node named {shown(name)}")
    return Note(nodes[name], _tile(tile.strip()))


def _tile(text: str) -> str:
    """A tile as it stands, or in JSON's quotes if it has characters that do not print."""
    if not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, str):
        raise UsageError("listing-syntax", f"{shown(text)} is not a quoted text")
    return value


def _refuse_line(text: str, where: str) -> NoReturn:
    """Say what is wrong with a line that is not cycle, queue, instruction."""
    words = text.split()
    if not re.fullmatch("[0-9]+", words[0]):
        message = f"found {words[0][:40]!r}, expected a cycle, a directive or a # comment"
    elif len(words) < 3:
        message = "found the end, expected a queue such as c0.mem.W3 and an instruction"
    else:
        tail = text[text.find("*") :].partition(";")[0][:40]
        message = f"found {tail!r}, expected *REPEAT or *REPEAT/INTERVAL"
    raise MalformedFile("listing-syntax", message, where=where)
