"""Scatter and its kin: elements put to computed places, or combined with what is there.

A scatter is a gather by the inverse of its index: the last update that names a place is the
greatest of their numbers. Few updates are put in place one after the other, and so are all that
are combined; where indices are constant and updates combined, those for the first time, then those
for the second, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.bodies.addressed import (
    flat_index,
    picked,
    take,
    within,
)
from clockstep_compiler.frontend.body import Body, Refused, composes

__all__ = ["layered"]

Shape = tuple[int, ...]

Targets = Callable[[NDArray[np.int64], Shape], NDArray[np.int64]]
"""The element of the data that each update goes to, by constant indices and the data's shape."""

Computed = Callable[[Body, str, str, str, str], str]
"""The scatter of data, computed indices and updates by a reduction."""

_REDUCTIONS = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
_STEPS = 16
"""Updates of one place that are put there one after the other rather than found."""

_MOST_STEPS = 256
"""The most updates that are combined."""

_WORK_LIMIT = 1 << 24
"""Comparisons that finding the last update of each place may take, four bytes each."""


def _too_many(what: str, count: int, most: int) -> Refused:
    return Refused(
        "unsupported-form",
        f"computed indices make {count} {what}; the most are {most}",
        "make the indices constant, or scatter into smaller tensors",
    )


def _combined(body: Body, reduction: str, old: str, new: str) -> str:
    return body.op(_REDUCTIONS[reduction], old, new) if reduction != "none" else new


def _reduction(body: Body) -> str:
    reduction = str(body.attribute("reduction", "none"))
    if reduction != "none" and body.dtype(body.inputs(1)[0]) == "bool":
        raise Refused("element-type", f"{reduction} of bool", "cast to int32")
    return reduction


def _numbers(count: int, axis: int, rank: int) -> NDArray[np.int32]:
    """0 up to `count` along one of `rank` axes."""
    return np.arange(count, dtype=np.int32).reshape([-1 if i == axis else 1 for i in range(rank)])


# -- one after the other ---------------------------------------------------------------------------


def _sequence(body: Body, data: str, places: str, updates: str, axis: int, reduction: str) -> str:
    """Every update along an axis in turn; other axes are as long as the data's, or 1."""
    shape = body.shape(data)
    every = body.constant(_numbers(shape[axis], axis, len(shape)), np.int32)
    for m in range(body.shape(places)[axis]):
        here = body.op("Equal", body.slice(places, axis, m, m + 1), every)
        new = _combined(body, reduction, data, body.slice(updates, axis, m, m + 1))
        data = body.op("Where", here, new, data)
    return data


def _last(body: Body, places: str, count: int, axis: int) -> str:
    """The number of the last update for each of `count` places along an axis, -1 if none."""
    shape = body.shape(places)
    work = math.prod(shape) * count
    if work > _WORK_LIMIT:
        raise _too_many("comparisons", work, _WORK_LIMIT)
    rank = len(shape) + 1
    every = body.constant(_numbers(count, axis + 1, rank), np.int32)
    numbers = body.constant(_numbers(shape[axis], axis, rank), np.int32)
    here = body.op("Equal", body.op("Unsqueeze", places, body.constant([axis + 1])), every)
    found = body.op("Where", here, numbers, body.constant(-1, np.int32))
    return body.op("ReduceMax", found, body.constant([axis]), keepdims=0)


# -- constant indices ------------------------------------------------------------------------------


def layered(body: Body, data: str, updates: str, target: NDArray[np.int64], reduction: str) -> str:
    """Update element u combined with element `target[u]` of the data, in the order of updates."""
    shape, given = body.shape(data), body.shape(updates)
    flat = target.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], flat[order])
    turn = np.empty(len(flat), np.int64)
    turn[order] = np.arange(len(flat)) - starts
    layers = int(turn.max(initial=-1)) + 1
    if layers > _MOST_STEPS:
        raise _too_many("updates of one element", layers, _MOST_STEPS)
    for layer in range(layers):
        source = np.full(math.prod(shape), -1, np.int64)
        chosen = np.flatnonzero(turn == layer)
        source[flat[chosen]] = chosen
        places = np.stack(np.unravel_index(np.maximum(source, 0).reshape(shape), given), -1)
        new = body.op("GatherND", updates, body.constant(places))
        new = _combined(body, reduction, data, new)
        mask = body.constant((source >= 0).reshape(shape), np.bool_)
        data = new if (source >= 0).all() else body.op("Where", mask, new, data)
    return data


def _scatter(body: Body, targets: Targets, computed: Computed) -> bool | None:
    """Data, indices and updates: nothing to do, indices that are constant or that are computed."""
    data, indices, updates = body.inputs(3)
    reduction, known = _reduction(body), body.value(indices)
    if known is not None and reduction == "none":
        return False
    if 0 in (*body.shape(data), *body.shape(indices)):
        found = data
    elif known is not None:
        target = targets(known.astype(np.int64), body.shape(data))
        found = layered(body, data, updates, target, reduction)
    else:
        found = computed(body, data, indices, updates, reduction)
    body.give(0, found)
    return None


# -- ScatterElements -------------------------------------------------------------------------------


@composes("Scatter", "ScatterElements")
def _scatter_elements(body: Body) -> bool | None:
    def targets(known: NDArray[np.int64], shape: Shape) -> NDArray[np.int64]:
        axis = body.attribute("axis", 0) % len(shape)
        places = list(np.indices(known.shape))
        places[axis] = np.where(known < 0, known + shape[axis], known)
        return np.asarray(np.ravel_multi_index(tuple(places), shape), np.int64)

    return _scatter(body, targets, _scatter_axis)


