"""Operators that onnxruntime puts in the place of several: activations, products, norms.

Their domain is `com.microsoft`; exported and optimised models of transformers are full of them.
"""

from __future__ import annotations

from typing import Any

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__ = ["activated", "refuse_attributes", "refuse_operands", "sums"]


def sums(body: Body, *names: str) -> str:
    """The sum of the operands that are there, from left to right."""
    total, *rest = filter(None, names)
    for name in rest:
        total = body.op("Add", total, name)
    return total


def refuse_attributes(body: Body, **usual: object) -> None:
    """Refuse a node that has another value than the usual one for any of these attributes."""
    for name, value in usual.items():
        if body.attribute(name, value) != value:
            problem = f"{name} is {body.attribute(name)!r}: only {value!r} is supported"
            raise Refused("unsupported-form", problem)


def refuse_operands(body: Body, names: dict[int, str]) -> None:
    """Refuse a node that has any of these operands."""
    operands = body.inputs(max(names) + 1)
    for index, name in names.items():
        if operands[index]:
            raise Refused("unsupported-form", f"the operand {name} is not supported")


# -- activations -----------------------------------------------------------------------------------


@composes("com.microsoft.Gelu")
def _gelu(body: Body) -> None:
    (x,) = body.inputs(1)
    body.give(0, body.op("Gelu", x))


@composes("com.microsoft.BiasGelu")
def _bias_gelu(body: Body) -> None:
    body.give(0, body.op("Gelu", sums(body, *body.inputs(2))))


@composes("com.microsoft.FastGelu")
def _fast_gelu(body: Body) -> None:
    body.give(0, body.op("Gelu", sums(body, *body.inputs(2)), approximate="tanh"))


@composes("com.microsoft.QuickGelu")
def _quick_gelu(body: Body) -> None:
    """x * sigmoid(alpha * x)."""
    (x,) = body.inputs(1)
    alpha = float(body.attribute("alpha", 1.702))
    scaled = x if alpha == 1.0 else body.op("Mul", x, body.like(alpha, x))
    body.give(0, body.op("Mul", x, body.op("Sigmoid", scaled)))


@composes("com.microsoft.BiasSplitGelu")
def _bias_split_gelu(body: Body) -> None:
    """The first half of the sum's last axis times the Gelu of the second."""
    total = body.op("Add", *body.inputs(2))
    left, right = body.ops("Split", [total], 2, axis=-1, num_outputs=2)
    body.give(0, body.op("Mul", left, body.op("Gelu", right)))


_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}
"""Activations of fused operators, and the parameters that they take in order."""


def activated(body: Body, name: str, activation: str, parameters: list[float]) -> str:
    """A value after the activation of a fused operator; none if that is ""."""
    if not activation:
        return name
    if activation == "Clip" and len(parameters) == 2:
        return body.op("Clip", name, *(body.like(float(p), name) for p in parameters))
    if activation not in _ACTIVATIONS:
        known = ", ".join(("Clip", *_ACTIVATIONS))
        problem = f"activation {activation!r} is none of {known}"
        raise Refused("unsupported-form", problem)
    given: dict[str, Any] = dict(zip(_ACTIVATIONS[activation], parameters, strict=False))
    return body.op(activation, name, **given)


# -- products --------------------------------------------------------------------------------------


def _turned(body: Body, name: str, batch: bool, last: bool) -> str:
    """An operand with its first axis moved before the last one, and its last two exchanged."""
    rank = len(body.shape(name))
    if rank < 2:
        return name
    order = list(range(rank))
    if batch:
        order = [*order[1:-1], order[0], order[-1]]
    if last:
        order = [*order[:-2], order[-1], order[-2]]
    return body.transpose(name, order)


@composes("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul")
def _fused_matmul(body: Body) -> None:
    a, b = body.inputs(2)
    flags = {n: bool(body.attribute(n, 0)) for n in ("transBatchA", "transA")}
    a = _turned(body, a, *flags.values())
    b = _turned(body, b, *(bool(body.attribute(n, 0)) for n in ("transBatchB", "transB")))
    product = body.op("MatMul", a, b)
    alpha = float(body.attribute("alpha", 1.0))
    body.give(0, product if alpha == 1.0 else body.op("Mul", product, body.like(alpha, product)))


