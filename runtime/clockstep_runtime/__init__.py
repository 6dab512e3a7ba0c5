"""Run Clockstep programs: the verifier, the reference interpreter, and sessions over both."""

from __future__ import annotations

from clockstep_runtime.inputs import random_inputs
from clockstep_runtime.interpreter import Execution, interpret
from clockstep_runtime.session import Session
from clockstep_runtime.verifier import Report, verify

__all__ = ["Execution", "Report", "Session", "interpret", "random_inputs", "verify"]
