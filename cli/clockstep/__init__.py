"""Clockstep: compile ONNX models to cycle-exact programs for statically scheduled accelerators.

This is the public Python face; `app.py` is the command line over it. To add something public,
write it where it belongs and name it here.
"""

from __future__ import annotations

from clockstep.api import check, collective, compile, load, trace, verify  # noqa: A004 - a verb
from clockstep.onnx_backend import ClockstepBackend as backend
from clockstep.quantization import quantize
from clockstep_isa import (
    ClockstepError,
    Diagnostic,
    DoesNotFit,
    Fault,
    Machine,
    MalformedFile,
    Program,
    ScheduleViolation,
    UnsupportedModel,
    UsageError,
    Violation,
    load_machine,
)
from clockstep_runtime import Session

__all__ = [
    "ClockstepError",
    "Diagnostic",
    "DoesNotFit",
    "Fault",
    "Machine",
    "MalformedFile",
    "Program",
    "ScheduleViolation",
    "Session",
    "UnsupportedModel",
    "UsageError",
    "Violation",
    "backend",
    "check",
    "collective",
    "compile",
    "load",
    "load_machine",
    "quantize",
    "trace",
    "verify",
]
