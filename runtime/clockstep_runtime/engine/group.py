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

_FEW = 1 << 14
"""Elements of a value up to which blocks gain nothing, whatever the batch."""


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
        self._few = gather.count(numbers[0]) * lanes <= _FEW

    def __call__(self, values: list[Any]) -> Array:
        gather, numbers = self._gather, self._numbers
        computes = [member.bind(values) for member in self._members]
        if self._few:
            return self._computed(computes, [gather.value(number, values) for number in numbers])
        return self._blockwise(computes, [gather.rows(number, values) for number in numbers])

    def _blockwise(self, computes: list[Compute], operands: list[Rows]) -> Array:
        count = self._gather.count(self._numbers[0])
        step = max(1, _BLOCK // (max(operand.batch for operand in operands) * self._lanes))
        blocks = (slice(start, start + step) for start in range(0, count, step))
        parts = (
            self._computed(computes, [operand.some(block) for operand in operands])
            for block in blocks
        )
        first = next(parts)
        if step >= count:
            return first
        whole = np.empty((count, *first.shape[1:]), first.dtype)
        whole[:step] = first
        for start, part in zip(range(step, count, step), parts, strict=True):
            whole[start : start + step] = part
        return whole

    def _computed(self, computes: list[Compute], operands: list[Array]) -> Array:
        held: list[Any] = operands
        for compute, member in zip(computes, self._members, strict=True):
            held.append(compute(*[held[source] for source in member.sources]))
            for gone in member.dead:
                held[gone] = None
        result: Array = held[-1]
        return result
