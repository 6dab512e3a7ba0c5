"""How much of a chip is at work: counters, from what the verifier found.

To add a counter, write a function `Resolution -> Changes` and name it in `COUNTERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.table import BY_NAME, Type
from clockstep_runtime.trace.sheet import Sheet
from clockstep_runtime.trace.spans import merged
from clockstep_runtime.trace.streams import carried
from clockstep_runtime.verifier import Columns, Resolution

__all__ = ["COUNTERS", "Changes", "Counter", "draw_counters"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Changes:
    """Arrays of one length: `weight` counts on `chip` in the cycles [start, end)."""

    chip: Ints
    start: Ints
    end: Ints
    weight: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter of every chip."""

    name: str
    unit: str
    doc: str
    changes: Callable[[Resolution], Changes]


def _planes(found: Resolution) -> Changes:
    activations = found.columns.named("abc")
    wide = activations.args[:, BY_NAME["abc"].field("type")] == Type.F16
    planes = np.where(wide, activations.machine.mxm.fp16_planes, 1)
    return _at_work(activations, planes)


def _alus(found: Resolution) -> Changes:
    return _at_work(found.columns.only(Unit.VXM))


def _slices(found: Resolution) -> Changes:
    return _at_work(found.columns.only(Unit.MEM))


def _at_work(columns: Columns, units: Ints | int = 1) -> Changes:
    """The part of its span in which each instruction's unit is busy, times `units`."""
    end = columns.last + columns.busy
    weight = units * columns.count * columns.busy / (end - columns.start)
    return Changes(columns.chip, columns.start, end, weight)


def _streams(found: Resolution) -> Changes:
    held = carried(found)
    key, start, end = merged(held.side << 8 | held.stream, held.start, held.end)
    return Changes(key >> 9, start, end, np.ones(len(key)))


def _words(found: Resolution) -> Changes:
    """Words from being written to the last read of their instruction or block.

    Weights and constants stay for the next run, so they are there in all cycles.
    """
    columns, words = found.columns, found.words
    total = len(columns)
    last = np.full(total + len(words.initial), -1, np.int64)
    reader, producer = words.segments.consumer, words.segments.producer
    element = words.segments.first + (words.segments.count - 1) * words.segments.step
    code = np.minimum(reader, max(total - 1, 0))
    cycle = np.full(len(reader), found.cycles, np.int64)
    by_code = reader < total
    if total:
        read = columns.start[code] + element * columns.step[code] + 1
        cycle = np.where(by_code, read, cycle)
    np.maximum.at(last, producer, cycle)
    chip = np.append(columns.chip, [block.chip for block in words.initial])
    start = np.append(columns.start, np.zeros(len(words.initial), np.int64))
    size = np.where(columns.field("stride") == 0, 1, columns.count)
    size = np.append(size, [block.words for block in words.initial])
    stays = [total + i for i, block in enumerate(words.initial) if block.source == "image"]
    last[stays] = found.cycles
    used = last > start
    return Changes(chip[used], start[used], last[used], size[used].astype(np.float64))


COUNTERS = (
    Counter("MXM planes busy", "planes", "planes that take in activations", _planes),
    Counter("ALUs busy", "ALUs", "ALUs of the VXM that are dispatched to", _alus),
    Counter(
        "streams in use", "streams", "streams with a vector that is still to be read", _streams
    ),
    Counter("SRAM accesses", "a cycle", "words that slices read and write in a cycle", _slices),
    Counter("SRAM words live", "words", "words that are still to be read; all weights", _words),
)


def draw_counters(sheet: Sheet, found: Resolution, tracks: dict[int, dict[str, int]]) -> None:
    """Every counter of `COUNTERS`; `tracks` has those of each chip by name."""
    for counter in COUNTERS:
        changes = counter.changes(found)
        for chip, named in tracks.items():
            mine = changes.chip == chip
            cycles = np.concatenate([changes.start[mine], changes.end[mine]])
            weight = changes.weight[mine]
            sheet.count(named[counter.name], cycles, np.concatenate([weight, -weight]))
