"""Run Clockstep programs: verifier, linker and engine, reference interpreter, and sessions."""

from __future__ import annotations

from clockstep_runtime.inputs import Execution, random_inputs
from clockstep_runtime.interpreter import interpret
from clockstep_runtime.intervals import interval
from clockstep_runtime.linker import Linked, link
from clockstep_runtime.session import ENGINES, Session
from clockstep_runtime.verifier import Report, verify

__all__ = [
    "ENGINES",
    "Execution",
    "Linked",
    "Report",
    "Session",
    "interpret",
    "interval",
    "link",
    "random_inputs",
    "verify",
]
