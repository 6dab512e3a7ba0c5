"""`run --watch` and `run --provenance`: instead of a run, a look into it.

What is watched is a table of events, and what an element was made of is in `trail.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep.output import table_text
from clockstep.trail import element, trail_as_data
from clockstep.trail_text import trail_as_text
from clockstep_isa import Program, UsageError, instruction_texts, note_texts
from clockstep_runtime import Session
from clockstep_runtime.debug import Event, provenance, watch

__all__ = ["traced", "watched"]

Tensors = Mapping[str, NDArray[Any]]

_SHOWN = 4
"""Lanes of a vector that a table shows."""


def watched(
    program: Program, inputs: Tensors, places: Sequence[str], until: int | None
) -> tuple[dict[str, Any], str]:
    """What `run --watch` prints, as data and as text. Raises as `watch`."""
    if until is not None and until < 0:
        raise UsageError("option-until", f"cycle {until} is negative")
    _one_run(program, inputs, "--watch")
    events = watch(program, inputs, places, until)
    texts = _texts(program, events)
    last = program.cycles - 1 if until is None else until
    data = {
        "until": last,
        "watch": list(places),
        "events": [_as_data(program, event, texts) for event in events],
    }
    return data, _as_text(program, events, texts, places, last)


def traced(program: Program, inputs: Tensors, text: str) -> tuple[dict[str, Any], str]:
    """What `run --provenance` prints, as data and as text. Raises as `element` and `provenance`."""
    _one_run(program, inputs, "--provenance")
    output, index = element(program, text)
    value = Session(program).run(inputs)[output.name][index].item()
    trail = provenance(program, inputs, output, index)
    data = trail_as_data(program, text, value, trail)
    return data, trail_as_text(program, text, value, trail)


def _one_run(program: Program, inputs: Tensors, flag: str) -> None:
    """Refuse a batch of runs."""
    for binding in program.inputs:
        if np.ndim(inputs[binding.name]) > len(binding.shape):
            shape = list(np.shape(inputs[binding.name]))
            message = f"{flag} follows one run, and input {binding.name!r} is a batch {shape}"
            raise UsageError("option-batch", message)


def _texts(program: Program, events: Sequence[Event]) -> dict[int, str]:
    """The instructions of some events, by their place in the code."""
    index = np.unique([event.instruction for event in events if event.instruction >= 0])
    index = index.astype(np.int64)
    texts = instruction_texts(program.code.take(index))
    return dict(zip(index.tolist(), texts, strict=True))


def _as_data(program: Program, event: Event, texts: Mapping[int, str]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "cycle": event.cycle,
        "chip": event.chip,
        "unit": event.unit,
        "event": event.kind,
        "place": event.place or None,
        "type": event.type.text if event.type is not None else None,
        "values": None if event.values is None else [_numbers(row) for row in event.values],
        "origin": event.origin or None,
        "instruction": None,
        "dispatch": None,
        "node": None,
        "tile": None,
    }
    if event.instruction >= 0:
        note = int(program.code.note[event.instruction])
        data["instruction"] = texts[event.instruction]
        data["dispatch"] = event.step
        if note >= 0:
            node = program.notes[note].node
            data["node"] = program.nodes[node].name if node >= 0 else None
            data["tile"] = program.notes[note].tile
    return data


def _numbers(row: NDArray[Any]) -> list[int | float | str]:
    """JSON has no NaN and no infinities: they are written as text."""
    values = row.tolist()
    return [v if isinstance(v, int) or math.isfinite(v) else str(v) for v in values]


_COLUMNS = ("cycle", "unit", "event", "place", "type", "values", "range", "instruction")


def _as_text(
    program: Program,
    events: Sequence[Event],
    texts: Mapping[int, str],
    places: Sequence[str],
    last: int,
) -> str:
    if not events:
        return f"nothing happened at {', '.join(places)} in cycles 0 to {last:,}"
    notes = note_texts(program)
    rows = [
        {
            "cycle": event.cycle,
            "unit": f"c{event.chip}.{event.unit}",
            "event": event.kind,
            "place": event.place,
            "type": "" if event.type is None else event.type.text,
            "values": _first(event),
            "range": _range(event),
            "instruction": _instruction(program, event, texts, notes),
        }
        for event in events
    ]
    return table_text(rows, _COLUMNS)


def _first(event: Event) -> str:
    """The first lanes of the first vector, and how many vectors there are."""
    if event.values is None:
        return ""
    row = event.values[0]
    shown = " ".join(map(_number, row[:_SHOWN].tolist()))
    more = " ..." if len(row) > _SHOWN else ""
    return shown + more + (f" ({len(event.values)} vectors)" if len(event.values) > 1 else "")


def _range(event: Event) -> str:
    """The least and the greatest of all lanes, NaN left out."""
    if event.values is None:
        return ""
    values = event.values[~np.isnan(event.values)]
    if not values.size:
        return "nan"
    return f"{_number(values.min().item())} to {_number(values.max().item())}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _instruction(
    program: Program, event: Event, texts: Mapping[int, str], notes: Sequence[str]
) -> str:
    if event.instruction < 0:
        return event.origin
    repeat = int(program.code.repeat[event.instruction])
    number = f"{event.step + 1}/{repeat}: " if repeat > 1 else ""
    note = int(program.code.note[event.instruction])
    text = number + texts[event.instruction]
    return f"{text}  ; {notes[note]}" if note >= 0 else text
