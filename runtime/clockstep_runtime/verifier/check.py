"""The order of the checks, from single instructions to the whole program."""

from __future__ import annotations

from dataclasses import dataclass

from clockstep_isa.program import Program
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.fields import legal_instructions
from clockstep_runtime.verifier.links import check_links
from clockstep_runtime.verifier.memory import Words, check_memory
from clockstep_runtime.verifier.mxm import check_mxm
from clockstep_runtime.verifier.progressions import Segments
from clockstep_runtime.verifier.queues import check_addresses, check_queues
from clockstep_runtime.verifier.report import Findings, Report
from clockstep_runtime.verifier.slots import Slots, check_slots
from clockstep_runtime.verifier.states import check_states

__all__ = ["Resolution", "resolve", "verify"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """A program's instructions, and for every operand who produced it.

    `products` joins each `acc` with an `abc`, `links` each `receive` with a `send`.
    """

    columns: Columns
    cycles: int
    slots: Slots
    words: Words
    products: Segments
    links: Segments


def verify(program: Program) -> Report:
    """Check a program against its machine and the instruction table; never raises.

    Knows nothing of how the program was made. Time and memory grow with the instructions and the
    longest repeat, not with the cycles. An instruction found wrong in itself takes no part in
    the later checks, so what depends on it may be reported as well.
    """
    return resolve(program)[0]


def resolve(program: Program) -> tuple[Report, Resolution | None]:
    """`verify`, and what it found out on the way; None unless the program may run."""
    findings = Findings()
    if not 1 <= program.chips <= program.machine.max_chips:
        message = f"{program.chips} chips: {program.machine.name} has 1 to "
        findings.add("unit-missing", 0, "program", 0, f"{message}{program.machine.max_chips}")
        return findings.report(len(program.code)), None
    columns = legal_instructions(program, findings)
    within = check_addresses(columns, findings)
    alone = check_queues(columns, findings)
    columns = columns.cut(within).take(alone & (within > 0))
    end = _end(columns)
    if not findings.any and end != program.cycles:
        message = f"the program takes {end} cycles and promises {program.cycles}"
        findings.add("cycles-promise", 0, "program", end, message)
    slots = check_slots(columns, findings)
    words = check_memory(program, columns, findings, end)
    products = check_mxm(columns, findings)
    links = check_links(program, columns, findings)
    check_states(program, findings)
    report = findings.report(len(program.code))
    return report, Resolution(columns, end, slots, words, products, links) if report.ok else None


def _end(columns: Columns) -> int:
    """One past the last cycle: the latest dispatch and its latency, at least 1."""
    if not len(columns):
        return 0
    return int((columns.last + columns.latency.clip(min=1)).max())
