"""How far a correct program may be from the true values: errors, carried from node to node.

The true value of every tensor is what onnx's evaluator gives in float64. Its error is an array
beside it: 0 where only this value is right, infinity where anything is. Floats may be rounded to
fp16 wherever they stand, for that is how the compiler stores them, once for each node; what
becomes of earlier errors is the matter of an operator's rule.

A rule has the node, its operands (value and error, None if left out) and the value of the result,
and returns the error that the operands' errors make. Rounding of the result is added for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from fuzz.builder import Array, evaluate_node

__all__ = ["Known", "Rule", "rounded"]

Floats = NDArray[np.float64]
Known = tuple[Array, Floats]
"""A tensor's value, floats as float64, and its error."""

Rule = Callable[[NodeProto, Sequence[Known | None], Array], Floats]

_HALF = 2.0**-11
_HALF_LEAST = 2.0**-25
_HALF_MOST = 65504.0
_SINGLE = 2.0**-20
"""A few roundings to float32, or one of its transcendental functions."""


def rounded(value: Array, error: Floats) -> Floats:
    """The error after the value was stored in fp16."""
    size = np.abs(value) + error
    error = error + _HALF * size + _HALF_LEAST
    return np.where(size < _HALF_MOST, error, np.inf)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    found = [helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


def _given(operands: Sequence[Known | None]) -> list[Known]:
    return [operand for operand in operands if operand is not None]


def _product(a: Floats, b: Floats) -> Floats:
    """a * b where infinity times nothing is nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where((a == 0) | (b == 0), 0.0, a * b))


def _dot(a: Floats, b: Floats) -> Floats:
    """a @ b in the same sense."""
    endless = (np.isinf(a).astype(float) @ (b != 0)) + ((a != 0).astype(float) @ np.isinf(b))
    finite = np.where(np.isinf(a), 0.0, a) @ np.where(np.isinf(b), 0.0, b)
    return np.asarray(np.where(endless > 0, np.inf, finite))


def _wraps(out: Array, error: Floats) -> Floats:
    """Integers wrap around, so that what is not exact may be anything."""
    return np.where(error > 0, np.inf, 0.0) if out.dtype.kind in "iu" else error


def same(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    """Functions of the first operand that nowhere are steeper than 1."""
    return _wraps(out, _given(operands)[0][1])


def sigmoid(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    return same(node, operands, out) / 4 + _SINGLE


def leaky(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    steepest: float = max(1.0, abs(attribute(node, "alpha", 0.01)))
    return same(node, operands, out) * steepest


def add(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    (_, one), (_, two) = _given(operands)
    return _wraps(out, one + two)


def multiply(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    (a, one), (b, two) = _given(operands)
    parts = _product(np.abs(a, dtype=float), two), _product(one, np.abs(b, dtype=float))
    return _wraps(out, parts[0] + parts[1] + _product(one, two))


def greatest(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    errors = [np.broadcast_to(error, out.shape) for _, error in _given(operands)]
    return np.asarray(np.max(errors, axis=0))


def moved(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    """Operators that only move elements: they move the errors of the first operand alike."""
    first, *rest = _given(operands)
    names = [name for name in node.input if name]
    values = dict(zip(names, [first[1], *(value for value, _ in rest)], strict=True))
    return np.asarray(evaluate_node(node, values, 21)[0], np.float64)


def constant(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    return np.zeros(out.shape)


def cast(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    ((value, error),) = _given(operands)
    if out.dtype.kind == "f":
        return error + _SINGLE * np.abs(value)
    if out.dtype.kind == "b":
        return np.where(np.abs(value) > error, 0.0, np.where(error > 0, 1.0, 0.0))
    if value.dtype.kind != "f":
        return _wraps(out, error)
    limits = np.iinfo(out.dtype)
    ends = np.trunc([value - error, value + error])
    inside = (ends[0] >= float(limits.min)) & (ends[1] <= float(limits.max) / (1 + 2**-40))
    return np.where(inside, np.abs(ends - out.astype(float)).max(axis=0), np.inf)


def _parameter(node: NodeProto, given: Known | None, like: Array, axis: int) -> Floats:
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
    error = error + _SINGLE * (np.abs(real) + error)
    ends = [np.clip(np.rint(end) + zero, limits.min, limits.max) for end in
            (real - error, real + error)]  # fmt: skip
    return np.asarray(np.abs(np.array(ends) - out.astype(float)).max(axis=0))


def quantize(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    (x, error), scale, zero = [*_given(operands), None][:3]  # type: ignore[misc]
    axis = attribute(node, "axis", 1)
    size = _parameter(node, scale, x, axis)
    return _quantized(x / size, error / size, _parameter(node, zero, x, axis), out)


def dequantize(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    (x, error), scale, *_ = _given(operands)
    size = _parameter(node, scale, x, attribute(node, "axis", 1))
    return _product(error, np.broadcast_to(size, x.shape)) + _SINGLE * np.abs(out)


def _matrices(a: Array, b: Array) -> tuple[Array, Array]:
    """Vectors as matrices, as MatMul takes them."""
    return a.reshape(1, -1) if a.ndim == 1 else a, b.reshape(-1, 1) if b.ndim == 1 else b


def _dots(one: Known, two: Known) -> Floats:
    """The error of a product of matrices that are not vectors."""
    (a, ea), (b, eb) = one, two
    size_a, size_b = np.abs(a, dtype=float), np.abs(b, dtype=float)
    return _dot(size_a, eb) + _dot(ea, size_b) + _dot(ea, eb)


def matmul(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    (a, ea), (b, eb) = _given(operands)
    (a, b), (ea, eb) = _matrices(a, b), _matrices(ea, eb)
    error = _dots((a, ea), (b, eb)) + _SINGLE * (np.abs(a) @ np.abs(b))
    return np.asarray(error.reshape(out.shape))


def gemm(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    (a, ea), (b, eb), *bias = _given(operands)
    if attribute(node, "transA", 0):
        a, ea = a.T, ea.T
    if attribute(node, "transB", 0):
        b, eb = b.T, eb.T
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    exact = alpha * (a @ b)
    error = abs(alpha) * (_dots((a, ea), (b, eb)) + _SINGLE * (np.abs(a) @ np.abs(b)))
    error = rounded(exact, error)  # the product may be stored before the bias is added
    for value, own in bias:
        error = error + rounded(beta * value, _product(np.full(own.shape, abs(beta)), own))
    return np.asarray(error)


def _centred(given: Sequence[Known | None], value: int, zero: int, rows: bool) -> Known:
    """An operand of an integer product less its zero point, one a row of A or a column of B."""
    operand, point = given[value], given[zero] if zero < len(given) else None
    assert operand is not None
    shift = np.zeros(()) if point is None else point[0].astype(np.float64)
    if rows and shift.ndim == 1:
        shift = shift[:, None]
    return operand[0].astype(np.float64) - shift, operand[1]


def matmul_integer(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    return _dots(_centred(operands, 0, 2, True), _centred(operands, 1, 3, False))


def qlinear_matmul(node: NodeProto, operands: Sequence[Known | None], out: Array) -> Floats:
    a, b = _centred(operands, 0, 2, True), _centred(operands, 3, 5, False)
    scale_a, scale_b, scale, zero = (known[0] for i in (1, 4, 6, 7) if (known := operands[i]))
    factor = scale_a.astype(float) * scale_b.astype(float) / scale.astype(float)
    error = _product(_dots(a, b), np.broadcast_to(factor, out.shape))
    return _quantized((a[0] @ b[0]) * factor, error, zero.astype(float), out)
