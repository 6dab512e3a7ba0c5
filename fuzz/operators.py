"""All rows of the fuzzer. To add an operator, add its row to a family in `rows`.

`make fuzz` ends with the compiler's operators that have no row yet.
"""

from __future__ import annotations

from fuzz.rows import elementwise, moves, products, quantized, reduce, windows
from fuzz.rows.row import Row

__all__ = ["BY_NAME", "ROWS", "Row"]

_FAMILIES = (elementwise, moves, products, quantized, reduce, windows)

ROWS: tuple[Row, ...] = tuple(
    sorted((row for family in _FAMILIES for row in family.ROWS), key=lambda row: row.op)
)

BY_NAME = {row.op: row for row in ROWS}
