"""Windows over images that say where things are: MaxPool with indices, MaxUnpool, Col2Im."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.bodies.scattered import layered
from clockstep_compiler.frontend.body import Body, Refused, composes

__all__: list[str] = []

Ints = Sequence[int]


def _windows(
    sizes: Ints, outputs: Ints, kernel: Ints, strides: Ints, dilations: Ints, before: Ints
) -> NDArray[np.int64]:
    """For each tap of a kernel and each output the pixel under it, in row-major order; -1: none."""
    flat = np.zeros((math.prod(kernel), math.prod(outputs)), np.int64)
    inside = np.ones(flat.shape, np.bool_)
    taps, places = np.indices(kernel).reshape(len(kernel), -1), np.indices(outputs)
    places = places.reshape(len(outputs), -1)
    for axis, size in enumerate(sizes):
        at = places[axis] * strides[axis] - before[axis]
        at = at[None, :] + taps[axis][:, None] * dilations[axis]
        inside &= (at >= 0) & (at < size)
        flat = flat * size + at
    return np.where(inside, flat, -1)


# -- MaxPool ---------------------------------------------------------------------------------------


@composes("MaxPool")
def _max_pool(body: Body) -> bool | None:
    """The first of the greatest elements, tap by tap; a NaN is passed over as by `>`."""
    if not body.wants(1):
        return False
    (image,) = body.inputs(1)
    names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
    given = {name: body.attribute(name) for name in names}
    pooled = body.op("MaxPool", image, **given)
    shape, outputs = body.shape(image), body.shape(pooled)[2:]
    sizes, kernel = shape[2:], given["kernel_shape"]
    ones = [1] * len(sizes)
    strides, dilations = given["strides"] or ones, given["dilations"] or ones
    before = _padding(body, sizes, outputs, kernel, strides, dilations)
    under = _windows(sizes, outputs, kernel, strides, dilations, before)
    if (under < 0).all(axis=0).any():
        raise Refused("unsupported-form", "a window without a pixel has no index")
    first = under[(under >= 0).argmax(axis=0), np.arange(under.shape[1])]
    under = np.where(under < 0, first, under)
    pixels = body.reshape(image, [*shape[:2], math.prod(sizes)])
    numbers = _numbers(body, sizes)
    best, place = "", ""
    for tap in under:
        value = body.op("Gather", pixels, body.constant(tap), axis=2)
        number = body.constant(numbers[tap].reshape(1, 1, -1), np.int32)
        if not best:
            best, place = value, number
            continue
        better = body.op("Greater", value, best)
        best = body.op("Where", better, value, best)
        place = body.op("Where", better, number, place)
    planes = np.arange(math.prod(shape[:2])).reshape(*shape[:2], 1) * math.prod(sizes)
    place = body.op("Add", place, body.constant(planes, np.int32))
    body.give(0, pooled)
    body.give(1, body.cast(body.reshape(place, (*shape[:2], *outputs)), "int64"))
    return None


def _numbers(body: Body, sizes: Ints) -> NDArray[np.int64]:
    """What each pixel is counted as: row by row, or with `storage_order` column by column."""
    every = np.arange(math.prod(sizes))
    if body.attribute("storage_order", 0):
        return np.asarray(every.reshape(tuple(sizes)[::-1]).T.ravel(), np.int64)
    return every


def _padding(
    body: Body, sizes: Ints, outputs: Ints, kernel: Ints, strides: Ints, dilations: Ints
) -> list[int]:
    """Pixels of padding before the image."""
    mode = body.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return list(body.attribute("pads") or [0] * len(sizes))[: len(sizes)]
    if mode == "VALID":
        return [0] * len(sizes)
    parts = zip(sizes, outputs, kernel, strides, dilations, strict=True)
    totals = [max(0, (o - 1) * s + (k - 1) * d + 1 - n) for n, o, k, s, d in parts]
    return [t - t // 2 if mode == "SAME_LOWER" else t // 2 for t in totals]


# -- MaxUnpool -------------------------------------------------------------------------------------


@composes("MaxUnpool")
def _max_unpool(body: Body) -> None:
    """A scatter into zeros; into an image of the natural size first, then into a larger one."""
    image, places, wanted = body.inputs(3)
    shape, kernel = body.shape(image), body.attribute("kernel_shape")
    rank = len(kernel)
    strides, pads = (
        body.attribute("strides") or [1] * rank,
        body.attribute("pads") or [0] * 2 * rank,
    )
    sizes = [
        (n - 1) * s + k - a - b
        for n, s, k, a, b in zip(shape[2:], strides, kernel, pads[:rank], pads[rank:], strict=True)
    ]
    natural = (*shape[:2], *sizes)
    zeros = body.cast(body.constant(np.zeros(math.prod(natural)), np.float32), body.dtype(image))
    count = math.prod(shape)
    found = body.op(
        "ScatterElements", zeros, body.reshape(places, [count]), body.reshape(image, [count])
    )
    found = body.reshape(found, natural)
    if wanted:
        known = body.value(wanted)
        if known is None:
            raise Refused("operand-not-constant", "output_shape is computed")
        ends = [int(n) - m for n, m in zip(known, natural, strict=True)]
        found = body.op("Pad", found, body.constant([0] * len(natural) + ends))
    body.give(0, found)


# -- Col2Im ----------------------------------------------------------------------------------------


@composes("Col2Im")
def _col2im(body: Body) -> None:
    """Every column added to the pixels that it was made of."""
    columns, image, block = body.inputs(3)
    sizes, kernel = body.value(image), body.value(block)
    if sizes is None or kernel is None:
        raise Refused("operand-not-constant", "image_shape or block_shape is computed")
    rank = len(sizes)
    ones, zeros = [1] * rank, [0] * 2 * rank
    strides, dilations = body.attribute("strides") or ones, body.attribute("dilations") or ones
    pads = body.attribute("pads") or zeros
    outputs = [
        (int(n) + a + b - d * (int(k) - 1) - 1) // s + 1
        for n, a, b, d, k, s in zip(
            sizes, pads[:rank], pads[rank:], dilations, kernel, strides, strict=True
        )
    ]
    under = _windows(sizes.tolist(), outputs, kernel.tolist(), strides, dilations, pads[:rank])
    batch, depth, _ = body.shape(columns)
    channels, pixels = depth // len(under), math.prod(sizes.tolist())
    planes = batch * channels
    target = np.arange(planes).reshape(-1, 1, 1) * pixels + under
    kept = np.broadcast_to(under >= 0, target.shape).ravel()
    flat = body.reshape(columns, [planes * under.size])
    flat = body.op("Gather", flat, body.constant(np.flatnonzero(kept)))
    shape = (batch, channels, *sizes.tolist())
    zero = body.cast(body.constant(np.zeros(shape), np.float32), body.dtype(columns))
    body.give(0, layered(body, zero, flat, target.ravel()[kept], "add"))
