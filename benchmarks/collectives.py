"""Time collectives and systems of `lpu-v1`; print the tables of docs/systems.md.

    python -m benchmarks collectives            # every row, a minute
    python -m benchmarks collectives --write    # and put the tables into docs/systems.md

To add a row, add it to `ROWS`. Every program is verified.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import clockstep
from clockstep_isa.topology import systems, topology

__all__ = ["BEGIN", "END", "ROWS", "Row", "main", "report", "written"]

PAGE = Path(__file__).parents[1] / "docs" / "systems.md"
BEGIN, END = "<!-- begin: python -m benchmarks collectives --write -->", "<!-- end -->"

_KB, _MB = 2**10, 2**20


class Row(NamedTuple):
    """A collective over `chips` with a message of `size` bytes."""

    collective: str
    chips: int
    size: int
    type: str = "f16"


ROWS = (
    Row("send", 8, 320),
    Row("send", 8, _MB),
    Row("broadcast", 8, 2 * _KB),
    Row("broadcast", 8, _MB),
    Row("all-gather", 8, _MB),
    Row("reduce-scatter", 8, _MB),
    Row("all-reduce", 8, 2 * _KB),
    Row("all-reduce", 8, 2 * _KB, "f32"),
    Row("all-reduce", 8, _MB),
    Row("all-reduce", 8, 64 * _MB),
    Row("all-reduce", 16, 2 * _KB),
    Row("all-reduce", 16, _MB),
    Row("all-reduce", 64, 2 * _KB),
    Row("all-reduce", 256, 2 * _KB),
)

_HEAD = ("collective", "chips", "bytes", "type", "algorithm", "cycles", "us", "links alone", "")
_SYSTEMS = ("chips", "nodes", "racks", "links", "diameter", "GB/s a chip", "at 28 Gb/s lanes")


def main(words: Sequence[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"rewrite the tables in {PAGE.name}")
    options = parser.parse_args(words)
    lines = []
    for line in report("lpu-v1", ROWS):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), lines), encoding="utf-8")


def report(machine: str, rows: Sequence[Row]) -> Iterator[str]:
    """The lines of both tables, as they are measured."""
    yield from _head(_SYSTEMS)
    yield from _systems(machine)
    yield from _head(_HEAD)
    for row in rows:
        yield _line(*_measured(machine, row))


def _systems(machine: str) -> Iterator[str]:
    slow, fast = (
        clockstep.load_machine(machine, more) for more in ((), ("c2c.lane_kbps=28000000",))
    )
    for chips in systems(slow):
        found = topology(slow, chips)
        rates = (f"{topology(m, chips).bisection / 1e9:.1f}" for m in (slow, fast))
        yield _line(chips, found.nodes, found.racks, found.links, found.diameter, *rates)


def _measured(machine: str, row: Row) -> tuple[object, ...]:
    program = clockstep.collective(
        row.collective, bytes=row.size, chips=row.chips, type=row.type, machine=machine
    )
    assert clockstep.verify(program).ok, row
    bound = program.info["lower_bound_cycles"]
    share = f"{100 * bound / program.cycles:.0f} %"
    name, us = program.info["algorithm"], f"{program.seconds * 1e6:.2f}"
    return (row.collective, row.chips, row.size, row.type, name, program.cycles, us, bound, share)


def _head(names: Sequence[str]) -> Iterator[str]:
    yield from ("", _line(*names), "|" + "---|" * len(names))


def _line(*cells: object) -> str:
    texts = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells)
    return f"| {' | '.join(texts)} |"


def written(text: str, lines: Sequence[str]) -> str:
    """The page with its tables replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    body = "\n".join(lines)
    return f"{before}{BEGIN}\n{body}\n\n{END}{after}"
