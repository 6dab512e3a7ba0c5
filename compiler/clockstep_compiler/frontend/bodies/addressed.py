"""Gather and its kin where the indices are computed: everything is `Take`, or masks.

A negative index counts from the end. An index out of range, which ONNX forbids, names nothing:
what is gathered there is zero. Indices that are constant are left to `moves`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.graph import Tensor

__all__ = ["WORK_LIMIT", "flat_index", "give_shaped", "picked", "take", "within"]

WORK_LIMIT = 1 << 27
"""Elements of the one-hot rows that one operator may have: each takes a byte while it is used."""

_MASKS = 64
"""Places along an axis up to which each is masked."""

_LARGE = 1 << 12
"""Elements of a row from which few rows are masked rather than multiplied."""

_MASKS_LIMIT = 1 << 12
"""The most places that are masked, where one-hot rows would be too many."""


def within(body: Body, index: str, size: int) -> str:
    """Indices from -size to size - 1 as int32 from 0 on; others stay out of range."""
    index = body.cast(index, "int32")
    zero, count = body.constant(0, np.int32), body.constant(size, np.int32)
    behind = body.op("Less", index, zero)
    return body.op("Where", behind, body.op("Add", index, count), index)


def take(body: Body, data: str, index: str, *, each: bool = False) -> str:
    """Rows of a table [n, c], or of each of [b, n, c], by an int32 index of m elements.

    With `each` the index has m elements for each of the tables.
    """
    *lead, height, width = body.shape(data)
    count = math.prod(body.shape(index))
    _limit(count * height)
    wanted = count // math.prod(lead) if each else count
    return body.own("Take", (data, index), Tensor("", (*lead, wanted, width), body.dtype(data)))


def _take_any(body: Body, data: str, sizes: Sequence[int], index: str) -> str:
    """Rows of tables [b, n, ...]: few large ones, such as experts' weights, as matrices."""
    batch, height, *rest = sizes
    inner, width = math.prod(rest[:-1]), rest[-1]
    few = height <= _MASKS and inner * width >= _LARGE
    if inner > 1 and few:
        _limit(math.prod(body.shape(index)) * height)
        shape = (batch, math.prod(body.shape(index)), inner, width)
        table = body.reshape(data, [batch, height, inner, width])
        return body.own("Take", (table, index), Tensor("", shape, body.dtype(data)))
    form = [height, inner * width] if batch == 1 else [batch, height, inner * width]
    return take(body, body.reshape(data, form), index)


def _take_last(body: Body, data: str, index: str) -> str:
    """Elements of every row of a matrix [r, n], by an int32 index [m]."""
    rows, count = body.shape(data)
    _limit(body.shape(index)[0] * count)
    like = Tensor("", (rows, body.shape(index)[0]), body.dtype(data))
    return body.own("Take", (data, index), like, last=1)


def _limit(work: int) -> None:
    if work > WORK_LIMIT:
        raise Refused(
            "unsupported-form",
            f"computed indices into all places make {work} comparisons; the most are {WORK_LIMIT}",
            "make the indices constant, or take from smaller tensors",
        )


def give_shaped(body: Body, name: str, shape: Sequence[int]) -> None:
    """The node's first output is `name` in another shape."""
    body.give(0, body.reshape(name, shape))


