"""Attention: which keys a query sees, and the core that every spelling of attention shares.

A mask is a bias, zero or minus infinity, plus what the model adds. Where it depends on the lengths
of sequences that are known when the model runs, it is a comparison of their numbers with constants,
so that lengths change no cycle. To add a spelling, describe it as `Heads`, a bias and `attend`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.body import Body, composes
from clockstep_compiler.frontend.infer import Mismatch
from clockstep_compiler.frontend.load import attributes_of

__all__ = [
    "Attended",
    "Heads",
    "allowed",
    "appended",
    "attend",
    "bias_of",
    "by_length",
    "in_heads",
    "number_of",
    "out_of_heads",
    "window",
]

_EACH = ("float16", "bfloat16")
"""Types whose range is so short that ONNX scales both operands, each by the root of the scale."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Queries [B, H, S, D], keys [B, G, T, D], values [B, G, T, E]: H is a multiple of G."""

    q: str
    k: str
    v: str


@dataclass(frozen=True, slots=True)
class Attended:
    """The result [B, H, S, E], and what may be an output on the way to it, [B, H, S, T].

    `stages`: the product, after the soft cap, with the bias, after the softmax.
    """

    result: str
    stages: tuple[str, str, str, str]


@composes("Attention")
def _attention(body: Body) -> None:
    q, k, v, mask, past_k, past_v, lengths = body.inputs(7)
    packed = len(body.shape(q)) == 3
    if packed:
        counts = [int(body.attribute(f"{n}_num_heads", 0)) for n in ("q", "kv", "kv")]
        q, k, v = (in_heads(body, n, count) for n, count in zip((q, k, v), counts, strict=True))
    k, v = appended(body, past_k, k), appended(body, past_v, v)
    body.give(1, k)
    body.give(2, v)
    heads = Heads(q, k, v)
    seen, hidden = _seen(body, heads, past_k, lengths)
    bias = bias_of(body, heads, mask, seen)
    scale = body.attribute("scale")
    found = attend(
        body,
        heads,
        bias,
        scale=1 / math.sqrt(body.shape(q)[3]) if scale is None else float(scale),
        softcap=float(body.attribute("softcap", 0.0)),
        precision=int(body.attribute("softmax_precision", 0)),
        hidden="" if mask else hidden,
    )
    body.give(0, out_of_heads(body, found.result) if packed else found.result)
    mode = int(body.attribute("qk_matmul_output_mode", 0))
    if body.wants(3):
        body.give(3, found.stages[mode])


def _seen(body: Body, heads: Heads, past: str, lengths: str) -> tuple[str, str]:
    """Which keys are seen, as far as that does not depend on the mask; "" for all of them. And
    which queries see none, "" if that is not known."""
    count, total = body.shape(heads.q)[2], body.shape(heads.k)[2]
    left, right = (int(body.attribute(f"{n}_window_size", -1)) for n in ("left", "right"))
    if body.attribute("is_causal", 0):
        right = 0
    if not lengths:
        first = body.shape(past)[2] if past else 0
        places = first + np.arange(count)
        return allowed(body, window(places, total, left, right)), ""
    number = number_of(body, lengths)
    limits = (count, total), left, right
    return by_length(body, number, *limits), blind(body, number, *limits)


def number_of(body: Body, lengths: str) -> str:
    """Lengths [B] for all queries and keys of a sequence, [B, 1, 1, 1]."""
    lengths, shape = body.walk.resolve(lengths), [body.shape(lengths)[0], 1, 1, 1]
    return body.shared(lambda: body.reshape(lengths, shape), "number", lengths)


def by_length(body: Body, number: str, size: tuple[int, int], left: int, right: int) -> str:
    """Keys before `number`, of which the last S are at the queries' own places.

    Query i is at place number - S + i, so every bound is one of `number`.
    """
    number = body.walk.resolve(number)

    def made() -> str:
        least, most = _bounds(size, left, right)
        seen = body.op("GreaterOrEqual", number, body.constant(least, body.dtype(number)))
        if left >= 0:
            limit = body.constant(most, body.dtype(number))
            seen = body.op("And", seen, body.op("LessOrEqual", number, limit))
        return seen

    return body.shared(made, "seen", number, size, left, right)


