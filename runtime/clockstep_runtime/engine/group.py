"""Steps executed together, a few vectors at a time: what they hand on stays in a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.engine.compute import Compute
from clockstep_runtime.engine.gather import Gatherer, Rows

__all__ = ["Group", "Member"]

Array = NDArray[Any]

_BLOCK = 1 << 17
"""Elements of a value that are computed at a time: a few such arrays fit in a cache."""

_PRODUCTS = 1 << 19
"""Elements of products that are computed at a time: for every block, weights are prepared anew."""

_FEW = 1 << 14
"""Elements of a value up to which blocks gain nothing, whatever the batch."""


@dataclass(frozen=True, slots=True)
class Member:
    """A step of a group. `bind` gives what it computes, once for each run.

    `sources` are places among the operands of the group and, after these, what its steps make;
    those at `dead` are not used any more. The sources of a `product` are operands of the group.
    """

    product: bool
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
        self._first = [i for i, member in enumerate(members) if member.product]
        self._then = [i for i, member in enumerate(members) if not member.product]
        self._taken = {source for i in self._then for source in members[i].sources}
        self._few = gather.count(numbers[0]) * lanes <= _FEW

    def __call__(self, values: list[Any]) -> Array:
        gather, numbers = self._gather, self._numbers
        computes = [member.bind(values) for member in self._members]
        if self._few:
            held = [gather.value(number, values) for number in numbers]
            return self._computed(computes, [*held, *[None] * len(computes)], range(len(computes)))
        return self._blockwise(computes, [gather.rows(number, values) for number in numbers])

    def _blockwise(self, computes: list[Compute], operands: list[Rows]) -> Array:
        """Products of many vectors at a time; what is done to these, few vectors at a time."""
        count = self._gather.count(self._numbers[0])
        wide = max(operand.batch for operand in operands) * self._lanes
        many = max(1, _PRODUCTS // wide)
        few = max(1, _BLOCK // wide) if self._then else many
        whole = np.empty(0, np.uint8)
        for block in _blocks(0, count, many):
            products = self._multiplied(computes, operands, block)
            for part in _blocks(block.start, block.stop, few):
                inside = slice(part.start - block.start, part.stop - block.start)
                held = [
                    operand.some(part) if i in self._taken else None
                    for i, operand in enumerate(operands)
                ]
                held += [None if product is None else product[inside] for product in products]
                made = self._computed(computes, held, self._then)
                if len(made) == count:
                    return made
                if not part.start:
                    whole = np.empty((count, *made.shape[1:]), made.dtype)
                whole[part] = made
        return whole

    def _multiplied(
        self, computes: list[Compute], operands: list[Rows], block: slice
    ) -> list[Array | None]:
        """What the steps that are products make, by step."""
        made: list[Array | None] = [None] * len(computes)
        for i in self._first:
            sources = self._members[i].sources
            made[i] = computes[i](*[operands[source].some(block) for source in sources])
        return made

    def _computed(self, computes: list[Compute], held: list[Any], steps: Iterable[int]) -> Array:
        """What the last step makes; `held` are operands and what other steps have made."""
        outside = len(self._numbers)
        for i in steps:
            member = self._members[i]
            held[outside + i] = computes[i](*[held[source] for source in member.sources])
            for gone in member.dead:
                held[gone] = None
        result: Array = held[-1]
        return result


def _blocks(start: int, stop: int, step: int) -> Iterator[slice]:
    """A range cut into slices of `step`; the last may be shorter."""
    return (slice(at, min(at + step, stop)) for at in range(start, stop, step))
