"""Images sampled at computed places: GridSample, DeformConv.

An image is a table with a row for each pixel and its channels along the lanes; a place is a column
of numbers for each axis. The pixels around a place are taken by `Take`, weighed and added up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clockstep_compiler.frontend.bodies.addressed import take
from clockstep_compiler.frontend.body import Body, Refused, composes

__all__ = ["Columns", "table_of"]

_CUBIC = -0.75
"""The parameter of cubic convolution."""


@dataclass(frozen=True, slots=True)
class _Tap:
    """One neighbour along an axis: its place in int32, whether there is such a pixel, its weight.

    `inside` is "" where all places are inside, `weight` where there is one neighbour.
    """

    place: str
    inside: str
    weight: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Arithmetic with columns of numbers in float32."""

    body: Body

    def number(self, value: float) -> str:
        return self.body.constant(value, np.float32)

    def add(self, a: str, b: float) -> str:
        return self.body.op("Add", a, self.number(b))

    def mul(self, a: str, b: float) -> str:
        return self.body.op("Mul", a, self.number(b))

    def clip(self, a: str, low: float, high: float) -> str:
        return self.body.op("Clip", a, self.number(low), self.number(high))

    def polynomial(self, x: str, *coefficients: float) -> str:
        """c[0] x**n + c[1] x**(n-1) + ..."""
        value = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.add(self.body.op("Mul", value, x), coefficient)
        return value


# -- GridSample ------------------------------------------------------------------------------------


@composes("GridSample")
def _grid_sample(body: Body) -> None:
    image, grid = body.inputs(2)
    shape, wanted = body.shape(image), body.shape(grid)[1:-1]
    sizes, rank = shape[2:], len(shape) - 2
    mode = str(body.attribute("mode", "linear")).removeprefix("bi")
    if mode != "nearest" and not body.dtype(image).startswith(("float", "bfloat")):
        raise Refused("element-type", f"{mode} interpolation of {body.dtype(image)}")
    align = bool(body.attribute("align_corners", 0))
    pixels = math.prod(wanted)
    grid = body.reshape(body.cast(grid, "float32"), [shape[0], pixels, rank])
    places = [body.slice(grid, 2, rank - 1 - k, rank - k) for k in range(rank)]
    sampler = _Sampler(body, sizes, mode, str(body.attribute("padding_mode", "zeros")), align)
    places = [sampler.placed(k, place) for k, place in enumerate(places)]
    found = sampler.sample(table_of(body, image), places)
    found = body.reshape(found, [shape[0], *wanted, shape[1]])
    order = [0, len(wanted) + 1, *range(1, len(wanted) + 1)]
    body.give(0, body.cast(body.transpose(found, order), body.dtype(image)))


def table_of(body: Body, image: str) -> str:
    """Images [n, c, ...] as tables [n, pixels, c]."""
    shape = body.shape(image)
    turned = body.transpose(image, [0, *range(2, len(shape)), 1])
    return body.reshape(turned, [shape[0], math.prod(shape[2:]), shape[1]])


@dataclass(frozen=True, slots=True)
class _Sampler:
    """How images of some sizes are sampled: nearest, linear or cubic, and what is beyond them."""

    body: Body
    sizes: Sequence[int]
    mode: str
    padding: str
    align: bool

    def placed(self, axis: int, place: str) -> str:
        """A place from -1 to 1 in pixels, brought into the image as the padding has it."""
        columns, size = Columns(self.body), self.sizes[axis]
        place = columns.add(place, 1.0)
        if self.align:
            place = columns.mul(columns.mul(place, 0.5), size - 1)
        else:
            place = columns.mul(columns.add(columns.mul(place, size), -1.0), 0.5)
        if self.mode == "nearest":
            place = self.body.op("Round", place)
        return self._inside(axis, place)

    def sample(self, table: str, places: Sequence[str]) -> str:
        """Rows [n, m, c] in float32 of tables [n, pixels, c], at places [n, m, 1] in pixels."""
        axes = [self._taps(axis, place) for axis, place in enumerate(places)]
        return self._summed(table, axes, "", "")

    def _summed(self, table: str, axes: Sequence[Sequence[_Tap]], flat: str, inside: str) -> str:
        """The weighted sum over the neighbours along the first axis of those along the others."""
        body = self.body
        if not axes:
            if inside:
                flat = body.op("Where", inside, flat, body.constant(-1, np.int32))
            return body.cast(take(body, table, flat, each=True), "float32")
        size, total = self.sizes[-len(axes)], ""
        for tap in axes[0]:
            place = tap.place
            if flat:
                row = body.op("Mul", flat, body.constant(size, np.int32))
                place = body.op("Add", row, place)
            both = body.op("And", inside, tap.inside) if inside and tap.inside else ""
            value = self._summed(table, axes[1:], place, both or inside or tap.inside)
            value = body.op("Mul", value, tap.weight) if tap.weight else value
            total = body.op("Add", total, value) if total else value
        return total

    def _taps(self, axis: int, place: str) -> list[_Tap]:
        """The neighbours of a place along an axis."""
        if self.mode == "nearest":
            return [self._tap(axis, place, "")]
        body, columns = self.body, Columns(self.body)
        first = body.op("Floor", place)
        part = body.op("Sub", place, first)
        rest = body.op("Sub", columns.number(1.0), part)
        if self.mode == "linear":
            after = columns.add(first, 1.0)
            return [self._tap(axis, first, rest), self._tap(axis, after, part)]
        a = _CUBIC
        outer, inner = (a, -5 * a, 8 * a, -4 * a), (a + 2, -(a + 3), 0.0, 1.0)
        weights = (
            columns.polynomial(columns.add(part, 1.0), *outer),
            columns.polynomial(part, *inner),
            columns.polynomial(rest, *inner),
            columns.polynomial(columns.add(rest, 1.0), *outer),
        )
        return [self._tap(axis, columns.add(first, k - 1), w) for k, w in enumerate(weights)]

    def _tap(self, axis: int, place: str, weight: str) -> _Tap:
        body, size = self.body, self.sizes[axis]
        number = body.cast(self._inside(axis, place, whole=True), "int32")
        if self.padding != "zeros":
            return _Tap(number, "", weight)
        from_first = body.op("GreaterOrEqual", number, body.constant(0, np.int32))
        to_last = body.op("Less", number, body.constant(size, np.int32))
        return _Tap(number, body.op("And", from_first, to_last), weight)

    def _inside(self, axis: int, place: str, whole: bool = False) -> str:
        """A place moved to the border or reflected at it, if there is such padding.

        With cubic convolution only pixels (`whole`) are moved to the border, as torch and
        onnxruntime have it.
        """
        columns, last = Columns(self.body), self.sizes[axis] - 1
        if self.padding == "border" and (whole or self.mode != "cubic"):
            return columns.clip(place, 0.0, last)
        if self.padding == "reflection":
            edge = 0.0 if self.align else 0.5
            place = self._reflected(place, -edge, last + edge)
            return columns.clip(place, 0.0, last) if whole else place
        return place

    def _reflected(self, place: str, low: float, high: float) -> str:
        """A triangular wave: there and back between both borders."""
        body, columns, span = self.body, Columns(self.body), high - low
        if span == 0:
            return columns.clip(place, low, high)
        distance = columns.add(place, -low)
        turns = body.op("Floor", body.op("Div", distance, columns.number(2 * span)))
        rest = body.op("Sub", distance, columns.mul(turns, 2 * span))
        back = body.op("Sub", columns.number(2 * span), rest)
        return columns.add(body.op("Min", rest, back), low)


