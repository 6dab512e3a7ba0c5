"""Convolutions, poolings and moves of elements for the oracle, in exact arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tests.support.exact import Exact

__all__ = ["MOVES", "average_pool", "convolve", "global_average", "max_pool", "mean", "moved"]

Integers = NDArray[np.object_]
Array = NDArray[Any]
Attributes = Mapping[str, Any]

_FLOAT64_EXACT = 1 << 53

MOVES = ("Concat", "Expand", "Gather", "Pad", "Resize", "Slice", "Split", "Tile")
"""Operators that move elements, or fill with zeros."""


# -- windows -------------------------------------------------------------------------------------


class _Window:
    """Where a kernel stands on images of given spatial sizes."""

    def __init__(self, sizes: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> None:
        count = len(sizes)
        self.kernel = tuple(kernel)
        self.strides = tuple(attributes.get("strides") or (1,) * count)
        self.dilations = tuple(attributes.get("dilations") or (1,) * count)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        pads = list(attributes.get("pads") or (0,) * (2 * count))
        mode = attributes.get("auto_pad", b"NOTSET")
        if mode in (b"SAME_UPPER", b"SAME_LOWER"):
            pads = _same(sizes, reach, self.strides, mode == b"SAME_LOWER")
        self.low, self.high = pads[:count], pads[count:]
        up = attributes.get("ceil_mode", 0)
        self.outputs = tuple(
            _output(n + a + b - r, s, n + a, up)
            for n, a, b, r, s in zip(sizes, self.low, self.high, reach, self.strides, strict=True)
        )
        self.sizes = tuple(sizes)

    def padded(self, values: Array, fill: Any) -> Array:
        """The images with a border, as much as the last window reaches over."""
        widths = [(0, 0)] * (values.ndim - len(self.sizes))
        for n, low, high, o, s, k, d in zip(
            *(self.sizes, self.low, self.high, self.outputs),
            *(self.strides, self.kernel, self.dilations),
            strict=True,
        ):
            widths.append((low, max(high, (o - 1) * s + (k - 1) * d + 1 - n - low)))
        return np.pad(values, widths, constant_values=fill)

    def taps(self, padded: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Every position in the kernel and what it sees, for all output pixels."""
        for tap in itertools.product(*(range(k) for k in self.kernel)):
            steps = zip(tap, self.dilations, self.strides, self.outputs, strict=True)
            at = tuple(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, s, o in steps)
            yield tap, padded[(..., *at)]


