"""The verb trace: a program's schedule as a file that Perfetto opens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from clockstep import api, flags
from clockstep.output import finish, number, working

__all__ = ["trace"]


def trace(
    program: flags.ProgramFile,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="TRACE", help="The file to write.")
    ],
    entry: flags.Entry = None,
    chip: Annotated[int | None, typer.Option("--chip", metavar="N", help="One chip.")] = None,
    cycles: Annotated[
        str | None, typer.Option("--cycles", metavar="A:B", help="What happens in [A, B).")
    ] = None,
    json: flags.Json = False,
) -> None:
    """Write the schedule as a Perfetto trace, which https://ui.perfetto.dev shows.

    A track for every unit, group of streams and bank, and counters of what is at work.
    """
    interval = flags.parse_cycles(cycles)
    with working(f"tracing {program.name}"):
        drawn = api.trace(api.load(program, entry=entry), output, chip=chip, cycles=interval)
    text = (
        f"{output}: {number(drawn.slices)} slices on {number(drawn.tracks)} tracks, "
        f"{number(drawn.bytes)} bytes"
    )
    finish({"trace": str(output), **dataclasses.asdict(drawn)}, text, as_json=json)
