"""Random inputs for a program, drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.layout import Binding, numpy_type, tensor_dtype
from clockstep_isa.program import Program

__all__ = ["random_inputs"]

SMALL = (-128, 127)
"""Integers of more than 16 bits are drawn from this range, so that sums do not overflow."""


def random_inputs(program: Program, seed: int) -> dict[str, NDArray[Any]]:
    """One tensor per input, by name, with its binding's shape and type.

    Floats are standard normal; integers of 8 and 16 bits have their full range, wider ones -128
    to 127, as far as the program can store them; booleans are even odds. The same program and
    seed give the same values everywhere: PCG64, drawn in the order of the inputs.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    return {binding.name: _draw(binding, generator) for binding in program.inputs}


def _draw(binding: Binding, generator: np.random.Generator) -> NDArray[Any]:
    dtype = tensor_dtype(binding.dtype)
    if dtype.kind not in "iub":
        return generator.standard_normal(binding.shape).astype(dtype)
    low, high = _range(binding, dtype)
    return generator.integers(low, high, binding.shape, np.int64, endpoint=True).astype(dtype)


def _range(binding: Binding, dtype: np.dtype[Any]) -> tuple[int, int]:
    """The integers that the type has, the draw allows and every layout can hold."""
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    low, high = (info.min, info.max) if dtype.itemsize <= 2 else SMALL
    low = max(low, info.min)
    for layout in binding.layouts:
        stored = numpy_type(layout.stored)
        if stored.kind == "i":
            limits = np.iinfo(stored)
            low, high = max(low, limits.min - layout.offset), min(high, limits.max - layout.offset)
    return low, high
