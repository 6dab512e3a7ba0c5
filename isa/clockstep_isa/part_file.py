"""Parts in a program file: each is stored once, as if side by side on chips of their own.

Beside the arrays that every program has, there are the places of all parts, one after another, and
in the metadata the chips of each part and how many places it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.codec import MAX_WORDS
from clockstep_isa.diagnostics import MalformedFile
from clockstep_isa.geometry import geometry
from clockstep_isa.machine import Machine
from clockstep_isa.parts import PLACE, Part, parts_of
from clockstep_isa.program import LAST_CYCLE, Code, Note, Program, canonical_notes

__all__ = ["PLACES", "SideBySide", "parts_from", "read_sizes", "side_by_side"]

PLACES = "places"
"""The array of all places; only files of programs with parts have it."""

_PLACES = 1 << 20
"""Most places of a part."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Code, notes and regions of parts on chips of their own, and where they run.

    `sizes` rows are (chips, places) of a part; None for a program without parts.
    """

    code: Code
    notes: Sequence[Note]
    regions: NDArray[np.int64]
    sizes: list[list[int]] | None
    places: NDArray[np.int64]


def side_by_side(program: Program) -> SideBySide:
    """What a file holds of a program."""
    parts = parts_of(program)
    none = np.zeros((0, len(PLACE)), np.int64)
    if all(len(part.places) == 1 for part in parts):
        return SideBySide(program.code, program.notes, program.image.regions, None, none)
    queues, chip = len(geometry(program.machine).queues), 0
    codes: list[Code] = []
    notes: list[Note] = []
    regions: list[NDArray[np.int64]] = []
    for part in parts:
        code = part.code
        note = np.where(code.note < 0, -1, code.note + len(notes)).astype(np.int32)
        codes.append(replace(code, queue=code.queue + np.int32(chip * queues), note=note))
        notes += part.notes
        regions.append(part.regions + np.array([chip, 0, 0, 0]))
        chip += part.chips
    columns = ("queue", "cycle", "opcode", "repeat", "interval", "args", "note")
    whole = Code(*(np.concatenate([getattr(c, name) for c in codes]) for name in columns))
    sizes = [[part.chips, len(part.places)] for part in parts]
    places = np.concatenate([part.places for part in parts])
    return SideBySide(whole.sorted(), notes, np.concatenate(regions), sizes, places)


def read_sizes(data: Mapping[str, Any], most: int, where: str) -> list[list[int]] | None:
    """The sizes in the metadata, None if it has none; raises `MalformedFile` if they are wrong.

    No part has more than `most` chips.
    """
    sizes = data.get("parts")
    if sizes is None:
        return None
    good = isinstance(sizes, list) and bool(sizes) and all(_is_size(row, most) for row in sizes)
    if not good:
        raise MalformedFile("program-parts", "'parts' are not chips and places", where=where)
    return [list(row) for row in sizes]


def _is_size(row: object, most: int) -> bool:
    if not isinstance(row, list) or len(row) != 2:
        return False
    chips, places = row
    known = type(chips) is int and type(places) is int
    return known and 1 <= chips <= most and 1 <= places <= _PLACES


def parts_from(
    held: SideBySide, machine: Machine, chips: int, nodes: int, where: str
) -> tuple[Part, ...]:
    """The parts that a file holds, for a program of `chips` chips and so many nodes.

    Raises `MalformedFile` for a place that there is not, or that another part holds in its image.
    """
    assert held.sizes is not None
    ends = list(accumulate((count for _, count in held.sizes), initial=0))
    if ends[-1] != len(held.places):
        raise MalformedFile("program-parts", "places do not add up to those of parts", where=where)
    queues = len(geometry(machine).queues)
    first = list(accumulate((size for size, _ in held.sizes), initial=0))
    parts = []
    for number, (low, high) in enumerate(pairwise(first)):
        code = held.code.take((held.code.queue >= low * queues) & (held.code.queue < high * queues))
        note, notes = canonical_notes(code.note, held.notes)
        chip = held.regions[:, 0]
        regions = held.regions[(chip >= low) & (chip < high)] - np.array([low, 0, 0, 0])
        queue = code.queue - np.int32(low * queues)
        places = held.places[ends[number] : ends[number + 1]].astype(np.int64)
        parts.append(
            Part(high - low, replace(code, queue=queue, note=note), notes, regions, places)
        )
    problem = _problem(parts, chips, nodes)
    if problem:
        raise MalformedFile("program-parts", problem, where=where)
    return tuple(parts)


def _problem(parts: Sequence[Part], chips: int, nodes: int) -> str:
    """What is wrong with the places of parts, if anything is."""
    held: set[int] = set()
    for part in parts:
        chip, cycle, node = part.places.T
        last = max((note.node for note in part.notes), default=-1)
        if ((chip < 0) | (chip + part.chips > chips)).any():
            return "a part is on chips that do not exist"
        if ((cycle < 0) | (cycle > LAST_CYCLE)).any():
            return f"a part starts outside the cycles 0 to {LAST_CYCLE}"
        if ((node < 0) | (node + last >= max(nodes, 1))).any():
            return "a part serves nodes that do not exist"
        if len(part.regions):
            own = {first + i for first in chip.tolist() for i in range(part.chips)}
            if own & held or len(own) != part.chips * len(chip):
                return "two parts have an image on one chip"
            held |= own
    if sum(len(part.code) * len(part.places) for part in parts) > MAX_WORDS:
        return f"parts have more than {MAX_WORDS} instructions at all their places"
    return ""
