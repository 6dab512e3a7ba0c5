"""How far a program is from what the machine allows, and what its cycles are spent on.

The rows of `inspect --section bounds`: one for the program, one for each node that steps belong to.
A program says both of itself, in `info`, which the file format does not look into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from clockstep.output import table_text
from clockstep_compiler.bounds import LAYOUT, NAMES
from clockstep_compiler.causes import CAUSES, Cause
from clockstep_isa import MalformedFile, Program

__all__ = [
    "ABSENT",
    "COLUMNS",
    "EACH",
    "bound_ratio",
    "causes_of",
    "limits",
    "limits_text",
    "waits",
]

Row = dict[str, Any]

EACH = tuple(f"bound_{name.replace(' ', '_')}" for name in NAMES)
"""Every bound by itself."""

_WHOSE = ("layer", "op")
_BOUNDS = ("cycles", "bound", "bound_by", "ratio")

COLUMNS = (*_WHOSE, *_BOUNDS, *EACH, "laid_out", "path", *CAUSES)
"""`cycles` from the first dispatch to the last result, `laid_out` what the busiest resource
takes for whole vectors, `path` those of the makespan that are the node's: the sum of its causes."""

ABSENT = "the program says nothing of bounds: it was not compiled from a model"


def bound_ratio(program: Program) -> float | None:
    """Cycles of the program for each of the lower bound; None where it does not say."""
    bound = program.info.get("lower_bound_cycles")
    return round(program.cycles / bound, 3) if type(bound) is int and bound > 0 else None


def limits(program: Program) -> list[Row]:
    """The rows; none if the program says nothing of bounds.

    Raises `MalformedFile` if what it says is not in the form that `compile` writes.
    """
    if "bounds" not in program.info and "causes" not in program.info:
        return []
    names, whole, nodes = _bounds(program)
    spent = _spent(program)
    total = {cause: sum(row.get(cause, 0) for row in spent.values()) for cause in CAUSES}
    rows = [_row("(program)", "", program.cycles, dict(zip(names, whole, strict=True)), total)]
    for index in sorted({*nodes, *spent}):
        node = program.nodes[index]
        bounds = dict(zip(names, nodes.get(index, ()), strict=False))
        rows.append(_row(node.name, node.op, node.end - node.start, bounds, spent.get(index, {})))
    return rows


def limits_text(program: Program, rows: Sequence[Row]) -> str:
    """The rows as two tables: how many cycles it must take, and on what it spends them.

    Then what most of these were spent waiting for.
    """
    named = [
        row | {name: row[each] for name, each in zip(NAMES, EACH, strict=True)} for row in rows
    ]
    parts = [
        "bounds, in cycles",
        table_text(named, (*_WHOSE, *_BOUNDS, *NAMES, "laid_out")),
        "causes of the makespan's cycles",
        table_text(rows, (*_WHOSE, "path", *CAUSES)),
    ]
    most = waits(program, rows)["waits"][:_MOST]
    if most:
        parts += ["waited for most", table_text(most, ("cause", "detail", "cycles"))]
    return "\n\n".join(parts)


_MOST = 8
"""What is waited for most that people are shown."""


def waits(program: Program, rows: Sequence[Row]) -> Row:
    """Cycles by cause and what was waited for, the most first; none where there are no rows."""
    found: dict[tuple[str, str], int] = {}
    for row in causes_of(program) if rows else ():
        if row.detail:
            key = row.cause, row.detail
            found[key] = found.get(key, 0) + row.end - row.first
    order = sorted(found, key=lambda key: (-found[key], key))
    return {"waits": [{"cause": c, "detail": d, "cycles": found[c, d]} for c, d in order]}


def _row(layer: str, op: str, cycles: int, bounds: dict[str, int], spent: dict[str, int]) -> Row:
    names = [name for name in NAMES if name in bounds]
    name = max(names, key=lambda name: bounds[name], default="")
    bound = bounds.get(name, 0)
    return {
        "layer": layer,
        "op": op,
        "cycles": cycles,
        "bound": bound,
        "bound_by": name if bound else "",
        "ratio": round(cycles / bound, 2) if bound else None,
        "laid_out": bounds.get(LAYOUT),
        "path": sum(spent.values()),
        **{cause: spent.get(cause, 0) for cause in CAUSES},
        **{column: bounds.get(name) for column, name in zip(EACH, NAMES, strict=True)},
    }


def _bounds(program: Program) -> tuple[list[str], list[int], dict[int, list[int]]]:
    """Names, the bounds of the program, and those of each node."""
    found = program.info.get("bounds")
    if not isinstance(found, dict):
        raise _malformed("bounds")
    names, whole, nodes = (found.get(key) for key in ("names", "program", "nodes"))
    if not isinstance(names, list) or not all(name in (*NAMES, LAYOUT) for name in names):
        raise _malformed("bounds")
    if not isinstance(nodes, list) or not _integers(whole, len(names)):
        raise _malformed("bounds")
    if not all(_integers(row, len(names) + 1) and row[0] < len(program.nodes) for row in nodes):
        raise _malformed("bounds")
    return names, whole, {row[0]: row[1:] for row in nodes}


def _integers(row: object, count: int) -> TypeGuard[list[int]]:
    """Whether something is a list of so many numbers, none negative."""
    return (
        isinstance(row, list)
        and len(row) == count
        and all(type(item) is int and item >= 0 for item in row)
    )


def causes_of(program: Program) -> list[Cause]:
    """What every cycle of the program is spent on, from the first to the last.

    Raises `MalformedFile` if the program does not say that, or not in the form of `compile`.
    """
    rows = program.info.get("causes")
    if not isinstance(rows, list):
        raise _malformed("causes")
    at = 0
    for row in rows:
        if not _is_cause(row, at, len(program.nodes)):
            raise _malformed("causes")
        at = row[1]
    if at != program.cycles:
        raise _malformed("causes")
    return [Cause(*row) for row in rows]


def _spent(program: Program) -> dict[int, dict[str, int]]:
    """Cycles of every node by cause; every cycle of the program is in one of them."""
    found: dict[int, dict[str, int]] = {}
    for row in causes_of(program):
        of = found.setdefault(row.node, {})
        of[row.cause] = of.get(row.cause, 0) + row.end - row.first
    return found


def _is_cause(row: object, first: int, nodes: int) -> bool:
    """Whether a row is [first, end, node, cause, detail] and goes on where the last one ended."""
    if not isinstance(row, list) or len(row) != 5 or not _integers(row[:3], 3):
        return False
    said = row[3] in CAUSES and type(row[4]) is str
    return said and row[0] == first < row[1] and row[2] < nodes


def _malformed(key: str) -> MalformedFile:
    return MalformedFile("program-info", f"info {key!r} is not what this section shows")
