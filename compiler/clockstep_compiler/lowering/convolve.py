"""Convolutions: one product for each tap of the kernel, summed like the K tiles of a MatMul.

The image has a row for each pixel and a border of real rows; a tap's operand is a row index into
it, and its weights are [M, C]. Integers have their groups in one matrix of weights with zeros
elsewhere, which is exact. Floats have a product for each group, since zero times infinity is not
zero; where every channel is a group of its own, taps are multiplied and added by the VXM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, binary, cast, mul
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import combine
from clockstep_compiler.lowering.lower import (
    FLOATS,
    Lowering,
    Quant,
    lowers,
    offset_of,
    stored_elements,
)
from clockstep_compiler.lowering.quantized import constant_of, requantize
from clockstep_compiler.lowering.windows import Window, bordered, window_of
from clockstep_compiler.steps import Compute, Move, Outer, Product, Term, Value, Weights
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["Taps", "product_type", "summed", "tap_weights", "with_bias"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, slots=True)
class Taps:
    """What a kernel sees: for each tap the rows of `image` under it, and its weights.

    `rows` are those of one group's part of the image; groups follow each other.
    """

    image: Value
    under: tuple[NDArray[np.int64], ...]
    weights: tuple[Weights | Value, ...]
    groups: int
    rows: int


def _window(state: Lowering, node: Node, image: str, weights: str) -> Window:
    shape = state.shape(weights)
    groups = int(node.attributes.get("group", 1))
    channels = state.shape(image)[-1]
    if groups < 1 or shape[1] * groups != channels or shape[0] % groups:
        raise UnsupportedModel(
            "unsupported-form", f"{channels} channels, weights {list(shape)}, {groups} groups"
        )
    declared = node.attributes.get("kernel_shape")
    if declared and tuple(declared) != shape[2:]:
        raise UnsupportedModel(
            "unsupported-form", f"kernel_shape {list(declared)}, weights {list(shape)}"
        )
    return window_of(node, state.shape(image), state.shape(node.outputs[0]), shape[2:])


def _constant_weights(state: Lowering, name: str) -> Array | None:
    """The weights in float64 or int64 if they are constant, perhaps of a DequantizeLinear."""
    constant = state.constant(name)
    if constant is not None:
        return constant.astype(np.float64 if state.dtype(name) in FLOATS else np.int64)
    expr = state.tensors[name].expr
    return np.broadcast_to(expr.array, state.shape(name)) if isinstance(expr, Const) else None


# -- floats -----------------------------------------------------------------------------------


def product_type(state: Lowering) -> Type:
    """The type that images are kept in for products of floats."""
    return Type.F32 if state.options.precision == "exact" else Type.F16


def tap_weights(
    state: Lowering, name: str, places: NDArray[np.int64]
) -> tuple[Weights | Value, ...]:
    """The weights of each tap, a set for each group; under `exact` as matrices [depth, columns].

    `places` [taps, groups, M / groups, C / groups] says where in the tensor they are.
    """
    kind = product_type(state)
    if kind == Type.F32:
        places = places.swapaxes(2, 3)
    _, groups, rows, columns = places.shape
    array = _constant_weights(state, name)
    source = state.store(name, kind) if array is None else None
    if array is not None:
        data = stored_elements(array, "float32", kind)
        state.weight_bytes += data.nbytes
        if np.isinf(data).any() and not np.isinf(array).any():
            state.warnings.append(f"constant {name!r} exceeds {kind.name} and became infinite")
    found: list[Weights | Value] = []
    for at in places:
        if source is None and kind == Type.F16:
            found.append(Weights(groups, rows, columns, data=data.ravel()[at]))
            continue
        if source is None:
            value = state.constant_value(name, data.ravel()[at].reshape(-1, columns))
        else:
            value = state.new_value(name, groups * rows, columns, kind)
            state.steps.append(Move(value, (source,), at.reshape(-1, columns), (state.node,)))
        exact = kind == Type.F32
        found.append(value if exact else Weights(groups, rows, columns, value=value))
    return tuple(found)


def summed(state: Lowering, name: str, taps: Taps, pixels: int) -> Expr:
    """The sum over taps in f32; results of groups are joined to one row for each pixel."""
    rows = taps.groups * pixels
    indices = [
        np.concatenate([under + g * taps.rows for g in range(taps.groups)]) for under in taps.under
    ]
    sets = np.repeat(np.arange(taps.groups), pixels) if taps.groups > 1 else None
    terms: list[Term] = []
    total: Expr | None = None
    for index, weights in zip(indices, taps.weights, strict=True):
        if isinstance(weights, Weights):
            terms.append(Term(taps.image, weights, index))
            continue
        part = state.new_value(name, rows, weights.columns, Type.F32)
        state.steps.append(Outer(part, taps.image, weights, index, sets, (state.node,)))
        total = Leaf(part, None) if total is None else binary("add", total, Leaf(part, None))
    if total is None:
        total = Acc(Product(Type.F16, rows, terms[0].weights.columns, tuple(terms), sets))
    columns = taps.weights[0].columns
    if taps.groups == 1:
        return total
    apart = state.new_value(name, rows, columns, Type.F32)
    state.steps.append(Compute(apart, total, (state.node,), (rows, columns)))
    places = np.arange(rows * columns).reshape(taps.groups, pixels, columns)
    index = np.ascontiguousarray(places.transpose(1, 0, 2).reshape(pixels, -1))
    joined = state.new_value(name, pixels, taps.groups * columns, Type.F32)
    state.steps.append(Move(joined, (apart,), index, (state.node,)))
    return Leaf(joined, None)


def _float_convolution(state: Lowering, node: Node) -> Expr:
    x, w = node.inputs[:2]
    window = _window(state, node, x, w)
    groups = int(node.attributes.get("group", 1))
    array = _constant_weights(state, w)
    image, grid = state.store(x, product_type(state)), window.grid()
    if array is not None and groups == image.columns and groups > 1:
        return _depthwise(state, bordered(state, image, grid), window, array)
    under = tuple(window.under(grid, tap) for tap in window.taps())
    split = bordered(state, image, grid, groups=groups)
    shape = state.shape(w)
    numbered = np.arange(math.prod(shape)).reshape(groups, shape[0] // groups, shape[1], -1)
    weights = tap_weights(state, w, numbered.transpose(3, 0, 1, 2))
    taps = Taps(split, under, weights, groups, grid.rows)
    return summed(state, node.outputs[0], taps, len(under[0]))


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


# -- integers ---------------------------------------------------------------------------------


def _int8_parts(array: NDArray[np.int64]) -> list[NDArray[np.int8]]:
    """Integers as a sum of int8 arrays, as few as it takes."""
    parts = []
    while np.any(array):
        part = np.clip(array, -128, 127)
        parts.append(part.astype(np.int8))
        array = array - part
    return parts


def _dense(array: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """Weights [taps, M, C] of all groups in one, zero between channels of different groups."""
    m, c = array.shape[:2]
    taps = array.reshape(m, c, -1).transpose(2, 0, 1)
    full = np.zeros((len(taps), m, groups * c), np.int64)
    for g in range(groups):
        rows = slice(g * (m // groups), (g + 1) * (m // groups))
        full[:, rows, g * c : (g + 1) * c] = taps[:, rows]
    return full


def _integer_convolution(
    state: Lowering,
    node: Node,
    x: str,
    zero: int,
    weights: tuple[str, NDArray[np.int64]],
) -> Expr:
    """sum of (x - zero) * w over the kernel, exact in i32; the weights have a name and a value."""
    window = _window(state, node, x, weights[0])
    groups = int(node.attributes.get("group", 1))
    offset = offset_of(state.dtype(x))
    grid = window.grid()
    image = bordered(state, state.store(x, Type.I8), grid, zero + offset)
    dense = _dense(weights[1], groups)
    terms = []
    for tap, matrix in zip(window.taps(), dense, strict=True):
        for part in _int8_parts(matrix):
            state.weight_bytes += part.nbytes // groups
            wanted = Weights(1, len(part), part.shape[1], data=part[None])
            terms.append(Term(image, wanted, window.under(grid, tap)))
    pixels = math.prod(state.shape(node.outputs[0])[:-1])
    product: Expr = Const(np.zeros((), np.int64), Type.I32)
    if terms:
        product = Acc(Product(Type.I8, pixels, dense.shape[1], tuple(terms), None))
    correction = (-offset - zero) * dense.sum(axis=(0, 2))
    return combine("add", product, Const(correction, Type.I32))


def _needs_int8(state: Lowering, *names: str) -> None:
    for name in names:
        if state.dtype(name) not in ("int8", "uint8"):
            raise UnsupportedModel("element-type", f"operand of type {state.dtype(name)}")


def _per_channel(array: Array, channels: int, what: str) -> Array:
    """A parameter of the weights: a scalar, or one for each output channel."""
    if array.size == 1:
        return array.reshape(())
    if array.ndim != 1 or array.size != channels:
        raise UnsupportedModel("unsupported-form", f"{what} of shape {list(array.shape)}")
    return array


def _scalar(array: Array, what: str) -> Array:
    if array.size != 1:
        raise UnsupportedModel("unsupported-form", f"{what} of shape {list(array.shape)}")
    return array.reshape(())


def _shifted(array: Array, zero: Array) -> NDArray[np.int64]:
    """Weights less their zero point, which is a scalar or one for each output channel."""
    shape = (-1, *[1] * (array.ndim - 1)) if zero.ndim else ()
    return array.astype(np.int64) - zero.astype(np.int64).reshape(shape)


@lowers("ConvInteger")
def _lower_integer(state: Lowering, node: Node) -> None:
    x, w = node.inputs[:2]
    _needs_int8(state, x, w)
    array = constant_of(state, node, 1, "kernel")
    zero = int(_scalar(constant_of(state, node, 2, "zero point"), "zero point"))
    own = _per_channel(constant_of(state, node, 3, "zero point"), array.shape[0], "zero point")
    product = _integer_convolution(state, node, x, zero, (w, _shifted(array, own)))
    state.define(node.outputs[0], product)


@lowers("QLinearConv")
def _lower_qlinear(state: Lowering, node: Node) -> None:
    """Inputs x, scale, zero, w, scale, zero, the result's scale and zero, then an int32 bias."""
    x, w, out = node.inputs[0], node.inputs[3], node.outputs[0]
    _needs_int8(state, x, w, out)
    array = constant_of(state, node, 3, "kernel")
    channels = array.shape[0]
    scales = [constant_of(state, node, i, "scale").astype(np.float64) for i in (1, 4, 6)]
    zeros = [constant_of(state, node, i, "zero point").astype(np.int64) for i in (2, 5, 7)]
    own = _per_channel(zeros[1], channels, "zero point")
    zero = int(_scalar(zeros[0], "zero point"))
    product = _integer_convolution(state, node, x, zero, (w, _shifted(array, own)))
    if len(node.inputs) > 8 and node.inputs[8]:
        product = combine("add", product, state.operand(node.inputs[8], state.shape(out)))
    scale = _scalar(scales[0], "scale") * _per_channel(scales[1], channels, "scale")
    real = mul(cast(product, Type.F32), scale)
    result = (_scalar(scales[2], "scale"), _scalar(zeros[2], "zero point"))
    state.define(out, requantize(real, *result, state.dtype(out)), narrow=True)


# -- Conv ---------------------------------------------------------------------------------------


def with_bias(state: Lowering, node: Node, result: Expr) -> Expr:
    """Plus the third input, one for each channel."""
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    if not bias:
        return result
    return combine("add", result, state.operand(bias, state.shape(node.outputs[0])))


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
        sums = _integer_convolution(state, node, x.source, zero, (node.inputs[1], weights))
        scale = x.scale.reshape(()) * w.scale.astype(np.float64)
        result = mul(cast(sums, Type.F32), scale.reshape(()) if scale.size == 1 else scale.ravel())
    state.define(node.outputs[0], with_bias(state, node, result))
