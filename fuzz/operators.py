"""What is drawn of every operator: one row each. To add an operator, add its row.

A row has the operator's name, how to add it to a graph, and how errors pass through it; `bounds`
says what an error is. `make fuzz` ends with the compiler's operators that have no row yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import helper

from fuzz import bounds
from fuzz.bounds import Rule
from fuzz.builder import Graph

__all__ = ["BY_NAME", "ROWS", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One operator. `make` adds it to a graph or raises `Skip`; `error` is its rule of errors."""

    op: str
    make: Callable[[Graph, str], object]
    error: Rule


_ARITHMETIC = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32")
_FLOATS = ("float16", "float32", "float64")
_BYTES = ("int8", "uint8")
_CASTS = (*_ARITHMETIC, "bool", "int64")


def _unary(g: Graph, op: str) -> None:
    g.node(op, [g.tensor(_ARITHMETIC)])


def _activation(g: Graph, op: str) -> None:
    g.node(op, [g.tensor(_FLOATS)])


def _binary(g: Graph, op: str) -> None:
    x = g.tensor(_ARITHMETIC)
    names = [x, g.broadcast(x)]
    g.node(op, names[:: g.choose(1, -1)])


def _variadic(g: Graph, op: str) -> None:
    x = g.tensor(_ARITHMETIC)
    g.node(op, [x, *(g.broadcast(x) for _ in range(g.integer(0, 2)))])


def _leaky(g: Graph, op: str) -> None:
    alpha = g.choose(0.01, 0.25, 1.0, 0.0, -0.5, 3.0)
    g.node(op, [g.tensor(_FLOATS)], alpha=alpha)


def _clip(g: Graph, op: str) -> None:
    x = g.tensor(_ARITHMETIC)
    dtype = g.like(x).dtype
    low, high = np.sort([g.integer(-3, 3), g.integer(-3, 3)])
    if dtype.kind == "u":
        low, high = abs(low), abs(low) + abs(high)
    bounds_ = [g.constant(np.asarray(value).astype(dtype)) for value in (low, high)]
    which = g.choose((0, 1), (0,), (1,), ())
    g.node(op, [x, *(bounds_[i] if i in which else "" for i in range(2))])


def _cast(g: Graph, op: str) -> None:
    x = g.tensor(_CASTS)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(g.choose(*_CASTS)))
    g.node(op, [x], to=to)


def _matmul(g: Graph, op: str) -> None:
    x = g.tensor(_FLOATS, (1, 5))
    shape, dtype = g.like(x).shape, g.like(x).dtype
    k, n = shape[-1], g.size()
    batch = shape[:-2] if len(shape) > 2 and g.flag() else ()
    other = g.operand(g.choose((*batch, k, n), (k, n), (k,)), dtype)
    g.node(op, [x, other])


def _matmul_left(g: Graph, op: str) -> None:
    """The tensor on the right, so that the array is loaded from what is computed."""
    x = g.tensor(_FLOATS, (2, 5))
    g.node(op, [g.operand((g.size(), g.like(x).shape[-2]), g.like(x).dtype), x])


def _products(g: Graph, op: str) -> None:
    (_matmul_left if g.integer(0, 3) == 3 else _matmul)(g, op)


def _gemm(g: Graph, op: str) -> None:
    x = g.tensor(_FLOATS, (2, 2))
    dtype, trans_a, trans_b = g.like(x).dtype, g.integer(0, 1), g.integer(0, 1)
    m, k = g.like(x).shape[:: -1 if trans_a else 1]
    n = g.size()
    weight = g.operand((n, k) if trans_b else (k, n), dtype)
    shape = g.choose(None, (n,), (1, n), (m, 1), (m, n), (1,), ())
    bias = [] if shape is None else [g.operand(shape, dtype)]
    factors = {"alpha": g.choose(1.0, 0.5, 2.0, 0.3), "beta": g.choose(1.0, 0.5, -1.0, 0.0)}
    g.node(op, [x, weight, *bias], transA=trans_a, transB=trans_b, **factors)


def _scale(g: Graph, shape: tuple[int, ...]) -> str:
    value = np.asarray(g.choose(0.05, 1 / 127, 0.25, 2 / 255, 1 / 3), np.float32)
    spread = 1 + np.arange(int(np.prod(shape))).reshape(shape) % 5 / 7
    return g.constant((value * spread).astype(np.float32))


def _zero(g: Graph, shape: tuple[int, ...], dtype: str) -> str:
    middle = 128 if dtype == "uint8" else 0
    value = middle + g.choose(0, 3, -7, 100, -128 if middle == 0 else -100)
    return g.constant(np.full(shape, value, np.int64).astype(dtype))


