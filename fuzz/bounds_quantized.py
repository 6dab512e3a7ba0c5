"""Rules of errors for operators that quantize, and for products of integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fuzz.bounds import SINGLE, Floats, Known, Node, given, product
from fuzz.bounds_products import dots
from fuzz.builder import Array

__all__ = ["dequantize", "matmul_integer", "one_step", "qlinear_matmul", "quantize"]


def _parameter(node: Node, given: Known | None, like: Array, axis: int) -> Floats:
    """A scale or a zero point, shaped to broadcast."""
    if given is None:
        return np.zeros(())
    value = given[0].astype(np.float64)
    if value.ndim == 0 or value.size == 1:
        return value.reshape(())
    return value.reshape([-1 if i == axis % like.ndim else 1 for i in range(like.ndim)])


def _quantized(real: Floats, error: Floats, zero: Floats, out: Array) -> Floats:
    """Rounded, shifted and clamped: the ends of the interval go where they go."""
    limits = np.iinfo(out.dtype)
    error = error + SINGLE * (np.abs(real) + error)
    ends = [np.clip(np.rint(end) + zero, limits.min, limits.max) for end in
            (real - error, real + error)]  # fmt: skip
    return np.asarray(np.abs(np.array(ends) - out.astype(float)).max(axis=0))


def quantize(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    (x, error), scale, zero = [*given(operands), None][:3]  # type: ignore[misc]
    axis = node.attribute("axis", 1)
    size = _parameter(node, scale, x, axis)
    return _quantized(x / size, error / size, _parameter(node, zero, x, axis), out)


def dequantize(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    (x, error), scale, *_ = given(operands)
    size = _parameter(node, scale, x, node.attribute("axis", 1))
    return product(error, np.broadcast_to(size, x.shape)) + SINGLE * np.abs(out)


def _centred(given: Sequence[Known | None], value: int, zero: int, rows: bool) -> Known:
    """An operand of an integer product less its zero point, one a row of A or a column of B."""
    operand, point = given[value], given[zero] if zero < len(given) else None
    assert operand is not None
    shift = np.zeros(()) if point is None else point[0].astype(np.float64)
    if rows and shift.ndim == 1:
        shift = shift[:, None]
    return operand[0].astype(np.float64) - shift, operand[1]


def matmul_integer(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    return dots(_centred(operands, 0, 2, True), _centred(operands, 1, 3, False))


def qlinear_matmul(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    a, b = _centred(operands, 0, 2, True), _centred(operands, 3, 5, False)
    scale_a, scale_b, scale, zero = (known[0] for i in (1, 4, 6, 7) if (known := operands[i]))
    factor = scale_a.astype(float) * scale_b.astype(float) / scale.astype(float)
    error = product(dots(a, b), np.broadcast_to(factor, out.shape))
    return _quantized((a[0] @ b[0]) * factor, error, zero.astype(float), out)


def one_step(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Quantized results of exact operands: a step, for the order of the roundings is free."""
    exact = not any(np.any(error) for value, error in given(operands) if value.dtype.kind in "iu")
    return np.full(out.shape, 1.0 if exact else np.inf)
