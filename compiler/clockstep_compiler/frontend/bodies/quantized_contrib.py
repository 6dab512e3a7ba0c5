"""onnxruntime's quantized operators: integers dequantized, computed with, quantized again.

Their domain is `com.microsoft`. The integers are those of onnxruntime's kernels to a step at most:
some of these round in between, some look results up in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clockstep_compiler.frontend.body import Body, Refused, composes

__all__: list[str] = []


def _real(body: Body, x: str, scale: str, zero: str) -> str:
    """The floats behind integers with a scale for all of them."""
    return body.op("DequantizeLinear", x, _scalar(body, scale), _scalar(body, zero))


def _scalar(body: Body, name: str) -> str:
    """A parameter of the tensor, or "" where it is absent."""
    if not name:
        return ""
    if body.shape(name) not in ((), (1,)):
        raise Refused("unsupported-form", f"a parameter of shape {list(body.shape(name))}")
    return body.reshape(name, ())


def _give(body: Body, real: str, scale: str, zero: str, like: str) -> None:
    """The node's result, quantized; without a zero point it has the type of `like`."""
    zero = zero or body.constant(0, body.dtype(like))
    body.give(0, body.op("QuantizeLinear", real, _scalar(body, scale), _scalar(body, zero)))


# -- element by element ----------------------------------------------------------------------------


@composes("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def _binary(body: Body) -> None:
    a, sa, za, b, sb, zb, sc, zc = body.inputs(8)
    op = body.step.node.op_type.removeprefix("QLinear")
    _give(body, body.op(op, _real(body, a, sa, za), _real(body, b, sb, zb)), sc, zc, a)


@composes("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu")
def _unary(body: Body) -> None:
    x, sx, zx, sy, zy = body.inputs(5)
    op = body.step.node.op_type.removeprefix("QLinear")
    alpha = body.attribute("alpha", 0.01) if op == "LeakyRelu" else None
    _give(body, body.op(op, _real(body, x, sx, zx), alpha=alpha), sy, zy, x)


@composes("com.microsoft.QLinearWhere")
def _where(body: Body) -> None:
    condition, x, sx, zx, y, sy, zy, sz, zz = body.inputs(9)
    chosen = body.op("Where", condition, _real(body, x, sx, zx), _real(body, y, sy, zy))
    _give(body, chosen, sz, zz, x)


@composes("com.microsoft.QLinearConcat")
def _concat(body: Body) -> None:
    """The result's parameters, then three inputs for each operand."""
    scale, zero, *rest = body.step.node.input
    parts = [_real(body, *rest[i : i + 3]) for i in range(0, len(rest), 3)]
    axis = body.attribute("axis")
    _give(body, body.op("Concat", *parts, axis=axis), scale, zero, zero)


@composes("com.microsoft.QuantizeLinear", "com.microsoft.DequantizeLinear")
def _linear(body: Body) -> None:
    """As ONNX has them; without a zero point the integers are uint8."""
    inputs = [name for name in body.step.node.input if name]
    block = body.attribute("block_size", 0) or None
    axis = body.attribute("axis", 1)
    if body.shape(inputs[1]) in ((), (1,)):
        inputs[1:] = [_scalar(body, name) for name in inputs[1:]]
    body.give(0, body.op(body.step.node.op_type, *inputs, axis=axis, block_size=block))


# -- along axes ------------------------------------------------------------------------------------


@composes("com.microsoft.QLinearSoftmax")
def _softmax(body: Body) -> None:
    """Before opset 13 all axes from `axis` on are one."""
    x, sx, zx, sy, zy = body.inputs(5)
    shape, axis = body.shape(x), body.attribute("axis", -1)
    real = _real(body, x, sx, zx)
    if body.attribute("opset", 13) < 13:
        flat = body.op("Softmax", body.op("Flatten", real, axis=axis), axis=1)
        real = body.reshape(flat, shape)
    else:
        real = body.op("Softmax", real, axis=axis)
    _give(body, real, sy, zy, x)


Pool = Callable[[str], str]


def _pooled(body: Body, pool: Pool) -> None:
    x, sx, zx, sy, zy = body.inputs(5)
    real, rank = _real(body, x, sx, zx), len(body.shape(x))
    if body.attribute("channels_last", 0):
        real = body.transpose(real, [0, rank - 1, *range(1, rank - 1)])
        real = body.transpose(pool(real), [0, *range(2, rank), 1])
    else:
        real = pool(real)
    _give(body, real, sy, zy, x)


@composes("com.microsoft.QLinearGlobalAveragePool")
def _global_average_pool(body: Body) -> None:
    _pooled(body, lambda x: body.op("GlobalAveragePool", x))


@composes("com.microsoft.QLinearAveragePool")
def _average_pool(body: Body) -> None:
    names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    attributes = {name: body.attribute(name) for name in names}
    _pooled(body, lambda x: body.op("AveragePool", x, **attributes))


# -- products --------------------------------------------------------------------------------------


def _scaled(body: Body, product: str, scales: Sequence[str]) -> str:
    """A sum of integers as floats: scalars first, so that nothing small is kept in between."""
    real = body.cast(product, "float32")
    for scale in sorted(scales, key=lambda name: len(body.shape(name))):
        real = body.op("Mul", real, scale)
    return real


def _plus(body: Body, real: str, bias: str) -> str:
    return body.op("Add", real, bias) if bias else real


@composes("com.microsoft.DynamicQuantizeMatMul")
def _dynamic_quantize_matmul(body: Body) -> None:
    a, b, scale, zero, bias = body.inputs(5)
    quantized, own, zero_a = body.ops("DynamicQuantizeLinear", [a], 3)
    product = body.op("MatMulInteger", quantized, b, zero_a, zero)
    body.give(0, _plus(body, _scaled(body, product, [own, scale]), bias))


@composes("com.microsoft.MatMulIntegerToFloat")
def _matmul_integer_to_float(body: Body) -> None:
    a, b, sa, sb, za, zb, bias = body.inputs(7)
    real = _scaled(body, body.op("MatMulInteger", a, b, za, zb), [sa, sb])
    body.give(0, _plus(body, real, bias))


@composes("com.microsoft.QGemm")
def _gemm(body: Body) -> None:
    """alpha * scales * (A' B' + C), C of integers; in floats if there is no scale of the result."""
    a, sa, za, b, sb, zb, c, sy, zy = body.inputs(9)
    for position, key in enumerate(("transA", "transB")):
        if body.attribute(key, 0):
            a, b = (body.transpose(n, [1, 0]) if i == position else n for i, n in enumerate((a, b)))
    product = _plus(body, body.op("MatMulInteger", a, b, za, zb), c)
    real = _scaled(body, product, [sa, sb])
    alpha = float(body.attribute("alpha", 1.0))
    if alpha != 1.0:
        real = body.op("Mul", real, body.like(alpha, real))
    if sy:
        _give(body, real, sy, zy, a)
    else:
        body.give(0, real)
