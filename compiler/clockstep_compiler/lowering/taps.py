"""What a kernel sees: the rows of an image under each tap, and the weights of each tap.

The image has a row for each pixel and a border of real rows; a tap's operand is a row index into
it, and its weights are [M, C]. Where channels are few, the taps of a line lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, binary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import combine
from clockstep_compiler.lowering.lower import FLOATS, Lowering, stored_elements
from clockstep_compiler.lowering.windows import Ints, Window, window_of
from clockstep_compiler.steps import Compute, Move, Outer, Product, Term, Value, Weights
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = [
    "Taps",
    "constant_weights",
    "convolution_window",
    "is_narrow",
    "line_taps",
    "product_type",
    "side_by_side",
    "summed",
    "tap_weights",
    "with_bias",
]

Array = NDArray[Any]

_NARROW = 4
"""Channels up to which the taps of a line are put side by side: a tap alone fills few lanes."""


@dataclass(frozen=True, eq=False, slots=True)
class Taps:
    """What a kernel sees: for each tap the rows of `image` under it, and its weights.

    `rows` are those of one group's part of the image; groups follow each other.
    """

    image: Value
    under: tuple[NDArray[np.int64], ...]
    weights: tuple[Weights | Value, ...]
    groups: int
    rows: int


def convolution_window(state: Lowering, node: Node, image: str, weights: str) -> Window:
    shape = state.shape(weights)
    groups = int(node.attributes.get("group", 1))
    channels = state.shape(image)[-1]
    if groups < 1 or shape[1] * groups != channels or shape[0] % groups:
        raise UnsupportedModel(
            "unsupported-form", f"{channels} channels, weights {list(shape)}, {groups} groups"
        )
    declared = node.attributes.get("kernel_shape")
    if declared and tuple(declared) != shape[2:]:
        raise UnsupportedModel(
            "unsupported-form", f"kernel_shape {list(declared)}, weights {list(shape)}"
        )
    return window_of(node, state.shape(image), state.shape(node.outputs[0]), shape[2:])


def constant_weights(state: Lowering, name: str) -> Array | None:
    """The weights in float64 or int64 if they are constant, perhaps of a DequantizeLinear."""
    constant = state.constant(name)
    if constant is not None:
        return constant.astype(np.float64 if state.dtype(name) in FLOATS else np.int64)
    expr = state.tensors[name].expr
    return np.broadcast_to(expr.array, state.shape(name)) if isinstance(expr, Const) else None


def product_type(state: Lowering) -> Type:
    """The type that images are kept in for products of floats."""
    return Type.F32 if state.options.precision == "exact" else Type.F16


def tap_weights(
    state: Lowering, name: str, places: NDArray[np.int64]
) -> tuple[Weights | Value, ...]:
    """The weights of each tap, a set for each group; under `exact` as matrices [depth, columns].

    `places` [taps, groups, M / groups, C / groups] says where in the tensor they are.
    """
    kind = product_type(state)
    if kind == Type.F32:
        places = places.swapaxes(2, 3)
    _, groups, rows, columns = places.shape
    array = constant_weights(state, name)
    source = state.store(name, kind) if array is None else None
    if array is not None:
        data = stored_elements(array, "float32", kind)
        state.weight_bytes += data.nbytes
        if np.isinf(data).any() and not np.isinf(array).any():
            state.warnings.append(f"constant {name!r} exceeds {kind.name} and became infinite")
    found: list[Weights | Value] = []
    for at in places:
        if source is None and kind == Type.F16:
            found.append(Weights(groups, rows, columns, data=data.ravel()[at]))
            continue
        if source is None:
            value = state.constant_value(name, data.ravel()[at].reshape(-1, columns))
        else:
            value = state.new_value(name, groups * rows, columns, kind)
            state.steps.append(Move(value, (source,), at.reshape(-1, columns), (state.node,)))
        exact = kind == Type.F32
        found.append(value if exact else Weights(groups, rows, columns, value=value))
    return tuple(found)


def summed(state: Lowering, name: str, taps: Taps, pixels: int) -> Expr:
    """The sum over taps in f32; results of groups are joined to one row for each pixel."""
    rows = taps.groups * pixels
    indices = [
        np.concatenate([under + g * taps.rows for g in range(taps.groups)]) for under in taps.under
    ]
    sets = np.repeat(np.arange(taps.groups), pixels) if taps.groups > 1 else None
    terms: list[Term] = []
    total: Expr | None = None
    for index, weights in zip(indices, taps.weights, strict=True):
        if isinstance(weights, Weights):
            terms.append(Term(taps.image, weights, index))
            continue
        part = state.new_value(name, rows, weights.columns, Type.F32)
        state.steps.append(Outer(part, taps.image, weights, index, sets, (state.node,)))
        total = Leaf(part, None) if total is None else binary("add", total, Leaf(part, None))
    if total is None:
        total = Acc(Product(Type.F16, rows, terms[0].weights.columns, tuple(terms), sets))
    columns = taps.weights[0].columns
    if taps.groups == 1:
        return total
    apart = state.new_value(name, rows, columns, Type.F32)
    state.steps.append(Compute(apart, total, (state.node,), (rows, columns)))
    places = np.arange(rows * columns).reshape(taps.groups, pixels, columns)
    index = np.ascontiguousarray(places.transpose(1, 0, 2).reshape(pixels, -1))
    joined = state.new_value(name, pixels, taps.groups * columns, Type.F32)
    state.steps.append(Move(joined, (apart,), index, (state.node,)))
    return Leaf(joined, None)


def is_narrow(window: Window, channels: int) -> bool:
    return channels <= _NARROW and window.kernel[-1] > 1


def line_taps(window: Window) -> list[Ints]:
    """The taps of a kernel whose last axis lies in the lanes."""
    return list(np.ndindex(*window.kernel[:-1]))


def side_by_side(taps: NDArray[np.int64], window: Window) -> NDArray[np.int64]:
    """[taps, M, C] as [taps of all axes but the last, M, taps of the last * C]."""
    _, m, c = taps.shape
    lines = taps.reshape(-1, window.kernel[-1], m, c).transpose(0, 2, 1, 3)
    return lines.reshape(len(lines), m, -1)


def with_bias(state: Lowering, node: Node, result: Expr) -> Expr:
    """Plus the third input, one for each channel."""
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    if not bias:
        return result
    return combine("add", result, state.operand(bias, state.shape(node.outputs[0])))
