"""Arrays that are one number in the place of many: weights that are absent take no memory so.

What is done to every element of a constant goes through here, or it takes the memory after all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["different", "in_order", "is_uniform", "spread"]

Array = NDArray[Any]


def is_uniform(array: Array) -> bool:
    """Whether all elements, of which there are several, share one place in memory."""
    return array.size > 1 and not any(array.strides)


def different(array: Array) -> Array:
    """An array with all the values of another: that one number, where there is but one."""
    return array[(slice(0, 1),) * array.ndim] if is_uniform(array) else array


def spread(found: Array, shape: tuple[int, ...]) -> Array:
    """What was made of `different` elements, for all of them; `found` if these are all."""
    return found if found.shape == shape else np.broadcast_to(found, shape)


def in_order(array: Array) -> Array:
    """`np.ascontiguousarray(array)`, but for one number in the place of many."""
    return array if is_uniform(array) else np.ascontiguousarray(array)
