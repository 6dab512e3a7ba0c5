"""Operators that move elements and leave them as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fuzz import bounds
from fuzz.builder import ELEMENTS, Array, Graph, Skip
from fuzz.rows.row import Row

__all__ = ["ROWS"]


def _integers(g: Graph, values: Sequence[int]) -> str:
    return g.constant(np.asarray(values, np.int64))


def _axis(g: Graph, value: Array) -> int:
    """An axis, counted from either end; `Skip` if there is none."""
    if not value.ndim:
        raise Skip
    return g.integer(-value.ndim, value.ndim - 1)


def _reshape(g: Graph, op: str) -> None:
    x = g.tensor()
    shape = g.like(x).shape
    left = int(np.prod(shape))
    sizes: list[int] = []
    while left > 1 and len(sizes) < 4 and g.flag():
        sizes.append(int(g.choose(*(d for d in range(1, left + 1) if left % d == 0))))
        left //= sizes[-1]
    wanted = [*sizes, left]
    if left and g.flag():
        wanted[g.integer(0, len(wanted) - 1)] = -1
    if len(shape) >= len(wanted) and g.flag():
        wanted = [0 if w == s and w else w for w, s in zip(wanted, shape, strict=False)]
    g.node(op, [x, _integers(g, wanted)])


def _flatten(g: Graph, op: str) -> None:
    x = g.tensor(where=lambda v: v.size > 0)
    rank = g.like(x).ndim
    g.node(op, [x], axis=g.integer(-rank, rank))


def _unsqueeze(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(0, 4))
    rank = g.like(x).ndim
    g.node(op, [x, _integers(g, [g.integer(-rank - 1, rank)])])


def _squeeze(g: Graph, op: str) -> None:
    x = g.tensor(where=lambda v: 1 in v.shape)
    ones = [i for i, n in enumerate(g.like(x).shape) if n == 1]
    axes = ones[g.integer(0, len(ones) - 1) :]
    g.node(op, [x, *([_integers(g, axes)] if g.flag() else [])])


def _identity(g: Graph, op: str) -> None:
    g.node(op, [g.tensor()])


def _transpose(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 5))
    order = list(range(g.like(x).ndim))
    for i in range(len(order) - 1, 0, -1):
        k = g.integer(0, i)
        order[i], order[k] = order[k], order[i]
    g.node(op, [x], perm=order)


def _slice(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 5))
    shape = g.like(x).shape
    axes = [i for i in range(len(shape)) if g.flag()] or [0]
    starts, ends, steps = [], [], []
    for axis in axes:
        step, n = g.choose(1, 1, 2, 3, -1, -2), shape[axis]
        low, high = np.sort([g.integer(0, n), g.integer(0, n)])
        first, last = (low, high) if step > 0 else (high - 1, low - 1 - n - (low == 0))
        starts.append(int(first)), ends.append(int(last)), steps.append(step)
    g.node(op, [x, *(_integers(g, v) for v in (starts, ends, axes, steps))])


def _split(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 5))
    axis = _axis(g, g.like(x))
    n = g.like(x).shape[axis]
    first = g.integer(0, n)
    g.node_of(op, [x, _integers(g, [first, n - first])], 2, axis=axis)


def _concat(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 5))
    value = g.like(x)
    axis = _axis(g, value)
    others = []
    for _ in range(g.integer(0, 2)):
        shape = list(value.shape)
        shape[axis] = g.integer(1, 5)
        others.append(g.operand(shape, value.dtype))
    names = [x, *others]
    g.node(op, names[:: g.choose(1, -1)], axis=axis)


def _pad(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 4))
    value = g.like(x)
    mode = g.choose("constant", "reflect", "edge", *(["wrap"] if g.opset >= 19 else []))
    least = -1 if mode == "constant" else 0
    pads = [g.integer(least, 2) if g.flag() else 0 for _ in range(2 * value.ndim)]
    fill = [g.operand((), value.dtype)] if mode == "constant" and g.flag() else []
    if fill and fill[0] not in g.constants:
        raise Skip
    g.node(op, [x, _integers(g, pads), *fill], mode=mode)


def _expand(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(0, 4))
    value = g.like(x)
    room = ELEMENTS // max(1, value.size)
    shape = [n if n != 1 or not g.flag() else max(1, min(g.size(), room)) for n in value.shape]
    g.node(op, [x, _integers(g, [1] * g.integer(0, 1) + shape)])


def _tile(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 4))
    g.node(op, [x, _integers(g, [g.choose(1, 1, 2, 3) for _ in g.like(x).shape])])


def _indices(g: Graph, size: int, shape: Sequence[int]) -> str:
    if not size:
        raise Skip
    rng = np.random.default_rng(g.integer(0, 999))
    low = -size if g.flag() else 0
    values = rng.integers(low, size, tuple(shape))
    if g.flag():
        return g.constant(values)
    name = f"x{len(g.inputs)}"
    g.inputs[name] = values
    g.tensors[name] = np.zeros_like(values)
    return name


def _gather(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 4))
    axis = _axis(g, g.like(x))
    index = _indices(g, g.like(x).shape[axis], [g.integer(1, 4) for _ in range(g.integer(0, 2))])
    g.node(op, [x, index], axis=axis)


def _gather_elements(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 3))
    value = g.like(x)
    axis = _axis(g, value)
    shape = list(value.shape)
    shape[axis] = g.integer(1, 5)
    g.node(op, [x, _indices(g, value.shape[axis], shape)], axis=axis)


def _gather_nd(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 4))
    shape = g.like(x).shape
    depth = g.integer(1, len(shape))
    g.node(op, [x, _indices(g, min(shape[:depth]), (g.integer(1, 4), depth))])


def _scatter(g: Graph, op: str) -> None:
    """Different places of one axis, written alike everywhere."""
    x = g.tensor(ranks=(1, 3), where=lambda v: v.size > 0)
    value = g.like(x)
    axis = _axis(g, value) % value.ndim
    rng = np.random.default_rng(g.integer(0, 999))
    places = rng.permutation(value.shape[axis])[: g.integer(1, 4)]
    if op == "ScatterND":
        order = [axis, *(i for i in range(value.ndim) if i != axis)]
        if order != sorted(order):
            raise Skip
        updates = g.operand((len(places), *value.shape[1:]), value.dtype)
        g.node(op, [x, _integers(g, places[:, None]), updates])
        return
    shape = [len(places) if i == axis else n for i, n in enumerate(value.shape)]
    line = [-1 if i == axis else 1 for i in range(value.ndim)]
    index = np.broadcast_to(places.reshape(line), shape)
    g.node(
        op, [x, g.constant(np.ascontiguousarray(index)), g.operand(shape, value.dtype)], axis=axis
    )


def _trilu(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(2, 4))
    g.node(op, [x, _integers(g, g.integer(-3, 3))], upper=g.integer(0, 1))


def _blocks(g: Graph, op: str) -> None:
    x = g.tensor(("float32", "int8", "uint8", "float16"), (4, 4))
    _, c, h, w = g.like(x).shape
    size = g.choose(1, 2, 3)
    if op == "DepthToSpace" and c % (size * size) == 0:
        g.node(op, [x], blocksize=size, mode=g.choose("DCR", "CRD"))
    elif op == "SpaceToDepth" and h % size == 0 and w % size == 0:
        g.node(op, [x], blocksize=size)
    else:
        raise Skip


def _crop(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 4))
    g.node(op, [x, _integers(g, [max(1, n + g.integer(-2, 2)) for n in g.like(x).shape])])


def _compress(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(1, 4))
    axis = _axis(g, g.like(x))
    kept = np.array([g.flag() for _ in range(min(8, g.like(x).shape[axis]))], np.bool_)
    g.node(op, [x, g.constant(kept)], axis=axis)


def _reverse(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(2, 4))
    time, batch = g.choose((0, 1), (1, 0))
    shape = g.like(x).shape
    lengths = [g.integer(1, max(1, shape[time])) for _ in range(shape[batch])]
    g.node(op, [x, _integers(g, lengths)], time_axis=time, batch_axis=batch)


def _one_hot(g: Graph, op: str) -> None:
    depth = g.integer(1, 9)
    index = _indices(g, depth, [g.integer(1, 4) for _ in range(g.integer(1, 2))])
    kind = np.dtype(g.choose("float32", "int32", "int8"))
    values = g.constant(np.array([g.integer(-3, 3), g.integer(-3, 3)]).astype(kind))
    g.node(op, [index, _integers(g, depth), values], axis=g.choose(-1, 0))


# fmt: off
ROWS: tuple[Row, ...] = (
    Row("CenterCropPad", _crop, bounds.moved),
    Row("Compress", _compress, bounds.moved),
    Row("Concat", _concat, bounds.moved_all),
    Row("DepthToSpace", _blocks, bounds.moved),
    Row("Expand", _expand, bounds.moved),
    Row("Flatten", _flatten, bounds.moved),
    Row("Gather", _gather, bounds.moved),
    Row("GatherElements", _gather_elements, bounds.moved),
    Row("GatherND", _gather_nd, bounds.moved),
    Row("Identity", _identity, bounds.moved),
    Row("OneHot", _one_hot, bounds.all_or_nothing),
    Row("Pad", _pad, bounds.padded),
    Row("Reshape", _reshape, bounds.moved),
    Row("ReverseSequence", _reverse, bounds.moved),
    Row("ScatterElements", _scatter, bounds.scattered),
    Row("ScatterND", _scatter, bounds.scattered),
    Row("Slice", _slice, bounds.moved),
    Row("SpaceToDepth", _blocks, bounds.moved),
    Row("Split", _split, bounds.moved),
    Row("Squeeze", _squeeze, bounds.moved),
    Row("Tile", _tile, bounds.moved),
    Row("Transpose", _transpose, bounds.moved),
    Row("Trilu", _trilu, bounds.moved),
    Row("Unsqueeze", _unsqueeze, bounds.moved),
)
# fmt: on