def _axis(g: Graph, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The shape of a scale, and its axis: per tensor, or along one axis."""
    if not shape or g.flag():
        return (), g.choose(1, -1)
    axis = g.integer(0, len(shape) - 1)
    return (shape[axis],), axis - len(shape) * g.integer(0, 1)


def _quantize(g: Graph, op: str) -> None:
    x = g.tensor(("float32",))
    shape, axis = _axis(g, g.like(x).shape)
    dtype = g.choose(*_BYTES)
    zero = [] if dtype == "uint8" and g.flag() else [_zero(g, shape, dtype)]
    g.node(op, [x, _scale(g, shape), *zero], axis=axis)


def _dequantize(g: Graph, op: str) -> None:
    x = g.tensor((*_BYTES, "int32"))
    shape, axis = _axis(g, g.like(x).shape)
    dtype = g.like(x).dtype.name
    zero = [] if dtype == "int32" or g.flag() else [_zero(g, shape, dtype)]
    g.node(op, [x, _scale(g, shape), *zero], axis=axis)


def _bytes(g: Graph) -> tuple[str, str]:
    """A product's int8 operands: a tensor, and what fits on its right."""
    x = g.tensor(_BYTES, (2, 5))
    k = g.like(x).shape[-1]
    return x, g.operand((k, g.size()), np.dtype(g.choose(*_BYTES)))


def _dtype(g: Graph, name: str) -> str:
    return str({**g.tensors, **g.constants}[name].dtype.name)


def _columns(g: Graph, name: str) -> tuple[int, ...]:
    return {**g.tensors, **g.constants}[name].shape[-1:] if g.flag() else ()


def _matmul_integer(g: Graph, op: str) -> None:
    a, b = _bytes(g)
    zeros = [_zero(g, (), _dtype(g, a)), _zero(g, _columns(g, b), _dtype(g, b))]
    g.node(op, [a, b, *zeros[: g.integer(0, 2)]])


def _qlinear_matmul(g: Graph, op: str) -> None:
    a, b = _bytes(g)
    columns = _columns(g, b)
    names = [a, _scale(g, ()), _zero(g, (), _dtype(g, a))]
    names += [b, _scale(g, columns), _zero(g, columns, _dtype(g, b))]
    out = g.choose(*_BYTES)
    wide = g.constant(np.asarray(g.choose(0.5, 3.0, 17.0), np.float32))
    g.node(op, [*names, wide, _zero(g, (), out)])


def _reshape(g: Graph, op: str) -> None:
    x = g.tensor()
    shape = g.like(x).shape
    left = int(np.prod(shape))
    sizes: list[int] = []
    while left > 1 and len(sizes) < 4 and g.flag():
        sizes.append(int(g.choose(*(d for d in range(1, left + 1) if left % d == 0))))
        left //= sizes[-1]
    wanted = [*sizes, left]
    if left and g.flag():
        wanted[g.integer(0, len(wanted) - 1)] = -1
    if len(shape) >= len(wanted) and g.flag():
        wanted = [0 if w == s and w else w for w, s in zip(wanted, shape, strict=False)]
    g.node(op, [x, g.constant(np.array(wanted, np.int64))])


def _flatten(g: Graph, op: str) -> None:
    x = g.tensor(where=lambda v: v.size > 0)
    rank = g.like(x).ndim
    g.node(op, [x], axis=g.integer(-rank, rank))


def _unsqueeze(g: Graph, op: str) -> None:
    x = g.tensor(ranks=(0, 4))
    rank = g.like(x).ndim
    g.node(op, [x, g.constant(np.array([g.integer(-rank - 1, rank)], np.int64))])


def _squeeze(g: Graph, op: str) -> None:
    x = g.tensor(where=lambda v: 1 in v.shape)
    ones = [i for i, n in enumerate(g.like(x).shape) if n == 1]
    axes = ones[g.integer(0, len(ones) - 1) :]
    g.node(op, [x, *([g.constant(np.array(axes, np.int64))] if g.flag() else [])])


def _identity(g: Graph, op: str) -> None:
    g.node(op, [g.tensor()])


def _constant(g: Graph, op: str) -> None:
    """A constant that is a node; something has to read it."""
    x = g.tensor(_ARITHMETIC)
    value = g.constants[g.fresh(g.like(x).shape, g.like(x).dtype, constant=True)]
    made = g.node(op, [], value=helper.make_tensor(
        "value", helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.flatten()
    ))  # fmt: skip
    g.node("Add", [x, made])


# fmt: off
ROWS: tuple[Row, ...] = (
    Row("Abs", _unary, bounds.same),
    Row("Add", _binary, bounds.add),
    Row("Cast", _cast, bounds.cast),
    Row("Clip", _clip, bounds.same),
    Row("Constant", _constant, bounds.constant),
    Row("DequantizeLinear", _dequantize, bounds.dequantize),
    Row("Flatten", _flatten, bounds.moved),
    Row("Gemm", _gemm, bounds.gemm),
    Row("Identity", _identity, bounds.moved),
    Row("LeakyRelu", _leaky, bounds.leaky),
    Row("MatMul", _products, bounds.matmul),
    Row("MatMulInteger", _matmul_integer, bounds.matmul_integer),
    Row("Max", _variadic, bounds.greatest),
    Row("Min", _variadic, bounds.greatest),
    Row("Mul", _binary, bounds.multiply),
    Row("Neg", _unary, bounds.same),
    Row("QLinearMatMul", _qlinear_matmul, bounds.qlinear_matmul),
    Row("QuantizeLinear", _quantize, bounds.quantize),
    Row("Relu", _unary, bounds.same),
    Row("Reshape", _reshape, bounds.moved),
    Row("Sigmoid", _activation, bounds.sigmoid),
    Row("Squeeze", _squeeze, bounds.moved),
    Row("Sub", _binary, bounds.add),
    Row("Tanh", _activation, bounds.same),
    Row("Unsqueeze", _unsqueeze, bounds.moved),
)
# fmt: on

BY_NAME = {row.op: row for row in ROWS}
