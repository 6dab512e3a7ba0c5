"""The reference interpreter: the executable specification of the machine, slow on purpose.

`loop.py` steps the cycles, `chip.py` is what each unit does, `streams.py` the moving registers,
`mxm.py` and `memory.py` the state of arrays and slices, `decode.py` reads instructions.
"""

from __future__ import annotations

from clockstep_runtime.interpreter.loop import interpret

__all__ = ["interpret"]
