"""The fast engine: executes a linked program with numpy, on one input or a batch of them.

`run.py` executes, `plan.py` makes calls of the steps, `group.py` is one call of several of them,
`gather.py` puts operands together,
`compute.py` and `mxm.py` say what each row does.
"""

from __future__ import annotations

from clockstep_runtime.engine.run import Engine

__all__ = ["Engine"]
