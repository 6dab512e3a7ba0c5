"""Print a listing: the directives, then every instruction by cycle and queue.

Texts are made a column at a time. To add a directive, print it in `_directives` and read it in
`listing_header`; instructions follow from the table's `syntax`.
"""

from __future__ import annotations

import base64
import difflib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.layout import PIECE
from clockstep_isa.listing_header import LISTING_VERSION
from clockstep_isa.machine import Machine
from clockstep_isa.machine_file import load_machine, machine_to_dict, preset_names
from clockstep_isa.metadata import binding_to_json, dump_json, node_to_json, probe_to_json
from clockstep_isa.parts import one_chip, parts_of
from clockstep_isa.program import Code, Image, Node, Note, Program, queue_name
from clockstep_isa.table import BY_OPCODE, Instruction, Kind
from clockstep_isa.values import print_value

__all__ = [
    "instruction_texts",
    "listing_lines",
    "note_texts",
    "print_listing",
    "units_named",
]

_BLOCK = 64
"""Words of an image in one line."""

_NOTE_COLUMN = 44


def print_listing(
    program: Program,
    *,
    chip: int | None = None,
    unit: str | None = None,
    cycles: tuple[int | None, int | None] | None = None,
    data: bool = True,
) -> str:
    """The listing as one text; see `listing_lines`."""
    lines = listing_lines(program, chip=chip, unit=unit, cycles=cycles, data=data)
    return "".join(f"{line}\n" for line in lines)


def listing_lines(
    program: Program,
    *,
    chip: int | None = None,
    unit: str | None = None,
    cycles: tuple[int | None, int | None] | None = None,
    data: bool = True,
) -> Iterator[str]:
    """The lines of a listing. The whole of it, with `data`, reads back as the same program.

    `chip`, `unit` (a queue such as `mem.W3`, or all of a kind: `mem`, `mxm.E0`, `lw`) and `cycles`
    [start, end) keep the instructions that are dispatched there. Without `data` the directives
    are left out. Raises `UsageError` if there is no such chip or unit.
    """
    some = program
    if chip is not None and len(parts_of(program)) > 1 and 0 <= chip < program.chips:
        some = one_chip(program, chip)
    code = some.code.take(_selection(some, chip, unit, cycles))
    if data:
        yield from _directives(program)
    yield from _instructions(some, code)


def _selection(
    program: Program,
    chip: int | None,
    unit: str | None,
    cycles: tuple[int | None, int | None] | None,
) -> NDArray[np.bool_]:
    code = program.code
    queues = geometry(program.machine).queues
    keep = np.ones(len(code), np.bool_)
    if chip is not None:
        if not 0 <= chip < program.chips:
            message = f"no chip {chip}; the program has {program.chips}"
            raise UsageError("listing-chip", message)
        keep &= code.queue // len(queues) == chip
    if unit is not None:
        keep &= units_named(program.machine, unit)[code.queue % len(queues)]
    if cycles is not None:
        start, end = cycles
        last = code.cycle + (code.repeat.astype(np.int64) - 1) * code.interval
        keep &= last >= (0 if start is None else start)
        keep &= code.cycle < (program.cycles if end is None else end)
    return keep


