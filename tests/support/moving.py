"""Random single nodes that only move elements: one strategy for each ONNX operator.

`CASES` has them by operator. To cover another operator, add a function under `_case`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, helper

__all__ = ["CASES", "Case", "apply_move", "random_array"]

Array = NDArray[np.generic]
Shape = tuple[int, ...]
Draw = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A node, the opset it is of, the shapes of its data operands, and the other operands."""

    node: NodeProto
    opset: int
    data: Mapping[str, Shape]
    constants: Mapping[str, Array]


CASES: dict[str, st.SearchStrategy[Case]] = {}


def apply_move(
    index: NDArray[np.int64], fill: float, arrays: list[Array], dtype: np.dtype[np.generic]
) -> Array:
    """What a Move means, in numpy."""
    elements = [array.reshape(-1) for array in arrays]
    table = np.concatenate([*elements, np.array([fill]).astype(dtype)])
    return table[index]


def random_array(shape: Shape, dtype: str, seed: int) -> Array:
    """Elements of any kind: for floats also both zeros, infinities and NaN."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype == "int8":
        return rng.integers(-128, 128, shape, np.int8)
    found = np.asarray(rng.normal(size=shape)).astype(dtype)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    return np.where(rng.random(shape) < 0.2, rng.choice(special, shape), found).astype(dtype)


def _case(op: str) -> Callable[[Callable[[Draw], Case]], Callable[[Draw], Case]]:
    def register(function: Callable[[Draw], Case]) -> Callable[[Draw], Case]:
        CASES[op] = st.composite(function)()
        return function

    return register


def _node(op: str, inputs: list[str], outputs: int = 1, **attributes: object) -> NodeProto:
    kept = {key: value for key, value in attributes.items() if value is not None}
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return helper.make_node(op, inputs, [f"y{i}" for i in range(outputs)], "node", **kept)


def _shape(draw: Draw, least: int = 0, most: int = 4, small: int = 0) -> Shape:
    return tuple(draw(st.lists(st.integers(small, 4), min_size=least, max_size=most)))


def _axis(draw: Draw, rank: int) -> int:
    return int(draw(st.integers(-rank, rank - 1)))


def _axes(draw: Draw, rank: int) -> list[int]:
    """Different axes in any order, some counted from the end."""
    chosen = draw(st.lists(st.integers(0, rank - 1), unique=True, max_size=rank))
    return [a - rank * draw(st.integers(0, 1)) for a in chosen]


def _ints(values: list[int]) -> Array:
    return np.array(values, np.int64)


def _positions(draw: Draw, shape: Shape, size: int) -> Array:
    """Positions along an axis of `size`, negative ones too; empty if there are none."""
    count = math.prod(shape)
    flat = draw(st.lists(st.integers(-size, size - 1), min_size=count, max_size=count))
    return np.array(flat, draw(st.sampled_from(("int32", "int64")))).reshape(shape)


@_case("Transpose")
def _transpose(draw: Draw) -> Case:
    shape = _shape(draw)
    perm = draw(st.none() | st.permutations(range(len(shape)))) if shape else None
    return Case(_node("Transpose", ["x"], perm=perm), draw(_opset(13, 21)), {"x": shape}, {})


@_case("Reshape")
def _reshape(draw: Draw) -> Case:
    shape, opset = _shape(draw, 0, 4), draw(_opset(5, 13, 14, 21))
    target = list(draw(st.permutations(shape)))
    allowzero = 1 if opset >= 14 and 0 in target else None
    if target and 0 not in shape and draw(st.booleans()):
        target[draw(st.integers(0, len(target) - 1))] = -1
    if 0 in target and not allowzero:
        target = list(shape)  # 0 there means: as it was
    node = _node("Reshape", ["x", "s"], allowzero=allowzero)
    return Case(node, opset, {"x": shape}, {"s": _ints(target)})


@_case("Flatten")
def _flatten(draw: Draw) -> Case:
    shape = _shape(draw, 1, 4, 1)
    axis = draw(st.integers(-len(shape), len(shape)))
    return Case(_node("Flatten", ["x"], axis=axis), draw(_opset(11, 13, 21)), {"x": shape}, {})


@_case("Squeeze")
def _squeeze(draw: Draw) -> Case:
    shape, opset = _shape(draw, 1, 4), draw(_opset(1, 11, 13, 21))
    ones = [a for a, n in enumerate(shape) if n == 1]
    if not ones or draw(st.booleans()):
        return Case(_node("Squeeze", ["x"]), opset, {"x": shape}, {})
    axes = [a - (len(shape) if opset > 1 and draw(st.booleans()) else 0) for a in ones]
    if opset < 13:
        return Case(_node("Squeeze", ["x"], axes=sorted(axes, key=lambda a: a % len(shape))), opset,
                    {"x": shape}, {})  # fmt: skip
    return Case(_node("Squeeze", ["x", "a"]), opset, {"x": shape}, {"a": _ints(axes)})


@_case("Unsqueeze")
def _unsqueeze(draw: Draw) -> Case:
    shape, opset = _shape(draw, 0, 3), draw(_opset(1, 11, 13, 21))
    more = draw(st.integers(1, 2))
    rank = len(shape) + more
    axes = sorted(draw(st.permutations(range(rank)))[:more])
    if opset < 13:
        return Case(_node("Unsqueeze", ["x"], axes=axes), opset, {"x": shape}, {})
    axes = [a - rank * draw(st.integers(0, 1)) for a in axes]
    return Case(_node("Unsqueeze", ["x", "a"]), opset, {"x": shape}, {"a": _ints(axes)})


@_case("Slice")
def _slice(draw: Draw) -> Case:
    shape = _shape(draw, 1)
    opset = draw(_opset(1, 10, 13))
    axes = _axes(draw, len(shape)) or [0]
    ends = st.integers(-6, 6) | st.sampled_from((-(1 << 63), (1 << 63) - 1, (1 << 31) - 1))
    starts, stops = ([draw(ends) for _ in axes] for _ in range(2))
    if opset == 1:
        axes = [a % len(shape) for a in axes]
        node = _node("Slice", ["x"], starts=starts, ends=stops, axes=axes)
        return Case(node, opset, {"x": shape}, {})
    steps = [draw(st.sampled_from((1, 1, 2, 3, -1, -2))) for _ in axes]
    # Backwards from before the first element: there onnx's evaluator is Python, not ONNX.
    starts = [
        max(a, -shape[x]) if t < 0 else a for a, x, t in zip(starts, axes, steps, strict=True)
    ]
    constants = {"s": _ints(starts), "e": _ints(stops), "a": _ints(axes), "t": _ints(steps)}
    return Case(_node("Slice", ["x", "s", "e", "a", "t"]), opset, {"x": shape}, constants)


@_case("Split")
def _split(draw: Draw) -> Case:
    shape = _shape(draw, 1)
    axis, opset = _axis(draw, len(shape)), draw(_opset(2, 11, 13, 18))
    axis = axis % len(shape) if opset == 2 else axis
    size = shape[axis]
    if opset == 18 and draw(st.booleans()):
        parts = draw(st.integers(1, max(1, size)))
        if parts * -(-size // parts) - size < max(1, -(-size // parts)):
            return Case(
                _node("Split", ["x"], parts, axis=axis, num_outputs=parts), opset, {"x": shape}, {}
            )
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
    lengths = [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]
    if opset < 13:
        node = _node("Split", ["x"], len(lengths), axis=axis, split=lengths)
        return Case(node, opset, {"x": shape}, {})
    node = _node("Split", ["x", "s"], len(lengths), axis=axis)
    return Case(node, opset, {"x": shape}, {"s": _ints(lengths)})


@_case("Concat")
def _concat(draw: Draw) -> Case:
    shape = _shape(draw, 1)
    axis = _axis(draw, len(shape))
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    data = {
        f"x{i}": tuple(n if a == axis % len(shape) else m for a, m in enumerate(shape))
        for i, n in enumerate(sizes)
    }
    names = [*data, *draw(st.lists(st.sampled_from(sorted(data)), max_size=2))]
    return Case(_node("Concat", names, axis=axis), draw(_opset(11, 13)), data, {})


@_case("Pad")
def _pad(draw: Draw) -> Case:
    opset = draw(_opset(2, 11, 13, 18, 21))
    modes = ("constant", "reflect", "edge", *(["wrap"] if opset >= 19 else []))
    mode = draw(st.sampled_from(modes))
    shape = _shape(draw, 1, 3, 0 if mode == "constant" else 1)
    axes = _axes(draw, len(shape)) if opset >= 18 and draw(st.booleans()) else None
    count = len(shape) if axes is None else len(axes)
    sizes = [shape[a] for a in (range(count) if axes is None else axes)]
    pads = [draw(st.integers(0, max(0, n - 1) if mode != "constant" else 3)) for n in sizes * 2]
    if opset == 2:
        value = draw(st.none() | st.sampled_from((0.0, -0.0, 1.5)))
        return Case(_node("Pad", ["x"], mode=mode, pads=pads, value=value), 2, {"x": shape}, {})
    constants = {"p": _ints(pads)}
    constants |= {} if axes is None else {"a": _ints(axes)}
    data = {"x": shape} | ({"v": ()} if mode == "constant" and draw(st.booleans()) else {})
    names = ["x", "p", "v" if "v" in data else "", "a" if "a" in constants else ""]
    return Case(_node("Pad", names, mode=mode), opset, data, constants)


@_case("Expand")
def _expand(draw: Draw) -> Case:
    target = _shape(draw, 0, 4, 1)
    rank = draw(st.integers(0, len(target)))
    ones = [draw(st.booleans()) for _ in range(rank)]
    shape = tuple(1 if o else n for o, n in zip(ones, target[len(target) - rank :], strict=True))
    asked = [n if not rank or draw(st.booleans()) or i < len(target) - rank else 1
             for i, n in enumerate(target)]  # fmt: skip
    return Case(_node("Expand", ["x", "s"]), draw(_opset(8, 13)), {"x": shape}, {"s": _ints(asked)})


@_case("Tile")
def _tile(draw: Draw) -> Case:
    shape = _shape(draw, 1, 3)
    repeats = [draw(st.integers(0, 3)) for _ in shape]
    return Case(_node("Tile", ["x", "r"]), draw(_opset(6, 13)), {"x": shape}, {"r": _ints(repeats)})


@_case("Gather")
def _gather(draw: Draw) -> Case:
    shape = _shape(draw, 1, 3, 1)
    axis = _axis(draw, len(shape))
    indices = _positions(draw, _shape(draw, 0, 2), shape[axis])
    return Case(
        _node("Gather", ["x", "i"], axis=axis), draw(_opset(11, 13)), {"x": shape}, {"i": indices}
    )


@_case("GatherElements")
def _gather_elements(draw: Draw) -> Case:
    shape = _shape(draw, 1, 3, 1)
    axis = _axis(draw, len(shape))
    sizes = [draw(st.integers(0, n)) for n in shape]
    sizes[axis] = draw(st.integers(0, 5))
    indices = _positions(draw, tuple(sizes), shape[axis])
    node = _node("GatherElements", ["x", "i"], axis=axis)
    return Case(node, draw(_opset(11, 13)), {"x": shape}, {"i": indices})


def _coordinates(draw: Draw, lead: Shape, sizes: Shape) -> Array:
    parts = [_positions(draw, lead, n).astype(np.int64) for n in sizes]
    return np.stack(parts, -1)


@_case("GatherND")
def _gather_nd(draw: Draw) -> Case:
    shape = _shape(draw, 1, 4, 1)
    batch = draw(st.integers(0, len(shape) - 1))
    depth = draw(st.integers(1, len(shape) - batch))
    lead = (*shape[:batch], *_shape(draw, 0, 2))
    if math.prod(lead) == 0:
        lead = shape[:batch]
    indices = _coordinates(draw, lead, shape[batch : batch + depth])
    node = _node("GatherND", ["x", "i"], batch_dims=batch)
    return Case(node, draw(_opset(12, 13)), {"x": shape}, {"i": indices})


@_case("ScatterElements")
def _scatter_elements(draw: Draw) -> Case:
    shape = _shape(draw, 1, 3, 1)
    axis, opset = _axis(draw, len(shape)), draw(_opset(11, 13, 16, 18))
    sizes = tuple(draw(st.integers(0, n)) for n in shape)
    indices = _positions(draw, sizes, shape[axis])
    reduction = "none" if opset >= 16 and draw(st.booleans()) else None
    node = _node("ScatterElements", ["x", "i", "u"], axis=axis, reduction=reduction)
    return Case(node, opset, {"x": shape, "u": sizes}, {"i": indices})


@_case("ScatterND")
def _scatter_nd(draw: Draw) -> Case:
    shape = _shape(draw, 1, 4, 1)
    depth = draw(st.integers(1, len(shape)))
    lead = _shape(draw, 0, 2)
    indices = _coordinates(draw, lead, shape[:depth])
    data = {"x": shape, "u": (*lead, *shape[depth:])}
    return Case(
        _node("ScatterND", ["x", "i", "u"]), draw(_opset(11, 13, 16, 18)), data, {"i": indices}
    )


@_case("TensorScatter")
def _tensor_scatter(draw: Draw) -> Case:
    shape = _shape(draw, 2, 4, 1)
    axis = draw(st.integers(1, len(shape) - 1))
    length = draw(st.integers(0, shape[axis]))
    update = tuple(length if a == axis else n for a, n in enumerate(shape))
    circular = draw(st.booleans())
    last = shape[axis] - 1 if circular else shape[axis] - length
    starts = [draw(st.integers(0, last)) for _ in range(shape[0])]
    given = draw(st.booleans())
    node = _node(
        "TensorScatter",
        ["x", "u", *(["i"] if given else [])],
        axis=axis - len(shape) * draw(st.integers(0, 1)),
        mode="circular" if circular else "linear",
    )
    return Case(node, 24, {"x": shape, "u": update}, {"i": _ints(starts)} if given else {})


@_case("DepthToSpace")
def _depth_to_space(draw: Draw) -> Case:
    b = draw(st.integers(1, 2))
    n, c, h, w = (draw(st.integers(1, 3)) for _ in range(4))
    mode = draw(st.sampled_from(("DCR", "CRD", None)))
    node = _node("DepthToSpace", ["x"], blocksize=b, mode=mode)
    return Case(node, draw(_opset(11, 13)), {"x": (n, c * b * b, h, w)}, {})


@_case("SpaceToDepth")
def _space_to_depth(draw: Draw) -> Case:
    b, opset = draw(st.integers(1, 2)), draw(_opset(1, 13, 28))
    n, c, h, w = (draw(st.integers(1, 3)) for _ in range(4))
    mode = draw(st.sampled_from(("DCR", "CRD"))) if opset == 28 else None
    node = _node("SpaceToDepth", ["x"], blocksize=b, mode=mode)
    return Case(node, opset, {"x": (n, c, h * b, w * b)}, {})


@_case("Resize")
def _resize(draw: Draw) -> Case:
    opset = draw(_opset(11, 13, 18, 19))
    shape = _shape(draw, 1, 4, 1)
    modes = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    modes += ["tf_crop_and_resize"] + ["half_pixel_symmetric"] * (opset >= 19)
    mode = draw(st.sampled_from(modes))
    axes = _axes(draw, len(shape)) if opset >= 18 and draw(st.booleans()) else None
    chosen = list(range(len(shape))) if not axes else [a % len(shape) for a in axes]
    names, constants = ["x", "", "", ""], {}
    if mode == "tf_crop_and_resize":
        corner = st.sampled_from((0.0, 0.25, 0.5, 1.0, 1.25, -0.5))
        roi = [draw(corner) for _ in chosen] + [draw(corner) for _ in chosen]
        names[1], constants["roi"] = "roi", np.array(roi, np.float32)
    elif opset == 11 or draw(st.booleans()):
        names[1], constants["roi"] = "roi", np.zeros(0, np.float32)
    if draw(st.booleans()):
        scale = st.sampled_from((1.0, 2.0, 3.0, 0.5, 1.5, 0.75, 2.6))
        scales = [max(draw(scale), 1.0 / shape[a]) for a in chosen]
        names[2], constants["scales"] = "scales", np.array(scales, np.float32)
    else:
        policy = draw(st.sampled_from(("stretch", "not_larger", "not_smaller")))
        sizes = [draw(st.integers(1, 7)) for _ in chosen]
        names[3], constants["sizes"] = "sizes", _ints(sizes)
        if opset == 11:
            names[2], constants["scales"] = "scales", np.zeros(0, np.float32)
    node = _node(
        "Resize",
        names,
        axes=chosen if axes else None,
        mode="nearest",
        coordinate_transformation_mode=mode,
        extrapolation_value=draw(st.sampled_from((0.0, 10.0, -3.0))),
        keep_aspect_ratio_policy=policy if opset >= 18 and "sizes" in constants else None,
        nearest_mode=draw(
            st.sampled_from(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
        ),
    )
    return Case(node, opset, {"x": shape}, constants)


@_case("ReverseSequence")
def _reverse_sequence(draw: Draw) -> Case:
    shape = _shape(draw, 2, 4, 1)
    batch = draw(st.integers(0, 1))
    lengths = [draw(st.integers(1, shape[1 - batch])) for _ in range(shape[batch])]
    node = _node("ReverseSequence", ["x", "n"], batch_axis=batch, time_axis=1 - batch)
    return Case(node, 10, {"x": shape}, {"n": _ints(lengths)})


@_case("Trilu")
def _trilu(draw: Draw) -> Case:
    shape = _shape(draw, 2)
    k = draw(st.none() | st.integers(-5, 5))
    names, constants = (["x"], {}) if k is None else (["x", "k"], {"k": np.array(k, np.int64)})
    return Case(_node("Trilu", names, upper=draw(st.integers(0, 1))), 14, {"x": shape}, constants)


@_case("CenterCropPad")
def _center_crop_pad(draw: Draw) -> Case:
    shape = _shape(draw, 1, 4, 1)
    axes = _axes(draw, len(shape)) or None
    sizes = [draw(st.integers(1, 6)) for _ in (axes or shape)]
    node = _node("CenterCropPad", ["x", "s"], axes=axes)
    return Case(node, 18, {"x": shape}, {"s": _ints(sizes)})


@_case("Compress")
def _compress(draw: Draw) -> Case:
    shape = _shape(draw, 1, 3, 1)
    axis = draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    size = math.prod(shape) if axis is None else shape[axis]
    flags = draw(st.lists(st.booleans(), min_size=1, max_size=size))
    node = _node("Compress", ["x", "c"], axis=axis)
    return Case(node, draw(_opset(9, 11)), {"x": shape}, {"c": np.array(flags)})


@_case("Where")
def _where(draw: Draw) -> Case:
    shape = _shape(draw, 0, 3, 1)

    def part() -> Shape:
        kept = shape[draw(st.integers(0, len(shape))) :]
        return tuple(1 if draw(st.booleans()) else n for n in kept)

    flags = random_array(part(), "bool", draw(st.integers(0, 99)))
    data = {"a": part(), "b": part()}
    return Case(_node("Where", ["c", "a", "b"]), draw(_opset(9, 16)), data, {"c": flags})


def _opset(*versions: int) -> st.SearchStrategy[int]:
    return st.sampled_from(versions)
