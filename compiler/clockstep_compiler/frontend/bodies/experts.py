"""Mixtures of experts: those that a token is sent to compute it, or all do.

Of one token the weights of its experts, if they are bytes, are read where the routing says. Else
every expert computes every token, and what was not chosen is left out by selection, not by zero
weights, since zero times infinity is not zero. Experts of floats are one product then, those of
bytes with a scale for each column have products of their own, by which their weights stay bytes.
Either way time does not depend on which are chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.bodies.contrib import (
    refuse_attributes,
    refuse_operands,
    sums,
)
from clockstep_compiler.frontend.bodies.packed_weights import unpacked
from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.tensors import Array, numpy_dtype
from clockstep_compiler.graph import Tensor
from clockstep_compiler.uniform import different, spread

__all__: list[str] = []


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights [E, N, K] of all experts, and a bias [E, N] or ""."""

    weights: str
    bias: str


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Weights int8 [E, N, K] of all experts, scales [E, N], and a bias [E, N] or ""."""

    codes: Array
    scales: Array
    bias: str


@composes("com.microsoft.MoE")
def _experts(body: Body) -> None:
    x, scores, w1, b1, w2, b2 = body.inputs(6)
    refuse_operands(body, {6: "fc3_experts_weights", 7: "fc3_experts_bias"})
    _mixture(body, x, _routed(body, scores), (_Layer(w1, b1), _Layer(w2, b2)))


@composes("com.microsoft.QMoE")
def _quantized_experts(body: Body) -> None:
    """As MoE, with weights of a few bits that become floats when the model is read."""
    refuse_attributes(body, quant_type="int")
    refuse_operands(body, dict.fromkeys((8, 9, 10, 13), "fc3") | {14: "router_weights"})
    refuse_operands(body, dict.fromkeys(range(15, 19), "global or activation scales"))
    if not body.attribute("normalize_routing_weights", 0):
        problem = "normalize_routing_weights is 0, of which onnxruntime's devices differ"
        raise Refused("unsupported-form", problem, "set it to 1")
    if int(body.attribute("weights_prepacked", -1)) > 0:
        raise Refused("unsupported-form", "weights that are packed for another device")
    names = body.inputs(13)
    if not names[11] and not names[12]:
        layers = [_narrow(body, first) for first in (2, 5)]
        if layers[0] is not None and layers[1] is not None:
            if math.prod(body.shape(names[0])[:-1]) == 1:
                _chosen(body, names[0], names[1], layers[0], layers[1])
            else:
                _each_alone(body, names[0], _routed(body, names[1]), layers[0], layers[1])
            return
    one, two = (
        _Layer(body.constant(_weights(body, i, names[zeros]), body.dtype(names[0])), names[i + 2])
        for i, zeros in ((2, 11), (5, 12))
    )
    _mixture(body, names[0], _routed(body, names[1]), (one, two))


def _narrow(body: Body, first: int) -> _Bytes | None:
    """The layer at operand `first` if its weights may stay bytes."""
    names = body.inputs(13)
    data, scales = (body.value(name) for name in names[first : first + 2])
    if data is None or scales is None or _bits(body, first) != 8 or scales.ndim != 2:
        return None
    if data.ndim != 3 or data.dtype != np.uint8 or not np.isfinite(different(scales)).all():
        return None
    codes = spread((different(data) ^ 0x80).view(np.int8), data.shape)
    return _Bytes(codes, scales, names[first + 2])


def _bits(body: Body, first: int) -> int:
    bits = int(body.attribute(f"fc{1 if first == 2 else 2}_expert_weight_bits", 0))
    return bits or int(body.attribute("expert_weight_bits", 4))


def _weights(body: Body, first: int, zeros: str) -> NDArray[np.float32]:
    """The weights at operand `first`, times the scales that follow: [E, N, K]."""
    data, scales = (body.value(name) for name in body.inputs(first + 2)[first:])
    if data is None or scales is None or (zeros and body.value(zeros) is None):
        raise Refused("operand-not-constant", "weights of experts, or their scales, are computed")
    bits = _bits(body, first)
    if bits not in (2, 4, 8):
        raise Refused("unsupported-form", f"weights of {bits} bits: only 2, 4 and 8 are supported")
    codes = unpacked(data, bits).astype(np.float32)
    shift: float | NDArray[np.float32] = float(1 << bits - 1)
    known = body.value(zeros) if zeros else None
    if known is not None:
        shift = _each(body, unpacked(known, bits)[..., : scales.shape[-1]], codes.shape)
    return (codes - shift) * _each(body, scales, codes.shape)


def _each(body: Body, array: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What there is of a column [E, N] or of its blocks [E, N, blocks], for every weight."""
    found = array.astype(np.float32)
    if found.ndim == 2:
        return np.broadcast_to(found[..., None], shape)
    block = int(body.attribute("block_size", 0)) or -(-shape[2] // found.shape[2])
    return np.repeat(found, block, 2)[..., : shape[2]]


def _routed(body: Body, scores: str) -> tuple[str, str]:
    """Which experts count for each token, and by how much: both [T, E, 1]."""
    tokens, experts = body.shape(scores)
    best, which = _best(body, scores)
    ways = body.constant([2])
    place = body.constant(np.arange(experts).reshape(1, 1, -1), body.dtype(which))
    hit = body.op("Equal", body.op("Unsqueeze", which, ways), place)
    weight = body.op("Where", hit, body.op("Unsqueeze", best, ways), body.like(0.0, best))
    weight = body.op("ReduceSum", weight, body.constant([1]), keepdims=0)
    chosen = body.op("ReduceMax", body.cast(hit, "int8"), body.constant([1]), keepdims=0)
    shape = (tokens, experts, 1)
    return body.reshape(body.cast(chosen, "bool"), shape), body.reshape(weight, shape)


def _best(body: Body, scores: str) -> tuple[str, str]:
    """By how much the experts count that a token is sent to, and their numbers: both [T, k]."""
    refuse_attributes(body, use_sparse_mixer=0)
    count = body.constant([int(body.attribute("k", 1))])
    best, which = body.ops("TopK", [body.op("Softmax", scores, axis=-1), count], 2)
    if body.attribute("normalize_routing_weights", 0):
        total = body.op("ReduceSum", best, body.constant([1]), keepdims=1)
        best = body.op("Div", best, total)
    return best, which


def _mixture(body: Body, x: str, routed: tuple[str, str], layers: tuple[_Layer, _Layer]) -> None:
    shape, (one, two) = body.shape(x), layers
    experts, wide, depth = body.shape(one.weights)
    tokens = body.shape(routed[1])[0]
    flat = body.reshape(body.transpose(one.weights, [2, 0, 1]), [depth, experts * wide])
    inner = body.op("MatMul", body.reshape(x, [tokens, depth]), flat)
    inner = sums(body, body.reshape(inner, [tokens, experts, wide]), one.bias)
    inner = _activated(body, inner)
    chosen, weight = routed
    weight = body.cast(weight, body.dtype(inner))
    inner = body.op("Where", chosen, body.op("Mul", inner, weight), body.like(0.0, inner))
    size = body.shape(inner)[2]
    back = body.transpose(two.weights, [0, 2, 1])
    back = body.reshape(back, [experts * size, body.shape(back)[2]])
    result = body.op("MatMul", body.reshape(inner, [tokens, experts * size]), back)
    if two.bias:
        mixed = body.op("MatMul", body.reshape(weight, [tokens, experts]), two.bias)
        result = body.op("Add", result, mixed)
    body.give(0, body.reshape(result, shape))


def _each_alone(body: Body, x: str, routed: tuple[str, str], one: _Bytes, two: _Bytes) -> None:
    """Every expert as a perceptron of its own, and the sum of what those chosen say."""
    shape, tokens = body.shape(x), body.shape(routed[1])[0]
    flat = body.reshape(x, [tokens, one.codes.shape[2]])
    parts = _parts(body, one.codes.shape[1])
    found = []
    for expert in range(len(one.codes)):
        columns = [_columns(body, flat, one, expert, part) for part in parts]
        inner = _swish(body, *columns) if len(columns) > 1 else _simple(body, columns[0])
        chosen, weight = (body.take(name, 1, expert) for name in routed)
        inner = body.op("Mul", inner, body.cast(weight, body.dtype(inner)))
        inner = body.op("Where", chosen, inner, body.like(0.0, inner))
        found.append(_columns(body, inner, replace(two, bias=""), expert, slice(None)))
    result = found[0]
    for term in found[1:]:
        result = body.op("Add", result, term)
    if two.bias:
        weight = body.cast(body.reshape(routed[1], [tokens, len(two.codes)]), body.dtype(result))
        result = body.op("Add", result, body.op("MatMul", weight, two.bias))
    body.give(0, body.reshape(result, shape))


@dataclass(frozen=True, slots=True)
class _Stack:
    """Some columns of a layer, as constants: codes [E, K, n], scales and biases [E, n] or ""."""

    codes: str
    scales: str
    bias: str


def _chosen(body: Body, x: str, scores: str, one: _Bytes, two: _Bytes) -> None:
    """The experts of one token alone, whose weights are read where its routing says."""
    shape, depth = body.shape(x), one.codes.shape[2]
    best, which = _best(body, body.reshape(scores, [1, len(one.codes)]))
    flat, result = body.reshape(x, [1, depth]), ""
    inward = [_stack(body, one, part, x) for part in _parts(body, one.codes.shape[1])]
    outward = _stack(body, two, slice(None), x)
    for place in range(body.shape(which)[1]):
        number = body.take(which, 1, place)
        columns = [_of_chosen(body, flat, stack, number) for stack in inward]
        inner = _swish(body, *columns) if len(columns) > 1 else _simple(body, columns[0])
        weight = body.reshape(body.take(best, 1, place), [1, 1])
        outer = _of_chosen(body, inner, outward, number)
        outer = body.op("Mul", outer, body.cast(weight, body.dtype(outer)))
        result = body.op("Add", result, outer) if result else outer
    body.give(0, body.reshape(result, shape))


def _stack(body: Body, layer: _Bytes, part: slice, x: str) -> _Stack:
    """Some columns of all experts' layers, to be multiplied with x."""
    codes = layer.codes[:, part].transpose(0, 2, 1)
    codes = spread(different(codes).copy(), codes.shape)  # where weights are absent, its own
    scales = np.asarray(layer.scales[:, part])
    bias = layer.bias
    if bias and part != slice(None):
        bias = body.op("Gather", bias, body.constant(_indices(layer, part)), axis=1)
    dtype = numpy_dtype(body.dtype(x))
    return _Stack(body.constant(codes, np.int8), body.constant(scales, dtype), bias)


def _of_chosen(body: Body, x: str, stack: _Stack, number: str) -> str:
    """The columns [1, n] that the expert of a number makes of x [1, K]."""
    like = Tensor("", (1, body.shape(stack.scales)[1]), body.dtype(x))
    result = body.own("ChosenMatMul", (x, stack.codes, number), like)
    result = body.op("Mul", result, body.op("Gather", stack.scales, number))
    return body.op("Add", result, body.op("Gather", stack.bias, number)) if stack.bias else result


def _columns(body: Body, x: str, layer: _Bytes, expert: int, part: slice) -> str:
    """Some columns [T, n] of what a layer of one expert makes of x [T, K]."""
    codes = layer.codes[expert, part].T
    codes = spread(different(codes).copy(), codes.shape)  # where weights are absent, its own
    scales = np.asarray(layer.scales[expert, part])
    weights = body.op(
        "DequantizeLinear",
        body.constant(codes, np.int8),
        body.constant(scales, numpy_dtype(body.dtype(x))),
        axis=1,
    )
    result = body.op("MatMul", x, weights)
    if not layer.bias:
        return result
    bias = body.take(layer.bias, 0, expert)
    return body.op("Add", result, body.op("Gather", bias, body.constant(_indices(layer, part))))


def _indices(layer: _Bytes, part: slice) -> NDArray[np.int64]:
    return np.arange(layer.codes.shape[1])[part]


def _parts(body: Body, wide: int) -> tuple[slice, ...]:
    """Which columns of the first layer are gates and which are gated; all if none are."""
    if body.attribute("activation_type", "relu") in _SIMPLE:
        return (slice(None),)
    if _fusion(body) == 1:
        return slice(0, None, 2), slice(1, None, 2)
    return slice(0, wide // 2), slice(wide // 2, None)


_SIMPLE = ("gelu", "silu", "relu", "identity")


def _simple(body: Body, inner: str) -> str:
    """After an activation that is not gated."""
    kind = body.attribute("activation_type", "relu")
    if kind == "gelu":
        return body.op("Gelu", inner, approximate="tanh")  # as onnxruntime has it here
    if kind == "silu":
        return body.op("Mul", inner, body.op("Sigmoid", inner))
    return body.op("Relu", inner) if kind == "relu" else inner


def _activated(body: Body, inner: str) -> str:
    """[T, E, N] after the activation; half as wide if that is gated."""
    if body.attribute("activation_type", "relu") in _SIMPLE:
        return _simple(body, inner)
    size = body.shape(inner)[2]
    parts = (np.arange(size)[part] for part in _parts(body, size))
    return _swish(body, *(body.op("Gather", inner, body.constant(p), axis=2) for p in parts))


def _fusion(body: Body) -> int:
    """How gates lie among the columns: 1, every other; 2, in the first half."""
    kind, fusion = body.attribute("activation_type", "relu"), body.attribute("swiglu_fusion", 0)
    if kind != "swiglu" or fusion not in (1, 2) or body.attribute("swiglu_limit_after_activation"):
        raise Refused("unsupported-form", f"activation {kind!r} with swiglu_fusion {fusion}")
    return int(fusion)


def _swish(body: Body, gate: str, line: str) -> str:
    """Swish of one half times the other, both limited, the other shifted."""
    limit = body.attribute("swiglu_limit")
    if limit is not None:
        low, high = body.like(-float(limit), line), body.like(float(limit), line)
        gate, line = body.op("Min", gate, high), body.op("Clip", line, low, high)
    alpha = float(body.attribute("activation_alpha", 1.0))
    beta = float(body.attribute("activation_beta", 0.0))
    scaled = gate if alpha == 1.0 else body.op("Mul", gate, body.like(alpha, gate))
    gate = body.op("Mul", gate, body.op("Sigmoid", scaled))
    return body.op("Mul", gate, body.op("Add", line, body.like(beta, line)) if beta else line)
