"""Convolutions, pooling and resizing: operators that slide over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fuzz import bounds_quantized, bounds_reduce
from fuzz.bounds import all_or_nothing
from fuzz.bounds_products import bilinear
from fuzz.builder import Graph, Skip
from fuzz.rows.quantized import scale, zero
from fuzz.rows.row import Row

__all__ = ["ROWS"]

_IMAGES = ("float32", "float16")


def _image(g: Graph, dtypes: tuple[str, ...] = _IMAGES) -> str:
    """An image with one to three spatial axes; mostly a new one, for few others have that rank."""
    ranks = g.choose((3, 3), (4, 4), (4, 4), (5, 5))
    try:
        return g.tensor(dtypes, ranks, lambda v: v.size > 0)
    except Skip:
        shape = (
            g.integer(1, 2),
            g.choose(1, 2, 3, 4, 6),
            *(g.integer(2, 6) for _ in range(ranks[0] - 2)),
        )
        return g.fresh(shape, g.choose(*dtypes), constant=False)


def _window(g: Graph, sizes: Sequence[int]) -> dict[str, Any]:
    """Sizes, strides, dilations and pads, each there or not; no window is wider than the image."""
    kernel = [g.integer(1, min(3, n)) for n in sizes]
    found: dict[str, Any] = {"kernel_shape": kernel}
    if g.flag():
        found["strides"] = [g.choose(1, 1, 2, 3) for _ in sizes]
    if g.flag():
        wide = [2 if 2 * k - 1 <= n else 1 for k, n in zip(kernel, sizes, strict=True)]
        found["dilations"] = [g.choose(1, 1, most) for most in wide]
    if g.integer(0, 3) == 3:
        found["auto_pad"] = g.choose("SAME_UPPER", "SAME_LOWER", "VALID")
        found.pop("dilations", None)
        strides = found.get("strides", [1] * len(kernel))
        if _crops(sizes, kernel, strides) and found["auto_pad"] != "VALID":
            found.pop("strides")
    elif g.flag():
        found["pads"] = [g.integer(0, k - 1) for k in (*kernel, *kernel)]
    return found


def _crops(sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether padding to the same size would be negative, which ONNX does not define: onnx's
    evaluator crops, onnxruntime refuses."""
    axes = zip(sizes, kernel, strides, strict=True)
    return any((-(-n // s) - 1) * s + k < n for n, k, s in axes)


def _convolution(g: Graph, op: str) -> None:
    x = _image(g)
    value = g.like(x)
    channels = value.shape[1]
    group = int(g.choose(*(d for d in range(1, channels + 1) if channels % d == 0)))
    out = group * g.integer(1, 3)
    window = _window(g, value.shape[2:])
    if op == "ConvTranspose":
        if "auto_pad" in window:
            raise Skip
        shape = (channels, out // group, *window["kernel_shape"])
    else:
        shape = (out, channels // group, *window["kernel_shape"])
    # onnx's evaluator gives the groups of a ConvTranspose the biases of the first one.
    biased = g.flag() and (op == "Conv" or group == 1)
    bias = [g.operand((out,), value.dtype)] if biased else []
    g.node(op, [x, g.operand(shape, value.dtype), *bias], group=group, **window)


def _integer_convolution(g: Graph, op: str) -> None:
    x = _image(g, ("uint8", "int8") if op == "QLinearConv" else ("uint8",))
    value = g.like(x)
    window = _window(g, value.shape[2:])
    kind = g.choose("int8", "uint8") if op == "QLinearConv" else "uint8"
    out = g.integer(1, 4)
    shape = (out, value.shape[1], *window["kernel_shape"])
    weights = g.fresh(shape, kind, constant=True)
    if op == "ConvInteger":
        g.node(op, [x, weights, zero(g, (), "uint8")][: g.integer(2, 3)], **window)
        return
    wide = g.constant(np.asarray(g.choose(0.5, 3.0, 17.0), np.float32))
    names = [x, scale(g, ()), zero(g, (), value.dtype.name), weights, scale(g, ())]
    names += [zero(g, (), kind), wide, zero(g, (), value.dtype.name)]
    g.node(op, names, **window)


def _pool(g: Graph, op: str) -> None:
    x = _image(g, ("float32", "float16", "int8", "uint8") if op == "MaxPool" else _IMAGES)
    window = _window(g, g.like(x).shape[2:])
    if g.opset < 19 and op != "MaxPool":
        window.pop("dilations", None)
    if op == "AveragePool":
        window["count_include_pad"] = g.integer(0, 1)
    if op == "LpPool":
        window["p"] = g.choose(1, 2)
    if op != "LpPool":
        window["ceil_mode"] = g.integer(0, 1)
    g.node(op, [x], **window)


def _global(g: Graph, op: str) -> None:
    """With two spatial axes: onnx's evaluator drops one of a single one."""
    g.node(op, [g.tensor(_IMAGES, (4, 4), lambda v: v.size > 0)])


def _resize(g: Graph, op: str) -> None:
    x = _image(g)
    value = g.like(x)
    if value.size > 150:
        raise Skip
    modes = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    sizes = [*value.shape[:2], *(max(1, n + g.integer(-2, 4)) for n in value.shape[2:])]
    mode = g.choose("nearest", "linear", "cubic")
    nearest = {"nearest_mode": g.choose("floor", "ceil", "round_prefer_floor")}
    g.node(
        op,
        [x, "", "", g.constant(np.array(sizes, np.int64))],
        mode=mode,
        coordinate_transformation_mode=g.choose(*modes),
        **(nearest if mode == "nearest" else {}),
    )


# fmt: off
ROWS: tuple[Row, ...] = (
    *(Row(op, _pool, bounds_reduce.pooled) for op in ("AveragePool", "LpPool", "MaxPool")),
    *(Row(op, _global, bounds_reduce.pooled) for op in ("GlobalAveragePool", "GlobalMaxPool")),
    Row("Conv", _convolution, bilinear),
    Row("ConvInteger", _integer_convolution, all_or_nothing),
    Row("ConvTranspose", _convolution, bilinear),
    Row("QLinearConv", _integer_convolution, bounds_quantized.one_step),
    Row("Resize", _resize, bounds_reduce.nearest),
)
# fmt: on
