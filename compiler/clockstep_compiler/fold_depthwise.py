"""Arrangements of images and of their depthwise convolutions, chosen together.

A depthwise convolution of rows of whole pixels takes a product for each of its taps, whatever the
number of channels: its weights are zero but for a diagonal. Where rows are patches of pixels and
the result's patches begin elsewhere than the image's, few of them meet, and all channels of a tile
are multiplied with these alone.

    3x3, rows of 1 x 4 pixels, the result's begin one before       3 lines of 2: 6 products, not 9
    3x3, patches of 2 x 2 pixels, the result's begin one before       2 x 2: 4 products
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.fold_patches import Patches
from clockstep_compiler.partition import find_product
from clockstep_compiler.steps import Compute, Lowered, Product, Value
from clockstep_isa.table import Type

__all__ = ["Pair", "pairs"]

_SIZES = ((1, 2), (1, 4), (1, 5), (1, 8), (1, 10), (2, 2), (2, 4))
"""Lines and pixels of patches that are tried."""


@dataclass(frozen=True, eq=False, slots=True)
class Pair:
    """An image, its depthwise convolution, and arrangements of both."""

    image: Value
    result: Value
    candidates: list[tuple[Patches, Patches]]


def pairs(plan: Floorplan, lowered: Lowered) -> list[Pair]:
    """Depthwise convolutions of integers that steps make and steps read, in order."""
    makers = {s.out.number: s for s in lowered.steps if isinstance(s, Compute)}
    kept = {value.number for _, value in lowered.outputs}
    found = []
    for step in lowered.steps:
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None or not isinstance(step, Compute) or not _is_depthwise(product):
            continue
        image = product.terms[0].a
        maker = makers.get(image.number)
        if maker is None or kept & {image.number, step.out.number}:
            continue
        candidates = _candidates(plan, maker, step, product)
        if candidates:
            found.append(Pair(image, step.out, candidates))
    return found


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
    found = []
    for high, wide in _SIZES:
        whole = before[1] % high == 0 and before[2] % wide == 0
        if plan.machine.vector % (high * wide) or not whole:
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
