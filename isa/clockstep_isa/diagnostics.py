"""What can go wrong, as data: one family of exceptions that all four packages share.

A diagnostic has a stable code, one sentence with the numbers, a place and a remedy. The class
says who is at fault: the model, the file, the schedule, or the program at run time. Our own
bugs are `AssertionError` and never one of these.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ClockstepError",
    "Diagnostic",
    "DoesNotFit",
    "Fault",
    "MalformedFile",
    "ScheduleViolation",
    "UnsupportedModel",
    "UsageError",
    "Violation",
    "shown",
]

_SHOWN = 60
"""Characters of a foreign value that a message quotes."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong. `where` names an ONNX node, a listing line, a key or a byte.

    For an ONNX node `node`, `op` and `opset` say the same as data.
    """

    code: str
    message: str
    where: str = ""
    help: str = ""
    node: str = ""
    op: str = ""
    opset: int = 0

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" (help: {self.help})" if self.help else ""
        return f"{place}error[{self.code}]: {self.message}{remedy}"


class ClockstepError(Exception):
    """Base of everything a user can be told. `exit_code` is the command line's exit status."""

    exit_code = 1

    def __init__(self, code: str, message: str, *, where: str = "", help: str = "") -> None:  # noqa: A002
        self.diagnostic = Diagnostic(code, message, where, help)
        super().__init__(str(self.diagnostic))


class UsageError(ClockstepError):
    """The request itself is wrong: an unknown option value, a file that is not there."""

    exit_code = 2


class UnsupportedModel(ClockstepError):
    """The model asks for what a static schedule or this compiler cannot do.

    `diagnostics` lists every problem found, first cause first; the exception shows the first.
    """

    exit_code = 3

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str = "",
        help: str = "",  # noqa: A002
        diagnostics: tuple[Diagnostic, ...] = (),
    ) -> None:
        super().__init__(code, message, where=where, help=help)
        self.diagnostics = diagnostics or (self.diagnostic,)


class DoesNotFit(ClockstepError):
    """The machine has not enough of something; the message says of what, and how much would do."""

    exit_code = 4


class MalformedFile(ClockstepError):
    """A file is not what it should be: truncated, corrupted, or of another kind."""

    exit_code = 5


def shown(value: object) -> str:
    """A value out of a file as a message may quote it: short and printable whatever it is."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


@dataclass(frozen=True, slots=True)
class Violation:
    """A hard error the verifier found: what, and the chip, unit and cycle it happens at."""

    code: str
    chip: int
    unit: str
    cycle: int
    message: str


class ScheduleViolation(ClockstepError):
    """A program breaks a rule of the time model; `violations` has all that were found."""

    exit_code = 1

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        where = f"chip {first.chip} {first.unit} cycle {first.cycle}"
        super().__init__(first.code, first.message + more, where=where)
        self.violations = violations


class Fault(ClockstepError):
    """The machine stopped: a hard error of the time model, met while executing."""

    exit_code = 1

    def __init__(self, code: str, message: str, *, chip: int, unit: str, cycle: int) -> None:
        super().__init__(code, message, where=f"chip {chip} {unit} cycle {cycle}")
        self.chip, self.unit, self.cycle = chip, unit, cycle
