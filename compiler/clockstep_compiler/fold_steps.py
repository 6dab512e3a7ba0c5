"""Steps rewritten for folded matrices: n neighbouring rows side by side in one.

What works element by element takes folded operands as it took them before, constants of channels
repeated. An operand whose rows are not neighbours in the same order is put so by a product of
integers with ones, which is exact.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, Op, binary, cast
from clockstep_compiler.fold_patches import NOBODY, Fold, Patches, count_of, side_by_side
from clockstep_compiler.fold_product import can_fold, folded_product
from clockstep_compiler.partition import find_product
from clockstep_compiler.steps import Compute, Product, Term, Value, Weights, sources_of
from clockstep_isa.table import Type

__all__ = ["Folder", "aligned"]

Ints = NDArray[np.int64]
Data = NDArray[np.generic] | None
Chips = tuple[int, ...]


_LEAST = -128
"""The least byte."""


def aligned(index: Ints | None, n: int) -> bool:
    """Whether each `n` rows of an index are `n` rows that a fold by `n` puts side by side."""
    if index is None:
        return True
    if len(index) % n:
        return False
    rows = index.reshape(-1, n)
    return not (rows[:, 0] % n).any() and bool((rows == rows[:, :1] + np.arange(n)).all())


def _as_it_lies(index: Ints | None, fold: Fold) -> bool:
    """Whether rows of an index that are side by side are so in a matrix that is folded alike."""
    if isinstance(fold, Patches):
        return index is None or np.array_equal(index, np.arange(len(index)))
    return aligned(index, fold)


def _bounded(expr: Expr, patches: Patches, channels: int) -> Expr | None:
    """Bytes with the least of all beyond the image: nothing is less; None for another number."""
    if patches.beyond != _LEAST or expr.out != Type.I8:
        return None
    most = np.where(patches.pixels() == NOBODY, _LEAST, -1 - _LEAST).astype(np.int8)
    return binary("min", expr, Const(np.tile(most, (1, channels)), Type.I8))


@dataclass(slots=True)
class Folder:
    """Rewrites steps; matrices not in `folds` stay as they are. New ones count from `number`."""

    folds: Mapping[int, Fold]
    number: int
    values: dict[int, Value] = field(default_factory=dict)
    made: list[Value] = field(default_factory=list)
    tiled: dict[tuple[int, Fold], Value] = field(default_factory=dict)

    def view(self, value: Value) -> tuple[Value, Fold]:
        """The folded form of a matrix and how it is folded."""
        n = self.folds.get(value.number, 1)
        if n == 1:
            return value, 1
        if value.number not in self.values:
            columns, data = value.columns * count_of(n), value.data
            rows = n.rows if isinstance(n, Patches) else value.rows // n
            assert data is None or isinstance(n, int), f"{value.name} is in patches"
            data = None if data is None else np.ascontiguousarray(data.reshape(rows, columns))
            self.values[value.number] = replace(value, rows=rows, columns=columns, data=data)
        return self.values[value.number], n

    def tile(self, row: Value, n: Fold) -> Value:
        """A constant row for as many pixels as are side by side."""
        if n == 1:
            return row
        if (row.number, n) not in self.tiled:
            assert row.data is not None
            data = side_by_side(n, row.data)
            self.tiled[row.number, n] = self._new(row.name, 1, data.shape[1], row.type, data)
        return self.tiled[row.number, n]

    def least(self, columns: int) -> Value:
        """A row of the least bytes."""
        if (-1, columns) not in self.tiled:
            data = np.full((1, columns), _LEAST, np.int8)
            self.tiled[-1, columns] = self._new("border", 1, columns, Type.I8, data)
        return self.tiled[-1, columns]

    def _new(
        self, name: str, rows: int, columns: int, kind: Type, data: Data, chips: Chips = ()
    ) -> Value:
        number, origin = self.number + len(self.made), "step" if data is None else "const"
        value = Value(number, name, rows, columns, kind, origin, data=data, chips=chips)
        self.made.append(value)
        return value

    def compute(self, step: Compute) -> list[Compute] | None:
        """The step as folded operands and results want it; None if it cannot be done."""
        out, m = self.view(step.out)
        if m == 1 and not any(v.number in self.folds for v in sources_of(step)):
            return [step]
        shape = (out.rows, out.columns)
        work = _Work(self, step, out, m, shape, find_product(step.expr) is not None)
        expr = work.visit(step.expr)
        if expr is not None and isinstance(m, Patches) and m.beyond is not None:
            expr = _bounded(expr, m, step.out.columns)
        if expr is None:
            return None
        return [*work.steps, Compute(out, expr, step.nodes, shape)]


def _greatest_of(e: Expr) -> list[Leaf]:
    """The matrices of a maximum of matrices and of maxima; none where something else is in it."""
    if isinstance(e, Leaf):
        return [e]
    if not isinstance(e, Op) or e.name != "max":
        return []
    found = [_greatest_of(arg) for arg in e.args]
    return [leaf for part in found for leaf in part] if all(found) else []


def _reads(expr: Expr) -> Counter[tuple[int, int]]:
    """How often operations read a matrix under an index."""
    found: Counter[tuple[int, int]] = Counter()
    seen: set[int] = set()
    waiting = [expr]
    while waiting:
        e = waiting.pop()
        if isinstance(e, Leaf):
            found[e.value.number, id(e.index)] += 1
        elif isinstance(e, Op) and id(e) not in seen:
            seen.add(id(e))
            waiting += e.args
    return found


def _in_step(index: Ints) -> NDArray[np.bool_]:
    """Rows from which, or to which, an index advances as it mostly does."""
    steps = np.diff(index)
    usual = steps == np.median(steps) if len(steps) else np.zeros(0, np.bool_)
    found: NDArray[np.bool_] = np.append(usual, False) | np.append(False, usual)
    return found


@dataclass(slots=True)
class _Work:
    """One step on its way; `multiplies` once its expression has a product."""

    folder: Folder
    step: Compute
    out: Value
    m: Fold
    shape: tuple[int, int]
    multiplies: bool
    steps: list[Compute] = field(default_factory=list)
    done: dict[object, Expr | None] = field(default_factory=dict)
    least: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict)
    """Of matrices under an index, the rows that may as well be the least number."""

    def visit(self, e: Expr) -> Expr | None:
        key = (e.value.number, id(e.index), e.tile) if isinstance(e, Leaf) else id(e)
        if key not in self.done:
            self.done[key] = self._visit(e)
        return self.done[key]

    def _visit(self, e: Expr) -> Expr | None:
        if isinstance(e, Op):
            if e.name == "max" and e.type == Type.I8:
                self._spare(e)
            args = [self.visit(arg) for arg in e.args]
            kept = tuple(arg for arg in args if arg is not None)
            return replace(e, args=kept) if len(kept) == len(args) else None
        if isinstance(e, Const):
            return self._constant(e)
        return self._leaf(e) if isinstance(e, Leaf) else self._acc(e.product)

    def _constant(self, e: Const) -> Expr | None:
        rows = math.prod(e.array.shape[:-1])
        if e.array.size == 1 or self.m == 1:
            same = rows == 1 or e.array.size == 1
            return e if same else self._by_rows(e)
        if rows != 1:
            return None
        channels = np.broadcast_to(e.array.reshape(-1), (1, self.step.out.columns))
        return Const(side_by_side(self.m, channels)[0], e.out)

    def _by_rows(self, e: Const) -> Expr:
        """A constant that differs from row to row, of a result that is not folded."""
        shape = (*self.step.shape[:-1], e.array.shape[-1])
        rows = math.prod(shape[:-1])
        return Const(np.broadcast_to(e.array, shape).reshape(rows, -1), e.out)

    def _leaf(self, e: Leaf) -> Expr | None:
        value, n = self.folder.view(e.value)
        if e.tile is not None:
            return e if n == self.m == 1 else None
        if value.columns == 1 < self.step.out.columns:
            return self._single(e)
        if n == self.m and _as_it_lies(e.index, n):
            if e.index is None or isinstance(n, Patches):
                return Leaf(value, None)
            return Leaf(value, np.ascontiguousarray(e.index[::n] // n))
        return self._selected(e) if value.type == Type.I8 else None

    def _single(self, e: Leaf) -> Expr | None:
        """A column in every lane: of the same row for all that are side by side."""
        if isinstance(self.m, Patches):
            return None
        rows = np.arange(e.value.rows) if e.index is None else e.index
        rows = rows.reshape(-1, self.m)
        return Leaf(e.value, rows[:, 0].copy()) if (rows == rows[:, :1]).all() else None

    def _spare(self, e: Op) -> None:
        """Rows that a maximum has twice, from the border of an image: once is enough.

        What is left out is what breaks the step from row to row, so that all rows are alike.
        """
        reads = _reads(self.step.expr)
        for leaf, other in permutations(_greatest_of(e), 2):
            if leaf.value is not other.value or leaf.index is None or other.index is None:
                continue
            key = leaf.value.number, id(leaf.index)
            twice = (leaf.index == other.index) & ~_in_step(leaf.index) & _in_step(other.index)
            if twice.any() and reads[key] == 1:
                self.least[key] = self.least.get(key, False) | twice

    def _selected(self, e: Leaf) -> Expr | None:
        """Rows of a matrix of bytes, by a product with ones."""
        if e.value.columns != self.step.out.columns:
            return None
        columns = e.value.columns
        ones = np.eye(columns, dtype=np.int8)[None]
        index = np.arange(e.value.rows) if e.index is None else e.index
        fill = None
        twice = self.least.get((e.value.number, id(e.index)))
        if twice is not None:
            index, fill = np.where(twice, -1, index), self.folder.least(columns)
        term = Term(e.value, Weights(1, columns, columns, data=ones), index, fill=fill)
        product = Product(Type.I8, self.step.out.rows, columns, (term,), None)
        found = self._acc(product)
        if found is None:
            return None
        expr = cast(found, Type.I8, saturate=False)
        if not self.multiplies:
            self.multiplies = True
            return expr
        name, chips = f"{self.out.name}.part", self.out.chips
        part = self.folder._new(name, *self.shape, Type.I8, None, chips)
        self.steps.append(Compute(part, expr, self.step.nodes, self.shape))
        return Leaf(part, None)

    def _acc(self, product: Product) -> Expr | None:
        folds = self.folder.folds
        if self.m == 1 and not any(t.a.number in folds for t in product.terms):
            return Acc(product)
        if not can_fold(product):
            return None
        folded = folded_product(product, self.m, self.folder.view, self.folder.tile)
        return None if folded is None else Acc(folded)
