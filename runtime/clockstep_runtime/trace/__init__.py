"""A Perfetto trace of a program: what every unit, stream and bank does in which cycle.

Made of the words alone, by way of what the verifier found out: nothing is run. `sheet.py` is what
is drawn on, `packets.py` and `wire.py` are the format; `tracks.py` says which tracks there are,
`units.py`, `streams.py`, `counters.py` and `overview.py` draw on them. To add a track, make it in
`tracks.lay_out` and draw on it in `draw`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clockstep_isa import Program, ScheduleViolation, UsageError
from clockstep_runtime.trace.counters import draw_counters
from clockstep_runtime.trace.overview import Cause, draw_causes, draw_nodes
from clockstep_runtime.trace.sheet import Drawn, Sheet
from clockstep_runtime.trace.streams import carried, draw_streams
from clockstep_runtime.trace.tracks import lay_out
from clockstep_runtime.trace.units import draw_banks, draw_units, served
from clockstep_runtime.verifier import Resolution, resolve

__all__ = ["Cause", "Drawn", "Sheet", "draw"]


def draw(
    program: Program,
    *,
    chip: int | None = None,
    cycles: tuple[int | None, int | None] | None = None,
    causes: Sequence[Cause] = (),
) -> Sheet:
    """Draw the schedule of one chip or of all; what comes back can be saved.

    Of `cycles` [first, end) what lies inside is drawn. A slice's time is in nanoseconds by the
    machine's clock, its argument `cycle` says in which it really began. Raises `UsageError` for a
    chip that there is not, `ScheduleViolation` if the program breaks a rule of the time model.
    """
    found = _resolved(program)
    first, end = cycles or (None, None)
    last = max(program.cycles, 0) if end is None else end
    sheet = Sheet(program.machine.clock.hz, first or 0, last)
    serves = served(program, sheet)
    root = sheet.track(_title(program), description=_description(program))
    draw_causes(sheet, program, causes, root)
    draw_nodes(sheet, program, root)
    used = np.unique(found.columns.queue)
    tracks = lay_out(sheet, program, _chips(program, chip), used, root)
    draw_units(sheet, found, serves, tracks.queues)
    draw_streams(sheet, carried(found), serves, tracks.sides)
    draw_banks(sheet, found.columns, serves, tracks.banks)
    draw_counters(sheet, found, tracks.counters)
    return sheet


def _resolved(program: Program) -> Resolution:
    report, found = resolve(program)
    if found is None:
        raise ScheduleViolation(report.violations)
    return found


def _chips(program: Program, chip: int | None) -> list[int]:
    if chip is None:
        return list(range(program.chips))
    if not 0 <= chip < program.chips:
        raise UsageError("trace-chip", f"no chip {chip}; the program has {program.chips}")
    return [chip]


def _title(program: Program) -> str:
    model = program.info.get("model")
    return model if isinstance(model, str) and model else "program"


def _description(program: Program) -> str:
    machine = program.machine
    return f"{program.cycles} cycles of {machine.name} at {machine.clock.hz} Hz"