# -- DeformConv ------------------------------------------------------------------------------------


@composes("DeformConv")
def _deform_conv(body: Body) -> None:
    """Every tap of the kernel is sampled at a place of its own; the rest is a product."""
    image, weights, offset, bias, mask = body.inputs(5)
    shape, kernel = body.shape(image), body.shape(weights)[2:]
    if len(shape) != 4:
        raise Refused("unsupported-form", f"{len(shape) - 2} spatial axes instead of 2")
    groups, parts = body.attribute("group", 1), body.attribute("offset_group", 1)
    outputs, taps = body.shape(offset)[2:], math.prod(kernel)
    batch, pixels = shape[0], math.prod(outputs)
    starts = _tap_places(body, kernel, outputs)
    offset = body.reshape(body.cast(offset, "float32"), [batch, parts, taps, 2, pixels])
    sampler = _Sampler(body, shape[2:], "linear", "zeros", True)
    table, width = table_of(body, image), shape[1] // parts
    found = []
    for part in range(parts):
        own = body.take(offset, 1, part)
        places = []
        for axis in range(2):
            moved = body.op("Add", body.take(own, 2, axis), starts[axis])
            places.append(body.reshape(moved, [batch, taps * pixels, 1]))
        channels = body.slice(table, 2, part * width, (part + 1) * width)
        value = sampler.sample(channels, places)
        if mask:
            own = body.reshape(body.cast(mask, "float32"), [batch, parts, taps * pixels, 1])
            value = body.op("Mul", value, body.take(own, 1, part))
        found.append(value)
    columns = found[0] if parts == 1 else body.op("Concat", *found, axis=2)
    columns = body.reshape(columns, [batch, taps, pixels, shape[1]])
    columns = body.cast(body.transpose(columns, (0, 2, 1, 3)), body.dtype(image))
    result = _group_products(body, columns, weights, groups)
    if bias:
        result = body.op("Add", result, bias)
    result = body.transpose(result, (0, 2, 1))
    body.give(0, body.reshape(result, [batch, body.shape(weights)[0], *outputs]))


def _tap_places(body: Body, kernel: Sequence[int], outputs: Sequence[int]) -> list[str]:
    """Where each tap falls without an offset, [taps, pixels] for each axis."""
    strides, dilations = body.attribute("strides") or [1, 1], body.attribute("dilations") or [1, 1]
    pads = body.attribute("pads") or [0] * 4
    taps = np.indices(tuple(kernel)).reshape(2, -1, 1)
    pixels = np.indices(tuple(outputs)).reshape(2, 1, -1)
    return [
        body.constant(pixels[k] * strides[k] - pads[k] + taps[k] * dilations[k], np.float32)
        for k in range(2)
    ]


def _group_products(body: Body, columns: str, weights: str, groups: int) -> str:
    """Columns [n, pixels, taps, c] times weights [m, c / groups, ...], group by group."""
    batch, pixels, taps, channels = body.shape(columns)
    filters, depth = body.shape(weights)[0] // groups, channels // groups
    found = []
    for group in range(groups):
        own = body.slice(columns, 3, group * depth, (group + 1) * depth)
        matrix = body.slice(weights, 0, group * filters, (group + 1) * filters)
        matrix = body.transpose(matrix, (2, 3, 1, 0))
        found.append(
            body.op(
                "MatMul",
                body.reshape(own, [batch, pixels, taps * depth]),
                body.reshape(matrix, [taps * depth, filters]),
            )
        )
    return found[0] if groups == 1 else body.op("Concat", *found, axis=2)
