"""What goes into a run and comes out of it: checked inputs, random ones, outputs and cycles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.layout import Binding, integer_range, numpy_type, tensor_dtype
from clockstep_isa.program import Program

__all__ = ["Execution", "StateWords", "check_inputs", "random_inputs"]

Tensor = NDArray[Any]
StateWords = tuple[NDArray[np.uint8], ...]
"""The words of a state, uint8 [words, lanes], piece by piece of all its layouts."""

SMALL = (-128, 127)
"""Integers of more than 16 bits are drawn from this range, so that sums do not overflow."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What a run gave: the output tensors by name, and the cycles it took.

    Where the run was stepped, `words` has what its states hold now, by their inputs.
    """

    outputs: dict[str, Tensor]
    cycles: int
    words: dict[str, StateWords] = field(default_factory=dict)


def check_inputs(
    program: Program, inputs: Mapping[str, Tensor], known: Collection[str] = ()
) -> None:
    """Raise `UsageError` unless there is a value for every input, no other, and the weights.

    Inputs whose values are `known` may be left out.
    """
    if program.timing_only:
        raise UsageError(
            "program-no-weights",
            "the program was compiled without weights, so it can be timed but not run",
            help="compile it again without --no-weights",
        )
    names = [binding.name for binding in program.inputs]
    missing = [name for name in names if name not in inputs and name not in known]
    extra = sorted(name for name in inputs if name not in names)
    if missing:
        raise UsageError("input-missing", f"no value for input {missing[0]!r}")
    if extra:
        hint = f"inputs: {', '.join(names)}" if names else "the program has no inputs"
        raise UsageError("input-unknown", f"no input is named {extra[0]!r}", help=hint)


def random_inputs(program: Program, seed: int) -> dict[str, NDArray[Any]]:
    """One tensor per input, by name, with its binding's shape and type.

    Floats are standard normal; integers of 8 and 16 bits have their full range, wider ones -128
    to 127, as far as the program takes them; booleans are even odds. The same program and
    seed give the same values everywhere: PCG64, drawn in the order of the inputs.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    return {binding.name: _draw(binding, generator) for binding in program.inputs}


def _draw(binding: Binding, generator: np.random.Generator) -> NDArray[Any]:
    dtype = tensor_dtype(binding.dtype)
    if "float" in binding.dtype:
        return generator.standard_normal(binding.shape).astype(dtype)
    low, high = _range(binding, dtype)
    return generator.integers(low, high, binding.shape, np.int64, endpoint=True).astype(dtype)


def _range(binding: Binding, dtype: np.dtype[Any]) -> tuple[int, int]:
    """The integers that the type has, the draw allows and every layout can hold."""
    if dtype.kind == "b":
        return 0, 1
    least, most = integer_range(binding.dtype)
    low, high = (least, most) if dtype.itemsize <= 2 else SMALL
    low = max(low, least)
    if binding.limits is not None:
        low, high = max(low, binding.limits[0]), min(high, binding.limits[1])
    for layout in binding.layouts:
        stored = numpy_type(layout.stored)
        if stored.kind == "i":
            limits = np.iinfo(stored)
            low, high = max(low, limits.min - layout.offset), min(high, limits.max - layout.offset)
    return low, high
