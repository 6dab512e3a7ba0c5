"""Entries of one program: none harms what the others find in SRAM.

Each is checked by itself as any program is. Here is what only all of them show: that they have the
same states, and leave the image and these as the next run wants them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import geometry
from clockstep_isa.layout import PIECE, Binding
from clockstep_isa.parts import parts_of
from clockstep_isa.program import Program
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.fields import legal_instructions
from clockstep_runtime.verifier.report import Findings, Report

__all__ = ["check_entries"]

Ints = NDArray[np.int64]
_PLACE = [PIECE.index(name) for name in ("chip", "queue", "address", "rows")]


def check_entries(program: Program) -> Report:
    """Report entries that have other states than the first, and writes to words of the image."""
    findings = Findings()
    entries = program.entries
    findings.count("entries", len(entries))
    for name, entry in entries.items():
        if _states(entry) != _states(program):
            message = f"entry {name!r} has other states than {program.name!r}, or elsewhere"
            findings.add("entry-states", 0, "program", 0, message)
        _check_image(entry, findings)
    return findings.report(0)


def _states(program: Program) -> dict[str, list[list[list[int]]]]:
    """The words of every state."""
    held: dict[str, Binding] = {b.name: b for b in program.inputs}
    return {
        given: [layout.pieces[:, _PLACE].tolist() for layout in held[given].layouts]
        for given, _ in program.states
    }


def _check_image(program: Program, findings: Findings) -> None:
    """Report the first write of every instruction to a word of the image."""
    queues, words = len(geometry(program.machine).queues), program.machine.words_per_slice
    chip, queue, address, count = program.image.regions.T
    start = (chip * queues + queue) * words + address
    order = np.argsort(start)
    start, end = start[order], (start + count)[order]
    if not len(start):
        return
    for part in parts_of(program):
        own = replace(program, code=part.code, chips=part.chips, others=())
        columns = legal_instructions(own, Findings())
        columns = columns.take(columns.where("write", "scatter"))
        low, reach = _written(columns)
        for where, cycle, _ in part.places.tolist():
            first = (columns.queue + where * queues) * words + low
            # Regions do not overlap: the last one that starts before a write ends is it, if any.
            region = np.searchsorted(start, first + reach) - 1
            near = (region >= 0) & (end[np.maximum(region, 0)] > first)
            for at in np.flatnonzero(near).tolist():
                touched = _touched(columns, at, int(first[at]), int(reach[at]))
                region = np.searchsorted(start, touched, "right") - 1
                inside = touched[(region >= 0) & (touched < end[np.maximum(region, 0)])]
                if len(inside):
                    unit, begin = columns.unit(at).name, int(columns.start[at]) + cycle
                    on = where + int(columns.queue[at]) // queues
                    message = f"entry {program.name!r} writes to word {int(inside[0]) % words}"
                    findings.add("entry-image", on, unit, begin, f"{message}, which is constant")


def _written(columns: Columns) -> tuple[Ints, Ints]:
    """The lowest word that an instruction may write, and how many from it on."""
    low, reach = columns.reach
    mapped = np.isin(np.arange(len(columns)), columns.where("scatter"))
    return low, np.where(mapped, reach, reach - columns.field("words") + 1)


def _touched(columns: Columns, at: int, first: int, reach: int) -> Ints:
    """The words that one instruction may write, from the lowest on."""
    stride = int(abs(columns.field("stride")[at]))
    plain = at in columns.where("write").tolist()
    return np.arange(first, first + reach, max(1, stride) if plain else 1)