def units_named(machine: Machine, unit: str) -> NDArray[np.bool_]:
    """Which queues of a chip a name means: `mem.W3`, all of `mxm.E0`, all of a kind such as `lw`.

    Raises `UsageError` with a suggestion if it means none.
    """
    queues = geometry(machine).queues
    chosen = [unit in (q.name, q.unit) or q.name.startswith(unit + ".") for q in queues]
    if not any(chosen):
        known = [*map(str, Unit), *(q.name for q in queues)]
        close = difflib.get_close_matches(unit, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"kinds: {', '.join(Unit)}"
        raise UsageError("listing-unit", f"no unit {unit!r} on {machine.name}", help=hint)
    return np.array(chosen)


def _directives(program: Program) -> Iterator[str]:
    machine = program.machine
    yield f".clockstep {LISTING_VERSION}"
    yield from _machine(machine)
    yield f".chips {program.chips}"
    if program.copies > 1:
        yield f".copies {program.copies}"
    yield f".cycles {program.cycles}"
    if program.info:
        yield f".info {dump_json(dict(program.info))}"
    for node in program.nodes:
        yield f".node {dump_json(node_to_json(node))}"
    names = [queue.name for queue in geometry(machine).queues]
    at = PIECE.index("queue")

    def pieces(rows: NDArray[np.int64]) -> list[list[Any]]:
        return [[*row[:at], names[row[at]], *row[at + 1 :]] for row in rows.tolist()]

    for kind, bindings in (("input", program.inputs), ("output", program.outputs)):
        for binding in bindings:
            yield f".{kind} {dump_json(binding_to_json(binding, pieces))}"
    for probe in program.probes:
        yield f".probe {dump_json(probe_to_json(probe, pieces))}"
    for source, result in program.states:
        yield f".state {dump_json({source: result})}"
    yield from _image(machine, program.image)


def _machine(machine: Machine) -> Iterator[str]:
    """The name and what was set, if that is all there is to say; else every figure."""
    if machine.name in preset_names():
        preset = load_machine(machine.name)
        settings = [f"{k}={f.value}" for k, f in machine.figures.items() if f != preset.figures[k]]
        same = machine_to_dict(load_machine(machine.name, settings)) == machine_to_dict(machine)
        if same:
            yield f".machine {machine.name}"
            yield from (f".set {setting}" for setting in settings)
            return
    yield f".machine {dump_json(machine_to_dict(machine))}"


def _image(machine: Machine, image: Image) -> Iterator[str]:
    if image.data is None:
        yield ".no-weights"
    count = len(geometry(machine).queues)
    start = 0
    for chip, queue, address, words in image.regions.tolist():
        name = queue_name(machine, chip * count + queue)
        yield f".image {name} {address} {words}"
        if image.data is not None:
            for first in range(start, start + words, _BLOCK):
                block = image.data[first : min(first + _BLOCK, start + words)]
                yield f".data {base64.b64encode(block.tobytes()).decode()}"
        start += words


def _instructions(program: Program, code: Code) -> Iterator[str]:
    order = np.lexsort((code.queue, code.cycle))
    code = code.take(order)
    numbers, index = np.unique(code.queue, return_inverse=True)
    names = [queue_name(program.machine, int(queue)) for queue in numbers]
    wide = max((len(name) for name in names), default=0)
    names = [name.ljust(wide) for name in names]
    notes = note_texts(program)
    digits = len(str(code.cycle[-1])) if len(code) else 0
    columns = (code.cycle.tolist(), index.tolist(), instruction_texts(code), code.note.tolist())
    for cycle, queue, text, note in zip(*columns, strict=True):
        line = f"{cycle:>{digits}}  {names[queue]}  {text}"
        if note >= 0:
            line = f"{line.ljust(digits + wide + _NOTE_COLUMN)}  ; {notes[note]}"
        yield line


def instruction_texts(code: Code) -> list[str]:
    """Each instruction with its repeats as a listing has it, without cycle, queue and note."""
    pairs = zip(_texts(code), _repeats(code), strict=True)
    return [text + repeat for text, repeat in pairs]


def note_texts(program: Program) -> list[str]:
    """What a listing says after the semicolon, for every note of a program."""
    nodes = _node_names(program.nodes)
    return [_note(note, nodes) for note in program.notes]


def _repeats(code: Code) -> list[str]:
    """`  *repeat/interval`, each left out where it is 1 as far as that is clear."""
    texts = []
    for repeat, interval in zip(code.repeat.tolist(), code.interval.tolist(), strict=True):
        text = f"  *{repeat}" if repeat != 1 or interval != 1 else ""
        texts.append(f"{text}/{interval}" if interval != 1 else text)
    return texts


def _texts(code: Code) -> list[str]:
    """The instructions without their cycles: one row of the table at a time."""
    texts = [""] * len(code)
    for opcode in np.unique(code.opcode).tolist():
        index = np.flatnonzero(code.opcode == opcode)
        for at, text in zip(
            index.tolist(), _row_texts(BY_OPCODE[opcode], code.args[index]), strict=True
        ):
            texts[at] = text
    return texts


def _row_texts(row: Instruction, args: NDArray[np.int64]) -> list[str]:
    columns: dict[str, list[str]] = {}
    typed = [i for i, f in enumerate(row.fields) if f.name == "type"]
    kinds = args[:, typed[0]] if typed else np.zeros(len(args), np.int64)
    for i, field in enumerate(row.fields):
        pairs = args[:, i] << 3 | kinds
        known, index = np.unique(pairs, return_inverse=True)
        shown = [print_value(field, pair >> 3, pair & 7) for pair in known.tolist()]
        if field.kind is Kind.SIGNED and f"}}{{{field.name}}}" in row.syntax:
            shown = ["" if text == "+0" else text for text in shown]
        columns[field.name] = [shown[k] for k in index.tolist()]
    names = [field.name for field in row.fields]
    form = row.syntax.format(**{name: f"{{{i}}}" for i, name in enumerate(names)})
    if not names:
        return [form] * len(args)
    return [form.format(*values) for values in zip(*columns.values(), strict=True)]


def _node_names(nodes: tuple[Node, ...]) -> list[str]:
    """Each node by its name, or by `#` and its index if the name is not plain or not unique."""
    count = Counter(node.name for node in nodes)
    texts = []
    for i, node in enumerate(nodes):
        name = node.name
        plain = _is_plain(name) and name[:1] not in ("", "#") and "|" not in name
        texts.append(name if plain and count[name] == 1 else f"#{i}")
    return texts


def _note(note: Note, nodes: list[str]) -> str:
    """`node | tile`; the node is left out if there is none."""
    tile = note.tile if _is_plain(note.tile) else json.dumps(note.tile)
    return f"| {tile}" if note.node < 0 else f"{nodes[note.node]} | {tile}"


def _is_plain(text: str) -> bool:
    return text.isprintable() and text == text.strip() and not text.startswith('"')
