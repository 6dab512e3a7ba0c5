"""The verifier: every hard error of the time model, found from the words alone.

It knows the machine file, the instruction table and a program's instructions, image regions and
bindings; it never runs anything. `fields.py` judges instructions one by one, `queues.py` queues
and banks, `slots.py` streams, `memory.py` words, `mxm.py` arrays and products, `links.py` the
network, `entries.py` what entries do to each other; `progressions.py` is the arithmetic they share.
On the way it learns who produced every operand, which is what the linker builds on. To add a check,
call it in `check.resolve`.
"""

from __future__ import annotations

from clockstep_runtime.verifier.check import Resolution, resolve, verify
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.entries import check_entries
from clockstep_runtime.verifier.memory import Block
from clockstep_runtime.verifier.mxm import plane_numbers
from clockstep_runtime.verifier.progressions import Segments, expand, intersect
from clockstep_runtime.verifier.report import Report
from clockstep_runtime.verifier.tables import Table

__all__ = [
    "Block",
    "Columns",
    "Report",
    "Resolution",
    "Segments",
    "Table",
    "check_entries",
    "expand",
    "intersect",
    "plane_numbers",
    "resolve",
    "verify",
]
