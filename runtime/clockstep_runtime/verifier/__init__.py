"""The verifier: every hard error of the time model, found from the words alone.

It knows the machine file, the instruction table and a program's instructions, image regions and
bindings; it never runs anything. `fields.py` judges instructions one by one, `queues.py` queues
and banks, `slots.py` streams, `memory.py` words, `mxm.py` arrays and products, `links.py` the
network; `progressions.py` is the arithmetic they share. To add a check, add a function to
`check.CHECKS`.
"""

from __future__ import annotations

from clockstep_runtime.verifier.check import verify
from clockstep_runtime.verifier.report import Report

__all__ = ["Report", "verify"]
