"""What the whole program is about: its nodes, and the cause of every cycle where it says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clockstep_isa import Program
from clockstep_runtime.trace.sheet import Sheet, Slices
from clockstep_runtime.trace.spans import lanes
from clockstep_runtime.trace.units import node_names

__all__ = ["Cause", "draw_causes", "draw_nodes"]


class Cause(NamedTuple):
    """Why the cycles [first, end) of a program passed: a `cause` at a node, and what exactly."""

    first: int
    end: int
    node: int
    cause: str
    detail: str


def draw_nodes(sheet: Sheet, program: Program, parent: int) -> None:
    """A slice a node, for the cycles in which its instructions are at work."""
    table = [
        (i, n.start, min(n.end, program.cycles))
        for i, n in enumerate(program.nodes)
        if 0 <= n.start < min(n.end, program.cycles)
    ]
    node, start, end = np.array(table, np.int64).reshape(-1, 3).T
    lane = lanes(np.zeros(len(node), np.int64), start, end)
    tracks = [sheet.track("ONNX nodes", parent) for _ in range(int(lane.max(initial=-1)) + 1)]
    track = np.array(tracks, np.int64)[lane] if tracks else lane
    known = node_names(program)
    name = sheet.texts("name", [known[i] for i in node.tolist()])
    category = sheet.texts("category", [program.nodes[i].op for i in node.tolist()])
    sheet.draw(Slices(track, start, end, name, category), {"cycle": start})


def draw_causes(sheet: Sheet, program: Program, causes: Sequence[Cause], parent: int) -> None:
    """A slice for every stretch of cycles that have one cause; nothing without causes."""
    if not causes:
        return
    track = sheet.track("causes", parent, description="why every cycle of the program passed")
    start = np.array([c.first for c in causes], np.int64)
    end = np.array([c.end for c in causes], np.int64)
    known = node_names(program)
    name = sheet.texts("name", [c.cause for c in causes])
    texts = {
        "node": sheet.texts("text", [known[c.node] for c in causes]),
        "detail": np.array([_number(sheet, c.detail) for c in causes], np.int64),
    }
    category = np.repeat(sheet.texts("category", ["cause"]), len(start))
    slices = Slices(np.full(len(start), track), start, end, name, category)
    sheet.draw(slices, {"cycle": start}, texts)


def _number(sheet: Sheet, text: str) -> int:
    """The number of a text; 0, which is left out, of an empty one."""
    return int(sheet.texts("text", [text])[0]) if text else 0
