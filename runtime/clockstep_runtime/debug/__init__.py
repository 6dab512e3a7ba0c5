"""Looking into a run: what happened where, and what the tensors in between were.

`places.py` names what can be watched, `events.py` tells what happened there, `values.py` knows what
elements the bytes are; `probes.py` has the values of intermediate tensors.
"""

from __future__ import annotations

from clockstep_runtime.debug.events import Event, watch
from clockstep_runtime.debug.probes import probe_values

__all__ = ["Event", "probe_values", "watch"]
