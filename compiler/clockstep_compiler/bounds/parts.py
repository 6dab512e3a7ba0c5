"""Steps taken apart for counting: operations of expressions, multiplications of products."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Leaf, Op
from clockstep_compiler.steps import Compute, Product, Step, Weights
from clockstep_isa.table import BY_NAME, Type

__all__ = ["Ints", "Parts", "Terms", "parts_of", "rows_used"]

Ints = NDArray[np.int64]


class Terms(NamedTuple):
    """The multiplications of a product, of all its rows.

    One by a constant integer zero does not count, nor does a row that is not there (index -1).
    `macs` are multiplications; where all terms of a row are there, a column that sums more than
    fill whole passes counts these whole. `passes` are those of a plane, a row at a time. `weights`
    are elements by array, `inner` the elements of a row of each term that take part, the fewest of
    all sets. `dense`: every element of the result sums all of them.
    """

    macs: int
    passes: int
    weights: tuple[tuple[object, int], ...]
    inner: tuple[int, ...]
    dense: bool


class Parts(NamedTuple):
    """An expression taken apart: its leaves and its product, each with its distance in operations
    from the result, and how many operations there are, large ones apart."""

    leaves: tuple[tuple[Leaf, int], ...]
    acc: tuple[Acc, int] | None
    ops: int
    large: int
    terms: Terms | None


def parts_of(step: Step, lanes: int) -> Parts | None:
    """Take the expression of a step apart, if it has one."""
    if not isinstance(step, Compute):
        return None
    above: dict[int, int] = {}
    order: list[Op | Leaf | Acc] = []

    def visit(e: object) -> None:
        if id(e) in above or not isinstance(e, Op | Leaf | Acc):
            return
        above[id(e)] = 0
        if isinstance(e, Op):
            for arg in e.args:
                visit(arg)
        order.append(e)

    visit(step.expr)
    ops = [e for e in reversed(order) if isinstance(e, Op)]
    for op in ops:
        for arg in op.args:
            if id(arg) in above:
                above[id(arg)] = max(above[id(arg)], above[id(op)] + 1)
    acc = next(((e, above[id(e)]) for e in order if isinstance(e, Acc)), None)
    return Parts(
        tuple((e, above[id(e)]) for e in order if isinstance(e, Leaf)),
        acc,
        len(ops),
        sum(BY_NAME[op.name].large for op in ops),
        None if acc is None else _terms(acc[0].product, lanes),
    )


def rows_used(rows: int, indices: list[Ints | None], count: int) -> int:
    """How many of a matrix's rows are read by `count` rows of a result through any index."""
    used = np.zeros(rows, bool)
    for index in indices:
        if index is None:
            used[:count] = True
        else:
            used[index[index >= 0]] = True
    return int(np.count_nonzero(used))


def _terms(product: Product, lanes: int) -> Terms:
    """Count the multiplications of a product, set by set of its weights."""
    chosen = np.zeros(product.rows, np.int64) if product.w_set is None else product.w_set
    sets = int(chosen.max(initial=0)) + 1
    rows, whole = np.bincount(chosen, minlength=sets), np.ones(product.rows, bool)
    counts = np.zeros((sets, product.columns), np.int64)
    width, total = np.zeros(sets, np.int64), 0
    weights: list[tuple[object, int]] = []
    inner = []
    for term in product.terms:
        there = np.ones(product.rows, bool) if term.index is None else term.index >= 0
        whole &= there
        present, used = _nonzero(product, term.weights, sets)
        counts += present
        width += used
        total += int((np.bincount(chosen[there], minlength=sets) * present.sum(axis=1)).sum())
        inner.append(int(used[rows > 0].min(initial=term.weights.depth)))
        weights.append((_array(term.weights), int(present[rows > 0].sum())))
    each = np.maximum(counts.sum(axis=1), lanes * (-(-counts // lanes)).sum(axis=1))
    complete = np.bincount(chosen[whole], minlength=sets)
    macs = total + int((complete * (each - counts.sum(axis=1))).sum())
    passes = -(-np.maximum(each, lanes * width) // lanes**2)
    depth = sum(term.weights.depth for term in product.terms)
    dense = total == product.rows * product.columns * depth
    return Terms(macs, int((rows * passes).sum()), tuple(weights), tuple(inner), dense)


def _nonzero(product: Product, weights: Weights, sets: int) -> tuple[Ints, Ints]:
    """Weights that count, by set and column, and by set the inner elements that meet any."""
    data, shape = weights.data, (sets, product.columns)
    own = weights.interleaved
    if own is not None:
        there = np.zeros(shape, np.int64)
        there[:, own.first : own.first + own.count] = own.present
        return there, np.full(sets, own.present)
    if data is None or product.type != Type.I8:
        return np.full(shape, weights.depth), np.full(sets, weights.depth)
    if weights.which:  # the least that any of them has
        there = data != 0
        columns, depth = np.count_nonzero(there, axis=2), np.count_nonzero(there.any(axis=1), 1)
        return columns.min(axis=0)[None], depth.min(keepdims=True)
    present = data[:sets] != 0
    return np.count_nonzero(present, axis=2), np.count_nonzero(present.any(axis=1), axis=1)


def _array(weights: Weights) -> object:
    """Equal for weights that are the same elements."""
    if weights.data is None:
        return *(value.number for value in weights.matrices), weights.byte
    array = weights.data.__array_interface__
    return array["data"][0], weights.data.shape, weights.data.strides, weights.data.dtype.str
