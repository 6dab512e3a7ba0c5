"""The verbs between program and text: disasm, asm, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clockstep import api, flags
from clockstep.output import csv_text, finish, number, table_text
from clockstep.report import SECTIONS
from clockstep_isa import (
    Program,
    UsageError,
    listing_lines,
    program_sha256,
    read_listing,
    save_program,
)
from clockstep_isa.tensor_file import write_atomically

__all__ = ["asm", "disasm", "inspect"]


def disasm(
    program: flags.ProgramFile,
    entry: flags.Entry = None,
    chip: Annotated[int | None, typer.Option("--chip", metavar="N", help="One chip.")] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", metavar="U", help="One unit or kind: mem.W3, mem, vxm.")
    ] = None,
    cycles: Annotated[
        str | None, typer.Option("--cycles", metavar="A:B", help="Dispatches in [A, B).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file.")
    ] = None,
    json: flags.Json = False,
) -> None:
    """Print a program as text that `asm` accepts; with a filter, an excerpt to read."""
    interval = flags.parse_cycles(cycles)
    excerpt = chip is not None or unit is not None or interval is not None
    lines = [
        f"{line}\n"
        for line in listing_lines(
            _one(api.load(program, entry=entry)),
            chip=chip,
            unit=unit,
            cycles=interval,
            data=not excerpt,
        )
    ]
    if output is None:
        text = "".join(lines)
        finish({"listing": text}, text, as_json=json)
        return
    write_atomically(output, (line.encode() for line in lines))
    data = {"output": str(output), "lines": len(lines)}
    finish(data, f"{output}: {number(len(lines))} lines", as_json=json)


def _one(program: Program) -> Program:
    """The program, if it has no other entries: a listing is of one."""
    if program.others:
        names = ", ".join(program.entries)
        raise UsageError("entry", f"the program has entries {names}", help="--entry NAME")
    return program


def asm(
    listing: Annotated[Path, typer.Argument(metavar="LISTING", help="A listing.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PROGRAM")],
    json: flags.Json = False,
) -> None:
    """Assemble a listing into a program."""
    program = read_listing(listing)
    save_program(program, output)
    data: dict[str, Any] = {
        "program": str(output),
        "sha256": program_sha256(program),
        "machine": program.machine.name,
        "chips": program.chips,
        "cycles": program.cycles,
        "instructions": len(program.code),
    }
    text = f"{output}: {number(len(program.code))} instructions, {number(program.cycles)} cycles"
    finish(data, text, as_json=json)


def inspect(
    program: flags.ProgramFile,
    entry: flags.Entry = None,
    section: Annotated[
        str, typer.Option("--section", metavar="|".join(SECTIONS), help="What to show.")
    ] = "summary",
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
    json: flags.Json = False,
) -> None:
    """Show what a program says about itself."""
    if section not in SECTIONS:
        raise UsageError(
            "option-section", f"section {section!r} is not one of {', '.join(SECTIONS)}"
        )
    if csv and json:
        raise UsageError("option-both", "--csv and --json exclude each other")
    loaded, table = api.load(program, entry=entry), SECTIONS[section]
    rows = table.rows(loaded)
    if csv:
        text = csv_text(rows, table.columns)
    elif table.absent and not rows:
        text = table.absent
    else:
        text = table.text(loaded, rows) if table.text else table_text(rows, table.columns)
    more = table.also(loaded, rows) if json and table.also else {}
    finish({"section": section, "rows": rows, **more}, text, as_json=json)
