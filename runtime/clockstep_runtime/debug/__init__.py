"""Looking into a run: what happened where, what the tensors in between were, what made a value.

`places.py` names what can be watched, `events.py` tells what happened there, `values.py` knows what
elements the bytes are; `probes.py` has the values of intermediate tensors. `provenance.py` walks
back from an element of an output, with `sources.py` for who produced what and `lanes.py` for which
lanes depend on which.
"""

from __future__ import annotations

from clockstep_runtime.debug.events import Event, watch
from clockstep_runtime.debug.probes import probe_values
from clockstep_runtime.debug.provenance import Provenance, Step, Word, provenance
from clockstep_runtime.debug.sources import Dispatch

__all__ = [
    "Dispatch",
    "Event",
    "Provenance",
    "Step",
    "Word",
    "probe_values",
    "provenance",
    "watch",
]
