"""Looking into a run: what the tensors in between were.

`probes.py` has their values.
"""

from __future__ import annotations

from clockstep_runtime.debug.probes import probe_values

__all__ = ["probe_values"]
