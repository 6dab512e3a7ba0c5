"""Attention as onnxruntime spells it, with masks and biases of many forms."""

from __future__ import annotations

import math

import numpy as np

from clockstep_compiler.frontend.bodies.attention import (
    Heads,
    allowed,
    appended,
    attend,
    bias_of,
    in_heads,
    out_of_heads,
    window,
)
from clockstep_compiler.frontend.bodies.contrib import refuse_attributes, sums
from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__ = ["scale_of"]

_FILTER = -10000.0
"""What is added to the scores of keys that a mask hides, unless the node says otherwise."""


def scale_of(body: Body, width: int) -> float:
    """The node's own scale, where it has one that is not zero."""
    return float(body.attribute("scale", 0.0)) or 1 / math.sqrt(width)


def _padding(body: Body, mask: str, size: tuple[int, int, int]) -> str:
    """The bias of a mask of keys: lengths [B], ends and starts [2 * B], [B, T] or [B, S, T]."""
    if not mask:
        return ""
    batch, rows, total = size
    shape = body.shape(mask)
    place = body.constant(np.arange(total).reshape(1, 1, 1, total), body.dtype(mask))
    if shape == (batch,):
        seen = body.op("Greater", body.reshape(mask, [batch, 1, 1, 1]), place)
    elif shape == (2 * batch,):
        end, start = (body.slice(mask, 0, i * batch, (i + 1) * batch) for i in range(2))
        after = body.op("LessOrEqual", body.reshape(start, [batch, 1, 1, 1]), place)
        before = body.op("Greater", body.reshape(end, [batch, 1, 1, 1]), place)
        seen = body.op("And", before, after)
    elif shape in ((batch, total), (batch, rows, total)):
        four = body.reshape(mask, [batch, 1, *shape[1:-1], *([1] * (3 - len(shape))), total])
        seen = body.op("Greater", four, body.constant(0, body.dtype(mask)))
    else:
        raise Refused("unsupported-form", f"a mask of shape {shape}")
    hidden = body.constant(float(body.attribute("mask_filter_value", _FILTER)), np.float32)
    return body.op("Where", seen, body.constant(0.0, np.float32), hidden)


def _masked(body: Body, heads: Heads, mask: str, more: str) -> str:
    """The bias of a node that has a mask of keys, a bias and a direction."""
    batch, _, rows, _ = body.shape(heads.q)
    total = body.shape(heads.k)[2]
    padding = _padding(body, mask, (batch, rows, total))
    if padding:
        padding = body.cast(padding, body.dtype(heads.q))
    bias = sums(body, padding, more) if padding or more else ""
    right = 0 if body.attribute("unidirectional", 0) else -1
    seen = allowed(body, window(total - rows + np.arange(rows), total, -1, right))
    return bias_of(body, heads, bias, seen)


@composes("com.microsoft.MultiHeadAttention")
def _multi_head(body: Body) -> None:
    q, k, v, bias, mask, more, past_k, past_v, length, beams = body.inputs(10)
    if length or beams or body.wants(3):
        raise Refused("unsupported-form", "buffers that are shared, beams, or scores as an output")
    count = int(body.attribute("num_heads", 0))
    q, k, v = _unpacked(body, q, k, v)
    if bias:
        widths = [body.shape(n)[2] for n in (q, q, v) if len(body.shape(n)) == 3]
        q, k, v = _biased(body, (q, k, v), bias, widths)
    q, k, v = (n if len(body.shape(n)) == 4 else in_heads(body, n, count) for n in (q, k, v))
    heads = Heads(q, appended(body, past_k, k), appended(body, past_v, v))
    body.give(1, heads.k)
    body.give(2, heads.v)
    scale = scale_of(body, body.shape(q)[3])
    found = attend(body, heads, _masked(body, heads, mask, more), scale=scale)
    body.give(0, out_of_heads(body, found.result))


def _unpacked(body: Body, q: str, k: str, v: str) -> tuple[str, str, str]:
    """Queries, keys and values, as [B, S, H * D] where they are packed as [B, S, H, n, D]."""

    def part(name: str, index: int) -> str:
        batch, length, heads, _, width = body.shape(name)
        return body.reshape(body.take(name, 3, index), [batch, length, heads * width])

    if len(body.shape(q)) == 5:
        return part(q, 0), part(q, 1), part(q, 2)
    if not k:
        raise Refused("unsupported-form", "keys are absent and not packed with the queries")
    if len(body.shape(k)) == 5:
        return q, part(k, 0), part(k, 1)
    return q, k, v


def _biased(
    body: Body, operands: tuple[str, str, str], bias: str, widths: list[int]
) -> tuple[str, str, str]:
    """Each operand plus its part of a bias that all have together."""
    if len(widths) != 3 or body.shape(bias) != (sum(widths),):
        problem = f"a bias of shape {body.shape(bias)} for operands of {widths} elements"
        raise Refused("unsupported-form", problem)
    ends = np.cumsum([0, *widths]).tolist()
    parts = (body.slice(bias, 0, *ends[i : i + 2]) for i in range(3))
    q, k, v = (body.op("Add", *pair) for pair in zip(operands, parts, strict=True))
    return q, k, v


@composes("com.microsoft.Attention")
def _attention(body: Body) -> None:
    """The projections of the input are part of the operator."""
    x, weights, bias, mask, past, more, length = body.inputs(7)
    if length:
        raise Refused("unsupported-form", "buffers that are shared")
    projected = sums(body, body.op("MatMul", x, weights), bias)
    _attend_to(body, projected, mask, past, more)


@composes("com.microsoft.QAttention")
def _quantized_attention(body: Body) -> None:
    """The projections are of integers, the rest is of floats."""
    x, weights, bias, scale, scales, mask, zero, zeros, past = body.inputs(9)
    operands = (x, weights, scale, scales, zero, zeros, bias)
    projected = body.op("MatMulIntegerToFloat", *operands, domain="com.microsoft")
    _attend_to(body, projected, mask, past, "")


def _attend_to(body: Body, projected: str, mask: str, past: str, more: str) -> None:
    """Attention over queries, keys and values that lie side by side, [B, S, all of them]."""
    refuse_attributes(body, do_rotary=0, past_present_share_buffer=0)
    whole = body.shape(projected)[2]
    widths = [int(n) for n in body.attribute("qkv_hidden_sizes", [whole // 3] * 3)]
    if sum(widths) != whole:
        raise Mismatch(f"{whole} columns of weights are not {widths} together")
    ends = np.cumsum([0, *widths]).tolist()
    count = int(body.attribute("num_heads", 0))
    q, k, v = (in_heads(body, body.slice(projected, 2, *ends[i : i + 2]), count) for i in range(3))
    if past:
        k, v = (appended(body, body.take(past, 0, i), n) for i, n in enumerate((k, v)))
    if body.wants(1):
        pair = [body.op("Unsqueeze", n, body.constant([0])) for n in (k, v)]
        body.give(1, body.op("Concat", *pair, axis=0))
    heads = Heads(q, k, v)
    scale = scale_of(body, body.shape(q)[3])
    found = attend(body, heads, _masked(body, heads, mask, more), scale=scale)
    body.give(0, out_of_heads(body, found.result))
