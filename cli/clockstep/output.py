"""How a verb speaks: one JSON object or aligned text on stdout, the rest on stderr."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console

from clockstep_isa.diagnostics import shown

__all__ = [
    "csv_text",
    "facts_text",
    "finish",
    "number",
    "table_text",
    "warn",
    "working",
]


def finish(data: Mapping[str, Any], text: str, *, as_json: bool, status: int = 0) -> None:
    """End a verb: print its result in the form that was asked for and set the exit status."""
    if as_json:
        text = json.dumps(data, allow_nan=False)
    # A name out of a file may hold half a surrogate pair, which no terminal takes.
    sys.stdout.write(text.rstrip("\n").encode("utf-8", "backslashreplace").decode() + "\n")
    if status:
        raise typer.Exit(status)


def warn(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(message + "\n")


def working(what: str) -> contextlib.AbstractContextManager[object]:
    """A spinner on stderr while a block runs; nothing unless stderr is a terminal."""
    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else contextlib.nullcontext()


def number(value: object) -> str:
    """A figure for people: thousands apart, "-" for what is not known."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else shown(value)
    return text if text.isprintable() else repr(text)[1:-1]


def facts_text(facts: Mapping[str, str]) -> str:
    """Names and values, one a line."""
    width = max(map(len, facts), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in facts.items())


def table_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """An aligned table: numbers to the right, text to the left."""
    cells = [[number(row.get(name)) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in columns]
    lines = [columns, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The same table as comma-separated values, numbers bare."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
