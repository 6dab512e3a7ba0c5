"""The order of the checks, from single instructions to the whole program."""

from __future__ import annotations

from dataclasses import dataclass

from clockstep_isa.parts import parts_of
from clockstep_isa.program import Program
from clockstep_runtime.verifier.alike import verify_parts
from clockstep_runtime.verifier.chips import check_chips
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.entries import check_entries
from clockstep_runtime.verifier.links import check_links
from clockstep_runtime.verifier.memory import Words
from clockstep_runtime.verifier.progressions import Segments
from clockstep_runtime.verifier.report import Findings, Report, joined
from clockstep_runtime.verifier.slots import Slots
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
    the later checks, so what depends on it may be reported as well. Of several entries each is
    checked, and then all of them together.
    """
    if program.others:
        return joined([*map(verify, program.entries.values()), check_entries(program)])
    parts = parts_of(program)
    if all(len(part.places) == 1 for part in parts) or not _enough(program, Findings()):
        return resolve(program)[0]
    return verify_parts(program, parts)


def resolve(program: Program) -> tuple[Report, Resolution | None]:
    """`verify`, and what it found out on the way; None unless the program may run."""
    findings = Findings()
    if not _enough(program, findings):
        return findings.report(len(program.code)), None
    found = check_chips(program, findings)
    links = check_links(program, found.columns, findings)
    check_states(program, findings)
    report = findings.report(len(program.code))
    if not report.ok:
        return report, None
    return report, Resolution(
        found.columns, found.end, found.slots, found.words, found.products, links
    )


def _enough(program: Program, findings: Findings) -> bool:
    """Whether the machine can have as many chips as the program; else it is reported."""
    if 1 <= program.chips <= program.machine.max_chips:
        return True
    message = f"{program.chips} chips: {program.machine.name} has 1 to {program.machine.max_chips}"
    findings.add("unit-missing", 0, "program", 0, message)
    return False
