"""Windows over images: where the taps of a kernel fall, and images with a border around them.

An image is a tensor [N, spatial..., C] (see `channels.py`), so its matrix has a row for each pixel.
The pixels under one tap of the kernel, for every output pixel, are a row index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.lower import Lowering
from clockstep_compiler.lowering.views import in_longer_rows
from clockstep_compiler.steps import Move, Value
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.layout import numpy_type

__all__ = [
    "Fill",
    "Grid",
    "Ints",
    "Window",
    "border_row",
    "bordered",
    "gathered",
    "spatial_attribute",
    "window_of",
]

Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixels of `batch` images: an image of `sizes` with `low` and `high` more on either side."""

    batch: int
    sizes: Ints
    low: Ints
    high: Ints

    @property
    def full(self) -> Ints:
        """The sizes with the border."""
        return tuple(a + b + c for a, b, c in zip(self.low, self.sizes, self.high, strict=True))

    @property
    def rows(self) -> int:
        """Pixels with the border."""
        return self.batch * math.prod(self.full)

    def under(self, coordinates: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """The row of every pixel (c0, c1, ...) of every image; 0 is the first within the border."""
        images = np.arange(self.batch) * math.prod(self.full)
        found = images.reshape(-1, *[1] * len(self.sizes))
        for axis, (c, low) in enumerate(zip(coordinates, self.low, strict=True)):
            shape = [-1 if i == axis else 1 for i in range(len(self.sizes))]
            found = found + ((c + low) * math.prod(self.full[axis + 1 :])).reshape(1, *shape)
        return np.ascontiguousarray(found.ravel())

    def inside(self) -> NDArray[np.int64]:
        """For every pixel with the border its row in the image without, -1 on the border."""
        plain = Grid(self.batch, self.sizes, (0,) * len(self.sizes), (0,) * len(self.sizes))
        found = np.full((self.batch, *self.full), -1, np.int64)
        middle = tuple(slice(b, b + n) for b, n in zip(self.low, self.sizes, strict=True))
        own = plain.under([np.arange(n) for n in self.sizes])
        found[(slice(None), *middle)] = own.reshape(self.batch, *self.sizes)
        return found.ravel()


@dataclass(frozen=True, slots=True)
class Window:
    """A kernel that slides over images; one number for each spatial axis everywhere.

    Output pixel o sees input pixels o * stride + k * dilation - before, for k < kernel. `after` is
    the padding that the node declares on the other side.
    """

    batch: int
    sizes: Ints
    outputs: Ints
    kernel: Ints
    strides: Ints
    dilations: Ints
    before: Ints
    after: Ints

    def taps(self) -> list[Ints]:
        """The positions within the kernel, in row-major order."""
        return list(np.ndindex(*self.kernel))

    def is_whole(self) -> bool:
        """Whether there is one output pixel, which sees every input pixel once."""
        alone = not any(self.before) and {*self.outputs} == {1}
        return alone and self.kernel == self.sizes and {*self.dilations} == {1}

    def coordinates(self, axis: int, k: int) -> NDArray[np.int64]:
        """Where tap k of an axis falls, for every output pixel along it."""
        steps = np.arange(self.outputs[axis]) * self.strides[axis]
        return steps + k * self.dilations[axis] - self.before[axis]

    def grid(self) -> Grid:
        """The images with as much of a border as the kernel reaches over."""
        low, high = [], []
        for axis, size in enumerate(self.sizes):
            last = self.coordinates(axis, self.kernel[axis] - 1)
            low.append(self.before[axis])
            high.append(max(0, int(last[-1]) - size + 1))
        return Grid(self.batch, self.sizes, tuple(low), tuple(high))

    def under(self, grid: Grid, tap: Ints) -> NDArray[np.int64]:
        """The row of `grid` under a tap, for every output pixel.

        A tap of one number less is that of all taps along the last axis: see `gathered`.
        """
        at = [self.coordinates(axis, k) for axis, k in enumerate(tap)]
        rest = [np.arange(n) for n in self.outputs[len(tap) :]]
        return grid.under([*at, *rest])


def spatial_attribute(node: Node, name: str, count: int, default: int) -> Ints:
    """One number for each of `count` axes."""
    given = node.attributes.get(name) or (default,) * count
    found = tuple(int(v) for v in given)
    if len(found) != count:
        raise UnsupportedModel("unsupported-form", f"{name} {list(found)} for {count} axes")
    return found


def window_of(node: Node, image: Ints, result: Ints, kernel: Ints) -> Window:
    """The window of a node from image [N, spatial..., C] to result [N, spatial..., M]."""
    sizes, outputs = image[1:-1], result[1:-1]
    count = len(sizes)
    if len(kernel) != count:
        raise UnsupportedModel("unsupported-form", f"kernel {list(kernel)} for {count} axes")
    strides = spatial_attribute(node, "strides", count, 1)
    dilations = spatial_attribute(node, "dilations", count, 1)
    pads = spatial_attribute(node, "pads", 2 * count, 0)
    if min(pads, default=0) < 0:
        raise UnsupportedModel("unsupported-form", f"negative pads {list(pads)}", help="use Slice")
    mode = node.attributes.get("auto_pad") or "NOTSET"
    if mode != "NOTSET":
        pads = _automatic(mode, sizes, outputs, kernel, strides, dilations)
    return Window(image[0], sizes, outputs, kernel, strides, dilations, pads[:count], pads[count:])


def _automatic(
    mode: str, sizes: Ints, outputs: Ints, kernel: Ints, strides: Ints, dilations: Ints
) -> Ints:
    """Padding by `auto_pad`; what does not halve goes to the end, or with SAME_LOWER before."""
    if mode == "VALID":
        return (0,) * (2 * len(sizes))
    totals = [
        max(0, (o - 1) * s + (k - 1) * d + 1 - n)
        for n, o, k, s, d in zip(sizes, outputs, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return tuple(large + small if mode == "SAME_LOWER" else small + large)


Fill = int | Value
"""What a border is made of: elements as stored, or a matrix of one row."""


def unbordered(window: Window, grid: Grid, tap: Ints) -> NDArray[np.int64]:
    """The row of the image under a tap for every output pixel, -1 where that is the border."""
    return grid.inside()[window.under(grid, tap)]


def border_row(state: Lowering, image: Value, fill: Fill) -> Value:
    """A row of border as wide as an image."""
    return _border(state, image, image.columns, fill)


def _border(state: Lowering, image: Value, columns: int, fill: Fill) -> Value:
    """A row of border of so many columns."""
    if isinstance(fill, Value):
        assert (fill.rows, fill.columns, fill.type) == (1, columns, image.type), fill.name
        return fill
    return state.constant_value("border", np.full((1, columns), fill, numpy_type(image.type)))


def bordered(state: Lowering, image: Value, grid: Grid, fill: Fill = 0, groups: int = 1) -> Value:
    """The image with its border, whose elements are `fill`.

    With `groups` the channels of each group are rows of their own, one group after the other.
    """
    if groups == 1 and not any(grid.low) and not any(grid.high):
        return image
    key = ("bordered", image.number, grid, fill, groups)
    if key not in state.views:
        width = image.columns // groups
        rows = grid.inside()
        border = rows < 0
        lanes = np.arange(image.columns).reshape(groups, 1, width)
        index = rows[None, :, None] * image.columns + lanes
        index[:, border] = -1
        sources: tuple[Value, ...] = (image,)
        if fill and border.any():
            sources = (image, _border(state, image, width, fill))
            index[:, border] = image.rows * image.columns + np.arange(width)
        out = state.new_value(image.name, groups * len(rows), width, image.type)
        state.steps.append(Move(out, sources, index.reshape(-1, width), (state.node,)))
        state.views[key] = out
    return state.views[key]


def gathered(state: Lowering, image: Value, window: Window, fill: Fill) -> tuple[Value, Grid]:
    """The image with the taps along its last axis side by side in the lanes, and its grid.

    A row holds, for one output pixel along that axis, all that the kernel sees in one line.
    """
    grid = window.grid()
    axis = len(grid.sizes) - 1
    taps = range(window.kernel[axis])
    at = np.stack([window.coordinates(axis, k) for k in taps], axis=1) + grid.low[axis]
    rows = grid.inside().reshape(grid.batch, *grid.full)[..., at].reshape(-1, len(taps))
    lanes = np.arange(image.columns)
    index = rows[:, :, None] * image.columns + lanes
    border = rows < 0
    index[border] = -1
    loaded = in_longer_rows(state, image, index.reshape(len(rows), -1))
    sources: tuple[Value, ...] = (loaded,)
    if fill and border.any():
        sources = (loaded, _border(state, image, image.columns, fill))
        index[border] = image.rows * image.columns + lanes
    out = state.new_value(image.name, len(rows), len(taps) * image.columns, image.type)
    state.steps.append(Move(out, sources, index.reshape(len(rows), -1), (state.node,)))
    sizes = (*grid.sizes[:-1], window.outputs[axis])
    return out, Grid(grid.batch, sizes, (*grid.low[:-1], 0), (*grid.high[:-1], 0))
