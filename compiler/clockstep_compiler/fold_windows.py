"""Inputs loaded in windows: a row holds all that a kernel sees for a few output pixels.

Where a convolution of an image that the host loads has few channels, the host loads each pixel as
often as a kernel sees it, with the zeros beyond the border. What is computed element by element
from them, such as their quantization, is computed so, and each row of it is multiplied once.

    7x7, 3 channels, stride 2    7 lines of 13 pixels hold four output pixels: rows of 273 elements
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, Op, substituted
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.fold_gather import Gather, gathers, taps_of
from clockstep_compiler.partition import find_product
from clockstep_compiler.steps import (
    Compute,
    Lowered,
    Product,
    Step,
    Term,
    Value,
    Weights,
    sources_of,
)
from clockstep_isa.layout import Window, numpy_type
from clockstep_isa.table import Type

__all__ = ["windowed"]

Ints = NDArray[np.int64]

_ROOM = 8
"""An input's windows fill at most this part of a chip."""


def windowed(plan: Floorplan, lowered: Lowered) -> Lowered:
    """The model with windows of inputs where convolutions of these have few channels."""
    for gather in gathers(lowered).values():
        maker = next((s for s in lowered.steps if s.out is gather.image), None)
        readers = [s for s in lowered.steps if any(v is gather.move.out for v in sources_of(s))]
        alone = sum(gather.image in sources_of(s) for s in lowered.steps) == 1
        output = any(v is gather.image for _, v in lowered.outputs)
        if not isinstance(maker, Compute) or len(readers) != 1 or not alone or output:
            continue
        found = _convolution(plan, lowered, gather, maker, readers[0])
        if found is not None:
            values, steps = found
            old = (maker, gather.move, readers[0])
            rest: list[Step] = [s for s in lowered.steps if s not in old[:2]]
            at = rest.index(readers[0])
            rest[at : at + 1] = steps
            kept = tuple((n, v) for n, v in lowered.stored if v is not gather.image)
            lowered = replace(
                lowered, steps=tuple(rest), values=lowered.values + values, stored=kept
            )
    return lowered


def _convolution(
    plan: Floorplan, lowered: Lowered, gather: Gather, maker: Compute, reader: Step
) -> tuple[tuple[Value, ...], list[Compute]] | None:
    """New matrices and steps in the place of what makes an image and of its convolution."""
    leaf, border = _of_input(maker.expr), _at_zero(maker.expr)
    product = find_product(reader.expr) if isinstance(reader, Compute) else None
    if leaf is None or product is None or not isinstance(reader, Compute):
        return None
    if leaf.value.source in lowered.states:
        return None  # windows hold an element many times over: nothing is written back to them
    whole = all(t.a is gather.move.out and t.byte is None for t in product.terms)
    if not whole or product.w_set is not None or not np.all(gather.border() == border):
        return None
    taps = [tap for term in product.terms for tap in taps_of(term, gather)]
    sight = _Sight.of(maker.shape, reader.shape, [pixels for pixels, _ in taps])
    axes = _axes(leaf.value, maker.shape)
    n = 0 if sight is None else _pixels(plan, product, sight, leaf.value)
    if sight is None or n == 0 or axes is None:
        return None
    number, rows = len(lowered.values), product.rows // n
    columns = sight.elements(n) * leaf.value.columns
    loaded = replace(leaf.value, number=number, rows=rows, columns=columns)
    loaded = replace(loaded, axes=axes, shape=maker.shape, windows=sight.windows(n))
    image = replace(gather.image, number=number + 1, rows=rows, columns=columns)
    expr = substituted(maker.expr, lambda e: Leaf(loaded, None) if e is leaf else None)
    multiplied = Acc(_product(product, taps, sight, n, image))
    result = substituted(
        reader.expr,
        lambda e: multiplied if isinstance(e, Acc) and e.product is product else None,
    )
    made = Compute(image, expr, maker.nodes, (rows, columns))
    return (loaded, image), [made, replace(reader, expr=result)]


