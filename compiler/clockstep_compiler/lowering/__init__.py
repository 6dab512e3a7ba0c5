"""Lowering: the graph becomes steps over stored matrices, numerics chosen.

One file a family of operators; `@lowers("Add", ...)` registers a handler, and
`clockstep_compiler.operators` lists it for users.
"""

from __future__ import annotations

from clockstep_compiler.lowering import (
    address,
    chosen,
    convolve,
    deconvolve,
    elementwise,
    elementwise_activations,
    elementwise_cast,
    elementwise_division,
    elementwise_logic,
    heads,
    matmul,
    normalize,
    normalize_batch,
    normalize_local,
    pool,
    quantized,
    reduce,
    reduce_index,
    reduce_scan,
    reduce_top,
    shapes,
    softmax,
)
from clockstep_compiler.lowering.lower import HANDLERS
from clockstep_compiler.lowering.whole import lower

__all__ = [
    "HANDLERS",
    "address",
    "chosen",
    "convolve",
    "deconvolve",
    "elementwise",
    "elementwise_activations",
    "elementwise_cast",
    "elementwise_division",
    "elementwise_logic",
    "heads",
    "lower",
    "matmul",
    "normalize",
    "normalize_batch",
    "normalize_local",
    "pool",
    "quantized",
    "reduce",
    "reduce_index",
    "reduce_scan",
    "reduce_top",
    "shapes",
    "softmax",
]
