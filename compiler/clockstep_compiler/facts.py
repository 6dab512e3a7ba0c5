"""What a program says of itself: sizes, bounds, and what lay where and when."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.bounds import LAYOUT, NAMES, Bounds, lower_bounds
from clockstep_compiler.causes import attribute
from clockstep_compiler.driver import Schedule
from clockstep_compiler.emit import code_of
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.graph import Graph
from clockstep_compiler.options import Options
from clockstep_compiler.steps import Lowered
from clockstep_compiler.storage import Entry
from clockstep_isa import instruction_bytes

__all__ = ["facts", "instruction_bytes_of"]


def instruction_bytes_of(plan: Floorplan, done: Schedule) -> list[int]:
    """Bytes of instructions of every chip."""
    counted = instruction_bytes(plan.machine, code_of(done.scheduler), done.scheduler.chips)
    return [int(n) for n in counted]


def facts(
    plan: Floorplan, graph: Graph, lowered: Lowered, done: Schedule, options: Options
) -> dict[str, Any]:
    """The `info` of a program, ready for JSON."""
    machine, s = plan.machine, done.scheduler
    lanes = machine.vector
    instructions = instruction_bytes_of(plan, done)
    bounds = lower_bounds(plan, lowered, done.partition, s.chips)
    bound, name = bounds.greatest
    causes = attribute(plan, s.trail, s.makespan, bounds.work(), bounds.laid_out())
    chips = []
    for chip in range(s.chips):
        loaded = sum(len(words) for c, _, _, words in s.storage.image if c == chip)
        weights = done.partition.weight_words[chip]
        tables = done.scheduler.storage.tables.items()
        weights += sum(len(c.ready) * len(c.planes) for (_, home), c in tables if home == chip)
        used = machine.words_per_chip - s.storage.memories[chip].untouched() - done.held
        stored = instructions[chip] * machine.icu.instructions_in_sram
        chips.append(
            {
                "weights": weights * lanes,
                "constants": (loaded - weights) * lanes,
                "activations": (used - loaded) * lanes,
                "instructions": instructions[chip],
                "total": used * lanes + stored,
            }
        )
    return {
        "tool_version": version("clockstep"),
        "model": graph.name,
        "source_sha256": graph.sha256,
        "options": _options(options),
        "weight_bytes": lowered.weight_bytes,
        "sram_bytes_used": sum(c["total"] for c in chips),
        "sram_bytes_total": s.chips * machine.sram_bytes,
        "lower_bound_cycles": bound,
        "bound_by": name,
        "layout_cycles": bounds.program[LAYOUT],
        "bounds": _bounds(bounds),
        "causes": [list(cause) for cause in causes],
        "chip_bytes": chips,
        "memory": _memory(plan, s.storage.entries),
        "warnings": list(lowered.warnings),
    }


def _bounds(bounds: Bounds) -> dict[str, Any]:
    """Columns of cycles: of the program, and of each node by its number."""
    names = [*NAMES, LAYOUT]
    return {
        "names": names,
        "program": [bounds.program[name] for name in names],
        "nodes": [[node, *(b[name] for name in names)] for node, b in bounds.nodes.items()],
    }


def _options(options: Options) -> dict[str, Any]:
    found = asdict(options)
    if options.copies is None:
        del found["copies"]  # what was found is what the program has
    found["dims"] = dict(sorted(options.dims.items()))
    found["shapes"] = {k: list(v) for k, v in sorted(options.shapes.items())}
    found["states"] = None if options.states is None else dict(sorted(options.states.items()))
    found["bind"] = {name: _text(value) for name, value in sorted(options.bind.items())}
    return found


def _text(value: NDArray[np.generic]) -> list[Any]:
    """The shape of a bound value, then its elements as text: they may be infinite."""
    return [list(value.shape), [str(element) for element in (value * 1).ravel().tolist()]]


def _memory(plan: Floorplan, entries: list[Entry]) -> list[dict[str, Any]]:
    rows = [
        {
            "chip": e.chip,
            "unit": plan.queues[e.queue].name,
            "tensor": e.tensor,
            "kind": e.kind,
            "address": e.address,
            "words": e.words,
            "first_cycle": e.first,
            "last_cycle": e.last,
        }
        for e in entries
    ]
    return sorted(rows, key=lambda r: (r["chip"], r["unit"], r["address"], r["first_cycle"]))
