"""RoiAlign: regions of images as bins, each of which is sampled at several places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clockstep_compiler.frontend.bodies.addressed import take
from clockstep_compiler.frontend.bodies.sampling import Columns, table_of
from clockstep_compiler.frontend.body import Body, Refused, composes

__all__: list[str] = []


@composes("RoiAlign")
def _roi_align(body: Body) -> None:
    """Every bin is sampled at `sampling_ratio` squared places, averaged or their maximum."""
    image, rois, batch = body.inputs(3)
    shape, count = body.shape(image), body.shape(rois)[0]
    ratio = body.attribute("sampling_ratio", 0)
    if ratio <= 0:
        raise Refused(
            "dynamic-shape",
            "sampling_ratio 0 takes as many samples as the regions are large",
            "give it a sampling_ratio of 1 or more",
        )
    bins = body.attribute("output_height", 1), body.attribute("output_width", 1)
    axes = [_axis(body, rois, k, bins[k], ratio, shape[2 + k]) for k in range(2)]
    first = body.reshape(body.cast(batch, "int32"), [count, 1, 1, 1, 1, 1])
    table = body.reshape(table_of(body, image), [shape[0] * shape[2] * shape[3], shape[1]])
    weighed = []
    inside = body.op("And", axes[0].inside, axes[1].inside)
    for y, y_weight in axes[0].taps:
        for x, x_weight in axes[1].taps:
            row = body.op("Add", body.op("Mul", first, body.constant(shape[2], np.int32)), y)
            flat = body.op("Add", body.op("Mul", row, body.constant(shape[3], np.int32)), x)
            flat = body.op("Where", inside, flat, body.constant(-1, np.int32))
            value = body.cast(take(body, table, flat), "float32")
            form = [*body.shape(flat)[:-1], shape[1]]
            weight = body.op("Mul", y_weight, x_weight)
            weighed.append(body.op("Mul", body.reshape(value, form), weight))
    greatest = body.attribute("mode", "avg") == "max"
    total = weighed[0]
    for value in weighed[1:]:
        total = body.op("Max" if greatest else "Add", total, value)
    reduce = "ReduceMax" if greatest else "ReduceMean"
    total = body.op(reduce, total, body.constant([2, 4]), keepdims=0)
    body.give(0, body.cast(body.transpose(total, (0, 3, 1, 2)), body.dtype(image)))


@dataclass(frozen=True, slots=True)
class _Axis:
    """The samples along an axis: places and weights of both neighbours, and which count."""

    taps: tuple[tuple[str, str], tuple[str, str]]
    inside: str


def _axis(body: Body, rois: str, axis: int, bins: int, ratio: int, size: int) -> _Axis:
    """Rows are rois [x, y, x, y]; axis 0 is y. Results have axes [roi, y, y, x, x, 1]."""
    columns, count = Columns(body), body.shape(rois)[0]
    half = body.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    rois = body.cast(rois, "float32")
    start, end = (
        columns.add(
            columns.mul(
                body.reshape(body.slice(rois, 1, at, at + 1), [count, 1, 1, 1, 1, 1]),
                body.attribute("spatial_scale", 1.0),
            ),
            -0.5 if half and body.step.opset >= 16 else 0.0,
        )
        for at in (1 - axis, 3 - axis)
    )
    length = body.op("Sub", end, start)
    if not half or body.step.opset < 16:
        length = body.op("Max", length, columns.number(1.0))
    width = body.op("Div", length, columns.number(bins))
    form = [1, bins, ratio, 1, 1, 1] if axis == 0 else [1, 1, 1, bins, ratio, 1]
    spread = np.broadcast_to(np.arange(bins)[:, None], (bins, ratio)).reshape(form)
    within = np.broadcast_to(np.arange(ratio) + 0.5, (bins, ratio)).reshape(form)
    bin_ = body.op("Mul", width, body.constant(spread, np.float32))
    sample = body.op("Mul", width, body.constant(within, np.float32))
    sample = body.op("Div", sample, columns.number(ratio))
    place = body.op("Add", body.op("Add", start, bin_), sample)
    inside = body.op(
        "And",
        body.op("GreaterOrEqual", place, columns.number(-1.0)),
        body.op("LessOrEqual", place, columns.number(size)),
    )
    place = columns.clip(place, 0.0, size - 1)
    low = body.op("Floor", place)
    part = body.op("Sub", place, low)
    high = columns.clip(columns.add(low, 1.0), 0.0, size - 1)
    rest = body.op("Sub", columns.number(1.0), part)
    taps = (body.cast(low, "int32"), rest), (body.cast(high, "int32"), part)
    return _Axis(taps, inside)
