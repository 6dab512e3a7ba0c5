"""GroupQueryAttention: attention over a cache of keys and values, as language models decode.

The cache has a fixed size. Where the new rows go is known now, or is a number that the program
compares: what is new takes its place by selection, so that time stays static.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clockstep_compiler.frontend.bodies.attention import (
    Heads,
    allowed,
    appended,
    attend,
    bias_of,
    by_length,
    in_heads,
    number_of,
    out_of_heads,
    window,
)
from clockstep_compiler.frontend.bodies.contrib import refuse_attributes, refuse_operands
from clockstep_compiler.frontend.bodies.contrib_attention import scale_of
from clockstep_compiler.frontend.bodies.rotary import among, rotated, turns
from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__ = ["group_query"]


@dataclass(frozen=True, slots=True)
class _Cache:
    """Where `count` new rows of each sequence stand among the `total` rows of its cache.

    `length` is how many rows are valid with the new ones, [B] computed when the model runs; "" if
    the new rows are the first.
    """

    batch: int
    count: int
    total: int
    length: str

    def first(self, body: Body) -> str:
        """The place of the first new row, [B]."""

        def made() -> str:
            return body.op("Sub", self.length, body.constant(self.count, body.dtype(self.length)))

        return body.shared(made, "first", self.length, self.count)

    def places(self, body: Body) -> str:
        """The places of the new rows, [B, S]."""
        steps = np.broadcast_to(np.arange(self.count), (self.batch, self.count))
        if not self.length:
            return body.constant(steps)

        def made() -> str:
            first = body.reshape(self.first(body), [self.batch, 1])
            return body.op("Add", first, body.constant(steps, body.dtype(self.length)))

        return body.shared(made, "places", self.length, self.count)


@composes("com.microsoft.GroupQueryAttention")
def group_query(body: Body) -> None:
    """Heads turned by their places, put in the cache, and then attention over all of it."""
    q, k, v, past_k, past_v, lengths, total, cos, sin, places, bias, sink = body.inputs(12)
    usual = {"sliding_window_cache": 0, "qk_output": 0, "kv_cache_bit_width": 0}
    refuse_attributes(body, **usual, k_quant_type="NONE", v_quant_type="NONE")
    refuse_operands(body, {12: "k_scale", 13: "v_scale", 16: "query_seqlens"})
    if body.wants(3):
        raise Refused("unsupported-form", "scores as an output")
    heads = _heads(body, q, k, v)
    cache = _cache(body, heads, past_k, lengths, total)
    if body.attribute("do_rotary", 0):
        where = _places(body, cache, places)
        turn = [among(body, turns(body, n, where), 1) for n in (cos, sin)]
        interleaved = bool(body.attribute("rotary_interleaved", 0))
        q, k = (rotated(body, n, turn[0], turn[1], interleaved) for n in (heads.q, heads.k))
        heads = Heads(q, k, heads.v)
    heads = Heads(
        heads.q,
        _updated(body, cache, past_k, heads.k),
        _updated(body, cache, past_v, heads.v),
    )
    body.give(1, heads.k)
    body.give(2, heads.v)
    if body.attribute("smooth_softmax", 0) and not sink:
        sink = body.constant([0.0] * body.shape(heads.q)[1], np.float32)
    found = attend(
        body,
        heads,
        bias_of(body, heads, bias, _window(body, cache)),
        scale=scale_of(body, body.shape(heads.q)[3]),
        each=False,
        hidden=_hidden(body, cache) if not bias else "",
        softcap=float(body.attribute("softcap", 0.0)),
        sink=sink,
    )
    body.give(0, out_of_heads(body, found.result))


def _heads(body: Body, q: str, k: str, v: str) -> Heads:
    """Queries, keys and values, packed or not, normalised where the node says so."""
    count, groups = (int(body.attribute(n, 0)) for n in ("num_heads", "kv_num_heads"))
    if not k:
        width = body.shape(q)[2] // (count + 2 * groups)
        ends = np.cumsum([0, count, groups, groups]) * width
        q, k, v = (body.slice(q, 2, int(ends[i]), int(ends[i + 1])) for i in range(3))
    found = [in_heads(body, n, c) for n, c in ((q, count), (k, groups), (v, groups))]
    default = body.attribute("qk_norm_epsilon", 1e-6)
    weights = body.inputs(16)[14:16]
    for i, name in enumerate(("q", "k")):
        if weights[i]:
            epsilon = float(body.attribute(f"{name}_norm_epsilon", default))
            found[i] = body.op("RMSNormalization", found[i], weights[i], axis=-1, epsilon=epsilon)
    return Heads(*found)


def _cache(body: Body, heads: Heads, past: str, lengths: str, total: str) -> _Cache:
    """Where the new keys go. The size of the cache is that of the past, or of what it becomes."""
    batch, _, count, _ = body.shape(heads.k)
    size = body.shape(past)[2] if past else 0
    known = body.value(total)
    if known is None:
        declared = body.declared(1)
        if declared is None:
            problem = "total_sequence_length and the shape of present_key are not known"
            raise Refused("operand-not-constant", problem, "bind the sizes with --dim")
        whole = declared[2]
    else:
        whole = max(size, int(known.item()))
    if count == whole and not size:
        return _Cache(batch, count, whole, "")
    if known is not None and int(known.item()) == count:
        return _Cache(batch, count, whole, "")  # the first rows of a prompt
    if whole < max(size, count):
        raise Mismatch(f"{whole} rows of a cache for {size} before and {count} new ones")
    lengths = body.walk.resolve(lengths)

    def made() -> str:
        one = body.constant(1, body.dtype(lengths))
        return body.op("Add", body.reshape(lengths, [batch]), one)

    return _Cache(batch, count, whole, body.shared(made, "length", lengths, batch))


def _places(body: Body, cache: _Cache, given: str) -> str:
    """The positions by which heads turn, [B, S]: for a first prompt those after the first given."""
    if not given:
        return cache.places(body)
    if cache.length:
        return given
    first = body.slice(body.slice(given, 0, 0, 1), 1, 0, 1)
    steps = body.constant(np.broadcast_to(np.arange(cache.count), (cache.batch, cache.count)))
    return body.op("Add", body.cast(first, "int32"), body.cast(steps, "int32"))


def _updated(body: Body, cache: _Cache, past: str, new: str) -> str:
    """The cache [B, G, T, D] with the new rows in their places; what is beyond them stays."""
    batch, groups, count, width = body.shape(new)
    if not cache.length:
        size = body.shape(past)[2] if past else 0
        if size > count:
            new = appended(body, new, body.slice(past, 2, count, size))
        return _filled(body, new, cache.total)
    inside = body.shared(
        lambda: _inside(body, cache), "inside", cache.length, count, cache.total, batch
    )
    rows = new
    if count > 1:
        place = body.constant(np.arange(cache.total).reshape(1, -1), body.dtype(cache.length))
        step = body.op("Sub", place, body.reshape(cache.first(body), [batch, 1]))
        zero, last = (body.constant(n, body.dtype(step)) for n in (0, count - 1))
        step = body.op("Min", body.op("Max", step, zero), last)  # which new row goes here
        starts = body.constant(np.arange(batch).reshape(-1, 1) * count, body.dtype(step))
        table = body.reshape(body.transpose(new, [0, 2, 1, 3]), [batch * count, groups * width])
        rows = body.op("Gather", table, body.op("Add", step, starts), axis=0)
        rows = body.reshape(rows, [batch, cache.total, groups, width])
        rows = body.transpose(rows, [0, 2, 1, 3])
    old = _filled(body, past, cache.total) if past else body.like(0.0, new)
    return body.op("Where", inside, rows, old)


def _inside(body: Body, cache: _Cache) -> str:
    """Whether a row of a cache is a new one, [B, 1, T, 1]."""
    places = np.arange(cache.total).reshape(1, 1, -1, 1)
    place = body.constant(places, body.dtype(cache.length))
    first = body.reshape(cache.first(body), [cache.batch, 1, 1, 1])
    if cache.count == 1:
        return body.op("Equal", place, first)
    step = body.op("Sub", place, first)
    zero, last = (body.constant(n, body.dtype(step)) for n in (0, cache.count - 1))
    inside = body.op("GreaterOrEqual", step, zero)
    return body.op("And", inside, body.op("LessOrEqual", step, last))


def _hidden(body: Body, cache: _Cache) -> str | None:
    """Whether a query sees no key, as `attend` takes it: the only new one sees at least itself."""
    return None if cache.length and cache.count == 1 else ""


def _filled(body: Body, name: str, total: int) -> str:
    """Rows of zeros after those of a cache."""
    missing = total - body.shape(name)[2]
    if not missing:
        return name
    return body.op("Pad", name, body.constant([0, 0, 0, 0, 0, 0, missing, 0]))


def _window(body: Body, cache: _Cache) -> str:
    """Which keys each query sees: none after it, unless the node sees both ways."""
    left, right = int(body.attribute("local_window_size", -1)), 0
    left = left - 1 if left > 0 else -1
    if not body.attribute("causal", 1):
        right = -1
    size = (cache.count, cache.total)
    if not cache.length:
        seen = window(np.arange(cache.count), cache.total, left, right)
        return allowed(body, seen & (np.arange(cache.total) < cache.count))
    number = number_of(body, cache.length)
    return by_length(body, number, size, left, right)
