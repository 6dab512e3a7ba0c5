"""The instruction set manual, written from the table and the machine's schema.

`python -m clockstep_isa` writes it to `isa/ISA.md`; a test says that file is current. A new row,
field kind or figure appears by itself once it is in the table or the schema.
"""

from __future__ import annotations

from collections.abc import Iterator

from clockstep_isa.geometry import Unit
from clockstep_isa.machine import Machine, schema
from clockstep_isa.machine_file import load_machine
from clockstep_isa.table import (
    INTERVAL_BITS,
    OPCODE_BITS,
    REPEAT_BITS,
    TABLE,
    WORD_BITS,
    Field,
    Instruction,
    Kind,
    Type,
    busy,
    figure,
)
from clockstep_isa.values import value_range
from clockstep_isa.words import field_positions

__all__ = ["manual"]

_PRESET = "lpu-v1"

_UNITS: dict[Unit | None, str] = {
    None: "Instruction control",
    Unit.MEM: "MEM: one queue a slice",
    Unit.LW: "MXM weights: one queue a plane",
    Unit.ABC: "MXM activations: one queue a plane",
    Unit.ACC: "MXM accumulators: one queue a plane",
    Unit.VXM: "VXM: one queue an ALU",
    Unit.PERMUTE: "SXM permutors",
    Unit.TRANSPOSE: "SXM transposers",
    Unit.DISTRIBUTE: "SXM distributors",
    Unit.SEND: "C2C senders: one queue a link",
    Unit.RECEIVE: "C2C receivers: one queue a link",
}

_KINDS = {
    Kind.INT: "an unsigned integer: `64`",
    Kind.SIGNED: "a two's complement integer with its sign: `+1`, `-3`; a stride of 0 is left out",
    Kind.STREAM: "direction (East 0, West 1) times 256 plus stream: `E4`, `W17`; a group is named "
    "by its first stream",
    Kind.TYPE: "an element type: " + ", ".join(f"`{t.text}` = {t.value}" for t in Type),
    Kind.IMMEDIATE: "32 bits read as the row's `type`, of which the low ones count: `#1.5`, `#-3`, "
    "or as they are: `#0x7fc00000`",
    Kind.ROUND: "`rne` = 0 (to nearest, ties to even), `rtz` = 1 (toward zero)",
    Kind.OVERFLOW: "`sat` = 0 (clamp to the range), `wrap` = 1 (keep the low bits)",
}

_INTRODUCTION = f"""\
# The Clockstep instruction set

Written by `python -m clockstep_isa` from `table.py` and `machine.py`; do not edit. The time model
is explained in [README.md](README.md), the result of every instruction, to the bit, in
[NUMERICS.md](NUMERICS.md). Cycles are those of the machine `{_PRESET}`.

## The word

An instruction is {WORD_BITS} bits, stored as two little-endian 64-bit halves, low half first. Bits
that no field uses are zero.

| field | bits | meaning |
|---|---|---|
| opcode | 0-{OPCODE_BITS - 1} | the row |
| repeat | {OPCODE_BITS}-{OPCODE_BITS + REPEAT_BITS - 1} | how often it is dispatched, from 1 |
| interval | {OPCODE_BITS + REPEAT_BITS}-{OPCODE_BITS + REPEAT_BITS + INTERVAL_BITS - 1} \
| cycles from one dispatch to the next, from 1 |

The fields of the row follow in order, each with the lowest bit first. In a listing, `*70/24` after
an instruction is a repeat of 70 at an interval of 24.
"""


def manual() -> str:
    """The whole manual, as Markdown."""
    return "\n".join([*_parts()]) + "\n"


def _parts() -> Iterator[str]:
    machine = load_machine(_PRESET)
    yield _INTRODUCTION
    yield "## Kinds of field\n"
    yield "| kind | value and text |\n|---|---|"
    yield from (f"| {kind.value} | {_KINDS[kind]} |" for kind in Kind)
    for unit, title in _UNITS.items():
        yield f"\n## {title}"
        for row in TABLE:
            if row.unit is unit:
                yield from _row(row, machine)
    yield from _figures(machine)


def _row(row: Instruction, machine: Machine) -> Iterator[str]:
    yield f"\n### {row.name}\n"
    yield f"    {row.syntax.replace('{', '<').replace('}', '>')}\n"
    yield f"{row.doc}\n"
    yield _timing(row, machine) + _limits(row) + "\n"
    yield "| field | bits | kind | values | streams |\n|---|---|---|---|---|"
    yield f"| opcode | 0-{OPCODE_BITS - 1} | | {row.opcode:#04x} | |"
    for item, at in zip(row.fields, field_positions(row), strict=False):
        low, high = value_range(item)
        bits = f"{at}-{at + item.bits - 1}" if item.bits > 1 else str(at)
        yield f"| {item.name} | {bits} | {item.kind.value} | {low} to {high} | {_streams(item)} |"


def _timing(row: Instruction, machine: Machine) -> str:
    def cycles(name: int | str) -> str:
        value = figure(machine, name)
        return str(value) if isinstance(name, int) else f"{value} (`{name}`)"

    parts = []
    if any(f.role == "in" for f in row.fields):
        parts.append(f"samples {cycles(row.skew)} cycles after dispatch")
    if row.unit is not None:
        parts.append(f"latency {cycles(row.latency)}")
    held = {t.text: busy(row, machine, (t,)) for t in row.types}
    each = ", ".join(f"{value} for {name}" for name, value in held.items())
    parts.append(f"busy {cycles(row.busy) if len(set(held.values())) == 1 else each}")
    return (", ".join(parts) + ".").capitalize()


def _limits(row: Instruction) -> str:
    texts = []
    if row.large:
        texts.append(" Large ALUs only.")
    if row.types != tuple(Type):
        texts.append(f" Types: {', '.join(t.text for t in row.types)}.")
    return "".join(texts)


def _streams(item: Field) -> str:
    if not item.role:
        return ""
    direction = "read" if item.role == "in" else "written"
    if isinstance(item.width, int):
        return f"{direction}: {item.width}"
    return f"{direction}: as `{item.width}` says"


def _figures(machine: Machine) -> Iterator[str]:
    yield "\n## Figures of a machine file\n"
    yield f"Every figure is an integer; `value` is that of `{_PRESET}`, `from` how sure it is.\n"
    yield "| key | meaning | unit | range | value | from | source |\n|---|---|---|---|---|---|---|"
    for key, row in schema().items():
        found = machine.figures[key]
        limits = f"{row.low} to {row.high}"
        source = found.source.replace("|", "\\|")
        yield (
            f"| {key} | {row.doc} | {row.unit} | {limits} | {found.value} "
            f"| {found.provenance} | {source} |"
        )
