"""SRAM over time: how full every part of it is when, and what fills it at the peak.

The blocks are those that a program names in its `info`, which the file format does not look into;
weights and constants are there from the start and stay for the next run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep.output import number, table_text
from clockstep_isa import MalformedFile, Program, geometry
from clockstep_isa.geometry import Queue, Unit

__all__ = ["ABSENT", "memory_map", "memory_peaks"]

Ints = NDArray[np.int64]
Row = dict[str, Any]

ABSENT = "the program says nothing of its blocks: it was not compiled from a model"

_COLUMNS = 64
"""Columns of time in the map, at most."""

_PARTS = 8
"""Rows of slices in a hemisphere, at most."""

_SHADES = " .:-=+*#%@"
_TENSORS = 10
"""Tensors that are named at a peak."""

_STAYS = ("(weights and constants)", "image")
_LATE = 2**62


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Arrays of one length: `words` of a slice in the cycles [first, last), and of which owner.

    `slice` counts over all chips; `owners` are (tensor, kind).
    """

    slice: Ints
    words: Ints
    first: Ints
    last: Ints
    owner: Ints
    owners: list[tuple[str, str]]

    def of(self, slices: Sequence[int]) -> _Blocks:
        """Those in some slices."""
        at = np.isin(self.slice, slices)
        cycles = (self.first[at], self.last[at])
        return _Blocks(self.slice[at], self.words[at], *cycles, self.owner[at], self.owners)


def memory_peaks(program: Program, rows: Sequence[Row]) -> list[Row]:
    """For each chip the first cycle in which most words are alive, how many, and whose they are.

    `rows` are the blocks that the program names. Raises `MalformedFile` if they are none.
    """
    blocks = _blocks(program, rows)
    queues = geometry(program.machine).queues
    found = []
    for chip in range(program.chips):
        mine = blocks.of([chip * len(queues) + q.id for q in queues])
        times, sums = _live(mine)
        at = int(np.argmax(sums)) if len(sums) else 0
        cycle = int(times[at]) if len(sums) else 0
        found.append(
            {
                "chip": chip,
                "cycle": cycle,
                "words": int(sums[at]) if len(sums) else 0,
                "capacity": program.machine.words_per_chip,
                "tensors": _alive(mine, cycle),
            }
        )
    return found


def memory_map(program: Program, rows: Sequence[Row]) -> str:
    """The map of every chip as text: darker is fuller, time goes to the right."""
    blocks = _blocks(program, rows)
    peaks = memory_peaks(program, rows)
    return "\n\n".join(_chip_text(program, blocks, peak) for peak in peaks)


