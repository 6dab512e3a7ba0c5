"""Fold: rows that hold several neighbouring pixels, where channels alone would not fill the lanes.

The matrix of an image [pixels, C] is, element by element, also [pixels / n, n C]. With weights that
are zero between pixels that have nothing to do with each other, a product then does the work of n
rows in one, and so does everything element by element (`fold_product.py`, `fold_steps.py`). By how
much each matrix is folded is decided by what the steps that make and read it would cost, one group
of matrices after the other, until nothing gets better.

    relu [3136, 64] i8 -> [784, 256]    four pixels of a line in a row

Images of depthwise convolutions may be in patches of several lines instead (`fold_depthwise.py`).
Only integers are multiplied so: zero times the infinity of a neighbour would not be zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Leaf, flatten
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.fold_depthwise import pairs, regions
from clockstep_compiler.fold_gather import Gather, gathers, ungathered
from clockstep_compiler.fold_patches import Fold, Patches
from clockstep_compiler.fold_product import can_fold
from clockstep_compiler.fold_steps import Folder, aligned
from clockstep_compiler.fold_windows import windowed
from clockstep_compiler.partition import find_product, total_words
from clockstep_compiler.steps import Compute, Lowered, Product, Step, Value, sources_of

__all__ = ["fold"]

_ROUNDS = 3

_WIDE = 4
"""Vectors that a folded row may take where no product makes it."""

_ROOM = 4
"""Weights with their zeros fill at most this part of a chip, or no more than without."""

_SETTING_UP = 10
"""Rows that would take as long as finding room for the weights of an array."""

_NEVER = 1 << 60


def fold(plan: Floorplan, lowered: Lowered) -> Lowered:
    """The same model with some matrices folded, or `lowered` itself if that would gain nothing."""
    lanes, lowered = plan.machine.vector, windowed(plan, lowered)
    few = any(2 * v.columns <= lanes and v.rows > 1 for v in lowered.values)
    if not few and not pairs(plan, lowered):
        return lowered
    limit = max(total_words(plan, lowered), plan.machine.words_per_chip // _ROOM)
    for patches in (True, False):
        search = _searched(plan, lowered, patches)
        if not search.folds:
            return lowered
        folded = search.applied()
        if total_words(plan, folded) <= limit:
            return folded
    return lowered


def _searched(plan: Floorplan, lowered: Lowered, patches: bool) -> _Search:
    """Folds decided upon, with those pixels apart that are better not put side by side."""
    apart, plain = gathers(lowered), _Search(plan, lowered, patches)
    while True:
        search = _Search(plan, ungathered(lowered, apart), patches)
        search.run()
        kept = {n: g for n, g in apart.items() if search.gains(g, plain)}
        if kept == apart:
            return search
        apart = kept


@dataclass(eq=False, slots=True)
class _Group:
    """Matrices whose folds are chosen together, and the steps that make or read them by number."""

    values: list[Value]
    candidates: list[dict[int, Fold]]
    steps: list[int]


@dataclass(eq=False, slots=True)
class _Search:
    """`folds` of matrices by number, those of more than one row alone; `patches`: these, too."""

    plan: Floorplan
    lowered: Lowered
    patches: bool
    folds: dict[int, Fold] = field(default_factory=dict)
    known: dict[tuple[object, ...], int] = field(default_factory=dict)

    def run(self) -> None:
        groups = self._groups()
        for _ in range(_ROUNDS):
            before = dict(self.folds)
            for group in groups:
                self._choose(group)
            if self.folds == before:
                return

    def applied(self) -> Lowered:
        """The model folded as decided."""
        folder = Folder(self.folds, len(self.lowered.values))
        steps: list[Step] = []
        for step in self.lowered.steps:
            found: list[Compute] | None = None
            if isinstance(step, Compute):
                found = folder.compute(step)
                assert found is not None, f"fold: {step.out.name}"
            steps += [step] if found is None else found

        def view(pairs: tuple[tuple[str, Value], ...]) -> tuple[tuple[str, Value], ...]:
            return tuple((name, folder.view(value)[0]) for name, value in pairs)

        values = (*(folder.view(v)[0] for v in self.lowered.values), *folder.made)
        whole = tuple(
            (name, value)
            for name, value in self.lowered.stored
            if not isinstance(self.folds.get(value.number), Patches)
        )
        return replace(
            self.lowered,
            steps=tuple(steps),
            values=values,
            outputs=view(self.lowered.outputs),
            stored=view(whole),
        )

    def gains(self, gather: Gather, plain: _Search) -> bool:
        """Whether products of pixels cost less than to put these side by side and multiply."""
        if self.folds.get(gather.image.number, 1) == 1:
            return False
        out, units = gather.move.out, len(self.plan.planes) * _alus(self.plan)
        moving = units * out.rows * (out.columns // gather.image.columns)
        before, after = plain.reading(out), self.reading(gather.image)
        return sum(after.values()) < moving + sum(before.values())

    def reading(self, value: Value) -> dict[int, int]:
        """What products that read a matrix cost, by the numbers of their results."""
        return {
            step.out.number: self._cost(i)
            for i, step in enumerate(self.lowered.steps)
            if isinstance(step, Compute)
            and find_product(step.expr) is not None
            and any(v is value for v in sources_of(step))
        }

    # -- groups -------------------------------------------------------------------------------

    def _groups(self) -> list[_Group]:
        """What may be folded, in the order of the matrices."""
        parent = {v.number: v.number for v in self.lowered.values}

        def root(number: int) -> int:
            while parent[number] != number:
                number = parent[number]
            return number

        for step in self.lowered.steps:
            if isinstance(step, Compute):
                for leaf in _beside(step):
                    a, b = sorted((root(leaf.value.number), root(step.out.number)))
                    parent[b] = a
        members: dict[int, list[Value]] = {}
        ties = {value.number: root(value.number) for value in self.lowered.values}
        for value in self.lowered.values:
            members.setdefault(ties[value.number], []).append(value)
        fixed, users = self._fixed(), self._users()
        groups = []
        for values in members.values():
            if any(v.number in fixed for v in values):
                continue
            steps = sorted({i for v in values for i in users.get(v.number, ())})
            candidates = self._candidates(values, steps)
            if candidates:
                options: list[dict[int, Fold]] = [{v.number: n for v in values} for n in candidates]
                groups.append(_Group(values, options, steps))
        return groups + (self._patched(ties, fixed, users) if self.patches else [])

    def _patched(
        self, ties: dict[int, int], fixed: set[int], users: dict[int, list[int]]
    ) -> list[_Group]:
        """Images and their depthwise convolutions, and all that go together."""
        groups = []
        for pair in pairs(self.plan, self.lowered):
            a, b = pair.image.number, pair.result.number
            if fixed & {a, b}:
                continue
            options: list[dict[int, Fold]] = [{a: p, b: q} for p, q in pair.candidates]
            steps = sorted({*users[a], *users[b]})
            groups.append(_Group([pair.image, pair.result], options, steps))
        whole = fixed | {value.number for _, value in self.lowered.outputs}
        for values, candidates in regions(self.plan, self.lowered, ties, whole):
            steps = sorted({i for v in values for i in users[v.number]})
            groups.append(_Group(values, candidates, steps))
        return groups

    def _fixed(self) -> set[int]:
        """Matrices that something wants as they are."""
        fixed: set[int] = set()
        for step in self.lowered.steps:
            if not isinstance(step, Compute):
                fixed |= {step.out.number, *(v.number for v in sources_of(step))}
                continue
            product = find_product(step.expr)
            if product is not None and not can_fold(product):
                fixed.add(step.out.number)
                fixed |= _operands(product)
        return fixed

    def _users(self) -> dict[int, list[int]]:
        users: dict[int, list[int]] = {}
        for i, step in enumerate(self.lowered.steps):
            for v in (step.out, *sources_of(step)):
                users.setdefault(v.number, []).append(i)
        return users

    def _candidates(self, values: list[Value], steps: list[int]) -> list[int]:
        """Whole parts of a line that have room in a vector, or the line if no product makes it."""
        lanes, columns = self.plan.machine.vector, values[0].columns
        if any(v.columns != columns for v in values) or not steps:
            return []
        own, line, made = {v.number for v in values}, 0, False
        for v in values:
            line = math.gcd(line, v.rows)
        for i in steps:
            step = self.lowered.steps[i]
            if isinstance(step, Compute) and step.out.number in own:
                line = math.gcd(line, step.shape[-2] if len(step.shape) > 1 else 1)
                made |= find_product(step.expr) is not None
        most = lanes // columns
        found = [n for n in range(2, min(line, most) + 1) if line % n == 0]
        if not made and most < line and line * columns <= _WIDE * lanes:
            found.append(line)
        return found

    # -- choosing -----------------------------------------------------------------------------

    def _choose(self, group: _Group) -> None:
        own = [v.number for v in group.values]
        options = [{}, *group.candidates, {n: self.folds[n] for n in own if n in self.folds}]
        costs = []
        for option in options:
            self._set(own, option)
            costs.append(sum(self._cost(i) for i in group.steps))
        least = min(*costs, _NEVER)
        self._set(own, options[costs.index(least)] if least in costs else {})

    def _set(self, numbers: list[int], option: dict[int, Fold]) -> None:
        for number in numbers:
            self.folds.pop(number, None)
        self.folds |= option

    def _cost(self, index: int) -> int:
        step = self.lowered.steps[index]
        if not isinstance(step, Compute):
            return 0
        numbers = sorted({step.out.number, *(v.number for v in sources_of(step))})
        key = (index, *(self.folds.get(n, 1) for n in numbers))
        if key not in self.known:
            found = Folder(self.folds, len(self.lowered.values)).compute(step)
            parts = [] if found is None else [_cost(self.plan, part) for part in found]
            self.known[key] = sum(parts) if parts else _NEVER
        return self.known[key]


def _beside(step: Compute) -> list[Leaf]:
    """Operands that are read element by element as the result is written."""
    _, sources = flatten(step.expr)
    leaves = [s for s in sources if isinstance(s, Leaf) and s.value.columns == step.out.columns]
    line = step.shape[-2] if len(step.shape) > 1 else 1
    least = next((n for n in range(2, line + 1) if line % n == 0), 1)
    return [leaf for leaf in leaves if least > 1 and aligned(leaf.index, least)]


def _operands(product: Product) -> set[int]:
    """All matrices of a product."""
    found = {t.a.number for t in product.terms}
    return found | {value.number for t in product.terms for value in t.weights.matrices}


def _cost(plan: Floorplan, step: Compute) -> int:
    """Cycles of the MXM plus cycles of the VXM, in parts of a cycle."""
    lanes, planes = plan.machine.vector, len(plan.planes)
    tiles, ops = -(-step.out.columns // lanes), len(flatten(step.expr)[0].ops)
    product = find_product(step.expr)
    if product is None:
        return planes * step.out.rows * tiles * (ops + 1)
    rows = np.array([product.rows])
    if product.w_set is not None:
        rows = np.bincount(product.w_set, minlength=product.terms[0].weights.sets)
    if not can_fold(product):
        passes = np.full((len(rows), tiles), len(product.terms))
    else:
        passes = _passes(product, tiles, lanes)
    loading = _SETTING_UP + 2 * -(-lanes // plan.install_streams)
    mxm = int(((rows[:, None] + loading) * passes).sum())
    vxm = int((rows[:, None] * (ops + passes)).sum())
    return _alus(plan) * mxm + planes * vxm


def _alus(plan: Floorplan) -> int:
    return plan.machine.vxm.rows * plan.machine.vxm.ranks


def _passes(product: Product, tiles: int, lanes: int) -> NDArray[np.int64]:
    """K tiles that are not all zero, for each set of weights and tile of columns."""
    found = np.zeros((product.terms[0].weights.sets, tiles), np.int64)
    for term in product.terms:
        data = term.weights.data
        assert data is not None
        for tile in range(tiles):
            columns = data[:, tile * lanes : (tile + 1) * lanes]
            for k in range(0, data.shape[2], lanes):
                found[:, tile] += columns[:, :, k : k + lanes].any(axis=(1, 2))
    return np.maximum(found, 1)
