"""Operands of whole vectors that several stretches of values are put together to.

Which vector of which value every one of theirs is, is written down once, so that any few of them
can be taken at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.linker import Operands
from clockstep_runtime.verifier import expand

__all__ = ["Joined", "joined"]

Array = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Joined:
    """Vector i is vector `index[i]` of `value`, but those that `others` say are of other values.

    Of each of these: the value, the vectors of the operand in order, and those of the value.
    `uniform` operands have the same vector again and again.
    """

    value: int
    index: Ints
    others: tuple[tuple[int, Ints, Ints], ...]
    uniform: bool

    def batch(self, values: Sequence[Array | None]) -> int:
        """The batch of the operand: the greatest of its values."""
        return max(int(_alive(values, value).shape[1]) for value in (self.value, *self._rest()))

    def rows(self, values: Sequence[Array | None], rows: slice) -> Array:
        """The vectors of a slice, which has no step."""
        index = self.index[rows]
        made = _alive(values, self.value).take(index, axis=0)
        if not self.others:
            return made
        batch = self.batch(values)
        if made.shape[1] < batch:
            made = np.repeat(made, batch, axis=1)
        start = rows.start or 0
        for value, target, source in self.others:
            first, last = np.searchsorted(target, (start, start + len(index)))
            if first < last:
                taken = _alive(values, value).take(source[first:last], axis=0)
                made[target[first:last] - start] = taken
        return made

    def _rest(self) -> list[int]:
        return [value for value, _, _ in self.others]


def joined(operands: Operands, wanted: Sequence[bool]) -> dict[int, Joined]:
    """The operands among the `wanted` ones that take whole elements of values, by number."""
    numbers = np.flatnonzero(operands.aligned & np.array(wanted, np.bool_))
    chosen = operands.take(numbers)
    each, k = expand(chosen.length)
    target = chosen.first[each] + k * chosen.pitch[each]
    source = chosen.source[each] + k * chosen.source_step[each]
    value = chosen.value[each]
    bounds = np.append(0, np.cumsum(chosen.length))[chosen.begin].tolist()
    result: dict[int, Joined] = {}
    for number, count, low, high in zip(
        numbers.tolist(), chosen.count.tolist(), bounds, bounds[1:], strict=False
    ):
        mine = slice(low, high)
        result[number] = _of(value[mine], target[mine], source[mine], count)
    return result


def _of(value: Ints, target: Ints, source: Ints, count: int) -> Joined:
    """The operand of `count` vectors whose vector `target[i]` is vector `source[i]` of a value."""
    kinds, kind = np.unique(value, return_inverse=True)
    most = int(np.argmax(np.bincount(kind)))
    index = np.zeros(count, np.int64)
    index[target[kind == most]] = source[kind == most]
    others = []
    for i, other in enumerate(kinds.tolist()):
        if i != most:
            mine = np.flatnonzero(kind == i)
            mine = mine[np.argsort(target[mine])]
            others.append((other, target[mine], source[mine]))
    uniform = not others and bool((index == index[0]).all())
    return Joined(int(kinds[most]), index, tuple(others), uniform)


def _alive(values: Sequence[Array | None], value: int) -> Array:
    whole = values[value]
    assert whole is not None, "a value is used after its death"
    return whole