def _scatter_axis(body: Body, data: str, indices: str, updates: str, reduction: str) -> str:
    shape = body.shape(data)
    axis = body.attribute("axis", 0) % len(shape)
    index = within(body, indices, shape[axis])
    index, updates = _widened(body, index, updates, shape, axis)
    return _over_rows(body, (data, index, updates), axis, reduction)


def _over_rows(body: Body, operands: Sequence[str], axis: int, reduction: str) -> str:
    """The scatter of data, index and updates, with its axis the middle one of three."""
    shape = body.shape(operands[0])
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    turned = after == 1 and before > 1  # then the axis lies along the lanes
    parts = []
    for name in operands:
        count = body.shape(name)[axis]
        if turned:
            name = body.transpose(body.reshape(name, [before, count]), (1, 0))
        parts.append(body.reshape(name, [1, count, before] if turned else [before, count, after]))
    found = _scattered(body, parts[0], parts[1], parts[2], reduction)
    if turned:
        found = body.transpose(body.reshape(found, [shape[axis], before]), (1, 0))
    return body.reshape(found, shape)


def _scattered(body: Body, data: str, index: str, updates: str, reduction: str) -> str:
    """Along the middle axis of three."""
    if _in_turn(body.shape(index)[1], reduction):
        return _sequence(body, data, index, updates, 1, reduction)
    last = _last(body, index, body.shape(data)[1], 1)
    known = body.op("GreaterOrEqual", last, body.constant(0, np.int32))
    return body.op("Where", known, picked(body, updates, last, 1), data)


def _in_turn(count: int, reduction: str) -> bool:
    if reduction != "none" and count > _MOST_STEPS:
        raise _too_many("updates of one element", count, _MOST_STEPS)
    return count <= _STEPS or reduction != "none"


def _widened(
    body: Body, index: str, updates: str, shape: Sequence[int], axis: int
) -> tuple[str, str]:
    """Indices and updates for all of the other axes; those that are new name nothing."""
    wanted = body.shape(index)
    ends = [0 if i == axis else shape[i] - n for i, n in enumerate(wanted)]
    if not any(ends):
        return index, updates
    pads = body.constant([0] * len(shape) + ends)
    none = body.constant(-1, np.int32)
    return body.op("Pad", index, pads, none), body.op("Pad", updates, pads)


# -- ScatterND -------------------------------------------------------------------------------------


@composes("ScatterND")
def _scatter_nd(body: Body) -> bool | None:
    return _scatter(body, _targets, _scatter_rows)


def _scatter_rows(body: Body, data: str, indices: str, updates: str, reduction: str) -> str:
    shape, wanted = body.shape(data), body.shape(indices)
    depth = wanted[-1]
    count = math.prod(wanted[:-1])
    height, width = math.prod(shape[:depth]), math.prod(shape[depth:])
    places = body.reshape(flat_index(body, indices, shape[:depth]), [count])
    table = body.reshape(data, [height, width])
    rows = body.reshape(updates, [count, width])
    return body.reshape(_into_rows(body, table, places, rows, reduction), shape)


def _into_rows(body: Body, table: str, places: str, rows: str, reduction: str) -> str:
    """Rows put into a table at places [m]."""
    count, height = body.shape(places)[0], body.shape(table)[0]
    if _in_turn(count, reduction):
        column = body.reshape(places, [count, 1])
        return _sequence(body, table, column, rows, 0, reduction)
    last = _last(body, places, height, 0)
    known = body.op("GreaterOrEqual", last, body.constant(0, np.int32))
    known = body.reshape(known, [height, 1])
    return body.op("Where", known, take(body, rows, last), table)


def _targets(indices: NDArray[Any], shape: Sequence[int]) -> NDArray[np.int64]:
    """The element that each element of the updates belongs to."""
    depth = indices.shape[-1]
    sizes = np.array(shape[:depth])
    tuples = np.where(indices < 0, indices + sizes, indices)
    rest = math.prod(shape[depth:])
    rows = np.ravel_multi_index(tuple(np.moveaxis(tuples, -1, 0)), tuple(shape[:depth]))
    return np.asarray(np.asarray(rows)[..., None] * rest + np.arange(rest), np.int64)


# -- TensorScatter ---------------------------------------------------------------------------------


@composes("TensorScatter")
def _tensor_scatter(body: Body) -> bool | None:
    """Sequence by sequence the updates from a computed place on; `circular` wraps around."""
    past, update, where = body.inputs(3)
    if not where or body.value(where) is not None:
        return False
    shape, rank = body.shape(past), len(body.shape(past))
    axis = body.attribute("axis", -2) % rank
    size, count = shape[axis], body.shape(update)[axis]
    if count > _MOST_STEPS:
        raise _too_many("updates of a sequence", count, _MOST_STEPS)
    circular = body.attribute("mode", "linear") == "circular"
    where = body.walk.resolve(where)

    def here(m: int) -> str:
        start = body.reshape(body.cast(where, "int32"), [shape[0]] + [1] * (rank - 1))
        place = body.op("Add", start, body.constant(m, np.int32)) if m else start
        if circular:
            place = body.op("Mod", place, body.constant(size, np.int32))
        return body.op("Equal", place, body.constant(_numbers(size, axis, rank), np.int32))

    for m in range(count):
        key = "written", where, m, size, axis, rank, circular
        chosen = body.shared(partial(here, m), *key)
        past = body.op("Where", chosen, body.slice(update, axis, m, m + 1), past)
    body.give(0, past)
    return None
