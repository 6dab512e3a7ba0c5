"""What the verifier found, collected and put in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import Violation

__all__ = ["LIMIT", "Findings", "Report", "joined"]

LIMIT = 100
"""Violations that a report keeps: the earliest. A check also hands on no more than that."""


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict. `checks` counts what was checked, by kind.

    `violations` are sorted by cycle, chip, unit and code, and at most `LIMIT`.
    """

    ok: bool
    violations: tuple[Violation, ...]
    instructions: int
    checks: dict[str, int]


def joined(reports: Sequence[Report]) -> Report:
    """Several reports as one."""
    found = [violation for report in reports for violation in report.violations]
    found.sort(key=lambda v: (v.cycle, v.chip, v.unit, v.code))
    checks: dict[str, int] = {}
    for report in reports:
        for check, number in report.checks.items():
            checks[check] = checks.get(check, 0) + number
    instructions = sum(report.instructions for report in reports)
    return Report(not found, tuple(found[:LIMIT]), instructions, checks)


@dataclass(slots=True)
class Findings:
    """Violations as the checks find them, each place and code once."""

    checks: dict[str, int] = field(default_factory=dict)
    _found: dict[tuple[int, int, str, str], Violation] = field(default_factory=dict)

    def add(self, code: str, chip: int, unit: str, cycle: int, message: str) -> None:
        """Note one violation."""
        key = (cycle, chip, unit, code)
        self._found.setdefault(key, Violation(code, chip, unit, cycle, message))

    def add_all(
        self, where: NDArray[np.int64], cycles: NDArray[np.int64], add: Callable[[int, int], None]
    ) -> None:
        """Call `add(index, cycle)` for the earliest `LIMIT` of the indices `where`."""
        order = np.lexsort((where, cycles))[:LIMIT]
        for index, cycle in zip(where[order].tolist(), cycles[order].tolist(), strict=True):
            add(index, cycle)

    def count(self, check: str, number: int) -> None:
        """Say that a check looked at `number` more things."""
        self.checks[check] = self.checks.get(check, 0) + number

    def merge(self, other: Findings, times: int) -> None:
        """Take over what others found; they looked at so many times as many things."""
        for check, number in other.checks.items():
            self.count(check, times * number)
        for key, violation in other._found.items():
            self._found.setdefault(key, violation)

    def report(self, instructions: int) -> Report:
        """The findings as a report."""
        ordered = [self._found[key] for key in sorted(self._found)]
        return Report(not ordered, tuple(ordered[:LIMIT]), instructions, dict(self.checks))

    @property
    def any(self) -> bool:
        """Whether anything was found."""
        return bool(self._found)