def _pixels(plan: Floorplan, product: Product, sight: _Sight, image: Value) -> int:
    """How many output pixels of a line a row is for: as many as vectors hold; 0 if not even one."""
    lanes, line = plan.machine.vector, sight.outputs[-1]
    fitting = [
        n
        for n in range(1, lanes // product.columns + 1)
        if line % n == 0 and sight.elements(n) * image.columns <= lanes
    ]
    most = plan.machine.words_per_chip // _ROOM
    n = max(fitting, default=0)
    return n if n and product.rows // n * image.type.bytes <= most else 0


def _axes(value: Value, image: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of an input's axes in which it has the shape of an image, element by element."""
    pairs = list(zip(value.axes, value.shape, strict=True))
    if len(pairs) != len(image) or [n for n in value.shape if n > 1] != [n for n in image if n > 1]:
        return None
    long, short = (iter([a for a, n in pairs if (n > 1) is wide]) for wide in (True, False))
    return tuple(next(long if n > 1 else short) for n in image)


def _of_input(expr: Expr) -> Leaf | None:
    """The one matrix of an expression, if it is an input, and all else are numbers."""
    if isinstance(expr, Op):
        found = [
            _of_input(e) for e in expr.args if not (isinstance(e, Const) and e.array.size == 1)
        ]
        return found[0] if len(found) == 1 else None
    plain = isinstance(expr, Leaf) and expr.index is None and not expr.value.windows
    return expr if plain and isinstance(expr, Leaf) and expr.value.origin == "input" else None


def _at_zero(expr: Expr) -> float | None:
    """An expression of an input where that is zero; None if that is not so easily said."""
    if isinstance(expr, Leaf):
        return 0.0
    if not isinstance(expr, Op) or not isinstance(expr.args[-1], Const | Leaf | Op):
        return None
    a = _at_zero(expr.args[0])
    if a is None:
        return None
    if expr.name == "cast":
        kind = numpy_type(expr.out)
        limits = np.iinfo(kind) if kind.kind == "i" else None
        return a if limits is None or (limits.min <= a <= limits.max and a == round(a)) else None
    b = expr.args[-1]
    if not isinstance(b, Const):
        return None
    number = float(b.array.reshape(-1)[0])
    known = {"mul": a * number, "add": a + number, "add_sat": a + number}
    return known.get(expr.name)


class _Sight:
    """Where taps fall: pixel o along an axis of the output sees `strides * o + offsets[tap]`.

    Axes are those between the first and the last of an image; `offsets` are [taps, axes].
    """

    def __init__(self, outputs: tuple[int, ...], strides: list[int], offsets: Ints) -> None:
        self.outputs, self.strides, self.offsets = outputs, strides, offsets
        self.low = np.minimum(offsets.min(axis=0), 0)

    @classmethod
    def of(cls, image: tuple[int, ...], result: tuple[int, ...], taps: list[Ints]) -> _Sight | None:
        """What taps see of an image [N, ..., C], by the pixels under them, -1 beyond it."""
        outputs, sizes = result[:-1], image[:-1]
        if len(outputs) != len(sizes) or len(sizes) < 2 or any((t < 0).all() for t in taps):
            return None
        places = np.stack(np.unravel_index(np.arange(math.prod(outputs)), outputs))
        ends = [np.flatnonzero(t >= 0)[[0, -1]] for t in taps]
        seen = [np.stack(np.unravel_index(t[e], sizes)) for t, e in zip(taps, ends, strict=True)]
        strides = []
        for axis in range(len(sizes)):
            spans = [(int(np.ptp(places[axis, e])), i) for i, e in enumerate(ends)]
            span, i = max(spans)
            strides.append(int(seen[i][axis, 1] - seen[i][axis, 0]) // span if span else 1)
        steps = np.array(strides)
        offsets = np.array(
            [s[:, 0] - steps * places[:, e[0]] for s, e in zip(seen, ends, strict=True)], np.int64
        )
        for tap, offset in zip(taps, offsets, strict=True):
            at = places * steps[:, None] + offset[:, None]
            inside = ((at >= 0) & (at < np.array(sizes)[:, None])).all(axis=0)
            rows = np.ravel_multi_index(tuple(np.where(inside, at, 0)), sizes)
            if not np.array_equal(np.where(inside, rows, -1), tap):
                return None
        last = (np.array(outputs) - 1) * steps + offsets.min(axis=0)
        beyond = offsets.max(axis=0).min() < 0 or (last >= sizes).any()
        if beyond or min(strides) < 1 or strides[0] != 1 or offsets[:, 0].any():
            return None
        return cls(outputs, strides[1:], offsets[:, 1:])

    def sizes(self, n: int) -> list[int]:
        """What `n` output pixels beside each other see along every axis."""
        found = (self.offsets.max(axis=0) - self.low + 1).tolist()
        found[-1] += (n - 1) * self.strides[-1]
        return [int(size) for size in found]

    def elements(self, n: int) -> int:
        """Pixels that they see."""
        return math.prod(self.sizes(n))

    def windows(self, n: int) -> tuple[Window, ...]:
        counts = [*self.outputs[1:-1], self.outputs[-1] // n]
        steps = [*self.strides[:-1], self.strides[-1] * n]
        each = zip(self.sizes(n), steps, self.low.tolist(), counts, strict=True)
        return tuple(
            Window(1 + i, size, step, -int(low), count)
            for i, (size, step, low, count) in enumerate(each)
        )


def _product(
    product: Product, taps: list[tuple[Ints, NDArray[np.generic]]], sight: _Sight, n: int, a: Value
) -> Product:
    """The product of windows: a set of weights for each of the `n` pixels that a row is for."""
    columns, channels = product.columns, taps[0][1].shape[2]
    sizes = sight.sizes(n)
    full: list[NDArray[np.int8]] = []
    places: Counter[tuple[int, ...]] = Counter()
    for offset, (_, data) in zip(sight.offsets, taps, strict=True):
        place = tuple(int(o) for o in offset - sight.low)
        part = places[place]  # weights beyond a byte come in several parts
        places[place] += 1
        if part == len(full):
            full.append(np.zeros((n, columns, channels, *sizes), np.int8))
        for j in range(n):
            at = (*place[:-1], place[-1] + j * sight.strides[-1])
            full[part][j].reshape(columns, channels, -1)[..., np.ravel_multi_index(at, sizes)] = (
                data[0]
            )
    rows = np.arange(product.rows)
    depth = channels * math.prod(sizes)
    terms = tuple(
        Term(a, Weights(n, columns, depth, data=w.reshape(n, columns, depth)), rows // n)
        for w in full
    )
    return Product(Type.I8, product.rows, columns, terms, rows % n if n > 1 else None)
