"""What a program says about itself, as rows: the sections of `inspect`.

To add a section, write a function `Program -> rows` and name it in `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clockstep import memory_map, traffic
from clockstep.limits import ABSENT, COLUMNS, bound_ratio, limits, limits_text, waits
from clockstep_isa import PLACE, MalformedFile, Program, geometry, parts_of
from clockstep_runtime import interval

__all__ = ["SECTIONS", "Row", "Section", "summary"]

Row = dict[str, Any]

_INFO = (
    "lower_bound_cycles",
    "bound_by",
    "layout_cycles",
    "weight_bytes",
)


def summary(program: Program) -> Row:
    """The facts that `compile` prints, from the program alone; None where it does not say."""
    return {
        "machine": program.machine.name,
        "chips": program.chips * program.copies,
        "copies": program.copies,
        "cycles": program.cycles,
        "seconds": program.seconds,
        **_rate(program),
        "instructions": len(program.code),
        **{key: program.info.get(key) for key in _INFO},
        **_room(program),
        "bound_ratio": bound_ratio(program),
        **_entries(program),
    }


def _entries(program: Program) -> Row:
    """Every entry by name, if there are several."""
    if not program.others:
        return {}
    about = {
        name: {
            "cycles": entry.cycles,
            "seconds": entry.seconds,
            "instructions": len(entry.code),
            **{key: entry.info.get(key) for key in _INFO},
        }
        for name, entry in program.entries.items()
    }
    return {"entries": about}


def _room(program: Program) -> Row:
    """What is used of the SRAM of all chips, and what they have."""
    facts = {key: program.info.get(key) for key in ("sram_bytes_used", "sram_bytes_total")}
    return {key: n if n is None else n * program.copies for key, n in facts.items()}


_MANY = 10**6


def _rate(program: Program) -> Row:
    """How often runs may start, and how many there are in a second if they start that often."""
    cycles, machine = interval(program), program.machine
    seconds = machine.seconds(_MANY * cycles, program.chips)
    return {
        "interval_cycles": cycles,
        "runs_per_second": round(_MANY / seconds, 1) if cycles else None,
    }


def _summary_rows(program: Program) -> list[Row]:
    facts = summary(program)
    for name, entry in facts.pop("entries", {}).items():
        facts[f"entry {name}"] = f"{entry['cycles']} cycles"
    facts["weights"] = "present" if program.image.data is not None else "left out"
    facts["tool_version"] = program.info.get("tool_version")
    facts["source_sha256"] = program.info.get("source_sha256")
    for kind, bindings in (("input", program.inputs), ("output", program.outputs)):
        for b in bindings:
            facts[f"{kind} {b.name}"] = f"{b.dtype}{list(b.shape)}"
    return [{"fact": name, "value": value} for name, value in facts.items()]


def _layers(program: Program) -> list[Row]:
    """One row a node: the cycles [start, end) it is at work in, and the code that serves it."""
    size = len(program.nodes)
    instructions, dispatches = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for part in parts_of(program):
        owner = np.array([*(note.node for note in part.notes), -1], np.int64)
        node = owner[part.code.note]
        known = node >= 0
        each = np.bincount(node[known])
        dispatched = np.bincount(node[known], weights=part.code.repeat[known].astype(np.float64))
        for first in part.places[:, PLACE.index("node")].tolist():
            instructions[first : first + len(each)] += each
            dispatches[first : first + len(each)] += dispatched.astype(np.int64)
    return [
        {
            "layer": n.name,
            "op": n.op,
            "start": n.start,
            "end": n.end,
            "cycles": n.end - n.start,
            "instructions": int(instructions[i]),
            "dispatches": int(dispatches[i]),
        }
        for i, n in enumerate(program.nodes)
    ]


def _memory(program: Program) -> list[Row]:
    """One row a block of SRAM words: whose it is, where it lies, and the cycles it is alive in."""
    return _told(program, "memory", ())


def _chips(program: Program) -> list[Row]:
    """One row a chip: bytes by purpose, how full its SRAM is, and its instructions."""
    queues = len(geometry(program.machine).queues)
    counts = np.zeros(program.chips, np.int64)
    for part in parts_of(program):
        each = np.bincount(part.code.queue // queues, minlength=part.chips)
        for first in part.places[:, PLACE.index("chip")].tolist():
            counts[first : first + part.chips] += each
    capacity = program.machine.sram_bytes
    rows = []
    for chip, held in enumerate(_told(program, "chip_bytes", ("total", *_PURPOSES))):
        total = held["total"]
        rows.append(
            {
                "chip": chip,
                **{f"{kind}_bytes": held[kind] for kind in _PURPOSES},
                "total_bytes": total,
                "free_bytes": capacity - total,
                "used_percent": round(100 * total / capacity, 2),
                "instructions": int(counts[chip]),
            }
        )
    return rows


def _told(program: Program, key: str, numbers: tuple[str, ...]) -> list[Row]:
    """A table of `info`, which the file format does not look into; each row has these `numbers`.

    Raises `MalformedFile` if it is anything else. Of chips there are no more than the program's.
    """
    rows = program.info.get(key, [])
    good = isinstance(rows, list) and all(
        isinstance(row, dict) and all(type(row.get(name)) is int for name in numbers)
        for row in rows
    )
    if not good or (key == "chip_bytes" and len(rows) > program.chips):
        raise MalformedFile("program-info", f"info {key!r} is not what this section shows")
    return [dict(row) for row in rows]


_PURPOSES = ("weights", "activations", "constants", "instructions")


@dataclass(frozen=True, slots=True)
class Section:
    """One table of `inspect`; `absent` stands for no rows.

    People may be shown another `text` than the table, and tools be told `also` what it says.
    """

    columns: tuple[str, ...]
    rows: Callable[[Program], list[Row]]
    absent: str = ""
    text: Callable[[Program, Sequence[Row]], str] | None = None
    also: Callable[[Program, Sequence[Row]], Row] | None = None


SECTIONS = {
    "summary": Section(("fact", "value"), _summary_rows),
    "layers": Section(
        ("layer", "op", "start", "end", "cycles", "instructions", "dispatches"), _layers
    ),
    "memory": Section(
        ("chip", "unit", "tensor", "kind", "address", "words", "first_cycle", "last_cycle"),
        _memory,
        absent=memory_map.ABSENT,
        text=memory_map.memory_map,
        also=lambda program, rows: {"peaks": memory_map.memory_peaks(program, rows)},
    ),
    "chips": Section(
        (
            "chip",
            *(f"{kind}_bytes" for kind in _PURPOSES),
            "total_bytes",
            "free_bytes",
            "used_percent",
            "instructions",
        ),
        _chips,
    ),
    "links": Section(
        traffic.LINKS, traffic.links, absent="nothing is sent: the program has one chip at work"
    ),
    "stages": Section(
        traffic.STAGES,
        traffic.stages,
        absent="the model was compiled as a whole, not in stages of equal layers",
    ),
    "bounds": Section(COLUMNS, limits, absent=ABSENT, text=limits_text, also=waits),
}
