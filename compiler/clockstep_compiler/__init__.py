"""ONNX to a scheduled program.

The public face: `compile_model`, `compile_entries`, `check_model`, `OPERATORS`.
"""

from __future__ import annotations

from clockstep_compiler.entries import compile_entries
from clockstep_compiler.frontend import parameters_of
from clockstep_compiler.operators import OPERATORS, Operator
from clockstep_compiler.options import EFFORTS, OBJECTIVES, PRECISIONS, Options
from clockstep_compiler.pipeline import Check, Problem, check_model, compile_model

__all__ = [
    "EFFORTS",
    "OBJECTIVES",
    "OPERATORS",
    "PRECISIONS",
    "Check",
    "Operator",
    "Options",
    "Problem",
    "check_model",
    "compile_entries",
    "compile_model",
    "parameters_of",
]