def _bounds(
    size: tuple[int, int], left: int, right: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least number with which query i sees key j, and with a window to the `left` the most."""
    row, column = (np.arange(n) for n in size)
    ahead = column - row[:, None] + size[0]  # key j is at query i's place if the number is this
    least = np.broadcast_to(column + 1, size)
    if right >= 0:
        least = np.maximum(least, ahead - right)
    return least, ahead + left


def blind(body: Body, number: str, size: tuple[int, int], left: int, right: int) -> str:
    """Whether query i sees no key at all by `by_length`, [B, 1, S, 1]; "" if a window decides."""
    if left >= 0:
        return ""
    number = body.walk.resolve(number)

    def made() -> str:
        least = _bounds(size, left, right)[0].min(axis=1, keepdims=True)
        return body.op("Less", number, body.constant(least, body.dtype(number)))

    return body.shared(made, "blind", number, size, right)


def window(places: NDArray[np.int64], total: int, left: int, right: int) -> NDArray[np.bool_]:
    """Whether queries at `places` see keys 0 to `total`; a bound below zero is none. [S, T]."""
    distance = np.arange(total) - places[:, None]
    seen = np.ones(distance.shape, np.bool_)
    if left >= 0:
        seen &= distance >= -left
    if right >= 0:
        seen &= distance <= right
    return seen


def allowed(body: Body, seen: NDArray[np.bool_]) -> str:
    """A constant condition; "" if it always holds."""
    return "" if seen.all() else body.constant(seen, np.bool_)


def bias_of(body: Body, heads: Heads, mask: str, seen: str) -> str:
    """What is added to the scores, in the type of the queries; "" for nothing.

    `mask` is a condition or a bias, its last axis perhaps short; `seen` a condition.
    """
    dtype = body.dtype(heads.q)
    if mask:
        mask = _lengthened(body, mask, body.shape(heads.k)[2])
        if body.dtype(mask) == "bool":
            seen, mask = body.op("And", mask, seen) if seen else mask, ""
        else:
            mask = body.cast(mask, dtype)
    if not seen:
        return mask
    seen, lowest = body.walk.resolve(seen), -math.inf

    def made() -> str:
        return body.op("Where", seen, mask or body.like(0.0, heads.q), body.like(lowest, heads.q))

    return body.shared(made, "bias", seen, body.walk.resolve(mask) if mask else "", dtype)


def _lengthened(body: Body, mask: str, total: int) -> str:
    """A mask whose last axis is short hides the rest of the keys; one of length 1 is for all."""
    shape = body.shape(mask)
    missing = total - shape[-1] if shape else 0
    if missing <= 0:
        return mask
    pads = body.constant([0] * (2 * len(shape) - 1) + [missing])
    hidden = body.constant(False if body.dtype(mask) == "bool" else -math.inf, body.dtype(mask))
    return body.op("Pad", mask, pads, hidden)


def attend(
    body: Body,
    heads: Heads,
    bias: str,
    *,
    scale: float,
    softcap: float = 0.0,
    precision: int = 0,
    sink: str = "",
    each: bool = True,
    hidden: str | None = "",
) -> Attended:
    """softmax(q . k^T * scale + bias) . v; a row whose bias hides all keys gives zeros.

    `hidden` is a condition that says which rows these are, None if there are none; "": to be found.
    `each`: of types with a short range queries and keys have the root of the scale each.

    `precision` is the softmax's element type by ONNX's number, 0 for that of the queries. Weights
    of float16 are not rounded before they are used: their last bit would be seen in the result.
    `sink` [H] has the score of a key without a value for each head.
    """
    dtype, groups = body.dtype(heads.q), body.shape(heads.k)[1]
    q, k = _scaled(body, heads.q, heads.k, scale, each)
    shape = (*body.shape(q)[:3], body.shape(k)[2])
    product = _grouped(body, q, body.transpose(k, [0, 1, 3, 2]), groups)
    capped = product
    if softcap > 0:
        inner = body.op("Tanh", body.op("Mul", product, body.like(1 / softcap, product)))
        capped = body.op("Mul", inner, body.like(softcap, inner))
    biased = body.op("Add", capped, bias) if bias else capped
    if body.shape(biased) != shape:
        raise Mismatch(f"a mask of shape {body.shape(bias)} for scores of shape {shape}")
    wide = "float32" if dtype == "float16" else dtype
    weights = body.op("Cast", biased, to=precision) if precision else body.cast(biased, wide)
    weights = _softmax(body, weights, sink)
    if bias and hidden is not None:
        weights = _guarded(body, weights, bias, hidden)
    result = _grouped(body, body.cast(weights, wide), body.cast(heads.v, wide), groups)
    result, weights = body.cast(result, dtype), body.cast(weights, dtype)
    return Attended(result, (product, capped, biased, weights))


def _scaled(body: Body, q: str, k: str, scale: float, each: bool = True) -> tuple[str, str]:
    """Queries and keys, the scale multiplied in."""
    if each and body.dtype(q) in _EACH:
        return _times(body, q, math.sqrt(scale)), _times(body, k, math.sqrt(scale))
    return _times(body, q, scale), k


def _times(body: Body, name: str, factor: float) -> str:
    return name if factor == 1.0 else body.op("Mul", name, body.like(factor, name))


def _grouped(body: Body, a: str, b: str, groups: int) -> str:
    """a [B, H, S, K] . b [B, G, K, N], where every H / G heads of `a` share one of `b`."""
    batch, count, rows, depth = body.shape(a)
    if groups < 1 or count % groups:
        raise Mismatch(f"{count} heads of queries for {groups} of keys and values")
    folded = body.reshape(a, [batch, groups, count // groups * rows, depth])
    product = body.op("MatMul", folded, b)
    return body.reshape(product, [batch, count, rows, body.shape(b)[3]])


def _softmax(body: Body, scores: str, sink: str) -> str:
    """The weights of the keys, some weight perhaps going to the sink."""
    if not sink:
        return body.op("Softmax", scores, axis=-1)
    batch, heads, rows, total = body.shape(scores)
    column = body.reshape(body.cast(sink, body.dtype(scores)), [1, heads, 1, 1])
    column = body.op("Expand", column, body.constant([batch, heads, rows, 1]))
    weights = body.op("Softmax", body.op("Concat", scores, column, axis=3), axis=-1)
    return body.slice(weights, 3, 0, total)


def _guarded(body: Body, weights: str, bias: str, hidden: str) -> str:
    """Zeros where the bias hides every key, which softmax makes NaN of."""
    if not hidden:
        lowest = body.op("ReduceMax", bias, body.constant([-1]), keepdims=1)
        hidden = body.op("Equal", lowest, body.like(-math.inf, bias))
    known = body.value(hidden)
    if known is not None and not known.any():
        return weights
    return body.op("Where", hidden, body.like(0.0, weights), weights)


# -- heads -----------------------------------------------------------------------------------------


def in_heads(body: Body, name: str, count: int) -> str:
    """[B, S, H * D] as [B, H, S, D]."""
    batch, length, width = body.shape(name)
    if count < 1 or width % count:
        raise Mismatch(f"{width} elements are not {count} heads")
    split = body.reshape(name, [batch, length, count, width // count])
    return body.transpose(split, [0, 2, 1, 3])


def out_of_heads(body: Body, name: str) -> str:
    """[B, H, S, D] as [B, S, H * D]."""
    batch, count, length, width = body.shape(name)
    joined = body.transpose(name, [0, 2, 1, 3])
    return body.reshape(joined, [batch, length, count * width])


def appended(body: Body, past: str, new: str) -> str:
    """The past, if there is any, followed by what is new."""
    if not past or not body.shape(past)[2]:
        return new
    return body.op("Concat", past, new, axis=2)


# -- with graphs of the model's own ----------------------------------------------------------------


@composes("ai.onnx.preview.FlexAttention")
def _flex_attention(body: Body) -> None:
    """Scores and weights each pass through a graph that the node may have."""
    q, k, v = body.inputs(3)
    dtype, groups = body.dtype(q), body.shape(k)[1]
    scale = body.attribute("scale")
    scale = 1 / math.sqrt(body.shape(q)[3]) if scale is None else float(scale)
    q, k = _scaled(body, q, k, scale)
    scores = _grouped(body, q, body.transpose(k, [0, 1, 3, 2]), groups)
    precision = int(body.attribute("softmax_precision", 0))
    default = "float64" if dtype == "float64" else "float32"
    scores = body.op("Cast", scores, to=precision) if precision else body.cast(scores, default)
    scores = _modified(body, "score_mod", scores)
    weights = _modified(body, "prob_mod", body.op("Softmax", scores, axis=-1))
    v = body.cast(v, body.dtype(weights))
    body.give(0, body.cast(_grouped(body, weights, v, groups), dtype))


def _modified(body: Body, attribute: str, name: str) -> str:
    """A value after the graph of an attribute, if there is one."""
    found = attributes_of(body.step.node).get(attribute)
    if found is None:
        return name
    if len(found.g.output) != 1:
        raise Mismatch(f"{attribute} is not a graph of one input and one output")
    return body.inline(found.g, [name])[0]
