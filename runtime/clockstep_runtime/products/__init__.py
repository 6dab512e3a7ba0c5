"""The engine's matrix products: whole blocks of rows at once, exact whatever multiplies.

`int8.py` and `half.py` hold the two weight types, `exact.py` the slow path of fp16, `provider.py`
what may multiply int8 faster than float32 does. A new weight type is a new file like `int8.py`.
The reference interpreter has its own arithmetic (`clockstep_runtime.dot`) and shares none of this.
"""

from __future__ import annotations

from clockstep_runtime.products.half import HalfWeights, half_product
from clockstep_runtime.products.int8 import Int8Weights, int8_sum
from clockstep_runtime.products.provider import int8_provider, int8_provider_available

__all__ = [
    "HalfWeights",
    "Int8Weights",
    "half_product",
    "int8_provider",
    "int8_provider_available",
    "int8_sum",
]
