"""Operators that quantize, and products of integers."""

from __future__ import annotations

import numpy as np

from fuzz import bounds_quantized as bounds
from fuzz.builder import Graph
from fuzz.rows.row import BYTES, Row

__all__ = ["ROWS", "scale", "zero"]


def scale(g: Graph, shape: tuple[int, ...]) -> str:
    value = np.asarray(g.choose(0.05, 1 / 127, 0.25, 2 / 255, 1 / 3), np.float32)
    spread = 1 + np.arange(int(np.prod(shape))).reshape(shape) % 5 / 7
    return g.constant((value * spread).astype(np.float32))


def zero(g: Graph, shape: tuple[int, ...], dtype: str) -> str:
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
    dtype = g.choose(*BYTES)
    points = [] if dtype == "uint8" and g.flag() else [zero(g, shape, dtype)]
    g.node(op, [x, scale(g, shape), *points], axis=axis)


def _dequantize(g: Graph, op: str) -> None:
    x = g.tensor((*BYTES, "int32"))
    shape, axis = _axis(g, g.like(x).shape)
    dtype = g.like(x).dtype.name
    points = [] if dtype == "int32" or g.flag() else [zero(g, shape, dtype)]
    g.node(op, [x, scale(g, shape), *points], axis=axis)


def _bytes(g: Graph) -> tuple[str, str]:
    """A product's int8 operands: a tensor, and what fits on its right."""
    x = g.tensor(BYTES, (2, 5))
    k = g.like(x).shape[-1]
    return x, g.operand((k, g.size()), np.dtype(g.choose(*BYTES)))


def _dtype(g: Graph, name: str) -> str:
    return str({**g.tensors, **g.constants}[name].dtype.name)


def _columns(g: Graph, name: str) -> tuple[int, ...]:
    return {**g.tensors, **g.constants}[name].shape[-1:] if g.flag() else ()


def _matmul_integer(g: Graph, op: str) -> None:
    a, b = _bytes(g)
    zeros = [zero(g, (), _dtype(g, a)), zero(g, _columns(g, b), _dtype(g, b))]
    g.node(op, [a, b, *zeros[: g.integer(0, 2)]])


def _qlinear_matmul(g: Graph, op: str) -> None:
    a, b = _bytes(g)
    columns = _columns(g, b)
    names = [a, scale(g, ()), zero(g, (), _dtype(g, a))]
    names += [b, scale(g, columns), zero(g, columns, _dtype(g, b))]
    out = g.choose(*BYTES)
    wide = g.constant(np.asarray(g.choose(0.5, 3.0, 17.0), np.float32))
    g.node(op, [*names, wide, zero(g, (), out)])


# fmt: off
ROWS: tuple[Row, ...] = (
    Row("DequantizeLinear", _dequantize, bounds.dequantize),
    Row("MatMulInteger", _matmul_integer, bounds.matmul_integer),
    Row("QLinearMatMul", _qlinear_matmul, bounds.qlinear_matmul),
    Row("QuantizeLinear", _quantize, bounds.quantize),
)
# fmt: on
