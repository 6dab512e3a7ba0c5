"""The linker: a program's timing resolved once, into a dataflow graph of bulk operations.

`flow.py` follows every operand through whatever only moves vectors back to what computed them,
`operands.py` joins streams to typed operands, `order.py` finds an order of execution and when a
value dies, `sums.py` joins int8 products that are only added, `groups.py` finds steps that are
executed together, `split.py` takes instructions apart that must not run as one; `link.py` puts it
together.
"""

from __future__ import annotations

from clockstep_runtime.linker.link import Linked, Output, link
from clockstep_runtime.linker.operands import Operands

__all__ = ["Linked", "Operands", "Output", "link"]