@composes("com.microsoft.FusedGemm")
def _fused_gemm(body: Body) -> None:
    names = ("alpha", "beta", "transA", "transB")
    given = {name: body.attribute(name) for name in names}
    found = body.op("Gemm", *filter(None, body.inputs(3)), **given)
    parameters = [body.attribute(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    kept = [float(p) for p in parameters if p is not None]
    body.give(0, activated(body, found, body.attribute("activation", ""), kept))


@composes("com.microsoft.FusedConv")
def _fused_conv(body: Body) -> None:
    """A convolution, plus the fourth operand, then an activation."""
    x, weights, bias, more = body.inputs(4)
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    given = {name: body.attribute(name) for name in names}
    found = body.op("Conv", x, weights, *filter(None, [bias]), **given)
    parameters = [float(p) for p in body.attribute("activation_params", [])]
    found = activated(body, sums(body, found, more), body.attribute("activation", ""), parameters)
    body.give(0, found)


# -- norms -----------------------------------------------------------------------------------------


def _refuse_statistics(body: Body, *indices: int) -> None:
    """Means and deviations are outputs for training; onnxruntime's CPU does not make them."""
    if any(map(body.wants, indices)):
        problem = "the mean and the deviation as outputs are for training"
        raise Refused("unsupported-form", problem, "export the model for inference")


def _layer(body: Body, total: str, scale: str, shift: str, default: float) -> str:
    epsilon = float(body.attribute("epsilon", default))
    return body.op("LayerNormalization", total, *filter(None, [scale, shift]), epsilon=epsilon)


@composes("com.microsoft.LayerNormalization")
def _layer_normalization(body: Body) -> None:
    """As onnxruntime had it in ONNX's domain before ONNX did."""
    x, scale, shift = body.inputs(3)
    names = ("axis", "epsilon", "stash_type")
    given = {name: body.attribute(name) for name in names}
    made = body.ops("LayerNormalization", [x, *filter(None, [scale, shift])], 3, **given)
    for index, name in enumerate(made):
        body.give(index, name)


@composes("com.microsoft.SimplifiedLayerNormalization")
def _simplified(body: Body) -> None:
    x, scale = body.inputs(2)
    _refuse_statistics(body, 1)
    given = {name: body.attribute(name) for name in ("axis", "epsilon", "stash_type")}
    body.give(0, body.op("RMSNormalization", x, scale, **given))


def _skipped(body: Body, x: str, skip: str, bias: str) -> str:
    """The sum that is normalised, which is the fourth output as well."""
    _refuse_statistics(body, 1, 2)
    if body.shape(skip) not in (body.shape(x), body.shape(x)[1:], (1, *body.shape(x)[1:])):
        raise Mismatch(f"skip of shape {body.shape(skip)} for an input {body.shape(x)}")
    total = sums(body, x, skip, bias)
    body.give(3, total)
    return total


@composes("com.microsoft.SkipLayerNormalization")
def _skip_layer(body: Body) -> None:
    x, skip, scale, shift, bias = body.inputs(5)
    total = _skipped(body, x, skip, bias)
    body.give(0, _layer(body, total, scale, shift, 1e-12))


@composes("com.microsoft.SkipSimplifiedLayerNormalization")
def _skip_simplified(body: Body) -> None:
    x, skip, scale, bias = body.inputs(4)
    total = _skipped(body, x, skip, bias)
    epsilon = float(body.attribute("epsilon", 1e-12))
    body.give(0, body.op("RMSNormalization", total, scale, epsilon=epsilon))


@composes("com.microsoft.EmbedLayerNormalization")
def _embed(body: Body) -> None:
    """Words, positions and segments looked up, added and normalised; how many words there are."""
    ids, segment, words, places, segments, scale, shift, mask, positions = body.inputs(9)
    found = [
        body.op("Gather", words, ids, axis=0),
        _placed(body, places, ids, positions),
        body.op("Gather", segments, segment, axis=0) if segment else "",
    ]
    total = sums(body, *found)
    body.give(0, _layer(body, total, scale, shift, 1e-12))
    body.give(2, total)
    if body.wants(1):
        body.give(1, _words(body, mask, body.shape(ids)[0]))


def _placed(body: Body, places: str, ids: str, positions: str) -> str:
    """The rows of a table for the places of words, which follow each other unless given."""
    if positions:
        return body.op("Gather", places, positions, axis=0)
    return body.slice(places, 0, 0, body.shape(ids)[1])


@composes("com.microsoft.QEmbedLayerNormalization")
def _quantized_embed(body: Body) -> None:
    """As EmbedLayerNormalization, from tables of integers: what is looked up becomes floats."""
    ids, segment, words, places, segments, gain, shift, mask, *rest = body.inputs(18)
    scales, zeros = rest[:5], rest[5:]

    def real(name: str, index: int) -> str:
        operands = filter(None, (name, scales[index], zeros[index]))
        return body.op("DequantizeLinear", *operands)

    found = [
        real(body.op("Gather", words, ids, axis=0), 0),
        real(_placed(body, places, ids, ""), 1),
        real(body.op("Gather", segments, segment, axis=0), 2) if segment else "",
    ]
    total = sums(body, *found)
    body.give(0, _layer(body, total, real(gain, 3), real(shift, 4), 1e-12))
    if body.wants(1):
        body.give(1, _words(body, mask, body.shape(ids)[0]))


def _words(body: Body, mask: str, batch: int) -> str:
    """How many elements of each row of the mask are not zero; zero without a mask."""
    if not mask:
        return body.constant([0] * batch, "int32")
    kept = body.cast(body.op("Equal", mask, body.constant(1, "int32")), "int32")
    return body.op("ReduceSum", kept, body.constant([1]), keepdims=0)
