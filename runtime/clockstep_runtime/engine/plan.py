"""Groups of steps as calls: what each needs is looked up once, however often it is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from clockstep_isa.table import BY_NAME, TABLE
from clockstep_runtime.engine.compute import Compute, compute_of, gathered, scattered
from clockstep_runtime.engine.gather import Gatherer, Known
from clockstep_runtime.engine.group import Group, Member
from clockstep_runtime.engine.mxm import Arrays, Make
from clockstep_runtime.linker import Linked

__all__ = ["Planned", "plan"]

Planned = tuple[int, Make, list[int]]
"""The value that a group of steps makes, how to make it of all values so far, and those dead after
it."""

_INSTALL, _ABC, _SCATTER, _GATHER = (
    TABLE.index(BY_NAME[name]) for name in ("iw", "abc", "scatter", "gather")
)


def plan(linked: Linked, known: Known, arrays: Arrays, begin: int, end: int) -> list[Planned]:
    """The groups `begin` to `end` of a linked program."""
    stretch = _Stretch(linked, known, arrays, begin, end)
    deaths = linked.dead_after[begin : end + 1].tolist()
    planned: list[Planned] = []
    for i in range(end - begin):
        value, make = stretch.group(i)
        planned.append((value, make, linked.dead[deaths[i] : deaths[i + 1]].tolist()))
    return planned


class _Stretch:
    """The groups `begin` to `end`; its groups, steps and operands are counted from 0."""

    def __init__(self, linked: Linked, known: Known, arrays: Arrays, begin: int, end: int) -> None:
        low, high = linked.groups[[begin, end]].tolist()
        self._low = low
        self._arrays = arrays
        self._lanes = linked.program.machine.vector
        self._per_superlane = linked.program.machine.lanes.per_superlane
        steps = linked.steps[low:high]
        rows = linked.columns.row[steps]
        self._groups = (linked.groups[begin : end + 1] - low).tolist()
        self._values = steps.tolist()
        self._rows, self._fields = rows.tolist(), linked.columns.args[steps].tolist()
        self._products = ((rows == _ABC) | linked.is_sum[low:high]).tolist()
        # What `iw` takes is left to `arrays`, which keep what they made of it.
        loads = np.repeat(rows == _INSTALL, np.diff(linked.operands_of[low : high + 1]))
        chosen = linked.operands_of[low] + np.flatnonzero(~loads)
        self._bounds = np.searchsorted(chosen, linked.operands_of[low : high + 1]).tolist()
        operands = linked.operands.take(chosen)
        self._owners = operands.owner.tolist()
        self._from = operands.value[operands.begin[:-1]].tolist()
        self._gather = Gatherer(known, operands)

    def group(self, number: int) -> tuple[int, Make]:
        """The value that a group makes, and how."""
        first, last = self._groups[number], self._groups[number + 1]
        value = self._values[last - 1]
        if self._rows[first] == _INSTALL:
            return value, self._arrays.installer(self._low + first)
        if self._rows[first] == _SCATTER:
            return value, self._mapped(first, scattered, "first")
        if self._rows[first] == _GATHER:
            return value, self._mapped(first, gathered, "first", "stride", "words")
        return value, self._together(range(first, last))

    def _mapped(self, step: int, make: Callable[..., Any], *names: str) -> Make:
        """What an access makes whose addresses a map says, from some of its fields."""
        gather, numbers = self._gather, range(self._bounds[step], self._bounds[step + 1])
        row = TABLE[self._rows[step]]
        fields = [self._fields[step][row.field(name)] for name in names]
        return lambda values: make(*fields, *(gather.value(n, values) for n in numbers))

    def _together(self, steps: range) -> Make:
        """A group of steps none of which is an `iw`."""
        needed = range(self._bounds[steps[0]], self._bounds[steps[-1] + 1])
        made = {self._values[step]: i for i, step in enumerate(steps[:-1])}
        outside = [number for number in needed if self._from[number] not in made]
        place = {number: i for i, number in enumerate(outside)}
        sources = [
            tuple(
                place[number] if number in place else len(outside) + made[self._from[number]]
                for number in range(self._bounds[step], self._bounds[step + 1])
            )
            for step in steps
        ]
        last = {source: i for i, mine in enumerate(sources) for source in mine}
        dead: list[list[int]] = [[] for _ in steps]
        for source, i in last.items():
            dead[i].append(source)
        members = [
            Member(self._products[step], self._bind(step), mine, tuple(gone))
            for step, mine, gone in zip(steps, sources, dead, strict=True)
        ]
        return Group(self._gather, outside, members, self._lanes)

    def _bind(self, step: int) -> Callable[[list[Any]], Compute]:
        if self._products[step]:
            return self._arrays.multiplier(
                self._owners[self._bounds[step] : self._bounds[step + 1]]
            )
        compute = compute_of(self._rows[step], self._fields[step], self._per_superlane)
        return lambda _: compute
