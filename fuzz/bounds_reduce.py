"""Rules of errors for sums, extremes, norms and whatever else looks at many elements at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fuzz.bounds import SINGLE, Floats, Known, Node, given, wraps
from fuzz.builder import Array

__all__ = ["arg", "linear", "log_sum", "nearest", "norm", "perturbed", "softmax", "squares"]


def _first(operands: Sequence[Known | None]) -> tuple[Known, list[Array | None]]:
    first, *rest = operands
    assert first is not None
    return first, [None if o is None else o[0] for o in rest]


def linear(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Sums and means: those of the errors."""
    (value, error), rest = _first(operands)
    size = np.abs(value, dtype=float)
    if out.dtype.kind in "iu":
        return wraps(out, np.asarray(node.of([error, *rest]), float))
    return np.asarray(node.of([error, *rest]) + SINGLE * node.of([size, *rest]))


def norm(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Norms: that of the errors, as sides of a triangle."""
    (_, error), rest = _first(operands)
    return wraps(out, np.asarray(node.of([error, *rest]), float)) + SINGLE * np.abs(out)


def squares(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Sums of squares."""
    (value, error), rest = _first(operands)
    far = np.abs(value, dtype=float) + error
    return wraps(out, np.abs(node.of([far, *rest]) - out.astype(float))) + SINGLE * np.abs(out)


def extreme(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """The greatest or least of many: as far off as the farthest may be."""
    (_, error), rest = _first(operands)
    sign = -1.0 if "Min" in node.proto.op_type else 1.0
    return np.abs(np.asarray(node.of([sign * error, *rest]), float))


def log_sum(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Logarithms of sums: between those of all elements moved up and all moved down."""
    (value, error), rest = _first(operands)
    with np.errstate(all="ignore"):
        sides = [np.abs(node.of([value + e, *rest]) - out) for e in (error, -error)]
    sides = [np.where(np.isnan(side), np.inf, side) for side in sides]
    return np.asarray(np.max(sides, axis=0) + SINGLE * (np.abs(out) + 1))


def softmax(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Every quotient of two elements is off by the exponential of both errors."""
    ((_, error),) = given(operands)
    axis = node.attribute("axis", -1)
    worst = 2 * np.max(error, axis=axis, keepdims=True, initial=0.0)
    if node.proto.op_type == "LogSoftmax":
        return np.broadcast_to(worst + SINGLE * (np.abs(out) + 1), out.shape)
    with np.errstate(over="ignore"):
        return np.minimum(1.0, out * np.expm1(worst)) + SINGLE


def arg(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Places of the greatest: anything where another is as great, as far as errors say."""
    ((value, error),) = given(operands)
    axis = node.attribute("axis", 0 if node.proto.op_type.startswith("Arg") else -1)
    sign = -1.0 if node.proto.op_type == "ArgMin" else 1.0
    ordered = np.sort(sign * value.astype(float), axis=axis)
    worst = np.max(error, axis=axis, keepdims=True, initial=0.0)
    if value.shape[axis] < 2:
        return np.zeros(out.shape)
    top = np.take(ordered, [-1], axis) - np.take(ordered, [-2], axis)
    unsure = (top <= 2 * worst) & (worst > 0)
    if node.proto.op_type.startswith("Arg") and not node.attribute("keepdims", 1):
        unsure = np.squeeze(unsure, axis)
    return np.broadcast_to(np.where(unsure, np.inf, 0.0), out.shape)


def top_values(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """The k-th greatest moves no farther than the element that moves farthest."""
    error = given(operands)[0][1]
    axis = node.attribute("axis", -1)
    return np.broadcast_to(np.max(error, axis=axis, keepdims=True, initial=0.0), out.shape)


def top_places(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Places among the greatest: anything in a row of inexact elements."""
    return np.where(top_values(node, operands, out) > 0, np.inf, 0.0)


def pooled(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Means, maxima and norms of windows: those of the errors."""
    rule = extreme if "Max" in node.proto.op_type else linear
    return rule(node, operands, out)


_STEPS = 1.5
"""For what a derivative does not tell of the way there."""


def perturbed(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Any smooth function: every element of every operand moved by its error, one at a time.

    What it stores on the way may be rounded to fp16, as large as the result.
    """
    values = [None if o is None else np.array(o[0], float, order="C") if _is_float(o[0]) else o[0]
              for o in operands]  # fmt: skip
    total = np.zeros(out.shape)
    for operand, value in zip(operands, values, strict=True):
        if operand is None or value is None or not np.any(operand[1]):
            continue
        if not np.isfinite(operand[1]).all():
            return np.full(out.shape, np.inf)
        total += _effects(node, values, value, operand[1], out)
    total *= _STEPS
    most = np.max(np.abs(out), initial=0.0, where=np.isfinite(out))
    return node.storage.rounded(out, total) + 2 * SINGLE * most


def _is_float(value: Array) -> bool:
    return value.dtype.kind == "f"


def _effects(
    node: Node, values: Sequence[Array | None], value: NDArray[np.float64], error: Floats,
    out: Array,
) -> Floats:  # fmt: skip
    """The sum of what the elements of `value`, which is changed and restored, do to the result."""
    total = np.zeros(out.shape)
    flat, amounts = value.reshape(-1), error.reshape(-1)
    assert np.shares_memory(flat, value), "a copy would be changed in its place"
    for i in np.flatnonzero(amounts):
        was = flat[i]
        sides = []
        for sign in (1, -1):
            flat[i] = was + sign * amounts[i]
            sides.append(np.abs(node.of(values) - out))
        flat[i] = was
        worst = np.max(sides, axis=0)
        total += np.where(np.isnan(worst), np.inf, worst)
    return total


def nearest(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """`perturbed` where something is interpolated, else the errors moved alike."""
    (_, error), rest = _first(operands)
    if node.attribute("mode", b"nearest") == b"nearest":
        return np.asarray(node.of([error, *rest]), float)
    return perturbed(node, operands, out)
