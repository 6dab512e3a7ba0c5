"""Quantization with parameters that are computed: scales and zero points that depend on data.

Where all parameters are constants, the operators have lowerings of their own, which merge scales.
Everything here is exact but for roundings of float32, whose order is onnxruntime's.
"""

from __future__ import annotations

import numpy as np

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.tensors import dtype_name
from clockstep_compiler.graph import Tensor

__all__: list[str] = []


def _computed(body: Body, *names: str) -> bool:
    return any(name and body.value(name) is None for name in names)


def _spread(body: Body, name: str, shape: tuple[int, ...], axis: int, block: int = 0) -> str:
    """A parameter so that it broadcasts to `shape`: one of the tensor, of an axis, or of blocks."""
    own, rank = body.shape(name), len(shape)
    if own in ((), (1,)) and not block:
        return _reshaped(body, name, (1,) * rank)
    axis %= max(1, rank)
    if block:
        blocks = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
        if own != blocks:
            raise Refused("unsupported-form", f"a scale of shape {list(own)}, not {list(blocks)}")
        return body.op("Gather", name, body.constant(np.arange(shape[axis]) // block), axis=axis)
    if not rank or own != (shape[axis],):
        raise Refused("unsupported-form", f"a scale of shape {list(own)} does not fit axis {axis}")
    return _reshaped(body, name, tuple(n if i == axis else 1 for i, n in enumerate(shape)))


def _reshaped(body: Body, name: str, shape: tuple[int, ...]) -> str:
    """Reshape as of opset 25, for integers of two bits."""
    if body.dtype(name) in ("int2", "uint2") and body.shape(name) != shape:
        return body.own("Reshape", [name], Tensor("", shape, body.dtype(name)))
    return body.reshape(name, shape)


def _linear(body: Body, op: str, dtype: str) -> None:
    """One of our own operators in place of the node, its parameters broadcast to the operand."""
    x, scale, zero = body.inputs(3)
    axis, block = body.attribute("axis", 1), body.attribute("block_size", 0)
    shape = body.shape(x)
    wide = _spread(body, scale, shape, axis, block)
    inputs = [x, wide, _spread(body, zero, shape, axis, block)] if zero else [x, wide]
    saturate = body.attribute("saturate", 1)
    body.give(0, body.own(op, inputs, Tensor("", shape, dtype), saturate=saturate))


def _output_dtype(body: Body, default: str) -> str:
    return dtype_name(body.attribute("output_dtype", 0)) or default


@composes("QuantizeLinear")
def _quantize(body: Body) -> bool:
    """round(x / scale) + zero, clamped."""
    _, scale, zero = body.inputs(3)
    if not _computed(body, scale, zero):
        return False
    _linear(body, "Quantize", body.dtype(zero) if zero else _output_dtype(body, "uint8"))
    return True


@composes("DequantizeLinear")
def _dequantize(body: Body) -> bool:
    """(x - zero) * scale."""
    _, scale, zero = body.inputs(3)
    if not _computed(body, scale, zero):
        return False
    _linear(body, "Dequantize", _output_dtype(body, body.dtype(scale)))
    return True


@composes("DynamicQuantizeLinear")
def _dynamic(body: Body) -> None:
    """The range of the data, with 0 in it, on 0 to 255; scale 1 if there is nothing but zeros."""
    (x,) = body.inputs(1)
    nothing = body.like(0.0, x)
    low = body.op("Min", body.op("ReduceMin", x, keepdims=0), nothing)
    high = body.op("Max", body.op("ReduceMax", x, keepdims=0), nothing)
    span = body.op("Sub", high, low)
    scale = body.op("Div", span, body.like(255.0, x))
    scale = body.op("Where", body.op("Equal", span, nothing), body.like(1.0, x), scale)
    zero = body.op("Round", body.op("Neg", body.op("Div", low, scale)))
    zero = body.op("Clip", zero, nothing, body.like(255.0, x))
    zero = body.cast(zero, "uint8")
    body.give(0, body.op("QuantizeLinear", x, scale, zero))
    body.give(1, scale)
    body.give(2, zero)


# -- products --------------------------------------------------------------------------------------


def _corrected(body: Body, op: str, product: str, factor: str, sums: str) -> str:
    """product `op` factor * sums."""
    return body.op(op, product, body.op("Mul", body.cast(factor, "int32"), sums))


def _rowed(body: Body, zero: str, a: str, b: str) -> str:
    """A zero point of the left operand as it broadcasts to the product: one of every row."""
    shape, rows = body.shape(zero), body.shape(a)
    if len(shape) != 1 or shape == (1,):
        return zero
    if len(rows) < 2 or shape != rows[-2:-1]:
        raise Refused("unsupported-form", f"a zero point of shape {list(shape)}")
    return zero if len(body.shape(b)) == 1 else body.reshape(zero, [shape[0], 1])


def _is_plain(body: Body, zero: str) -> bool:
    """Whether a zero point is absent, or a constant of at most one axis."""
    return not zero or (body.value(zero) is not None and len(body.shape(zero)) < 2)


@composes("MatMulInteger")
def _matmul_integer(body: Body) -> bool:
    """a.b - za sum(b) - zb sum(a) + K za zb, for what of za and zb the lowering does not take."""
    a, b, za, zb = body.inputs(4)
    plain = [_is_plain(body, zero) for zero in (za, zb)]
    if all(plain):
        return False
    left, right = body.shape(a), body.shape(b)
    own = [zero if ok else "" for zero, ok in zip((za, zb), plain, strict=True)]
    product = body.op("MatMulInteger", a, b, *own)
    depth = left[-1]
    if not plain[0]:
        ones = body.constant(np.ones((1, depth)[-min(len(left), 2) :]), np.int8)
        sums = body.op("MatMulInteger", ones, b, "", own[1])
        product = _corrected(body, "Sub", product, _rowed(body, za, a, b), sums)
    if not plain[1]:
        ones = body.constant(np.ones((depth, 1)[: min(len(right), 2)]), np.int8)
        sums = body.op("MatMulInteger", a, ones, own[0])
        product = _corrected(body, "Sub", product, zb, sums)
    if not any(plain):
        both = body.op("Mul", body.cast(_rowed(body, za, a, b), "int32"), body.cast(zb, "int32"))
        product = body.op("Add", product, body.op("Mul", both, body.constant(depth, np.int32)))
    body.give(0, product)
    return True


@composes("ConvInteger")
def _conv_integer(body: Body) -> bool:
    """x*w - zx sum(w) - zw sum(x - zx) over what of the image is under the kernel.

    The lowering takes a computed zero point of the image if the weights are constant.
    """
    x, w, zx, zw = body.inputs(4)
    fixed, known = not _computed(body, w), _is_plain(body, zw)
    if known and (fixed or not _computed(body, zx)):
        return False
    named = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attributes = {name: body.attribute(name) for name in named}
    own = zw if known else ""
    if fixed or not _computed(body, zx):
        product = body.op("ConvInteger", x, w, zx, own, **attributes)
    else:
        ones = body.constant(np.ones((1, *body.shape(x)[1:])), np.int8)
        sums = body.op("ConvInteger", ones, w, "", own, **attributes)
        product = body.op("ConvInteger", x, w, "", own, **attributes)
        product = _corrected(body, "Sub", product, zx, sums)
    if not known:
        (channels, width, *kernel), groups = body.shape(w), body.attribute("group", 1)
        ones = body.constant(np.ones((groups, width, *kernel)), np.int8)
        sums = body.op("ConvInteger", x, ones, zx, **attributes)
        places = body.constant(np.arange(channels) // (channels // groups))
        sums = body.op("Gather", sums, places, axis=1)
        zero = _spread(body, zw, body.shape(product), 1)
        product = _corrected(body, "Sub", product, zero, sums)
    body.give(0, product)
    return True


# -- products with scales --------------------------------------------------------------------------


def _factors(body: Body, a: str, b: str) -> str:
    return body.op("Mul", body.cast(a, "float32"), body.cast(b, "float32"))


@composes("QLinearMatMul")
def _qlinear_matmul(body: Body) -> bool:
    a, sa, za, b, sb, zb, sy, zy = body.inputs(8)
    plain = all(_is_plain(body, name) for name in (sa, za, sb, zb))
    if plain and not _computed(body, sy, zy):
        return False
    product = body.op("MatMulInteger", a, b, za, zb)
    scale = _factors(body, _rowed(body, sa, a, b), sb)
    real = body.op("Mul", body.cast(product, "float32"), scale)
    body.give(0, body.op("QuantizeLinear", real, sy, zy))
    return True


@composes("QLinearConv")
def _qlinear_conv(body: Body) -> bool:
    x, sx, zx, w, sw, zw, sy, zy, bias = body.inputs(9)
    if not _computed(body, sx, zx, sw, zw, sy, zy):
        return False
    named = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attributes = {name: body.attribute(name) for name in named}
    product = body.op("ConvInteger", x, w, zx, zw, **attributes)
    shape = body.shape(product)
    if bias:
        product = body.op("Add", product, _spread(body, bias, shape, 1))
    scale = _spread(body, _factors(body, sx, sw), shape, 1)
    real = body.op("Mul", body.cast(product, "float32"), scale)
    body.give(0, body.op("QuantizeLinear", real, sy, zy))
    return True
