"""Slice, gather and scatter in numpy, where onnx's reference evaluator is slow or wrong.

It goes through scatters and GatherND element by element, its GatherElements takes other elements
than asked for once an axis is longer than `numpy.choose` allows, and its Slice starts like Python's
where ONNX clamps. Positions out of range raise `IndexError`, operands that do not fit `ValueError`.
A scatter's later updates win.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "gather_elements",
    "gather_nd",
    "scatter_elements",
    "scatter_nd",
    "slices",
    "tensor_scatter",
]

Numbers = NDArray[np.int64]


def slices(
    data: Numbers, starts: list[int], ends: list[int], axes: list[int], steps: list[int]
) -> Numbers:
    """data[start:end:step] on each of `axes`, with what lies outside clamped as ONNX has it."""
    kept = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _axis(axis, data.ndim)
        size = data.shape[place]
        first = start + size if start < 0 else start
        stop = end + size if end < 0 else end
        if step > 0:
            kept[place] = slice(max(0, first), max(0, stop), step)
        else:
            until = stop if stop >= 0 else None
            kept[place] = slice(max(0, min(first, size - 1)), until, step)
    return data[tuple(kept)]


def gather_elements(data: Numbers, indices: NDArray[np.generic], axis: int) -> Numbers:
    """out[i, j, k] = data[i, indices[i, j, k], k] for axis 1; `indices` may be smaller."""
    axis = _axis(axis, data.ndim)
    if indices.ndim != data.ndim or any(
        n > m for a, (n, m) in enumerate(zip(indices.shape, data.shape, strict=True)) if a != axis
    ):
        raise ValueError("the indices do not fit the data")
    rest = (slice(None if a == axis else n) for a, n in enumerate(indices.shape))
    return np.take_along_axis(data[tuple(rest)], indices.astype(np.int64), axis)


def gather_nd(data: Numbers, indices: NDArray[np.generic], batch: int) -> Numbers:
    """out[b, i] = data[b, indices[b, i, 0], indices[b, i, 1], ...] with `batch` leading axes."""
    if indices.shape[:batch] != data.shape[:batch] or batch >= indices.ndim:
        raise ValueError("the indices do not fit the data")
    lead = indices.ndim - 1
    places: list[NDArray[np.int64]] = [
        np.arange(n).reshape([-1 if a == axis else 1 for a in range(lead)])
        for axis, n in enumerate(indices.shape[:batch])
    ]
    places += [indices[..., i].astype(np.int64) for i in range(indices.shape[-1])]
    if not places:
        raise ValueError("indices without coordinates")
    return data[tuple(places)]


def scatter_elements(
    data: Numbers, indices: NDArray[np.generic], updates: Numbers, axis: int
) -> Numbers:
    """out[i, indices[i, j, k], k] = updates[i, j, k] for axis 1, the rest from `data`."""
    return _written(data, gather_elements(_places(data), indices, axis), updates)


def scatter_nd(data: Numbers, indices: NDArray[np.generic], updates: Numbers) -> Numbers:
    """out[indices[i]] = updates[i], the rest from `data`."""
    return _written(data, gather_nd(_places(data), indices, 0), updates)


def tensor_scatter(
    cache: Numbers,
    update: Numbers,
    starts: NDArray[np.generic] | None,
    axis: int,
    circular: bool,
) -> Numbers:
    """Batch entry b of `update` is written into the cache from `starts[b]` on along `axis`."""
    axis = _axis(axis, cache.ndim)
    length = update.shape[axis]
    first = np.zeros(cache.shape[0], np.int64) if starts is None else starts.astype(np.int64)
    if axis == 0 or length > cache.shape[axis] or first.shape != cache.shape[:1]:
        raise ValueError("the update does not fit the cache")
    if first.size and first.min() < 0:
        raise IndexError("a write index is negative")
    places = first[:, None] + np.arange(length)
    if circular:
        places %= cache.shape[axis]
    shape = [1] * cache.ndim
    shape[0], shape[axis] = places.shape
    return scatter_elements(
        cache, np.broadcast_to(places.reshape(shape), update.shape), update, axis
    )


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise IndexError(f"axis {axis} of {rank}")
    return axis % rank


def _places(data: Numbers) -> Numbers:
    return np.arange(data.size).reshape(data.shape)


def _written(data: Numbers, places: Numbers, updates: Numbers) -> Numbers:
    if updates.shape != places.shape:
        raise ValueError("the updates do not fit the indices")
    out = data.flatten()
    out[places.reshape(-1)] = updates.reshape(-1)  # one axis: numpy assigns in order
    return out.reshape(data.shape)
