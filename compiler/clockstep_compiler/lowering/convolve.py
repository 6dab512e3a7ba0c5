"""Conv: one product for each tap of the kernel, summed like the K tiles of a MatMul.

Floats have a product for each group, since zero times infinity is not zero; where every channel is
a group of its own, taps are multiplied and added by the VXM. Where both operands were dequantized
the integers are multiplied: see `convolve_integer.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, binary, cast, mul
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.convolve_integer import integer_convolution
from clockstep_compiler.lowering.lower import FLOATS, Lowering, Quant, lowers
from clockstep_compiler.lowering.parts import (
    SHORT,
    factors,
    on_alus,
    scaled,
    split,
    split_constant,
)
from clockstep_compiler.lowering.taps import (
    Taps,
    constant_weights,
    convolution_window,
    is_narrow,
    line_taps,
    operands,
    side_by_side,
    summed,
    tap_weights,
    with_bias,
)
from clockstep_compiler.lowering.windows import Window, bordered, gathered
from clockstep_compiler.steps import Move, Product, Term, Value, Weights
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__: list[str] = []

Array = NDArray[Any]


def _float_convolution(state: Lowering, node: Node) -> Expr:
    x, w = node.inputs[:2]
    window = convolution_window(state, node, x, w)
    groups = int(node.attributes.get("group", 1))
    array, grid = constant_weights(state, w), window.grid()
    if array is not None and groups == state.shape(x)[-1] and groups > 1:
        exact = state.options.precision == "exact"
        image = state.store(x, Type.F32 if exact else state.stored_type(x))
        return _depthwise(state, bordered(state, image, grid), window, array.astype(np.float64))
    if array is not None and _is_product(state, node, window, groups):
        return _product(state, x, array.reshape(len(array), -1))
    shape = state.shape(w)
    split_up = groups, shape[0] // groups, shape[1], -1
    narrow = groups == 1 and is_narrow(window, shape[1])
    taps = line_taps(window) if narrow else window.taps()
    image, given = operands(
        state, node, lambda w: w.reshape(split_up).transpose(3, 0, 1, 2), len(taps)
    )
    if narrow:
        image, grid = gathered(state, image, window, 0)
        lines = side_by_side(given.elements[:, 0], window)[:, None]
        given = replace(given, elements=lines)
    else:
        image = bordered(state, image, grid, groups=groups)
    under = tuple(window.under(grid, tap) for tap in taps)
    parts = None
    if array is not None and given.kind == Type.F16 and not narrow:
        parts = _in_two_parts(state, array.reshape(split_up).transpose(3, 0, 1, 2))
    weights: tuple[Weights | Value, ...] = ()
    for elements in parts or (given.elements,):
        weights += tap_weights(state, w, replace(given, elements=elements))
    under *= len(parts or (given,))
    seen = Taps(image, under, weights, groups, grid.rows, given)
    return summed(state, node.outputs[0], seen, len(under[0]))


_SMALL = 48
"""Elements of a kernel up to which its weights are taken in two parts."""


def _in_two_parts(state: Lowering, weights: Array) -> tuple[Array, Array] | None:
    """Weights [taps, groups, M, C] in fp16 and what that leaves of them, if sums are of few.

    Few do not make up for each other's errors, and take little of an array. Both parts have the
    sign of the whole, and neither is zero, so that infinity times it remains what it was.
    """
    few = weights.shape[0] * weights.shape[3] <= _SMALL
    limit = float(np.finfo(np.float16).max)
    if state.options.precision == "exact" or not few or not (np.abs(weights) <= limit).all():
        return None
    near = weights.astype(np.float16)
    if (near == weights).all():
        return None
    high = np.where(np.abs(near) > np.abs(weights), np.nextafter(near, np.float16(0)), near)
    low = (weights - high).astype(np.float16)
    least = np.copysign(np.finfo(np.float16).smallest_subnormal, weights).astype(np.float16)
    high, low = (np.where((part == 0) & (weights != 0), least, part) for part in (high, low))
    return high, low


def _is_product(state: Lowering, node: Node, window: Window, groups: int) -> bool:
    """Whether every pixel is by itself and has so many channels that its parts stay apart."""
    x = node.inputs[0]
    if state.options.precision != "exact" or state.dtype(x) == "float16":
        return False
    alone = {groups, *window.kernel, *window.strides} == {1}
    padded = any(window.before) or any(window.after)
    return alone and not padded and state.shape(x)[-1] > SHORT and not on_alus(state, node)


def _product(state: Lowering, x: str, array: Array) -> Expr:
    """Pixels times constant weights [M, C], both in parts."""
    image = split(state, state.store(x, Type.F32))
    high, low, scale = split_constant(array)
    state.weight_bytes += high.nbytes + low.nbytes
    channels, depth = array.shape
    weights = [Weights(1, channels, depth, data=part[None]) for part in (high, low)]
    terms = tuple(Term(value, w, None) for value, w in factors(state, image, weights))
    shape = image.high.rows, channels
    sums = Acc(Product(Type.F16, *shape, terms, None))
    if isinstance(image.unit, Value):
        return scaled(state, sums, shape, scale, [image.unit])
    return scaled(state, sums, shape, scale * image.unit, [])


def _depthwise(state: Lowering, image: Value, window: Window, array: Array) -> Expr:
    """Every channel by itself: the sum over taps of pixels times a vector, in f32."""
    columns = array.shape[0]
    if columns != image.columns:
        image = _repeated(state, image, columns // image.columns)
    grid = window.grid()
    total: Expr | None = None
    for tap, vector in zip(window.taps(), array.reshape(columns, -1).T, strict=True):
        pixels = cast(Leaf(image, window.under(grid, tap)), Type.F32)
        term = binary("mul", pixels, Const(np.ascontiguousarray(vector), Type.F32))
        total = term if total is None else binary("add", total, term)
    assert total is not None
    return total


def _repeated(state: Lowering, image: Value, times: int) -> Value:
    """Every channel `times` times."""
    out = state.new_value(image.name, image.rows, image.columns * times, image.type)
    places = np.arange(image.rows * image.columns).reshape(image.rows, -1)
    state.steps.append(Move(out, (image,), np.repeat(places, times, axis=1), (state.node,)))
    return out


def _quantized_pair(state: Lowering, node: Node) -> tuple[Quant, Quant] | None:
    """The integers of image and weights, if their product can be scaled afterwards."""
    tensors = [state.tensors.get(name) for name in node.inputs[:2]]
    x, w = (None if t is None else t.quant for t in tensors)
    if x is None or w is None or state.constant(w.source) is None:
        return None
    if any(state.dtype(q.source) not in ("int8", "uint8") for q in (x, w)):
        return None
    if x.scale.size != 1 or x.zero.size != 1:
        return None
    channels = state.shape(node.inputs[1])[0]
    if any(p.size != 1 and p.shape[0] != channels for p in (w.scale, w.zero)):
        return None
    if any(p.size not in (1, channels) for p in (w.scale, w.zero)):
        return None
    return x, w


@lowers("Conv")
def _lower_conv(state: Lowering, node: Node) -> None:
    """Of the integers where both operands were dequantized, else in fp16."""
    precision = state.options.precision
    for name in node.inputs[:2]:
        if state.dtype(name) not in FLOATS:
            raise UnsupportedModel(
                "element-type", f"Conv of {state.dtype(name)}", help="use ConvInteger"
            )
    pair = None if precision == "fp16" else _quantized_pair(state, node)
    if pair is None and precision == "int8":
        raise UnsupportedModel(
            "element-type",
            f"{node.inputs[0]!r} convolved with {node.inputs[1]!r} is a product of floats",
            help="quantize both operands (QuantizeLinear and DequantizeLinear), or use auto",
        )
    if pair is None:
        result = _float_convolution(state, node)
    else:
        x, w = pair
        array = state.constant(w.source)
        assert array is not None
        weights = array.astype(np.int64) - w.zero
        zero = int(x.zero.reshape(()))
        sums = integer_convolution(state, node, x.source, zero, (node.inputs[1], weights))
        scale = x.scale.reshape(()) * w.scale.astype(np.float64)
        result = mul(cast(sums, Type.F32), scale.reshape(()) if scale.size == 1 else scale.ravel())
    state.define(node.outputs[0], with_bias(state, node, result))