def _along(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """Elements before, along and after an axis."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


# -- Gather ----------------------------------------------------------------------------------------


@composes("Gather")
def _gather(body: Body) -> bool | None:
    data, indices = body.inputs(2)
    if body.value(indices) is not None or 0 in (*body.shape(data), *body.shape(indices)):
        return False
    shape, wanted = body.shape(data), body.shape(indices)
    axis = body.attribute("axis", 0) % len(shape)
    before, size, after = _along(shape, axis)
    index = body.reshape(within(body, indices, size), [math.prod(wanted)])
    if after == 1:
        found = _take_last(body, body.reshape(data, [before, size]), index)
    else:
        found = _take_any(body, data, (before, size, *shape[axis + 1 :]), index)
    give_shaped(body, found, (*shape[:axis], *wanted, *shape[axis + 1 :]))
    return None


# -- GatherND --------------------------------------------------------------------------------------


def flat_index(body: Body, indices: str, sizes: Sequence[int]) -> str:
    """Index tuples [..., k] into `sizes` as int32 places [...], -1 for those out of range."""
    lead = body.shape(indices)[:-1]
    places, valid = body.constant(np.zeros(lead), np.int32), ""
    for k, size in enumerate(sizes):
        one = body.reshape(body.slice(indices, len(lead), k, k + 1), lead)
        one = within(body, one, size)
        inside = body.op(
            "And",
            body.op("GreaterOrEqual", one, body.constant(0, np.int32)),
            body.op("Less", one, body.constant(size, np.int32)),
        )
        valid = inside if not valid else body.op("And", valid, inside)
        stride = body.constant(math.prod(sizes[k + 1 :]), np.int32)
        one = body.op("Mul", one, stride)
        places = one if k == 0 else body.op("Add", places, one)
    return body.op("Where", valid, places, body.constant(-1, np.int32)) if valid else places


def _based(body: Body, places: str, base: NDArray[np.int64]) -> str:
    """Places moved by a constant each; those out of range stay there."""
    if not base.any():
        return places
    known = body.op("GreaterOrEqual", places, body.constant(0, np.int32))
    moved = body.op("Add", places, body.constant(base, np.int32))
    return body.op("Where", known, moved, body.constant(-1, np.int32))


@composes("GatherND")
def _gather_nd(body: Body) -> bool | None:
    data, indices = body.inputs(2)
    if body.value(indices) is not None or 0 in (*body.shape(data), *body.shape(indices)):
        return False
    shape, wanted = body.shape(data), body.shape(indices)
    batch, depth = body.attribute("batch_dims", 0), wanted[-1]
    sizes, rest = shape[batch : batch + depth], shape[batch + depth :]
    tables, height, width = math.prod(shape[:batch]), math.prod(sizes), math.prod(rest)
    places = flat_index(body, indices, sizes)
    per_table = math.prod(wanted[batch:-1])
    places = body.reshape(places, [tables, per_table])
    places = _based(body, places, np.arange(tables).reshape(-1, 1) * height)
    index = body.reshape(places, [tables * per_table])
    if width == 1:
        found = _take_last(body, body.reshape(data, [1, tables * height]), index)
    else:
        found = _take_any(body, data, (1, tables * height, *rest), index)
    give_shaped(body, found, (*wanted[:-1], *rest))
    return None


# -- GatherElements --------------------------------------------------------------------------------


def picked(body: Body, data: str, index: str, axis: int) -> str:
    """Element by element one of those along an axis, by int32 places; zero out of range.

    Every place along the axis is masked, or one-hot rows over all elements are multiplied.
    """
    wanted = body.shape(index)
    for i, size in enumerate(wanted):
        data = data if i == axis else body.slice(data, i, 0, size)
    shape = body.shape(data)
    work = math.prod(shape) * math.prod(wanted)
    if shape[axis] > _MASKS and work >> 18 < shape[axis] and work <= WORK_LIMIT:
        return _from_all(body, data, index, axis)
    if shape[axis] > _MASKS_LIMIT:
        raise Refused(
            "unsupported-form",
            f"computed indices along {shape[axis]} elements; the most are {_MASKS_LIMIT}",
            "make the indices constant",
        )
    before, size, after = _along(shape, axis)
    wide = [before, size, after], [before, wanted[axis], after]
    turned = after == 1 and before > 1
    if turned:  # so that what is chosen from lies in rows
        order, wide = (1, 0), ([1, size, before], [1, wanted[axis], before])
        data = body.transpose(body.reshape(data, [before, size]), order)
        index = body.transpose(body.reshape(index, [before, wanted[axis]]), order)
    like = Tensor("", tuple(wide[1]), body.dtype(data))
    operands = [body.reshape(name, sizes) for name, sizes in zip((data, index), wide, strict=True)]
    found = body.own("Pick", operands, like)
    if turned:
        found = body.transpose(body.reshape(found, [wanted[axis], before]), (1, 0))
    return body.reshape(found, wanted)


def _from_all(body: Body, data: str, index: str, axis: int) -> str:
    """Elements of all, by their places among all."""
    shape = body.shape(data)
    stride = math.prod(shape[axis + 1 :])
    first = np.arange(math.prod(shape)).reshape(shape).take([0], axis)
    scaled = body.op("Mul", index, body.constant(stride, np.int32))
    flat = body.op("Add", scaled, body.constant(first, np.int32))
    inside = body.op(
        "And",
        body.op("GreaterOrEqual", index, body.constant(0, np.int32)),
        body.op("Less", index, body.constant(shape[axis], np.int32)),
    )
    flat = body.op("Where", inside, flat, body.constant(-1, np.int32))
    wanted = body.shape(index)
    found = _take_last(
        body,
        body.reshape(data, [1, math.prod(shape)]),
        body.reshape(flat, [math.prod(wanted)]),
    )
    return body.reshape(found, wanted)


@composes("GatherElements")
def _gather_elements(body: Body) -> bool | None:
    data, indices = body.inputs(2)
    if body.value(indices) is not None or 0 in (*body.shape(data), *body.shape(indices)):
        return False
    axis = body.attribute("axis", 0) % len(body.shape(data))
    places = within(body, indices, body.shape(data)[axis])
    body.give(0, picked(body, data, places, axis))
    return None


# -- OneHot ----------------------------------------------------------------------------------------


@composes("OneHot")
def _one_hot(body: Body) -> bool | None:
    """Depth is constant; an index out of range has no hot place."""
    indices, depth, values = body.inputs(3)
    known = body.value(depth)
    if known is None:
        raise Refused("operand-not-constant", "depth is computed", "make it an initializer")
    count = int(known.reshape(-1)[0])
    rank = len(body.shape(indices)) + 1
    axis = body.attribute("axis", -1) % rank
    index = body.op("Unsqueeze", within(body, indices, count), body.constant([axis]))
    along = [-1 if i == axis else 1 for i in range(rank)]
    places = body.constant(np.arange(count).reshape(along), np.int32)
    off, on = body.take(values, 0, 0), body.take(values, 0, 1)
    body.give(0, body.op("Where", body.op("Equal", index, places), on, off))
    return None


# -- ReverseSequence -------------------------------------------------------------------------------


@composes("ReverseSequence")
def _reverse_sequence(body: Body) -> bool | None:
    """Each sequence has a table of its own; behind its computed length it stays as it is."""
    data, lengths = body.inputs(2)
    if body.value(lengths) is not None or 0 in body.shape(data):
        return False
    shape, rank = body.shape(data), len(body.shape(data))
    batch, time = body.attribute("batch_axis", 1), body.attribute("time_axis", 0)
    rest = [i for i in range(rank) if i not in (batch, time)]
    order = [batch, time, *rest]
    turned = body.transpose(data, order)
    count, steps = shape[batch], shape[time]
    table = body.reshape(turned, [count, steps, math.prod(shape[i] for i in rest)])
    length = body.reshape(body.cast(lengths, "int32"), [count, 1, 1])
    number = body.constant(np.arange(steps).reshape(1, -1, 1), np.int32)
    back = body.op("Sub", body.op("Sub", length, body.constant(1, np.int32)), number)
    index = body.op("Where", body.op("Less", number, length), back, number)
    found = body.reshape(take(body, table, index, each=True), [shape[i] for i in order])
    body.give(0, body.transpose(found, list(np.argsort(order))))
    return None


# -- ArrayFeatureExtractor -------------------------------------------------------------------------


@composes("ai.onnx.ml.ArrayFeatureExtractor")
def _features(body: Body) -> None:
    """Elements of the last axis: a Gather, whose index has no axes of its own but the last."""
    data, indices = body.inputs(2)
    shape, count = body.shape(data), math.prod(body.shape(indices))
    found = body.op("Gather", data, body.reshape(indices, [count]), axis=len(shape) - 1)
    lead = shape[:-1] if len(shape) > 1 else (1,)
    give_shaped(body, found, (*lead, count))