def _same(
    sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int], lower: bool
) -> list[int]:
    totals = [
        max(0, (-(-n // s) - 1) * s + r - n) for n, r, s in zip(sizes, reach, strides, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return large + small if lower else small + large


def _output(room: int, stride: int, inside: int, up: int) -> int:
    """Windows along an axis; rounded up, none may start behind the image."""
    count = (-(-room // stride) if up else room // stride) + 1
    return count - 1 if up and (count - 1) * stride >= inside else count


# -- convolutions --------------------------------------------------------------------------------


def convolve(x: Integers, w: Integers, attributes: Attributes) -> Integers:
    """A convolution of Python integers, through float64 where that is exact.

    Common factors are taken out first, of the weights for every output channel: what is left of
    dequantized tensors are the integers behind them.
    """
    groups, (batch, channels), (m, c) = attributes.get("group", 1), x.shape[:2], w.shape[:2]
    factor, factors = _factor(x), np.array([_factor(row) for row in w], object)
    spatial = [1] * (w.ndim - 2)
    a, b = x // factor, w // factors.reshape(-1, 1, *spatial)
    bound = _largest(a) * _largest(b) * (w.size // max(1, m))
    if bound < _FLOAT64_EXACT:
        a, b = a.astype(np.float64), b.astype(np.float64)
    window = _Window(x.shape[2:], w.shape[2:], attributes)
    total: Any = 0
    for tap, seen in window.taps(window.padded(a, 0)):
        pixels = seen.reshape(batch, groups, channels // groups, -1)
        total = total + np.matmul(b[(..., *tap)].reshape(groups, m // groups, c), pixels)
    result = np.asarray(total).astype(np.int64 if bound < _FLOAT64_EXACT else object)
    shaped = result.astype(object).reshape(batch, m, *window.outputs)
    return np.asarray(shaped * (factors * factor).reshape(-1, *spatial), object)


def _factor(values: Integers) -> int:
    """The greatest common divisor, 1 of zeros alone."""
    return int(np.gcd.reduce(np.abs(values).reshape(-1), initial=0)) or 1


def _largest(values: Integers) -> int:
    return int(np.abs(values).max(initial=0))


# -- poolings ------------------------------------------------------------------------------------


def max_pool(x: Array, attributes: Attributes) -> Array:
    """The greatest number under the kernel."""
    window = _Window(x.shape[2:], attributes["kernel_shape"], attributes)
    result: Any = None
    for _, seen in window.taps(window.padded(x, x.min())):
        result = seen if result is None else np.maximum(result, seen)
    return np.asarray(result)


def average_pool(x: Exact, attributes: Attributes) -> Exact:
    """The mean of what is under the kernel, the border included only if asked for."""
    window = _Window(x.shape[2:], attributes["kernel_shape"], attributes)
    total: Any = sum(seen for _, seen in window.taps(window.padded(x.numerators, 0)))
    ones = np.ones(window.sizes, np.int64)
    if attributes.get("count_include_pad", 0):
        pads = list(zip(window.low, window.high, strict=True))
        inside = np.pad(ones, pads, constant_values=1)
        beyond = [
            (0, size - n)
            for size, n in zip(window.padded(ones, 0).shape, inside.shape, strict=True)
        ]
        cells = np.pad(inside, beyond)
    else:
        cells = window.padded(ones, 0)
    counts: Any = sum(seen for _, seen in window.taps(cells))
    common = math.lcm(*(int(n) for n in np.unique(counts)))
    scaled = np.asarray(total * (common // counts).astype(object), object)
    return Exact(scaled, x.exponent, x.denominator).over(common)


def mean(x: Exact, axes: Sequence[int], keep: bool) -> Exact:
    """The mean over axes."""
    chosen = tuple(axis % len(x.shape) for axis in axes) or tuple(range(len(x.shape)))
    total = np.asarray(x.numerators.sum(axis=chosen, keepdims=keep), object)
    count = math.prod(x.shape[axis] for axis in chosen)
    return Exact(total, x.exponent, x.denominator).over(count)


def global_average(x: Exact) -> Exact:
    """The mean of every channel."""
    return mean(x, range(2, len(x.shape)), True)


# -- moves ---------------------------------------------------------------------------------------


def moved(node: NodeProto, opset: int, arguments: Sequence[Any]) -> list[Any]:
    """The outputs of an operator that moves elements: it is run on the numbers of the elements."""
    every = node.op_type == "Concat"
    data = list(arguments) if every else list(arguments[:1])
    rest = [None if a is None else _plain(a) for a in arguments[len(data) :]]
    first, numbered = 1, []
    for value in data:
        count = math.prod(value.shape)
        numbered.append(np.arange(first, first + count).reshape(value.shape))
        first += count
    given = {name: v for name, v in zip(node.input, [*numbered, *rest], strict=True) if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in given.items()
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.INT64, None) for n in node.output]
    graph = helper.make_graph([node], "move", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    found = ReferenceEvaluator(model).run(None, given)
    return [_taken(data, np.asarray(index)) for index in found]


def _plain(value: Any) -> Array:
    return value.to_float().astype(np.float32) if isinstance(value, Exact) else np.asarray(value)


def _taken(data: Sequence[Any], index: NDArray[np.int64]) -> Any:
    if not isinstance(data[0], Exact):
        flat = np.concatenate([np.zeros(1, data[0].dtype), *(v.reshape(-1) for v in data)])
        return flat[index]
    exponent = min(value.exponent for value in data)
    common = math.lcm(*(value.denominator for value in data))
    parts = [v.at(exponent).reshape(-1) * (common // v.denominator) for v in data]
    flat = np.concatenate([np.zeros(1, object), *parts])
    return Exact(np.asarray(flat[index], object), exponent, common)
