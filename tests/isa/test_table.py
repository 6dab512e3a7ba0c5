"""The table is complete and consistent, and nothing else lists instructions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clockstep_isa import (
    BY_NAME,
    BY_OPCODE,
    TABLE,
    Instruction,
    Kind,
    Type,
    Unit,
    busy,
    figure,
    load_machine,
    parse_listing,
    schema,
    value_range,
)
from clockstep_isa.machine import SECTIONS
from clockstep_isa.manual import manual
from clockstep_isa.table import WORD_BITS
from clockstep_isa.words import field_positions

ISA = Path(__file__).parents[2] / "isa"
LPU = load_machine("lpu-v1")


def test_names_and_opcodes_are_unique() -> None:
    assert len(BY_NAME) == len(BY_OPCODE) == len(TABLE)
    assert {row.unit for row in TABLE} == {None, *Unit}
    assert all(0 <= row.opcode < 256 for row in TABLE)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_row(row: Instruction) -> None:
    assert field_positions(row)[-1] <= WORD_BITS
    names = [field.name for field in row.fields]
    assert len(set(names)) == len(names)
    assert sorted(re.findall(r"\{(\w+)\}", row.syntax)) == sorted(names)
    assert re.match(r"\w+", row.syntax).group() == row.name  # type: ignore[union-attr]
    assert row.doc.endswith(".")
    for name in (row.skew, row.latency, row.busy):
        assert figure(LPU, name) >= 0
    for kind in row.types:
        assert busy(row, LPU, (kind,)) >= 1


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_operands(row: Instruction) -> None:
    for field in row.fields:
        assert (field.kind is Kind.STREAM) == (field.role in ("in", "out"))
        if isinstance(field.width, str):
            source = row.fields[row.field(field.width)]
            assert source.kind in (Kind.TYPE, Kind.INT)
        elif field.role:
            assert field.width > 0
    assert sum(field.role == "out" for field in row.fields) <= 1


def test_an_immediate_follows_its_type() -> None:
    for row in TABLE:
        kinds = [field.kind for field in row.fields]
        if Kind.IMMEDIATE in kinds:
            assert row.fields[0].name == "type"


def test_every_row_has_a_section_in_the_manual() -> None:
    sections = re.findall(r"^### (\S+)$", manual(), re.MULTILINE)
    assert sorted(sections) == sorted(BY_NAME)


def test_every_figure_is_in_the_manual() -> None:
    keys = [key for section in SECTIONS for key in schema() if key.startswith(section + ".")]
    assert re.findall(r"^\| (\w+\.\w+) \|", manual(), re.MULTILINE) == keys


def test_the_manual_is_current() -> None:
    """`python -m clockstep_isa` writes it."""
    assert (ISA / "ISA.md").read_text(encoding="utf-8") == manual()


def test_no_other_list_of_instructions() -> None:
    """No other file names more than a few rows in quotes, but for what a unit is called too."""
    rows = set(BY_NAME) - set(Unit)
    for path in sorted((ISA / "clockstep_isa").glob("*.py")):
        named = rows & set(re.findall(r'"(\w+)"', path.read_text(encoding="utf-8")))
        assert path.name == "table.py" or len(named) <= 2, (path.name, named)


def test_types() -> None:
    assert [t.bytes for t in Type] == [1, 2, 4, 2, 4]
    assert value_range(BY_NAME["cast"].fields[0]) == (0, len(Type) - 1)


def test_the_worked_example_of_the_readme() -> None:
    text = (ISA / "README.md").read_text(encoding="utf-8")
    (listing,) = re.findall(r"```\n(\.machine.*?)```", text, re.DOTALL)
    program = parse_listing(listing)
    assert program.cycles == 11
    assert f"the program takes {program.cycles} cycles" in text
