"""ConvTranspose: output pixels of one residue modulo the strides are a convolution of stride 1.

Output pixel o sees input pixel i under tap k where o + before = i * stride + k * dilation. So all
pixels with the same o % stride see the same taps, at a constant distance. Each such phase is a
sum of products, and a Move puts the phases together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.lower import FLOATS, Lowering, lowers
from clockstep_compiler.lowering.reduce_rows import hold
from clockstep_compiler.lowering.taps import Taps, operands, summed, tap_weights, with_bias
from clockstep_compiler.lowering.windows import Grid, Ints, bordered, spatial_attribute
from clockstep_compiler.steps import Move, Value
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__: list[str] = []


@dataclass(frozen=True, slots=True)
class _Spread:
    """The geometry of a node; one number for each spatial axis everywhere."""

    sizes: Ints
    outputs: Ints
    kernel: Ints
    strides: Ints
    dilations: Ints
    before: Ints

    def pixels(self, axis: int, phase: int) -> int:
        """Output pixels of a phase along an axis."""
        return -(-max(0, self.outputs[axis] - phase) // self.strides[axis])

    def taps(self, axis: int, phase: int) -> list[tuple[int, int]]:
        """Taps that a phase sees along an axis, and the input pixel under its first pixel."""
        found = []
        for k in range(self.kernel[axis]):
            distance = phase + self.before[axis] - k * self.dilations[axis]
            if distance % self.strides[axis] == 0:
                found.append((k, distance // self.strides[axis]))
        return found


def _before(node: Node, spread: _Spread) -> Ints:
    """Padding at the beginning; where the output's size is given, what it leaves of the total."""
    count = len(spread.sizes)
    mode = node.attributes.get("auto_pad") or "NOTSET"
    given = node.attributes.get("output_shape")
    if mode == "NOTSET" and not given:
        return spatial_attribute(node, "pads", 2 * count, 0)[:count]
    if mode == "VALID" and not given:
        return (0,) * count
    extra = spatial_attribute(node, "output_padding", count, 0)
    found = []
    for axis in range(count):
        reach = (spread.kernel[axis] - 1) * spread.dilations[axis] + 1
        full = spread.strides[axis] * (spread.sizes[axis] - 1) + extra[axis] + reach
        total = max(0, full - spread.outputs[axis])
        found.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
    return tuple(found)


def _spread(state: Lowering, node: Node) -> _Spread:
    image, result = state.shape(node.inputs[0]), state.shape(node.outputs[0])
    weights = state.shape(node.inputs[1])
    groups = int(node.attributes.get("group", 1))
    if weights[0] != image[-1] or groups < 1 or weights[0] % groups:
        raise UnsupportedModel(
            "unsupported-form", f"{image[-1]} channels, weights {list(weights)}, {groups} groups"
        )
    kernel, sizes = weights[2:], image[1:-1]
    declared = node.attributes.get("kernel_shape")
    if len(kernel) != len(sizes) or (declared and tuple(declared) != kernel):
        raise UnsupportedModel("unsupported-form", f"weights {list(weights)} as a kernel")
    strides = spatial_attribute(node, "strides", len(sizes), 1)
    dilations = spatial_attribute(node, "dilations", len(sizes), 1)
    spread = _Spread(sizes, result[1:-1], kernel, strides, dilations, (0,) * len(sizes))
    return replace(spread, before=_before(node, spread))


def _grid(spread: _Spread, batch: int) -> Grid:
    """The image with as much of a border as any phase reaches over."""
    low, high = [], []
    for axis, size in enumerate(spread.sizes):
        first, last = 0, size - 1
        for phase in range(min(spread.strides[axis], spread.outputs[axis])):
            for _, start in spread.taps(axis, phase):
                first = min(first, start)
                last = max(last, start + spread.pixels(axis, phase) - 1)
        low.append(-first)
        high.append(last - size + 1)
    return Grid(batch, spread.sizes, tuple(low), tuple(high))


def _phases(spread: _Spread) -> list[tuple[Ints, list[list[tuple[int, int]]]]]:
    """The phases that have pixels, and for each axis the taps that they see."""
    counts = [min(s, n) for s, n in zip(spread.strides, spread.outputs, strict=True)]
    return [
        (phase, [spread.taps(axis, p) for axis, p in enumerate(phase)])
        for phase in np.ndindex(*counts)
    ]


def _phase(
    spread: _Spread, grid: Grid, whole: Taps, phase: Ints, along: list[list[tuple[int, int]]]
) -> Taps:
    """What the pixels of one phase see."""
    under, weights = [], []
    pixels = [spread.pixels(axis, p) for axis, p in enumerate(phase)]
    for chosen in product(*along):
        starts = zip(chosen, pixels, strict=True)
        under.append(grid.under([start + np.arange(n) for (_, start), n in starts]))
        tap = int(np.ravel_multi_index([k for k, _ in chosen], spread.kernel))
        weights.append(whole.weights[tap])
    return replace(whole, under=tuple(under), weights=tuple(weights))


def _joined(state: Lowering, node: Node, spread: _Spread, grid: Grid, whole: Taps) -> Expr:
    """All phases, each pixel where it belongs; those that no tap reaches are zero."""
    out = node.outputs[0]
    shape = state.shape(out)
    none = (0,) * len(spread.sizes)
    target = Grid(shape[0], spread.outputs, none, none)
    index = np.full((target.rows, shape[-1]), -1, np.int64)
    parts: list[Value] = []
    first = 0
    for phase, along in _phases(spread):
        taps = _phase(spread, grid, whole, phase, along)
        if not taps.under:
            continue
        rows = target.under(
            [
                np.arange(p, n, s)
                for p, n, s in zip(phase, spread.outputs, spread.strides, strict=True)
            ]
        )
        expr = summed(state, out, taps, len(rows))
        parts.append(hold(state, expr, (len(rows), shape[-1])).value)
        index[rows] = first + np.arange(len(rows) * shape[-1]).reshape(len(rows), -1)
        first += len(rows) * shape[-1]
    if not parts:
        return Const(np.zeros(()), Type.F32)
    value = state.new_value(out, *index.shape, Type.F32)
    state.steps.append(Move(value, tuple(parts), index, (state.node,)))
    return Leaf(value, None)


@lowers("ConvTranspose")
def _lower_transposed(state: Lowering, node: Node) -> None:
    x, w = node.inputs[:2]
    for name in (x, w):
        if state.dtype(name) not in FLOATS:
            raise UnsupportedModel("element-type", f"ConvTranspose of {state.dtype(name)}")
    if state.options.precision == "int8":
        raise UnsupportedModel(
            "element-type", f"{x!r} convolved with {w!r} is a product of floats", help="use auto"
        )
    spread, groups = _spread(state, node), int(node.attributes.get("group", 1))
    c, m, *kernel = state.shape(w)
    split_up = groups, c // groups, m, -1
    terms = math.prod(max(1, k // s) for k, s in zip(kernel, spread.strides, strict=True))
    image, factors = operands(
        state, node, lambda w: w.reshape(split_up).transpose(3, 0, 2, 1), terms
    )
    grid = _grid(spread, state.shape(x)[0])
    image = bordered(state, image, grid, groups=groups)
    whole = Taps(image, (), tap_weights(state, w, factors), groups, grid.rows, factors)
    if all(s == 1 for s in spread.strides):
        phase, along = _phases(spread)[0]
        taps = _phase(spread, grid, whole, phase, along)
        result = summed(state, node.outputs[0], taps, len(taps.under[0]))
    else:
        result = _joined(state, node, spread, grid, whole)
    state.define(node.outputs[0], with_bias(state, node, result))
