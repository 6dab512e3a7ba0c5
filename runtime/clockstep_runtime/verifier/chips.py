"""The checks that look at each chip by itself: all but those of links."""

from __future__ import annotations

from dataclasses import dataclass

from clockstep_isa.program import Program
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.fields import legal_instructions
from clockstep_runtime.verifier.memory import Words, check_memory
from clockstep_runtime.verifier.mxm import check_mxm
from clockstep_runtime.verifier.progressions import Segments
from clockstep_runtime.verifier.queues import check_addresses, check_queues
from clockstep_runtime.verifier.report import Findings
from clockstep_runtime.verifier.slots import Slots, check_slots

__all__ = ["Checked", "check_chips"]


@dataclass(frozen=True, slots=True)
class Checked:
    """The instructions that are in order, when the last of them ends, and who feeds whom."""

    columns: Columns
    end: int
    slots: Slots
    words: Words
    products: Segments


def check_chips(program: Program, findings: Findings, cycles: int | None = None) -> Checked:
    """Check instructions, queues, streams, words and arrays.

    Outputs are fetched in cycle `cycles`, without it in that in which the program ends; then it
    must also keep its promise.
    """
    columns = legal_instructions(program, findings)
    within = check_addresses(columns, findings)
    alone = check_queues(columns, findings)
    columns = columns.cut(within).take(alone & (within > 0))
    end = _end(columns)
    if cycles is None and not findings.any and end != program.cycles:
        message = f"the program takes {end} cycles and promises {program.cycles}"
        findings.add("cycles-promise", 0, "program", end, message)
    slots = check_slots(columns, findings)
    words = check_memory(program, columns, findings, end if cycles is None else cycles)
    return Checked(columns, end, slots, words, check_mxm(columns, findings))


def _end(columns: Columns) -> int:
    """One past the last cycle: the latest dispatch and its latency, at least 1."""
    if not len(columns):
        return 0
    return int((columns.last + columns.latency.clip(min=1)).max())
