"""Convolutions of integers: exact in i32, whatever the zero points.

Groups share one matrix of weights for each tap, with zeros between channels of different groups,
which is exact; of those tiles that are zero altogether nothing is computed. What the zero point of
the image takes away is given back by a term for each output channel: its border is that zero point.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, cast, mul
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import combine
from clockstep_compiler.lowering.lower import Lowering, lowers, offset_of
from clockstep_compiler.lowering.matmul_integers import int8_parts
from clockstep_compiler.lowering.quantized import constant_of, requantize
from clockstep_compiler.lowering.taps import (
    convolution_window,
    is_narrow,
    line_taps,
    side_by_side,
)
from clockstep_compiler.lowering.windows import (
    Fill,
    border_row,
    bordered,
    gathered,
    unbordered,
)
from clockstep_compiler.steps import Move, Product, Term, Weights
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["integer_convolution"]

Array = NDArray[Any]


def _dense(array: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """Weights [taps, M, C] of all groups in one, zero between channels of different groups."""
    m, c = array.shape[:2]
    taps = array.reshape(m, c, -1).transpose(2, 0, 1)
    full = np.zeros((len(taps), m, groups * c), np.int64)
    for g in range(groups):
        rows = slice(g * (m // groups), (g + 1) * (m // groups))
        full[:, rows, g * c : (g + 1) * c] = taps[:, rows]
    return full


def integer_convolution(
    state: Lowering,
    node: Node,
    x: str,
    zero: int | str,
    weights: tuple[str, NDArray[np.int64]],
) -> Expr:
    """sum of (x - zero) * w over the kernel, exact in i32; the weights have a name and a value.

    `zero` is a number, or the tensor that holds it, of the type of the image.
    """
    window = convolution_window(state, node, x, weights[0])
    groups = int(node.attributes.get("group", 1))
    grid, taps = window.grid(), window.taps()
    image = state.store(x, Type.I8)
    dense = _dense(weights[1], groups)
    fill = _fill(state, zero, state.dtype(x), image.columns)
    if is_narrow(window, image.columns):
        image, grid = gathered(state, image, window, fill)
        dense, taps = side_by_side(dense, window), line_taps(window)
        found = [window.under(grid, tap) for tap in taps]
    else:
        found = [unbordered(window, grid, tap) for tap in taps]
    border = border_row(state, image, fill) if any((u < 0).any() for u in found) else None
    terms = []
    for under, matrix in zip(found, dense, strict=True):
        for part in int8_parts(matrix):
            state.weight_bytes += part.nbytes // groups
            wanted = Weights(1, len(part), part.shape[1], data=part[None])
            terms.append(Term(image, wanted, under, fill=border))
    shape = state.shape(node.outputs[0])
    product: Expr = Const(np.zeros((), np.int64), Type.I32)
    if terms:
        product = Acc(Product(Type.I8, math.prod(shape[:-1]), dense.shape[1], tuple(terms), None))
    sums = Const(dense.sum(axis=(0, 2)), Type.I32)
    if isinstance(fill, int):
        return combine("add", product, Const(-fill * sums.array, Type.I32))
    assert isinstance(zero, str)
    stored = cast(state.leaf(zero, shape), Type.I32)
    return combine("sub", product, combine("mul", stored, sums))


def _fill(state: Lowering, zero: int | str, dtype: str, columns: int) -> Fill:
    """Zero points as they are stored, for a border of so many columns."""
    if isinstance(zero, int):
        return zero + offset_of(dtype)
    single = state.store(zero, Type.I8)
    row = state.new_value(zero, 1, columns, Type.I8)
    state.steps.append(Move(row, (single,), np.zeros((1, columns), np.int64), (state.node,)))
    return row


def _computed_convolution(
    state: Lowering, node: Node, x: str, zero: int, w: str, own: NDArray[np.int64]
) -> Expr:
    """The same with weights that are computed, less their zero points `own`.

    (x + s)(w + t) = xw + xt + sw + st, for elements as stored: the middle terms are products with
    constants. Places between channels of different groups hold zero.
    """
    window, (m, c, *_) = convolution_window(state, node, x, w), state.shape(w)
    groups = int(node.attributes.get("group", 1))
    s, t = -offset_of(state.dtype(x)) - zero, -offset_of(state.dtype(w)) - own
    count = math.prod(state.shape(w))
    places = _dense(np.arange(count).reshape(m, c, -1) + 1, groups) - 1
    shifts = _dense(np.broadcast_to(t.reshape(-1, 1, 1), (m, c, count // (m * c))), groups)
    constant = s * shifts.sum(axis=(0, 2))
    grid, taps = window.grid(), window.taps()
    image, source = state.store(x, Type.I8), state.store(w, Type.I8)
    if is_narrow(window, image.columns):
        image, grid = gathered(state, image, window, -s)
        places, shifts = side_by_side(places, window), side_by_side(shifts, window)
        taps = line_taps(window)
    else:
        image = bordered(state, image, grid, -s)
    pixels, terms = math.prod(state.shape(node.outputs[0])[:-1]), []
    for tap, index, shift in zip(taps, places, shifts, strict=True):
        value = state.new_value(w, m, image.columns, Type.I8)
        state.steps.append(Move(value, (source,), np.ascontiguousarray(index), (state.node,)))
        weights = Weights(1, m, image.columns, value=value)
        under = window.under(grid, tap)
        terms.append(Term(image, weights, under))
        for part in int8_parts(shift):
            terms.append(Term(image, Weights(1, m, image.columns, data=part[None]), under))
        for part in int8_parts(np.full((1, image.columns), s)):
            row = state.constant_value("zero point", part)
            terms.append(Term(row, weights, np.zeros(pixels, np.int64)))
    product = Acc(Product(Type.I8, pixels, m, tuple(terms), None))
    return combine("add", product, Const(constant, Type.I32))


def _sums(
    state: Lowering, node: Node, x: str, zero: int | str, w: str, zeros: NDArray[np.int64]
) -> Expr:
    """sum of (x - zero) * (w - zeros), `zeros` a scalar or one for each output channel."""
    array = state.constant(w)
    if array is None:
        assert isinstance(zero, int), f"{zero!r} is computed, and so are the weights"
        return _computed_convolution(state, node, x, zero, w, zeros)
    return integer_convolution(state, node, x, zero, (w, _shifted(array, zeros)))


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
    zeros = constant_of(state, node, 3, "zero point").astype(np.int64)
    own = _per_channel(zeros, state.shape(w)[0], "zero point")
    state.define(node.outputs[0], _sums(state, node, x, _image_zero(state, node), w, own))


def _image_zero(state: Lowering, node: Node) -> int | str:
    """The zero point of the image: a number, or the tensor that it is computed as."""
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    if not name or state.constant(name) is not None:
        return int(_scalar(constant_of(state, node, 2, "zero point"), "zero point"))
    if math.prod(state.shape(name)) != 1:
        raise UnsupportedModel("unsupported-form", f"zero point of shape {state.shape(name)}")
    return name


@lowers("QLinearConv")
def _lower_qlinear(state: Lowering, node: Node) -> None:
    """Inputs x, scale, zero, w, scale, zero, the result's scale and zero, then an int32 bias."""
    x, w, out = node.inputs[0], node.inputs[3], node.outputs[0]
    _needs_int8(state, x, w, out)
    channels = state.shape(w)[0]
    scales = [constant_of(state, node, i, "scale").astype(np.float64) for i in (1, 4, 6)]
    zeros = [constant_of(state, node, i, "zero point").astype(np.int64) for i in (2, 5, 7)]
    own = _per_channel(zeros[1], channels, "zero point")
    zero = int(_scalar(zeros[0], "zero point"))
    product = _sums(state, node, x, zero, w, own)
    if len(node.inputs) > 8 and node.inputs[8]:
        product = combine("add", product, state.operand(node.inputs[8], state.shape(out)))
    scale = _scalar(scales[0], "scale") * _per_channel(scales[1], channels, "scale")
    real = mul(cast(product, Type.F32), scale)
    result = (_scalar(scales[2], "scale"), _scalar(zeros[2], "zero point"))
    state.define(out, requantize(real, *result, state.dtype(out)), narrow=True)
