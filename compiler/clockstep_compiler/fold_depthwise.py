"""Arrangements of images and of their convolutions, chosen together.

A depthwise convolution of rows of whole pixels takes a product for each of its taps, whatever the
number of channels: its weights are zero but for a diagonal. Where rows are patches of pixels and
the result's patches begin elsewhere than the image's, few of them meet, and all channels of a tile
are multiplied with these alone.

    3x3, rows of 1 x 4 pixels, the result's begin one before       3 lines of 2: 6 products, not 9
    3x3, patches of 2 x 2 pixels, the result's begin one before       2 x 2: 4 products

So it is with other convolutions of few channels, whose patches have room in one vector: a 3x3
kernel over 64 channels takes 4 products of 4 pixels, where rows of 1 x 4 pixels take 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.fold_patches import Fold, Patches
from clockstep_compiler.fold_product import can_fold
from clockstep_compiler.partition import find_product
from clockstep_compiler.steps import Compute, Lowered, Product, Value, sources_of
from clockstep_isa.table import Type

__all__ = ["Pair", "pairs", "regions"]

_SIZES = ((1, 2), (1, 4), (1, 5), (1, 8), (1, 10), (2, 2), (2, 4))
"""Lines and pixels of patches that are tried."""


@dataclass(frozen=True, eq=False, slots=True)
class Pair:
    """An image, its convolution, and arrangements of both; `depthwise`: of a channel each."""

    image: Value
    result: Value
    depthwise: bool
    candidates: list[tuple[Patches, Patches]]


def pairs(plan: Floorplan, lowered: Lowered) -> list[Pair]:
    """Convolutions of integers by several taps that steps make and steps read, in order."""
    makers = {s.out.number: s for s in lowered.steps if isinstance(s, Compute)}
    kept = {value.number for _, value in lowered.outputs}
    found = []
    for step in lowered.steps:
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None or not isinstance(step, Compute) or not _is_window(product):
            continue
        image = product.terms[0].a
        maker = makers.get(image.number)
        if maker is None or kept & {image.number, step.out.number}:
            continue
        candidates = _candidates(plan, maker, step, product)
        if candidates:
            found.append(Pair(image, step.out, _is_depthwise(product), candidates))
    return found


def _is_window(product: Product) -> bool:
    """Whether a row of the result is of several rows of one image, its neighbours."""
    terms = product.terms
    one = all(term.a is terms[0].a for term in terms)
    return one and len(terms) > 1 and product.w_set is None and can_fold(product)


def _is_depthwise(product: Product) -> bool:
    """Whether every channel of the result is of the same channel of one image."""
    if product.type != Type.I8 or product.w_set is not None or len(product.terms) < 2:
        return False
    for term in product.terms:
        data = term.weights.data
        if data is None or term.a is not product.terms[0].a or data.shape[1] != data.shape[2]:
            return False
        if np.count_nonzero(data[0]) != np.count_nonzero(np.diagonal(data[0])):
            return False
    return True


def _candidates(
    plan: Floorplan, maker: Compute, step: Compute, product: Product
) -> list[tuple[Patches, Patches]]:
    """Patches that divide the image and a vector; those of the result begin before it does."""
    before, after = _grid(maker), _grid(step)
    if before is None or after is None:
        return []
    reach = (math.isqrt(len(product.terms)) - 1) // 2
    same = before == after
    columns = max(maker.out.columns, step.out.columns)
    most = plan.machine.vector if _is_depthwise(product) else plan.machine.vector // columns
    found = []
    for high, wide in _SIZES:
        if not _suits(plan, before, high, wide) or high * wide > most:
            continue
        up, left = (min(reach, high - 1), min(reach, wide - 1)) if same else (0, 0)
        found.append((Patches(*before, high, wide), Patches(*after, high, wide, up, left)))
    return found


def _grid(step: Compute) -> tuple[int, int, int] | None:
    """Images, lines and pixels of a line of a result that has a row for each pixel."""
    shape = step.shape
    if len(shape) < 3 or math.prod(shape[:-1]) != step.out.rows or shape[-1] != step.out.columns:
        return None
    high = shape[-3] if len(shape) > 3 else 1
    return step.out.rows // (high * shape[-2]), high, shape[-2]


_Grid = tuple[int, int, int]
"""Images, lines and pixels of a line."""

_SQUARES = ((2, 2), (2, 4))
"""Patches of which neighbours meet both ways: few meet if those of all images fit together."""


def regions(
    plan: Floorplan, lowered: Lowered, ties: Mapping[int, int], fixed: set[int]
) -> list[tuple[list[Value], list[dict[int, Fold]]]]:
    """Images of one size about depthwise convolutions, and arrangements of all of them.

    `ties` are alike for matrices that are added to each other. With them go convolutions of these
    and what is made of them, up to an image that is not added to any.

    Each of these convolutions has its patches where that of its image have not; what is made of it
    pixel by pixel has them where it has. With them goes the image of one that makes it smaller.
    """
    makers = {s.out.number: s for s in lowered.steps if isinstance(s, Compute)}
    found: dict[int, list[Compute]] = {}
    for number, home in _homes(plan, lowered, ties).items():
        if number not in fixed and _grid(makers[number]) is not None:
            found.setdefault(home, []).append(makers[number])
    result = []
    for home, steps in found.items():
        grid = next((_grid(step) for step in steps if ties[step.out.number] == home), None)
        if grid is not None and len(steps) > 1:
            sizes = [size for size in _SQUARES if _suits(plan, grid, *size)]
            candidates = [_region(plan, lowered, grid, steps, size) for size in sizes]
            result += [([step.out for step in steps], candidates)] if candidates else []
    return result


def _homes(plan: Floorplan, lowered: Lowered, ties: Mapping[int, int]) -> dict[int, int]:
    """The tie of the images that every image about depthwise convolutions goes with."""
    known = [pair for pair in pairs(plan, lowered) if pair.depthwise]
    images = {pair.image.number: pair.result.number for pair in known}
    results = {number: image for image, number in images.items()}
    steps = [s for s in lowered.steps if isinstance(s, Compute)]
    grids = {step.out.number: _grid(step) for step in steps}
    homes: dict[int, int] = {}
    for step in steps:
        number, sources = step.out.number, [v.number for v in sources_of(step)]
        made = [s for s in sources if s in results]
        near = [homes[s] for s in sources if s in homes]
        if number in images or number in results:
            if near and grids[number] == grids[images.get(number, number)]:
                homes[number] = near[0]
        elif made or near:
            homes[number] = ties[number]
            for result in made:
                late = {result, results[result]} - homes.keys()
                homes |= dict.fromkeys(sorted(late), ties[number])
    return homes


def _suits(plan: Floorplan, grid: _Grid, high: int, wide: int) -> bool:
    """Whether patches divide a vector and the images."""
    return not (plan.machine.vector % (high * wide) or grid[1] % high or grid[2] % wide)


def _region(
    plan: Floorplan, lowered: Lowered, grid: _Grid, steps: list[Compute], size: tuple[int, int]
) -> dict[int, Fold]:
    """Patches of such a size for the results of some steps."""
    high, wide = size
    begins: dict[int, int] = {}
    for step in steps:
        product = find_product(step.expr)
        latest = max((v.number for v in sources_of(step) if v.number in begins), default=-1)
        begin = begins.get(latest, 0)
        if product is not None and _is_depthwise(product):
            reach = (math.isqrt(len(product.terms)) - 1) // 2
            smaller = product.rows < product.terms[0].a.rows
            begin = 0 if begin or smaller else reach
        begins[step.out.number] = begin
    fills, found = _fills(lowered), dict[int, Fold]()
    for step in steps:
        own, number = _grid(step), step.out.number
        begin = begins[number]
        if own == grid or (own is not None and _suits(plan, own, high, wide)):
            beyond = fills.get(number) if begin else None
            before = min(begin, high - 1), min(begin, wide - 1)
            found[number] = Patches(*own, high, wide, *before, beyond)
    return found


def _fills(lowered: Lowered) -> dict[int, int]:
    """The number that stands about images where products read beyond them."""
    found: dict[int, int] = {}
    for step in lowered.steps:
        product = find_product(step.expr) if isinstance(step, Compute) else None
        for term in () if product is None else product.terms:
            if term.fill is not None and term.fill.data is not None:
                found[term.a.number] = int(term.fill.data.flat[0])
    return found
