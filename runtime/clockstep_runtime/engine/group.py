"""Steps executed together, a few vectors at a time: what they hand on stays in a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.engine.compute import Compute
from clockstep_runtime.engine.gather import Gatherer, Rows

__all__ = ["Group", "Member"]

Array = NDArray[Any]

_BLOCK = 1 << 18
"""Elements of a value that are computed at a time: a few such arrays fit in a cache."""


@dataclass(frozen=True, slots=True)
class Member:
    """A step of a group. `bind` gives what it computes, once for each run.

    `sources` are places among the operands of the group and, after these, what its steps make;
    those at `dead` are not used any more.
    """

    bind: Callable[[list[Any]], Compute]
    sources: tuple[int, ...]
    dead: tuple[int, ...]


class Group:
    """Makes the value of the last of some steps from the operands `numbers` of `gather`."""

    def __init__(
        self, gather: Gatherer, numbers: Sequence[int], members: Sequence[Member], lanes: int
    ) -> None:
        self._gather = gather
        self._lanes = lanes
        self._numbers = numbers
        self._members = members

    def __call__(self, values: list[Any]) -> Array:
        computes = [member.bind(values) for member in self._members]
        operands = [self._gather.rows(number, values) for number in self._numbers]
        count = operands[0].count
        step = max(1, _BLOCK // (max(operand.batch for operand in operands) * self._lanes))
        if step >= count:
            return self._computed(computes, operands, slice(0, count))
        blocks = (slice(start, start + step) for start in range(0, count, step))
        first = self._computed(computes, operands, next(blocks))
        whole = np.empty((count, *first.shape[1:]), first.dtype)
        whole[:step] = first
        for block in blocks:
            whole[block] = self._computed(computes, operands, block)
        return whole

    def _computed(self, computes: list[Compute], operands: list[Rows], block: slice) -> Array:
        held: list[Any] = [operand.some(block) for operand in operands]
        for compute, member in zip(computes, self._members, strict=True):
            held.append(compute(*[held[source] for source in member.sources]))
            for gone in member.dead:
                held[gone] = None
        result: Array = held[-1]
        return result
