"""What a kernel sees: the rows of an image under each tap, and the weights of each tap.

The image has a row for each pixel and a border of real rows; a tap's operand is a row index into
it, and its weights are [M, C]. Where channels are few, the taps of a line lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, binary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import combine
from clockstep_compiler.lowering.lower import Lowering, stored_elements
from clockstep_compiler.lowering.parts import (
    IMAGE,
    WEIGHTS,
    beside,
    on_alus,
    scaled,
    split,
    split_constant,
)
from clockstep_compiler.lowering.windows import Ints, Window, window_of
from clockstep_compiler.steps import Compute, Move, Outer, Product, Term, Value, Weights
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = [
    "Factors",
    "Taps",
    "constant_weights",
    "convolution_window",
    "in_one_run",
    "is_narrow",
    "line_taps",
    "operands",
    "side_by_side",
    "summed",
    "tap_weights",
    "with_bias",
]

Array = NDArray[Any]

_START = 16
"""Rows that take as long as a product takes to begin, its weights being loaded."""

_LINE = 512
"""Rows that lie in one block, of any image or nearly so."""

_NARROW = 4
"""Channels up to which the taps of a line are put side by side: a tap alone fills few lanes."""


Arrange = Callable[[Array], Array]
"""Puts the elements of a weights tensor in the order [taps, groups, M / groups, C / groups]."""


@dataclass(frozen=True, eq=False, slots=True)
class Factors:
    """The weights [taps, groups, M / groups, depth], or where in `sources` they are if computed.

    Sources are matrices one after the other. Sums are multiplied by `scale`, a number for each
    channel, and by the computed `units`.
    """

    kind: Type
    elements: Array
    sources: tuple[Value, ...] = ()
    scale: Array = field(default_factory=lambda: np.ones(1))
    units: tuple[Value, ...] = ()


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
    factors: Factors


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
    """The weights as they are given if they are constant, perhaps those of a DequantizeLinear."""
    constant = state.constant(name)
    if constant is not None:
        return constant
    expr = state.tensors[name].expr
    return np.broadcast_to(expr.array, state.shape(name)) if isinstance(expr, Const) else None


def operands(state: Lowering, node: Node, arrange: Arrange, terms: int) -> tuple[Value, Factors]:
    """The image as it is multiplied, and its weights, before borders and taps."""
    x, w = node.inputs[:2]
    if state.options.precision != "exact" or state.dtype(x) == "float16":
        return state.store(x, Type.F16), _stored_weights(state, w, arrange, Type.F16)
    if on_alus(state, node, terms):
        return state.store(x, Type.F32), _stored_weights(state, w, arrange, Type.F32)
    image = split(state, state.store(x, Type.F32))
    units = (image.unit,) if isinstance(image.unit, Value) else ()
    scale = np.ones(1) if isinstance(image.unit, Value) else np.full(1, image.unit)
    array = constant_weights(state, w)
    if array is None:
        parts = split(state, state.store(w, Type.F32))
        assert isinstance(parts.unit, Value)
        size = parts.high.rows * parts.high.columns
        places = arrange(np.arange(size))
        wide = np.concatenate([places + part * size for part in WEIGHTS], axis=3)
        sources = parts.high, parts.low
        factors = Factors(Type.F16, wide, sources, scale, (*units, parts.unit))
    else:
        weights, own = _constant_parts(arrange(array))
        state.weight_bytes += weights.nbytes
        factors = Factors(Type.F16, weights, (), scale * own, units)
    return beside(state, image, IMAGE, factors.elements.shape[1]), factors


def _constant_parts(weights: Array) -> tuple[Array, Array]:
    """Weights [taps, groups, M, C] in parts side by side, and the unit of each channel."""
    taps, groups, rows, columns = weights.shape
    by_channel = weights.transpose(1, 2, 0, 3).reshape(groups * rows, taps * columns)
    *parts, units = split_constant(by_channel)
    ordered = [p.reshape(groups, rows, taps, columns).transpose(2, 0, 1, 3) for p in parts]
    return np.concatenate([ordered[part] for part in WEIGHTS], axis=3), units


def _stored_weights(state: Lowering, name: str, arrange: Arrange, kind: Type) -> Factors:
    array = constant_weights(state, name)
    if array is None:
        source = state.store(name, kind)
        return Factors(kind, arrange(np.arange(source.rows * source.columns)), (source,))
    data = stored_elements(array, "float32", kind)
    state.weight_bytes += data.nbytes
    if np.isinf(data).any() and not np.isinf(array).any():
        state.warnings.append(f"constant {name!r} exceeds {kind.name} and became infinite")
    return Factors(kind, np.ascontiguousarray(arrange(data)))


def tap_weights(state: Lowering, name: str, factors: Factors) -> tuple[Weights | Value, ...]:
    """The weights of each tap, a set for each group; for ALUs as matrices [depth, columns]."""
    exact = factors.kind == Type.F32
    elements = factors.elements.swapaxes(2, 3) if exact else factors.elements
    _, groups, rows, columns = elements.shape
    found: list[Weights | Value] = []
    for tap in elements:
        matrix = tap.reshape(-1, columns)
        if factors.sources:
            value = state.new_value(name, groups * rows, columns, factors.kind)
            state.steps.append(Move(value, factors.sources, matrix, (state.node,)))
            found.append(value if exact else Weights(groups, rows, columns, value=value))
        elif exact:
            found.append(state.constant_value(name, np.ascontiguousarray(matrix)))
        else:
            found.append(Weights(groups, rows, columns, data=tap))
    return tuple(found)


def summed(state: Lowering, name: str, taps: Taps, pixels: int) -> Expr:
    """The sum over taps in f32; results of groups are joined to one row for each pixel."""
    under, kept = taps.under, np.arange(pixels)
    if taps.factors.kind == Type.F16:
        under, kept = in_one_run(under)
    rows = len(under[0])
    indices = [
        np.concatenate([index + g * taps.rows for g in range(taps.groups)]) for index in under
    ]
    sets = np.repeat(np.arange(taps.groups), rows) if taps.groups > 1 else None
    total = _total(state, name, taps, indices, sets)
    columns = taps.weights[0].columns
    shape = (pixels, taps.groups * columns)
    if taps.groups > 1 or rows > pixels:
        apart = state.new_value(name, len(indices[0]), columns, Type.F32)
        state.steps.append(Compute(apart, total, (state.node,), (apart.rows, columns)))
        total = Leaf(apart, kept)
    if taps.groups > 1:
        places = np.arange(len(indices[0]) * columns).reshape(taps.groups, rows, columns)[:, kept]
        index = np.ascontiguousarray(places.transpose(1, 0, 2).reshape(pixels, -1))
        joined = state.new_value(name, *shape, Type.F32)
        state.steps.append(Move(joined, (apart,), index, (state.node,)))
        total = Leaf(joined, None)
    return scaled(state, total, shape, taps.factors.scale, list(taps.factors.units))


def _total(
    state: Lowering,
    name: str,
    taps: Taps,
    indices: list[NDArray[np.int64]],
    sets: NDArray[np.int64] | None,
) -> Expr:
    """The sum over taps for every row of the indices, as one product or on ALUs."""
    rows, terms = len(indices[0]), []
    total: Expr | None = None
    for index, weights in zip(indices, taps.weights, strict=True):
        if isinstance(weights, Weights):
            terms.append(Term(taps.image, weights, index))
            continue
        part = state.new_value(name, rows, weights.columns, Type.F32)
        state.steps.append(Outer(part, taps.image, weights, index, sets, (state.node,)))
        total = Leaf(part, None) if total is None else binary("add", total, Leaf(part, None))
    if total is None:
        total = Acc(Product(Type.F16, rows, taps.weights[0].columns, tuple(terms), sets))
    return total


def in_one_run(
    under: tuple[NDArray[np.int64], ...],
) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.int64]]:
    """Rows under taps, and those among them that are wanted: all, or of one run over all lines.

    Output pixels advance regularly along a line. Where lines are a whole number of steps apart,
    one run over all of them, and over the border between them, spares beginning anew with each.
    It pays where what is computed in vain takes less, and where runs end at the blocks of an
    image no more often than lines do.
    """
    first = under[0] - under[0][0]
    every = np.arange(len(first))
    step = int(first[1]) if len(first) > 1 else 0
    if step < 1 or (first % step).any() or (np.diff(first) < step).any():
        return under, every
    kept = first // step
    lines = 1 + int((np.diff(first) != step).sum())
    rows = int(kept[-1]) + 1
    often = len(under) * len(first) > _LINE * lines
    if lines == 1 or rows - len(first) > _START * lines or (often and rows > _LINE):
        return under, every
    return tuple(index[0] + step * np.arange(rows) for index in under), kept


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
