"""The one form of a move, and the composition of two.

No operand twice, none that nothing is taken from, and constants of one value become fill. A move
that takes nothing from anywhere is a constant, one that takes all in place another name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.inline import Move
from clockstep_compiler.frontend.tensors import Array, bytes_needed, numpy_dtype
from clockstep_compiler.graph import Tensor

__all__ = ["Moved", "changes_nothing", "filled", "scalar", "settle", "through"]

_LARGE = 64 << 20
"""A constant of more bytes is not made of a fill."""


@dataclass(frozen=True, eq=False, slots=True)
class Moved:
    """A move of elements of `inputs` into `output`."""

    output: Tensor
    inputs: tuple[str, ...]
    move: Move


def settle(
    output: Tensor,
    names: Sequence[str],
    sizes: Sequence[int],
    move: Move,
    constants: Mapping[str, Array],
) -> Moved | None:
    """The move of the elements of `names`, of which there are `sizes`, in its one form.

    None if it is a constant that is too large to make.
    """
    flat = move.index.reshape(-1)
    if len(names) == 1 and names[0] not in constants and flat.size and flat.min() >= 0:
        whole = replace(move, index=flat.reshape(output.shape), fill=0)
        return Moved(output, tuple(names), whole)
    bounds = np.cumsum([0, *sizes])
    owner = np.searchsorted(bounds, flat, "right") - 1 if len(names) > 1 else np.minimum(flat, 0)
    counts = np.bincount(owner + 1, minlength=len(names) + 1)
    fill = move.fill if counts[0] else None
    shift = np.zeros(len(names) + 1, np.int64)  # the last is that of fills
    emptied = []
    base: dict[str, int] = {}
    total = 0
    for k, name in enumerate(names):
        if not counts[k + 1]:
            continue
        value = _one_value(constants.get(name), flat[owner == k] - bounds[k])
        if value is not None and (fill is None or _same(fill, value, output.dtype)):
            fill = value
            emptied.append(k)
            continue
        if name not in base:
            base[name] = total
            total += sizes[k]
        shift[k] = base[name] - bounds[k]
    index = flat + shift[owner] if shift.any() else flat.copy()
    for k in emptied:
        index[owner == k] = -1
    if not base and bytes_needed(output.shape, output.dtype) > _LARGE:
        return None
    settled = replace(move, index=index.reshape(output.shape), fill=0 if fill is None else fill)
    return Moved(output, tuple(base), settled)


def filled(moved: Moved) -> Array:
    """The constant that a move without inputs makes."""
    dtype = numpy_dtype(moved.output.dtype)
    return np.full(moved.output.shape, np.array(moved.move.fill).astype(dtype))


def changes_nothing(moved: Moved, source: Tensor) -> bool:
    """Whether the output is `source`, its only input, as it stands."""
    index = moved.move.index
    return source.shape == index.shape and bool(
        np.array_equal(index.reshape(-1), np.arange(index.size))
    )


def through(
    outer: Moved,
    inner: Mapping[str, Moved],
    types: Mapping[str, Tensor],
    constants: Mapping[str, Array],
) -> Moved | None:
    """`outer` with its inputs made by `inner` replaced by what those are made of.

    Before: a = Move(x), y = Move(a, b). After: y = Move(x, b). None if the fills differ.
    """
    names: list[str] = []
    sizes: list[int] = []
    tables: list[NDArray[np.int64]] = []
    fills = [outer.move.fill] if (outer.move.index < 0).any() else []
    for name in outer.inputs:
        first = sum(sizes)
        if name not in inner:
            count = math.prod(types[name].shape)
            tables.append(np.arange(first, first + count))
            names.append(name)
            sizes.append(count)
            continue
        index = inner[name].move.index.reshape(-1)
        tables.append(np.where(index < 0, -1, index + first) if first else index)
        fills += [inner[name].move.fill] if (index < 0).any() else []
        names += inner[name].inputs
        sizes += [math.prod(types[source].shape) for source in inner[name].inputs]
    if any(not _same(fills[0], fill, outer.output.dtype) for fill in fills[1:]):
        return None
    table = np.concatenate([*tables, np.array([-1])])  # at -1, which is fill, stands -1
    move = replace(outer.move, index=table[outer.move.index], fill=fills[0] if fills else 0)
    return settle(outer.output, names, sizes, move, constants)


def scalar(array: Array) -> bool | int | float | None:
    """The one element as a Python number; None if it is complex."""
    if array.dtype.kind == "c":
        return None
    if array.dtype.kind == "b":
        return bool(array.item())
    if array.dtype.kind in "iu" or "int" in array.dtype.name:
        return int(array.item())
    return float(array.astype(np.float64).item())


def _one_value(constant: Array | None, taken: NDArray[np.int64]) -> bool | int | float | None:
    """The value of all elements taken from a constant, to the bit; None if they differ."""
    if constant is None:
        return None
    found = constant.reshape(-1)[taken]
    raw = found.view(np.uint8).reshape(found.size, found.dtype.itemsize)
    return scalar(found[:1].reshape(())) if (raw == raw[0]).all() else None


def _same(a: bool | int | float, b: bool | int | float, dtype: str) -> bool:
    """Whether two fills are the same to the bit."""
    kind = numpy_dtype(dtype)
    return np.array(a).astype(kind).tobytes() == np.array(b).astype(kind).tobytes()
