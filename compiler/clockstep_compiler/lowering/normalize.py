"""Normalisation: statistics over some axes in f32, in two passes, then scale and shift.

The variance is the mean of the squared deviations, never a difference of large sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, add, binary, cast, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import attribute, combine
from clockstep_compiler.lowering.elementwise_quotient import square_root
from clockstep_compiler.lowering.lower import Lowering, lowers, matrix_shape
from clockstep_compiler.lowering.normalize_lanes import normalized
from clockstep_compiler.lowering.reduce_rows import (
    Stored,
    along,
    hold,
    kept,
    over,
    reduced,
    relaid,
    reshaped,
    source,
)
from clockstep_compiler.lowering.softmax_lanes import reciprocal
from clockstep_compiler.steps import Value
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["deviations", "product", "square", "wide"]

Shape = tuple[int, ...]
_LEAST = 2.0**-126
"""The least normal f32: what a norm of zero is taken for, so that 0 / 0 is 0."""


def wide(a: Expr) -> Expr:
    """An f32 of an f16."""
    return cast(a, Type.F32)


def square(a: Expr) -> Expr:
    """The square in f32."""
    element = wide(a)
    return binary("mul", element, element)


def deviations(state: Lowering, x: Stored, axes: Sequence[int]) -> tuple[Stored, Stored]:
    """Every element less the mean over axes, in f32, and the means."""
    count = math.prod(x.shape[axis] for axis in axes)
    total = reduced(state, x, axes, "add", before=wide, after=lambda a: mul(a, 1 / count))
    mean = hold(state, total, kept(x.shape, axes))
    element = wide(over(state, x, x.shape))
    difference = binary("sub", element, over(state, mean, x.shape))
    return hold(state, difference, x.shape), mean


def _factors(state: Lowering, x: Stored, axes: Sequence[int], epsilon: float) -> Stored:
    """1 / sqrt(the mean of the squares over axes, plus epsilon)."""
    count = math.prod(x.shape[axis] for axis in axes)

    def inverse(total: Expr) -> Expr:
        return unary("rsqrt", add(mul(total, 1 / count), epsilon))

    found = reduced(state, x, axes, "add", before=square, after=inverse)
    return hold(state, found, kept(x.shape, axes))


def product(state: Lowering, x: Stored, factor: Stored) -> Expr:
    """Every element times a factor that broadcasts to it."""
    return binary("mul", wide(over(state, x, x.shape)), over(state, factor, x.shape))


def _empty(state: Lowering, node: Node) -> bool:
    """Whether the operand has no elements; the results are then defined."""
    if 0 not in state.shape(node.inputs[0]):
        return False
    for name in filter(None, node.outputs):
        state.define(name, Const(np.full((), np.nan), Type.F32))
    return True


def _affine(a: Expr, scale: Expr | None, shift: Expr | None) -> Expr:
    a = a if scale is None else combine("mul", a, scale)
    return a if shift is None else combine("add", a, shift)


def _parameter(state: Lowering, node: Node, position: int) -> Expr | None:
    """An optional input, broadcast to the result."""
    name = node.inputs[position] if position < len(node.inputs) else ""
    if not name:
        return None
    shape = state.shape(node.outputs[0])
    if state.constant(name) is not None:
        return state.operand(name, shape)
    return wide(over(state, source(state, name), shape))


# -- over the last axes ----------------------------------------------------------------------------


@lowers("LayerNormalization", "RMSNormalization")
def _layer(state: Lowering, node: Node) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, over `axis` and all after it.

    RMSNormalization takes the mean for zero. LayerNormalization's further results are the mean and
    the factor.
    """
    out = node.outputs[0]
    if _empty(state, node):
        return
    shape = state.shape(out)
    axis, epsilon = (
        int(node.attributes.get("axis", -1)) % len(shape),
        attribute(node, "epsilon", 1e-5),
    )
    centred = node.op == "LayerNormalization"
    if axis == len(shape) - 1:
        found = normalized(state, node, epsilon, centred)
        if found is not None:
            state.define(out, _affine(found, *(_parameter(state, node, k) for k in (1, 2))))
            return
    x = source(state, node.inputs[0])
    normal = _over_last if axis == len(shape) - 1 else _over_many
    result, statistics = normal(state, x, range(axis, len(shape)), epsilon, centred)
    for name, value in zip(node.outputs[1:], statistics, strict=False):
        if name:
            column = relaid(state, value, *matrix_shape(state.shape(name)))
            state.define(name, Leaf(column, None))
    scale, shift = (_parameter(state, node, position) for position in (1, 2))
    state.define(out, _affine(result, scale, shift))


def _over_many(
    state: Lowering, x: Stored, axes: Sequence[int], epsilon: float, centred: bool
) -> tuple[Expr, list[Value]]:
    """The elements normalised; the means, if they are taken away, and the factors."""
    statistics = []
    if centred:
        x, mean = deviations(state, x, axes)
        statistics.append(mean.value)
    factor = _factors(state, x, axes, epsilon)
    return product(state, x, factor), [*statistics, factor.value]


