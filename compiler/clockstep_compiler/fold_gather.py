"""Images whose taps were put side by side, taken back to products of each tap, for folding.

A matrix of few channels has a row for each line of a kernel (`windows.gathered`), which a `Move`
makes. Folded, the image has such rows by itself: a tap is then a part of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Expr, substituted
from clockstep_compiler.fold_product import can_fold
from clockstep_compiler.partition import find_product
from clockstep_compiler.steps import (
    Compute,
    Lowered,
    Move,
    Product,
    Step,
    Term,
    Value,
    Weights,
    sources_of,
)
from clockstep_isa.table import Type

__all__ = ["Gather", "gathers", "taps_of", "ungathered"]


class Gather(NamedTuple):
    """A `Move` of whole pixels: `pixels[r, k]` is the row of `image` at lanes k C; -1 is `fill`."""

    move: Move
    image: Value
    pixels: NDArray[np.int64]
    fill: Value | None

    def border(self) -> NDArray[np.generic]:
        """The row of which a border is made."""
        if self.fill is None:
            return np.zeros((1, self.image.columns), np.int8)
        assert self.fill.data is not None, f"{self.fill.name} is not constant"
        return self.fill.data


def gathers(lowered: Lowered) -> dict[int, Gather]:
    """Those moves, by the number of their result, that nothing but products of integers reads."""
    found: dict[int, Gather] = {}
    for step in lowered.steps:
        if isinstance(step, Move):
            gather = _gather(step)
            if gather is not None:
                found[step.out.number] = gather
    for step in lowered.steps:
        product = find_product(step.expr) if isinstance(step, Compute) else None
        reads = {v.number for v in sources_of(step)}
        if product is not None and can_fold(product):
            reads -= {t.a.number for t in product.terms if _splits(t, found)}
        for number in reads:
            found.pop(number, None)
    for _, value in (*lowered.outputs, *lowered.stored):
        found.pop(value.number, None)
    return found


def _gather(move: Move) -> Gather | None:
    image, *rest = move.sources
    channels, size = image.columns, image.rows * image.columns
    if move.out.columns % channels or len(rest) > 1 or any(v.rows > 1 for v in rest):
        return None
    index = move.index.reshape(move.out.rows, -1, channels)
    first, lanes = index[:, :, 0], np.arange(channels)
    inside = (first >= 0) & (first < size)
    whole = (index[inside] == first[inside][:, None] + lanes).all() and not (
        first[inside] % channels
    ).any()
    beyond = size + lanes if rest else np.full(channels, -1)
    if not whole or not (index[~inside] == beyond).all():
        return None
    if rest and (rest[0].data is None or rest[0].columns != channels):
        return None
    pixels = np.where(inside, first // channels, -1)
    return Gather(move, image, pixels, rest[0] if rest else None)


def _splits(term: Term, found: Mapping[int, Gather]) -> bool:
    """Whether a term is one of pixels, with the border that they have."""
    gather = found.get(term.a.number)
    if gather is None or term.byte is not None:
        return False
    if term.fill is None:
        return True
    own, border = gather.border(), term.fill.data
    assert border is not None, f"{term.fill.name} is not constant"
    return bool((border.reshape(-1, gather.image.columns) == own).all())


def ungathered(lowered: Lowered, chosen: Mapping[int, Gather]) -> Lowered:
    """The model with products of pixels in place of products of what some moves make."""
    values = list(lowered.values)
    fills: dict[int, Value] = {}
    for number, gather in chosen.items():
        fill = gather.fill
        if fill is None:
            data = gather.border()
            columns = data.shape[1]
            fill = Value(len(values), "border", 1, columns, Type.I8, "const", data=data)
            values.append(fill)
        fills[number] = fill
    steps: list[Step] = []
    for step in lowered.steps:
        if step.out.number in chosen and isinstance(step, Move):
            continue
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if not isinstance(step, Compute) or product is None:
            steps.append(step)
            continue
        taken = [term for t in product.terms for term in _taps(t, chosen, fills)]
        if len(taken) > len(product.terms):
            new = Acc(replace(product, terms=tuple(taken)))
            step = replace(step, expr=substituted(step.expr, partial(_multiplied, product, new)))
        steps.append(step)
    return replace(lowered, steps=tuple(steps), values=tuple(values))


def _taps(term: Term, chosen: Mapping[int, Gather], fills: Mapping[int, Value]) -> list[Term]:
    """A term for each pixel of the rows of a term."""
    gather = chosen.get(term.a.number)
    if gather is None:
        return [term]
    fill = fills[term.a.number]
    return [
        Term(gather.image, _weights(part), pixels, None, fill)
        for pixels, part in taps_of(term, gather)
    ]


def taps_of(term: Term, gather: Gather) -> list[tuple[NDArray[np.int64], NDArray[np.generic]]]:
    """For each pixel of the rows of a term which it is, row by row, and its weights."""
    data = term.weights.data
    assert data is not None
    index = np.arange(len(gather.pixels)) if term.index is None else term.index
    pixels = np.where(index[:, None] < 0, -1, gather.pixels[index])
    parts = np.split(data, pixels.shape[1], axis=2)
    return [(pixels[:, k].copy(), part) for k, part in enumerate(parts)]


def _weights(data: NDArray[np.generic]) -> Weights:
    sets, columns, depth = data.shape
    return Weights(sets, columns, depth, data=np.ascontiguousarray(data))


def _multiplied(product: Product, new: Acc, e: Expr) -> Expr | None:
    """`new` in the place of a product."""
    return new if isinstance(e, Acc) and e.product is product else None