def _chip_text(program: Program, blocks: _Blocks, peak: Row) -> str:
    queues = geometry(program.machine).queues
    base = peak["chip"] * len(queues)
    pitch = max(1, -(-program.cycles // _COLUMNS))
    parts = {
        name: [base + q.id for q in held]
        for side in "WE"
        for name, held in _parts([q for q in queues if q.unit is Unit.MEM and q.hemisphere == side])
    }
    full = {name: _fullest(blocks.of(held), program.cycles, pitch) for name, held in parts.items()}
    most = max(
        (int(row.max(initial=0)) / len(parts[name]) for name, row in full.items()), default=0
    )
    wide = max(map(len, full))
    lines = [
        f"  {name:<{wide}} |{_shaded(row / len(parts[name]), most)}| {number(int(row.max())):>9}"
        for name, row in full.items()
    ]
    percent = 100 * peak["words"] / peak["capacity"]
    head = (
        f"chip {peak['chip']}: {number(peak['words'])} of {number(peak['capacity'])} words are "
        f"alive at the peak ({percent:.1f} %), in cycle {number(peak['cycle'])}"
    )
    scale = (
        f"  a column is {number(pitch)} cycles of {number(program.cycles)}, "
        f"'{_SHADES[-1]}' {number(round(most))} words a slice of "
        f"{number(program.machine.words_per_slice)}; the last figure is the most words"
    )
    table = table_text(_shares(peak), ("tensor", "kind", "words", "percent"))
    shares = "\n".join(f"  {line}" for line in table.splitlines())
    return "\n".join([head, scale, "", *lines, "", shares])


def _parts(slices: list[Queue]) -> list[tuple[str, list[Queue]]]:
    """A hemisphere, then its slices in groups, from the outermost to the VXM or away from it."""
    each = -(-len(slices) // _PARTS)
    side = slices[0].hemisphere
    groups = [slices[at : at + each] for at in range(0, len(slices), each)]
    named = [(f"{side}{g[0].index}-{side}{g[-1].index}", g) for g in groups]
    return [(f"hemisphere {side}", slices), *(reversed(named) if side == "W" else named)]


def _shaded(filled: NDArray[np.float64], most: float) -> str:
    """One character a column; what is not empty is never blank."""
    levels = np.ceil(filled / max(most, 1e-9) * (len(_SHADES) - 1)).astype(np.int64)
    return "".join(_SHADES[level] for level in levels.tolist())


def _shares(peak: Row) -> list[Row]:
    """The rows of the table of a peak: the largest tensors, and the rest in one."""
    rows = [dict(row) for row in peak["tensors"][:_TENSORS]]
    rest = peak["tensors"][_TENSORS:]
    if rest:
        words = sum(row["words"] for row in rest)
        rows.append({"tensor": f"({len(rest)} others)", "kind": "", "words": words})
    for row in rows:
        row["percent"] = round(100 * row["words"] / peak["words"], 1)
    return rows


def _fullest(blocks: _Blocks, cycles: int, pitch: int) -> Ints:
    """The most words that are alive in a cycle of each column."""
    times, sums = _live(blocks)
    starts = np.arange(0, max(cycles, 1), pitch)
    before = np.searchsorted(times, starts, "right") - 1
    found = np.where(before < 0, 0, np.append(sums, 0)[before])
    inside = times < len(starts) * pitch
    np.maximum.at(found, times[inside] // pitch, sums[inside])
    return found


def _live(blocks: _Blocks) -> tuple[Ints, Ints]:
    """The cycles in which the number of live words changes, and the number from then on."""
    times = np.concatenate([blocks.first, blocks.last])
    changes = np.concatenate([blocks.words, -blocks.words])
    order = np.argsort(times, kind="stable")
    times, sums = times[order], np.cumsum(changes[order])
    settled = np.append(np.diff(times) > 0, True)[: len(times)]
    return times[settled], sums[settled]


def _alive(blocks: _Blocks, cycle: int) -> list[Row]:
    """Words by tensor and kind that are alive in a cycle, most first."""
    there = (blocks.first <= cycle) & (cycle < blocks.last)
    words = np.zeros(len(blocks.owners), np.int64)
    np.add.at(words, blocks.owner[there], blocks.words[there])
    order = sorted(np.flatnonzero(words).tolist(), key=lambda i: (-words[i], blocks.owners[i]))
    return [
        {"tensor": blocks.owners[i][0], "kind": blocks.owners[i][1], "words": int(words[i])}
        for i in order
    ]


def _blocks(program: Program, rows: Sequence[Row]) -> _Blocks:
    """The words of the image, and the blocks that do not lie in it."""
    queues = geometry(program.machine).queues
    numbers = {q.name: q.id for q in queues if q.unit is Unit.MEM}
    owners: dict[tuple[str, str], int] = {_STAYS: 0}
    regions = [
        (chip * len(queues) + queue, address, address + words)
        for chip, queue, address, words in program.image.regions.tolist()
    ]
    table = [(place, end - begin, 0, _LATE, 0) for place, begin, end in regions]
    stays = _Spans(regions)
    for row in rows:
        if not _is_block(row, program, numbers):
            raise MalformedFile("program-info", "info 'memory' is not what this section shows")
        place = row["chip"] * len(queues) + numbers[row["unit"]]
        if stays.hold(place, row["address"], row["address"] + row["words"]):
            continue
        owner = owners.setdefault((row["tensor"], row["kind"]), len(owners))
        table.append((place, row["words"], row["first_cycle"], row["last_cycle"], owner))
    slices, words, firsts, lasts, whose = np.array(table, np.int64).reshape(-1, 5).T
    return _Blocks(slices, words, firsts, np.maximum(firsts, lasts), whose, list(owners))


class _Spans:
    """Intervals of addresses by slice, to ask whether one of them holds another."""

    def __init__(self, spans: list[tuple[int, int, int]]) -> None:
        self._of: dict[int, tuple[list[int], list[int]]] = {}
        for place, begin, end in sorted(spans):
            begins, ends = self._of.setdefault(place, ([], []))
            begins.append(begin)
            ends.append(end)

    def hold(self, place: int, begin: int, end: int) -> bool:
        """Whether [begin, end) lies in one interval, or in several that touch."""
        begins, ends = self._of.get(place, ([], []))
        at = bisect_right(begins, begin) - 1
        while at >= 0 and at < len(begins) and begins[at] <= begin < end:
            begin = max(begin, ends[at])
            at += 1
        return begin >= end


def _is_block(row: Mapping[str, Any], program: Program, numbers: Mapping[str, int]) -> bool:
    """Whether a row says what `compile` says of a block."""
    texts = ("unit", "tensor", "kind")
    limits = {
        "chip": program.chips - 1,
        "address": program.machine.words_per_slice,
        "words": program.machine.words_per_slice,
        "first_cycle": _LATE,
        "last_cycle": _LATE,
    }
    return (
        all(type(row.get(name)) is str for name in texts)
        and row["unit"] in numbers
        and all(type(row.get(n)) is int and 0 <= row[n] <= most for n, most in limits.items())
    )