def _over_last(
    state: Lowering, x: Stored, axes: Sequence[int], epsilon: float, centred: bool
) -> tuple[Expr, list[Value]]:
    """As `_over_many`, with the last axis over rows all the way: it is turned once and back."""
    rows = along(state, x, axes[0])
    count, value, statistics = rows.view[1], rows.value, []
    if centred:
        mean = rows.fold(state, value, "add", wide, lambda a: mul(a, 1 / count))
        value = rows.hold(state, binary("sub", wide(Leaf(value, None)), rows.spread(mean)))
        statistics.append(mean)
    factor = rows.fold(
        state, value, "add", square, lambda a: unary("rsqrt", add(mul(a, 1 / count), epsilon))
    )
    product = rows.hold(state, binary("mul", wide(Leaf(value, None)), rows.spread(factor)))
    return Leaf(rows.back(state, product), None), [*statistics, factor]


@lowers("MeanVarianceNormalization")
def _mean_variance(state: Lowering, node: Node) -> None:
    """(x - mean) / (standard deviation + 1e-9)."""
    out = node.outputs[0]
    if _empty(state, node):
        return
    shape = state.shape(out)
    axes = sorted({int(axis) % len(shape) for axis in node.attributes.get("axes", (0, 2, 3))})
    count = math.prod(shape[axis] for axis in axes)
    x, _ = deviations(state, source(state, node.inputs[0]), axes)

    def inverse(total: Expr) -> Expr:
        return reciprocal(add(square_root(mul(total, 1 / count)), 1e-9))

    found = reduced(state, x, axes, "add", before=square, after=inverse)
    factor = hold(state, found, kept(shape, axes))
    state.define(out, product(state, x, factor))


@lowers("LpNormalization")
def _norm(state: Lowering, node: Node) -> None:
    """x / (sum |x|**p)**(1/p) along one axis; where the norm is zero, zero."""
    out = node.outputs[0]
    if _empty(state, node):
        return
    p, shape = int(node.attributes.get("p", 2)), state.shape(out)
    if p not in (1, 2):
        raise UnsupportedModel("unsupported-form", f"p is {p}: only 1 and 2 are supported")
    axis = int(node.attributes.get("axis", -1)) % max(1, len(shape))
    x = along(state, source(state, node.inputs[0]), axis)

    def inverse(total: Expr) -> Expr:
        bounded = binary("max", total, Const(np.asarray(_LEAST), Type.F32))
        return reciprocal(bounded) if p == 1 else unary("rsqrt", bounded)

    before = square if p == 2 else lambda a: unary("abs", wide(a))
    factor = x.fold(state, x.value, "add", before, inverse)
    x.define(state, out, binary("mul", wide(Leaf(x.value, None)), x.spread(factor)))


# -- channel by channel ----------------------------------------------------------------------------


def _channels(state: Lowering, name: str, rank: int, repeat: int = 1) -> Expr | Stored:
    """One value for each channel, each `repeat` times, to broadcast along axis 1."""
    ones = (1,) * (rank - 2)
    array = state.constant(name)
    if array is not None:
        values = np.repeat(array.astype(np.float64), repeat)
        return Const(values.reshape(-1, *ones), Type.F32)
    stored = source(state, name)
    count = stored.shape[0]
    if repeat > 1:
        column = reshaped(state, stored, (count, 1))
        stored = hold(state, over(state, column, (count, repeat)), (count, repeat))
    return reshaped(state, stored, (count * repeat, *ones))


def _spread(state: Lowering, factor: Expr | Stored, shape: Shape) -> Expr:
    return wide(over(state, factor, shape)) if isinstance(factor, Stored) else factor


def _per_channel(state: Lowering, node: Node, a: Value, repeat: int) -> Expr:
    """Times the second input, plus the third, channel by channel."""
    shape = state.shape(node.outputs[0])
    scale, shift = (_channels(state, name, len(shape), repeat) for name in node.inputs[1:3])
    return _affine(Leaf(a, None), _spread(state, scale, shape), _spread(state, shift, shape))


@lowers("InstanceNormalization", "GroupNormalization")
def _groups(state: Lowering, node: Node) -> None:
    """Every group of channels normalised over them and all positions; groups of one by default.

    GroupNormalization has its scale and shift for each group before opset 21.
    """
    out = node.outputs[0]
    if _empty(state, node):
        return
    shape = state.shape(out)
    batch, channels = shape[:2]
    groups = int(node.attributes.get("num_groups", channels))
    if groups < 1 or channels % groups:
        raise UnsupportedModel("unsupported-form", f"{groups} groups of {channels} channels")
    own = (batch, groups, channels // groups, *shape[2:])
    x = reshaped(state, source(state, node.inputs[0]), own)
    axes = range(2, len(own))
    x, _ = deviations(state, x, axes)
    result = product(state, x, _factors(state, x, axes, attribute(node, "epsilon", 1e-5)))
    # Stored before scale and shift: all operands at once would not fit the slices of a small chip.
    value = relaid(state, hold(state, result, own).value, *matrix_shape(shape))
    each = node.op == "GroupNormalization" and node.opset < 21
    state.define(out, _per_channel(state, node, value, channels // groups if each else 1))
