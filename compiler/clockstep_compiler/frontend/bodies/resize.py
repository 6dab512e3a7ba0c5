"""Resize by interpolation: along each axis, a weighted sum of elements at constant places.

The weights are computed in float64, as by onnx's reference evaluator, the sums in float32.
Nearest neighbours are no sums: they become moves (`movers.MOVES`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.convert import OLD_NEAREST
from clockstep_compiler.frontend.infer import Mismatch, infer, schema_of

__all__ = ["resize"]

Numbers = NDArray[np.float64]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_REACH = {"linear": 1, "cubic": 2}
"""How far from its place an element still counts, in elements."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis: its number, its sizes before and after, their ratio, the part of it that is taken.

    `scale` may be given and then `size * scale` is no whole number.
    """

    number: int
    size: int
    out: int
    scale: float
    start: float
    end: float


@composes("Resize")
def resize(body: Body) -> bool:
    """Replace a Resize that interpolates by weighted sums; leave one that takes the nearest."""
    source, *parameters = body.inputs(4)
    if any(name and body.value(name) is None for name in parameters):
        problem = "the sizes or scales are computed when the model runs"
        raise Refused("operand-not-constant", problem, "make them constant")
    shape = _shape(body)
    mode = body.attribute("mode", "nearest")
    if shape is None or 0 in shape:
        return False
    if body.attribute("nearest_mode") == OLD_NEAREST and mode == "nearest":
        body.give(0, _nearest(body, source, _axes(body, shape, parameters)))
        return True
    if mode not in _REACH:
        return False
    dtype = body.dtype(source)
    if dtype not in _FLOATS:
        raise Refused("element-type", f"{dtype} is not interpolated", "cast to float32")
    made = body.cast(source, "float64" if dtype == "float64" else "float32")
    for axis in _axes(body, shape, parameters):
        made = _along(body, made, axis, mode)
    body.give(0, body.cast(made, dtype))
    return True


def _shape(body: Body) -> tuple[int, ...] | None:
    step, walk = body.step, body.walk
    schema = schema_of(step.node, step.opset)
    assert schema is not None, step.name
    (row,) = infer(step.node, schema, step.opsets, walk.types, walk.constants)
    return row.shape


def _axes(body: Body, shape: Sequence[int], parameters: Sequence[str]) -> list[_Axis]:
    """The axes that are resized."""
    roi, scales, sizes = (_numbers(body, name) for name in parameters)
    before = body.shape(body.step.node.input[0])
    rank = len(before)
    chosen = [int(a) % rank for a in body.attribute("axes") or range(rank)]
    if not scales:
        wanted = [size / before[a] for a, size in zip(chosen, sizes, strict=True)]
        policy = body.attribute("keep_aspect_ratio_policy", "stretch")
        choose = {"not_larger": min, "not_smaller": max}.get(policy)
        scales = [choose(wanted)] * len(chosen) if choose else wanted
    count = len(chosen)
    if not _cropped(body):
        roi = [0.0] * count + [1.0] * count
    if len(scales) != count or len(roi) != 2 * count:
        raise Mismatch(f"{len(scales)} scales and {len(roi)} bounds do not suit {count} axes")
    rows = zip(chosen, scales, roi, roi[count:], strict=False)
    return [_Axis(a, before[a], shape[a], scale, low, up) for a, scale, low, up in rows]


def _numbers(body: Body, name: str) -> list[float]:
    value = body.value(name)
    return [] if value is None else [float(number) for number in value.ravel()]


def _along(body: Body, name: str, axis: _Axis, mode: str) -> str:
    """Resize along one axis."""
    at = _coordinates(body.attribute("coordinate_transformation_mode", "half_pixel"), axis)
    places, weights = _taps(body, at, axis, mode)
    shape = [-1] + [1] * (len(body.shape(name)) - axis.number - 1)
    dtype, parts = body.dtype(name), []
    for place, weight in zip(places.T, weights.T, strict=True):
        part = name
        if not np.array_equal(place, np.arange(axis.size)):
            part = body.op("Gather", name, body.constant(place), axis=axis.number)
        if (weight != 1).any():
            part = body.op("Mul", part, body.constant(weight.reshape(shape), dtype))
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = body.op("Add", total, part)
    outside = (at < 0) | (at > axis.size - 1)
    if not _cropped(body) or not outside.any():
        return total
    mask = body.constant(outside.reshape(shape), np.bool_)
    value = body.constant(body.attribute("extrapolation_value", 0.0), dtype)
    return body.op("Where", mask, value, total)


def _nearest(body: Body, name: str, axes: Sequence[_Axis]) -> str:
    """As before opset 11, when there were no attributes."""
    for axis in axes:
        at = np.arange(axis.out) / axis.scale
        places = (np.ceil(at) if axis.scale < 1 else np.floor(at)).astype(np.int64)
        if axis.scale != 1:
            place = body.constant(np.minimum(places, axis.size - 1))
            name = body.op("Gather", name, place, axis=axis.number)
    return name


def _cropped(body: Body) -> bool:
    return bool(body.attribute("coordinate_transformation_mode") == "tf_crop_and_resize")


def _taps(body: Body, at: Numbers, axis: _Axis, mode: str) -> tuple[NDArray[np.int64], Numbers]:
    """For each element made, which elements count and with which weight: both [out, taps]."""
    shrunk = min(axis.scale, 1.0) if body.attribute("antialias", 0) else 1.0
    reach = int(np.ceil(_REACH[mode] / shrunk))
    places = np.floor(at).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    distance = np.abs(places - at[:, None]) * shrunk
    if mode == "linear":
        weights = np.maximum(1 - distance, 0)
    else:
        weights = _cubic(distance, body.attribute("cubic_coeff_a", -0.75))
    if body.attribute("exclude_outside", 0):
        weights[(places < 0) | (places >= axis.size)] = 0
    total = weights.sum(axis=1, keepdims=True)
    weights /= np.where(total == 0, 1, total)
    used = weights.any(axis=0)
    return np.clip(places[:, used], 0, axis.size - 1), weights[:, used]


def _cubic(distance: Numbers, a: float) -> Numbers:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _coordinates(mode: str, axis: _Axis) -> Numbers:
    """Where each element made lies among those there are."""
    out = np.arange(axis.out, dtype=np.float64)
    width = axis.scale * axis.size
    last = axis.size - 1
    if mode in ("align_corners", "tf_crop_and_resize"):
        middle = (axis.start + axis.end) / 2 if mode == "tf_crop_and_resize" else 0.0
        if width == 1:
            return np.full(axis.out, middle * last)
        return axis.start * last + out * (axis.end - axis.start) * last / (width - 1)
    if mode == "asymmetric":
        return out / axis.scale
    if mode == "pytorch_half_pixel" and width == 1:
        return np.zeros(axis.out)
    centre = axis.size / 2 * (1 - axis.out / width) if mode == "half_pixel_symmetric" else 0.0
    return centre + (out + 0.5) / axis.scale - 0.5
