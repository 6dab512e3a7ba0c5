"""Products of folded matrices: weights of several pixels side by side, zero between them.

A row of a matrix folded by n holds n of its rows one after the other. A row of the result, folded
by m, then depends on a few folded rows of each operand: all that it takes from one of them is one
term. Which part of a folded row a result wants may differ from row to row: rows that want the same
parts are a class, and each class has a set of weights.

    3x3 over 64 channels, n = m = 4    for each of 3 lines the rows b - 1, b, b + 1: 9 terms, not 36
    1x1, n = 4, m = 1                  row r is row r // 4 with the weights of class r % 4

Only products of integers: a sum over more lanes stays exact, whatever the others hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.fold_patches import (
    NOBODY,
    Fold,
    Patches,
    beyond_of,
    count_of,
    pixels_of,
    place,
)
from clockstep_compiler.steps import Product, Term, Value, Weights
from clockstep_isa.table import Type

__all__ = ["View", "can_fold", "folded_product"]

Ints = NDArray[np.int64]

View = Callable[[Value], tuple[Value, Fold]]
"""The folded form of a matrix and how it is folded."""

Tile = Callable[[Value, Fold], Value]
"""A constant row repeated side by side."""

_MOST_CLASSES = 64

_Source = tuple[int, int | None, int | None]
"""Numbers of a matrix and of its fill, and the byte of its elements."""


@dataclass(eq=False, slots=True)
class _Slot:
    """Folded rows that one term reads for one class, and which weights stand where.

    Of `rows` those are `NOBODY` that may be any. `parts` are (row of the result within the fold,
    row of the operand within its fold, term, set).
    """

    rows: Ints
    parts: list[tuple[int, int, int, int]] = field(default_factory=list)
    taken: set[tuple[int, int]] = field(default_factory=set)

    def place(self, j: int, phase: int, count: int, term: int, w_set: int) -> bool:
        """Take the place of one tap; a border (phase -1) is alike in all places."""
        free = [p for p in ([phase] if phase >= 0 else range(count)) if (j, p) not in self.taken]
        if not free:
            return False
        self.taken.add((j, free[0]))
        self.parts.append((j, free[0], term, w_set))
        return True

    def meets(self, rows: Ints) -> bool:
        """Whether these rows are the same, as far as they matter; they are joined then."""
        either = (rows == NOBODY) | (self.rows == NOBODY)
        if not ((self.rows == rows) | either).all():
            return False
        self.rows = np.where(self.rows == NOBODY, rows, self.rows)
        return True


def can_fold(product: Product) -> bool:
    """Whether products are of integers with constant weights, a column in each lane."""
    return (
        product.type == Type.I8
        and not product.spread
        and all(
            t.weights.data is not None
            and not t.weights.which
            and (t.fill is None or t.fill.data is not None)
            for t in product.terms
        )
    )


def folded_product(product: Product, fold: Fold, view: View, tile: Tile) -> Product | None:
    """The product with its rows folded, of operands as `view` has them.

    None if its rows want too many different parts of the operands' rows.
    """
    own, m = pixels_of(fold, product.rows), count_of(fold)
    count, some = len(own), np.maximum(own, 0)
    rows, keys = [], []
    for term in product.terms:
        index = own if term.index is None else np.where(own < 0, own, term.index[some])
        row, key = place(view(term.a)[1], index)
        rows.append(np.where(row < 0, NOBODY, row) if _stands_beyond(term, view) else row)
        keys.append(key)
    if product.w_set is not None:
        keys.append(np.where(own < 0, -1, product.w_set[some]))
    classes = _classes(np.stack(keys, axis=2).reshape(count, -1))
    if classes is None:
        return None
    label, kinds = classes
    kinds = kinds.reshape(len(kinds), m, len(keys))
    slots = [
        _slots(product, kind, [r[label == k] for r in rows], view) for k, kind in enumerate(kinds)
    ]
    if not _border_is_beyond(product, own, view, label, slots):
        return None
    terms = _terms(product, fold, view, tile, label, slots)
    w_set = label if len(kinds) > 1 else None
    return Product(product.type, count, m * product.columns, terms, w_set)


def _stands_beyond(term: Term, view: View) -> bool:
    """Whether the border that a term reads stands beyond the image in its patches."""
    beyond, fill = beyond_of(view(term.a)[1]), term.fill
    if beyond is None or fill is None or fill.data is None:
        return False
    return bool((fill.data == beyond).all())


def _border_is_beyond(
    product: Product, own: Ints, view: View, label: Ints, slots: list[dict[_Source, list[_Slot]]]
) -> bool:
    """Whether what is read in the place of a border is one, where rows are read for others."""
    bordered = {t: term for t, term in enumerate(product.terms) if _stands_beyond(term, view)}
    pixels = {t: pixels_of(view(term.a)[1], term.a.rows) for t, term in bordered.items()}
    for k, found in enumerate(slots):
        for slot in (slot for every in found.values() for slot in every):
            for j, phase, t, _ in slot.parts:
                index = bordered[t].index if t in bordered else None
                if index is None:
                    continue
                mine = own[label == k, j]
                border = (mine >= 0) & (index[mine] < 0) & (slot.rows >= 0)
                if (pixels[t][slot.rows[border], phase] != NOBODY).any():
                    return False
    return True


def _classes(keys: Ints) -> tuple[Ints, Ints] | None:
    """The class of each row and the key of each class; -1 in a key is like any other number."""
    keys = keys.copy()
    most = keys.max(axis=0)
    alone = (np.where(keys < 0, most, keys) == most).all(axis=0)
    keys[:, alone] = most[alone]
    if alone.all():
        return np.zeros(len(keys), np.int64), keys[:1]
    found, label = _distinct(keys)
    if len(found) > 4 * _MOST_CLASSES:
        return None
    kept: list[Ints] = []
    place = np.zeros(len(found), np.int64)
    for i in np.argsort((found < 0).sum(axis=1), kind="stable").tolist():
        key = found[i]
        fits = (k for k, old in enumerate(kept) if _agree(old, key))
        place[i] = next(fits, len(kept))
        if place[i] == len(kept):
            kept.append(key)
        else:
            kept[place[i]] = np.maximum(kept[place[i]], key)
    if len(kept) > _MOST_CLASSES:
        return None
    return place[label.ravel()], np.stack(kept)


def _distinct(keys: Ints) -> tuple[Ints, Ints]:
    """Different rows in order, and which of them each row is: as bytes that sort as numbers do."""
    raw = np.ascontiguousarray((keys + 1).astype(">u4"))
    rows = raw.view(np.dtype((np.void, raw.shape[1] * raw.itemsize))).ravel()
    _, first, label = np.unique(rows, return_index=True, return_inverse=True)
    return keys[first], label


def _agree(a: Ints, b: Ints) -> bool:
    return bool(((a == b) | (a < 0) | (b < 0)).all())


def _slots(
    product: Product, kind: Ints, rows: list[Ints], view: View
) -> dict[_Source, list[_Slot]]:
    """What one class reads of each operand; `rows[t]` are [rows of the class, m]."""
    some = any((r == NOBODY).any() for r in rows)
    found: dict[_Source, list[_Slot]] = {}
    known: dict[tuple[_Source, bytes], list[_Slot]] = {}
    for j in range(len(kind)):
        for t, term in enumerate(product.terms):
            source = (term.a.number, term.byte, None if term.fill is None else term.fill.number)
            own, n = np.ascontiguousarray(rows[t][:, j]), count_of(view(term.a)[1])
            if some and (own == NOBODY).all():
                continue
            w_set = int(kind[j, -1]) if product.w_set is not None else 0
            same = known.setdefault((source, own.tobytes()), [])
            if some and not same:
                same += [slot for slot in found.get(source, ()) if slot.meets(own)][:1]
            if not any(slot.place(j, int(kind[j, t]), n, t, w_set) for slot in same):
                slot = _Slot(own)
                slot.place(j, int(kind[j, t]), n, t, w_set)
                same.append(slot)
                found.setdefault(source, []).append(slot)
    return found


def _terms(
    product: Product,
    fold: Fold,
    view: View,
    tile: Tile,
    label: Ints,
    slots: list[dict[_Source, list[_Slot]]],
) -> tuple[Term, ...]:
    """One term for each place among the slots of an operand, over all classes."""
    members = {
        (t.a.number, t.byte, None if t.fill is None else t.fill.number): t for t in product.terms
    }
    terms = []
    for source, example in members.items():
        value, inner = view(example.a)
        for number in range(max(len(own.get(source, ())) for own in slots)):
            found = [own.get(source, [])[number : number + 1] for own in slots]
            index = np.zeros(len(label), np.int64)
            for k, here in enumerate(found):
                for slot in here:
                    index[label == k] = slot.rows
            index[index == NOBODY] = 0 if example.fill is None else -1
            plain = len(index) == value.rows and np.array_equal(index, np.arange(value.rows))
            fill = None if example.fill is None or index.min() >= 0 else tile(example.fill, inner)
            depth = example.weights.depth
            weights = _weights(product, found, (fold, inner), depth)
            terms.append(Term(value, weights, None if plain else index, example.byte, fill))
    return tuple(terms)


def _weights(
    product: Product, found: list[list[_Slot]], folds: tuple[Fold, Fold], depth: int
) -> Weights:
    """Weights of one term, a set for each class; zero for those that have no slot in it.

    `folds` are those of the result and of the operand, which has `depth` channels.
    """
    fold, inner = folds
    m, n, sets = count_of(fold), count_of(inner), len(found)
    rows = (product.columns, m) if isinstance(fold, Patches) else (m, product.columns)
    lanes = (depth, n) if isinstance(inner, Patches) else (n, depth)
    full = np.zeros((sets, *rows, *lanes), np.int8)
    by_pixel = full.swapaxes(1, 2) if isinstance(fold, Patches) else full
    by_pixel = by_pixel.swapaxes(3, 4) if isinstance(inner, Patches) else by_pixel
    for k, here in enumerate(found):
        for slot in here:
            for j, phase, t, w_set in slot.parts:
                data = product.terms[t].weights.data
                assert data is not None, "weights are constant"
                by_pixel[k, j, :, phase] = data[w_set]
    columns = m * product.columns
    return Weights(sets, columns, n * depth, data=full.reshape(sets, columns, n * depth))
