"""Pooling: windows combined by the VXM, one spatial axis after the other.

A window that is all of the image is a reduction of its rows. Elsewhere a maximum may see a pixel
twice, so a tap that falls on the border takes a pixel of the same window that does not; sums have a
border of zeros. Averages divide by the number of pixels that count, which is known for every output
pixel. Maxima of integers that are dequantized are taken of the integers, along lines last: pixels
of a line may lie side by side (`fold.py`), and then lines are compared as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Expr, Leaf, Op, add, binary, cast, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_exponential import positive_root
from clockstep_compiler.lowering.elementwise_quotient import square_root
from clockstep_compiler.lowering.lower import FLOATS, Lowering, Quant, lowers, offset_of
from clockstep_compiler.lowering.reduce_rows import fold_rows, source
from clockstep_compiler.lowering.windows import Grid, Window, bordered, window_of
from clockstep_compiler.steps import Compute, Move, Value
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import Type

__all__: list[str] = []

_FAN = 4
"""Taps that one step combines: more would not fit the ALUs of a small machine."""

_FAN_WIDE = 2
"""The same for matrices of four bytes an element, which a small machine has fewer slices for."""

_LONG = 8
"""Taps from which on maxima are made of maxima of shorter windows."""

Places = NDArray[np.int64]
Map = Callable[[Expr], Expr]


def _window(state: Lowering, node: Node) -> Window:
    image, result = state.shape(node.inputs[0]), state.shape(node.outputs[0])
    if len(image) < 3:
        raise UnsupportedModel("unsupported-form", f"an image of shape {list(image)}")
    kernel = tuple(int(k) for k in node.attributes.get("kernel_shape") or ())
    return window_of(node, image, result, kernel)


def _inside(window: Window, axis: int, padded: bool = False) -> NDArray[np.bool_]:
    """Of every tap [kernel, outputs] along an axis, whether it is on the image or its padding."""
    low = -window.before[axis] if padded else 0
    high = window.sizes[axis] + (window.after[axis] if padded else 0)
    at = np.stack([window.coordinates(axis, k) for k in range(window.kernel[axis])])
    found: NDArray[np.bool_] = (at >= low) & (at < high)
    if not found.any(axis=0).all():
        raise UnsupportedModel("unsupported-form", "a window has no pixel that counts")
    return found


def _clamped(window: Window, axis: int) -> list[Places]:
    """Where taps fall along an axis, those outside on a tap of the same window that is inside."""
    at = np.stack([window.coordinates(axis, k) for k in range(window.kernel[axis])])
    inside = _inside(window, axis)
    low = np.where(inside, at, at.max() + 1).min(axis=0)
    high = np.where(inside, at, at.min() - 1).max(axis=0)
    return list(np.clip(at, low, high))


def _stored(state: Lowering, name: str) -> Value:
    """The image in the type that it has at home, in f32 if that is what it was dequantized to."""
    tensor = state.tensors.get(name)
    dequantized = tensor is not None and tensor.quant is not None
    return source(state, name).value if dequantized else state.store(name)


def _slid(
    state: Lowering, image: Value, window: Window, name: str, before: Map, fill: int = 0
) -> Expr:
    """The windows of the image combined by "max", the first axis first, or by "add", the last.

    `before` is applied to every element of the image, and to the `fill` of its border.
    """
    if window.is_whole():
        view = window.batch, math.prod(window.sizes), 1
        return fold_rows(state, image, name, view, before)
    sizes, expr = list(window.sizes), before(Leaf(image, None))
    axes = range(len(sizes))
    for axis in axes if name == "max" else reversed(axes):
        if (window.kernel[axis], window.strides[axis], sizes[axis]) == (1, 1, window.outputs[axis]):
            continue
        if not isinstance(expr, Leaf) or expr.index is not None:
            image, before, fill = _held(state, expr, image), _same, 0
        if name == "max" and window.kernel[axis] >= _LONG:
            expr = _doubled(state, image, window, axis, sizes)
        else:
            parts = _leaves(state, image, window, axis, sizes, None if name == "max" else fill)
            expr = _combined(state, name, [before(part) for part in parts], image)
        before, sizes[axis] = _same, window.outputs[axis]
    return expr


def _leaves(
    state: Lowering,
    image: Value,
    window: Window,
    axis: int,
    sizes: Sequence[int],
    fill: int | None,
) -> list[Leaf]:
    """The image under every tap along one axis; `sizes` are those of the image so far.

    Without a `fill` for the border, taps are moved to where there is none.
    """
    rank = len(sizes)
    taps = (
        _clamped(window, axis)
        if fill is None
        else [window.coordinates(axis, k) for k in range(window.kernel[axis])]
    )
    low, high = [0] * rank, [0] * rank
    low[axis] = max(0, -int(min(at.min() for at in taps)))
    high[axis] = max(0, int(max(at.max() for at in taps)) - sizes[axis] + 1)
    grid = Grid(window.batch, tuple(sizes), tuple(low), tuple(high))
    image = bordered(state, image, grid, fill or 0)
    others = [np.arange(size) for size in sizes]
    return [
        Leaf(image, grid.under([at if i == axis else c for i, c in enumerate(others)]))
        for at in taps
    ]


def _doubled(
    state: Lowering, image: Value, window: Window, axis: int, sizes: Sequence[int]
) -> Expr:
    """The maxima along one axis from those of windows half as long, and these likewise.

    Two windows of a power of two cover any window up to twice as long; both may see a pixel.
    """
    kernel, stride, dilation = window.kernel[axis], window.strides[axis], window.dilations[axis]
    step = math.gcd(stride, dilation)
    first, last = int(window.coordinates(axis, 0)[0]), int(window.coordinates(axis, kernel - 1)[-1])
    at = np.arange(first, last + 1, step)
    none = (0,) * len(sizes)
    grid = Grid(window.batch, tuple(sizes), none, none)
    if first < 0 or last >= sizes[axis]:
        image, at = _seen(state, image, grid, axis, at), np.arange(len(at))
        grid = replace(grid, sizes=(*sizes[:axis], len(at), *sizes[axis + 1 :]))
    others = [np.arange(size) for size in sizes]

    def leaf(where: Places) -> Leaf:
        return Leaf(image, grid.under([where if i == axis else c for i, c in enumerate(others)]))

    length, apart = 1, dilation // step
    while 2 * length <= kernel:
        pair = leaf(at[: len(at) - length * apart]), leaf(at[length * apart :])
        image = _held(state, binary("max", *pair), image)
        at = np.arange(len(at) - length * apart)
        grid = replace(grid, sizes=(*sizes[:axis], len(at), *sizes[axis + 1 :]))
        length *= 2
    starts = np.arange(window.outputs[axis]) * (stride // step)
    ends = starts + (kernel - length) * apart
    return leaf(starts) if length == kernel else binary("max", leaf(starts), leaf(ends))


def _seen(state: Lowering, image: Value, grid: Grid, axis: int, at: Places) -> Value:
    """The image at some places along an axis; beyond it, what is never larger than anything."""
    others = [np.arange(size) for size in grid.sizes]
    near = np.clip(at, 0, grid.sizes[axis] - 1)
    rows = grid.under([near if i == axis else c for i, c in enumerate(others)])
    shape = [len(at) if i == axis else size for i, size in enumerate(grid.sizes)]
    beyond = (near != at).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    border = np.broadcast_to(beyond, (grid.batch, *shape)).ravel()
    lanes = np.arange(image.columns)
    index = rows[:, None] * image.columns + lanes
    index[border] = image.rows * image.columns + lanes
    fill = np.full((1, image.columns), _least(image.type), numpy_type(image.type))
    out = state.new_value(image.name, len(rows), image.columns, image.type)
    sources = (image, state.constant_value("border", fill))
    state.steps.append(Move(out, sources, index, (state.node,)))
    return out


def _least(kind: Type) -> float:
    """What is never larger than anything."""
    stored = numpy_type(kind)
    return -math.inf if stored.kind == "f" else int(np.iinfo(stored).min)


def _combined(state: Lowering, name: str, parts: Sequence[Expr], image: Value) -> Expr:
    """All parts combined, a few of them in a step."""
    level = list(parts)
    fan = _FAN_WIDE if image.type.bytes > 2 else _FAN
    while len(level) > fan:
        groups = [level[i : i + fan] for i in range(0, len(level), fan)]
        level = [Leaf(_held(state, _chain(name, group), image), None) for group in groups]
    return _chain(name, level)


def _chain(name: str, parts: Sequence[Expr]) -> Expr:
    result = parts[0]
    for part in parts[1:]:
        result = binary(name, result, part)
    return result


def _held(state: Lowering, expr: Expr, image: Value) -> Value:
    """An expression over rows of an image, stored in its own type."""
    rows = _rows(expr)
    value = state.new_value(image.name, rows, image.columns, expr.out)
    state.steps.append(Compute(value, expr, (state.node,), (rows, image.columns)))
    return value


def _rows(expr: Expr) -> int:
    """The rows of an expression, which all of its leaves have."""
    if isinstance(expr, Leaf):
        return expr.value.rows if expr.index is None else len(expr.index)
    assert isinstance(expr, Op)
    return _rows(expr.args[0])


def _same(expr: Expr) -> Expr:
    return expr


def _wide(expr: Expr) -> Expr:
    return cast(expr, Type.F32)


# -- the operators ------------------------------------------------------------------------------


@lowers("MaxPool")
def _lower_max(state: Lowering, node: Node) -> None:
    x, out = node.inputs[0], node.outputs[0]
    if len(node.outputs) > 1 and node.outputs[1]:
        raise UnsupportedModel("unsupported-form", "the indices of the maxima are not computed")
    quant = _same_order(state, x)
    if quant is not None:
        image = state.store(quant.source)
        result = _slid(state, image, _window(state, node), "max", _same)
        integers = add(state.widen(result, state.dtype(quant.source)), -quant.zero)
        state.define(out, mul(cast(integers, Type.F32), quant.scale))
        return
    result = _slid(state, _stored(state, x), _window(state, node), "max", _same)
    if state.dtype(x) in FLOATS:
        state.define(out, _wide(result))
    else:
        state.define(out, result, narrow=True)


def _same_order(state: Lowering, name: str) -> Quant | None:
    """What a tensor was dequantized from, if that is in the order of its integers."""
    tensor = state.tensors.get(name)
    quant = None if tensor is None else tensor.quant
    if quant is None or quant.scale.size > 1 or quant.zero.size > 1 or not _is_narrow(state, quant):
        return None
    return quant if float(quant.scale.reshape(())) > 0 else None


def _needs_floats(state: Lowering, node: Node) -> None:
    if state.dtype(node.inputs[0]) not in FLOATS:
        raise UnsupportedModel("element-type", f"{node.op} of {state.dtype(node.inputs[0])}")


def _sum(state: Lowering, node: Node, window: Window) -> Expr:
    """The sum of every window in f32; of integers that were dequantized it is exact."""
    tensor = state.tensors.get(node.inputs[0])
    quant = None if tensor is None else tensor.quant
    if quant is None or quant.scale.size > 1 or quant.zero.size > 1 or not _is_narrow(state, quant):
        return _slid(state, _stored(state, node.inputs[0]), window, "add", _wide)
    nothing = int(quant.zero.reshape(())) + offset_of(state.dtype(quant.source))

    def before(expr: Expr) -> Expr:
        return add(cast(expr, Type.I32), -nothing)

    total = _slid(state, state.store(quant.source), window, "add", before, nothing)
    return mul(cast(total, Type.F32), quant.scale.reshape(()))


def _is_narrow(state: Lowering, quant: Quant) -> bool:
    return state.dtype(quant.source) in ("int8", "uint8") and state.constant(quant.source) is None


@lowers("AveragePool")
def _lower_average(state: Lowering, node: Node) -> None:
    _needs_floats(state, node)
    window = _window(state, node)
    total = _sum(state, node, window)
    padded = bool(node.attributes.get("count_include_pad", 0))
    counts = np.ones((1,) * (len(window.sizes) + 2))
    for axis in range(len(window.sizes)):
        along = _inside(window, axis, padded).sum(axis=0)
        shape = [-1 if i == axis + 1 else 1 for i in range(counts.ndim)]
        counts = counts * along.reshape(shape)
    alike = counts.min() == counts.max()
    state.define(node.outputs[0], mul(total, 1 / (counts.flat[0] if alike else counts)))


_MOST_P = 16


@lowers("LpPool")
def _lower_lp(state: Lowering, node: Node) -> None:
    """(sum |x|**p) ** (1 / p)."""
    _needs_floats(state, node)
    p = float(node.attributes.get("p", 2))
    if p not in range(1, _MOST_P + 1):
        raise UnsupportedModel(
            "unsupported-form", f"LpPool of p = {p:g}", help=f"p may be 1 to {_MOST_P}"
        )
    image = _stored(state, node.inputs[0])
    total = _slid(state, image, _window(state, node), "add", partial(_magnitude, int(p)))
    if p in (1, 2, 4):
        for _ in range(int(p) // 2):  # the fourth root is the root of the root
            total = square_root(total)
    else:
        total = positive_root(total, p)
    state.define(node.outputs[0], total)


def _magnitude(p: int, expr: Expr) -> Expr:
    """|x|**p."""
    first = unary("abs", _wide(expr))
    result: Expr = first
    for _ in range(p - 1):
        result = binary("mul", result, first)
    return result
