"""QuantizeLinear and DequantizeLinear: scales meet in expressions, integers stay for products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Const, Expr, binary, cast, mul
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.lower import Lowering, Quant, lowers, offset_of
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["constant_of", "requantize"]


def constant_of(state: Lowering, node: Node, position: int, what: str) -> NDArray[np.generic]:
    """The constant at an input; zero (of no dimension) where the input is absent."""
    name = node.inputs[position] if position < len(node.inputs) else ""
    if not name:
        return np.zeros((), np.int64)
    array = state.constant(name)
    if array is None:
        raise UnsupportedModel(
            "operand-not-constant",
            f"{what} {name!r} is computed at run time",
            help="make it an initializer: a static schedule needs it to choose the arithmetic",
        )
    return array


def requantize(expr: Expr, scale: NDArray[np.float64], zero: NDArray[np.int64], dtype: str) -> Expr:
    """round(expr / scale) + zero, clamped, as stored int8; rounding is before the zero point."""
    scaled = mul(expr, 1.0 / scale)
    shift = zero + offset_of(dtype)
    if not np.any(shift):
        return cast(scaled, Type.I8)
    shifted = binary("add_sat", cast(scaled, Type.I32), Const(shift, Type.I32))
    return cast(shifted, Type.I8)


def _along(array: NDArray[np.generic], shape: tuple[int, ...], node: Node) -> NDArray[np.generic]:
    """A scale or zero point, per tensor or along `axis`, shaped to broadcast."""
    if node.attributes.get("block_size", 0):
        raise UnsupportedModel("unsupported-form", "blocked quantization is not supported")
    if array.size == 1:
        return array.reshape(())
    axis = int(node.attributes.get("axis", 1)) % max(1, len(shape))
    if array.ndim != 1 or array.size != shape[axis]:
        raise UnsupportedModel(
            "unsupported-form", f"scale of shape {list(array.shape)} does not fit axis {axis}"
        )
    return array.reshape([-1 if i == axis else 1 for i in range(len(shape))])


@lowers("QuantizeLinear")
def _quantize(state: Lowering, node: Node) -> None:
    out = node.outputs[0]
    shape, dtype = state.shape(out), state.dtype(out)
    if dtype not in ("int8", "uint8"):
        raise UnsupportedModel("element-type", f"quantizing to {dtype} is not supported")
    scale = _along(constant_of(state, node, 1, "scale"), shape, node).astype(np.float64)
    zero = _along(constant_of(state, node, 2, "zero point"), shape, node).astype(np.int64)
    a = cast(state.operand(node.inputs[0], shape), Type.F32)
    state.define(out, requantize(a, scale, zero, dtype), narrow=True)


@lowers("DequantizeLinear")
def _dequantize(state: Lowering, node: Node) -> None:
    source, out = node.inputs[0], node.outputs[0]
    shape = state.shape(out)
    if state.dtype(source) not in ("int8", "uint8", "int16", "uint16", "int32"):
        raise UnsupportedModel(
            "element-type", f"dequantizing {state.dtype(source)} is not supported"
        )
    scale = _along(constant_of(state, node, 1, "scale"), shape, node).astype(np.float64)
    zero = _along(constant_of(state, node, 2, "zero point"), shape, node).astype(np.int64)
    quant = Quant(source, scale, zero)
    array = state.constant(source)
    if array is None:
        expr = state.dequantized(quant, shape)
    else:
        expr = Const((array.astype(np.int64) - zero) * scale, Type.F32)
    state.define(out, expr).quant = quant
