"""The reference interpreter: the executable specification of the machine, slow on purpose.

`loop.py` steps the cycles, `chip.py` is what each unit does, `streams.py` the moving registers,
`mxm.py` and `memory.py` the state of arrays and slices, `decode.py` reads instructions, and
`observer.py` tells a debugger what happens.
"""

from __future__ import annotations

from clockstep_runtime.interpreter.decode import Issue, Operand
from clockstep_runtime.interpreter.loop import interpret, observe
from clockstep_runtime.interpreter.observer import Observer

__all__ = ["Issue", "Observer", "Operand", "interpret", "observe"]
