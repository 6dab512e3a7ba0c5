"""What passes over links, and where the stages of a model run: two sections of `inspect`."""

from __future__ import annotations

from typing import Any

import numpy as np

from clockstep_isa import BY_NAME, PLACE, MalformedFile, Part, Program, Unit, geometry, parts_of
from clockstep_isa.geometry import wiring

__all__ = ["LINKS", "STAGES", "links", "stages"]

Row = dict[str, Any]

LINKS = ("chip", "link", "peer", "vectors", "bytes", "first_cycle", "last_cycle", "busy_percent")
STAGES = ("stage", "chips", "start", "end", "cycles", "first_layer", "last_layer", "layers")


def links(program: Program) -> list[Row]:
    """One row a link that a chip sends over: to whom, how much, and the cycles of it."""
    machine = program.machine
    peers = wiring(machine, program.chips)
    found: dict[tuple[int, int], list[int]] = {}
    for part in parts_of(program):
        sent = _sent(program, part)
        for chip, cycle in part.places[:, [PLACE.index("chip"), PLACE.index("cycle")]].tolist():
            for (local, link), (vectors, first, last) in sent.items():
                row = found.setdefault((chip + local, link), [0, first + cycle, last + cycle])
                row[0] += vectors
                row[1], row[2] = min(row[1], first + cycle), max(row[2], last + cycle)
    pace = machine.c2c.cycles_per_vector
    return [
        {
            "chip": chip,
            "link": link,
            "peer": peers[chip, link][0] if (chip, link) in peers else None,
            "vectors": vectors,
            "bytes": vectors * machine.vector,
            "first_cycle": first,
            "last_cycle": last,
            "busy_percent": round(100 * vectors * pace / max(1, program.cycles), 2),
        }
        for (chip, link), (vectors, first, last) in sorted(found.items())
    ]


def _sent(program: Program, part: Part) -> dict[tuple[int, int], tuple[int, int, int]]:
    """By chip of a part and link: vectors, the first and the last cycle of a `send`."""
    queues = geometry(program.machine).queues
    code = part.code.take(part.code.opcode == BY_NAME["send"].opcode)
    last = code.cycle + (code.repeat.astype(np.int64) - 1) * code.interval
    found = {}
    for queue in np.unique(code.queue).tolist():
        mine = code.queue == queue
        chip, local = divmod(queue, len(queues))
        if queues[local].unit is Unit.SEND:
            spent = int(code.repeat[mine].sum()), int(code.cycle[mine].min()), int(last[mine].max())
            found[chip, queues[local].index] = spent
    return found


def stages(program: Program) -> list[Row]:
    """One row a stage: its chips, its cycles [start, end), and which layers it has.

    Raises `MalformedFile` if what the program says of stages is not in the form of `compile`.
    """
    rows = program.info.get("stages", [])
    if not isinstance(rows, list) or not all(_is_stage(row, program) for row in rows):
        raise MalformedFile("program-info", "info 'stages' is not what this section shows")
    return [
        {
            "stage": number,
            "chips": f"{chip}" if chips == 1 else f"{chip} to {chip + chips - 1}",
            "start": start,
            "end": end,
            "cycles": end - start,
            "first_layer": program.nodes[node].name,
            "last_layer": program.nodes[node + nodes - 1].name,
            "layers": nodes,
        }
        for number, (chip, chips, start, end, node, nodes) in enumerate(rows)
    ]


def _is_stage(row: object, program: Program) -> bool:
    """Whether a row is [chip, chips, start, end, node, nodes], all of them there."""
    if not isinstance(row, list) or len(row) != 6 or not all(type(n) is int for n in row):
        return False
    chip, chips, start, end, node, nodes = row
    there = 0 <= chip < chip + chips <= program.chips and 0 <= start <= end
    return bool(there and 0 <= node < node + nodes <= len(program.nodes))
