"""Rotary position embedding: every pair of elements of a head turned by its place's angle.

x * cos + partner(x) * (sin or -sin): the partners are moved, the cosines and sines are looked up,
now if the positions are constant, else when the model runs.
"""

from __future__ import annotations

import numpy as np

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__ = ["among", "rotated", "turns"]


def turns(body: Body, cache: str, positions: str) -> str:
    """The rows [B, S, R / 2] of a cache [M, R / 2] at `positions` [B, S]."""
    cache, positions = body.walk.resolve(cache), body.walk.resolve(positions)
    return body.shared(
        lambda: body.op("Gather", cache, positions, axis=0), "turns", cache, positions
    )


def among(body: Body, name: str, axis: int) -> str:
    """What is the same for all heads, which are at `axis`."""
    name = body.walk.resolve(name)

    def made() -> str:
        return body.op("Unsqueeze", name, body.constant([axis]))

    return body.shared(made, "among", name, axis)


def rotated(body: Body, x: str, cos: str, sin: str, interleaved: bool) -> str:
    """The first R elements of every head of `x` turned; `cos` and `sin` [..., R / 2] broadcast.

    Partners are neighbours if `interleaved`, else R / 2 apart.
    """
    half, size = body.shape(cos)[-1], body.shape(x)[-1]
    if not 0 < 2 * half <= size or body.shape(sin) != body.shape(cos):
        raise Mismatch(f"cosines {body.shape(cos)}, sines {body.shape(sin)}, heads of {size}")
    place = np.arange(2 * half)
    angle, second = (place // 2, place % 2) if interleaved else (place % half, place // half)
    partner = place + (1 if interleaved else half) * (1 - 2 * second)
    angles, partners = body.constant(angle), body.constant(partner)
    kind = body.dtype(x)

    def crossing() -> str:
        signs = body.cast(body.constant(2.0 * second - 1.0, np.float32), kind)
        return body.op("Mul", body.op("Gather", sin, angles, axis=-1), signs)

    factor = body.shared(lambda: body.op("Gather", cos, angles, axis=-1), "cos", cos, interleaved)
    crossed = body.shared(crossing, "sin", sin, kind, interleaved)
    axis = len(body.shape(x)) - 1
    head, rest = body.slice(x, axis, 0, 2 * half), body.slice(x, axis, 2 * half, size)
    other = body.op("Gather", head, partners, axis=-1)
    turned = body.op("Add", body.op("Mul", head, factor), body.op("Mul", other, crossed))
    return turned if size == 2 * half else body.op("Concat", turned, rest, axis=-1)


def _turned(body: Body, x: str, cos: str, sin: str, heads: int, interleaved: bool) -> str:
    """`x` is [B, S, H * D] or [B, H, S, D], `cos` and `sin` [B, S, R / 2]."""
    shape = body.shape(x)
    if len(shape) == 3 and (heads < 1 or shape[2] % heads):
        raise Mismatch(f"{shape[2]} elements are not {heads} heads")
    axis = 2 if len(shape) == 3 else 1
    split = [*shape[:2], heads, shape[2] // heads] if axis == 2 else shape
    cos, sin = (among(body, name, axis) for name in (cos, sin))
    return body.reshape(rotated(body, body.reshape(x, split), cos, sin, interleaved), shape)


@composes("RotaryEmbedding")
def _rotary(body: Body) -> None:
    x, cos, sin, positions = body.inputs(4)
    if positions:
        cos, sin = turns(body, cos, positions), turns(body, sin, positions)
    width = int(body.attribute("rotary_embedding_dim", 0))
    if width and width != 2 * body.shape(cos)[-1]:
        raise Mismatch(f"{width} elements to turn by {body.shape(cos)[-1]} angles")
    heads, interleaved = (int(body.attribute(n, 0)) for n in ("num_heads", "interleaved"))
    body.give(0, _turned(body, x, cos, sin, heads, bool(interleaved)))


@composes("com.microsoft.RotaryEmbedding")
def _rotary_of_onnxruntime(body: Body) -> None:
    """Positions [B, S], or [1]: that of the first element, the others following it."""
    x, positions, cos, sin = body.inputs(4)
    if body.attribute("is_packed_batching", 0):
        raise Refused("unsupported-form", "sequences of a batch packed one after the other")
    if float(body.attribute("scale", 1.0)) != 1.0:
        raise Refused("unsupported-form", "a scale other than 1")
    shape, half = body.shape(x), body.shape(cos)[-1]
    batch, length = shape[0], shape[1 if len(shape) == 3 else 2]
    if len(body.shape(positions)) == 1:
        steps = np.broadcast_to(np.arange(length), (batch, length))
        first = body.reshape(body.cast(positions, "int32"), [1, 1])
        positions = body.op("Add", first, body.constant(steps, "int32"))
    width = int(body.attribute("rotary_embedding_dim", 0)) or 2 * half
    heads = int(body.attribute("num_heads", 0))
    heads = heads or (shape[2] // width if len(shape) == 3 else shape[1])
    if width != 2 * half:
        raise Mismatch(f"{width} elements to turn by {half} angles")
    cos, sin = turns(body, cos, positions), turns(body, sin, positions)
    interleaved = bool(body.attribute("interleaved", 0))
    body.give(0, _turned(body, x, cos, sin, heads, interleaved))
