"""The operators composed of others, a module a family; importing them registers them.

To add a family, write a module with functions marked `@composes` and name it here.
"""

from __future__ import annotations

from clockstep_compiler.frontend.bodies import (
    addressed,
    attention,
    classic,
    contrib,
    contrib_attention,
    cumulative,
    determinant,
    einsum,
    experts,
    features,
    grouped_query,
    loops,
    losses,
    packed_weights,
    pooling,
    quantized,
    quantized_contrib,
    recurrent,
    regions,
    resize,
    rotary,
    sampling,
    scattered,
    sequences,
    spectral,
    training,
)
from clockstep_compiler.frontend.body import BODIES

__all__ = [
    "BODIES",
    "addressed",
    "attention",
    "classic",
    "contrib",
    "contrib_attention",
    "cumulative",
    "determinant",
    "einsum",
    "experts",
    "features",
    "grouped_query",
    "loops",
    "losses",
    "packed_weights",
    "pooling",
    "quantized",
    "quantized_contrib",
    "recurrent",
    "regions",
    "resize",
    "rotary",
    "sampling",
    "scattered",
    "sequences",
    "spectral",
    "training",
]
