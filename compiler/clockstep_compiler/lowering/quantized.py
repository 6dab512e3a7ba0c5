"""QuantizeLinear and DequantizeLinear: scales meet in expressions, integers stay for products.

Scales that are computed come as `Quantize`, an operator of ours: see `bodies/quantized.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.affine import quantized_sum
from clockstep_compiler.expr import Const, Expr, Leaf, Op, add, binary, cast, mul
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import combine
from clockstep_compiler.lowering.elementwise_bits import i32
from clockstep_compiler.lowering.elementwise_formats import round_to
from clockstep_compiler.lowering.elementwise_quotient import Reciprocal, divide, reciprocal
from clockstep_compiler.lowering.lower import (
    STORED,
    Lowering,
    Quant,
    is_float,
    lowers,
    offset_of,
)
from clockstep_compiler.lowering.reduce_rows import hold, over
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.layout import integer_range, numpy_type
from clockstep_isa.table import Type

__all__ = ["constant_of", "requantize"]

_FUNCTIONS = ("exp2", "rsqrt", "tanh")


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
    """round(expr / scale) + zero, clamped, as stored; rounding is before the zero point."""
    return _shifted(mul(expr, 1.0 / scale), Const(zero, Type.I32), dtype)


def _plus(a: Expr, term: int) -> Expr:
    return Const(a.array + term, a.out) if isinstance(a, Const) else add(a, term)


def _shifted(quotient: Expr, zero: Expr, dtype: str) -> Expr:
    """The f32 to nearest even, plus an i32, clamped to a type of integers, as stored."""
    (low, high), kind, offset = integer_range(dtype), STORED[dtype], offset_of(dtype)
    info = np.iinfo(numpy_type(kind))
    clamps = (low + offset, high + offset) == (info.min, info.max)
    shift = _plus(zero, offset)
    if isinstance(shift, Const) and clamps and kind == Type.I8:
        simple = quantized_sum(quotient, shift.array, kind)
        if simple is not None:
            return simple
    if isinstance(shift, Const) and clamps and kind == Type.I8 and _is_rough(quotient):
        return cast(add(quotient, shift.array.astype(np.float64)), kind)
    nothing = isinstance(shift, Const) and not np.any(shift.array)
    if nothing and clamps:
        return cast(quotient, kind)
    result = cast(quotient, Type.I32)
    result = result if nothing else binary("add_sat", result, shift)
    if not clamps:
        result = i32("min", i32("max", result, low + offset), high + offset)
    return cast(result, kind)


def _is_rough(expr: Expr) -> bool:
    """Whether an expression has a function in it: then no tie is more than chance, and a shift may
    come before the rounding."""
    seen: set[int] = set()
    waiting = [expr]
    while waiting:
        e = waiting.pop()
        if isinstance(e, Op) and id(e) not in seen:
            if e.name in _FUNCTIONS:
                return True
            seen.add(id(e))
            waiting += e.args
    return False


def _define_rounded(state: Lowering, node: Node, quotient: Expr, zero: Expr) -> None:
    """The node's output is the quotient rounded; zero points of floats are 0."""
    out, saturate = node.outputs[0], bool(node.attributes.get("saturate", 1))
    dtype = state.dtype(out)
    if is_float(dtype):
        state.define(out, round_to(quotient, dtype, saturate=saturate))
    else:
        state.define(out, _shifted(quotient, zero, dtype), narrow=True)


def _along(array: NDArray[np.generic], shape: tuple[int, ...], node: Node) -> NDArray[np.generic]:
    """A scale or zero point, of the tensor, along `axis` or in blocks, shaped to broadcast."""
    block = int(node.attributes.get("block_size", 0))
    if array.size == 1 and not block:
        return array.reshape(())
    axis = int(node.attributes.get("axis", 1)) % max(1, len(shape))
    wanted = [-(-n // max(1, block)) if i == axis else n for i, n in enumerate(shape)]
    if block and list(array.shape) == wanted:
        return array.take(np.arange(shape[axis]) // block, axis)
    if block or array.ndim != 1 or array.size != shape[axis]:
        raise UnsupportedModel(
            "unsupported-form", f"scale of shape {list(array.shape)} does not fit axis {axis}"
        )
    return array.reshape([-1 if i == axis else 1 for i in range(len(shape))])


@lowers("QuantizeLinear")
def _quantize(state: Lowering, node: Node) -> None:
    shape = state.shape(node.outputs[0])
    scale = _along(constant_of(state, node, 1, "scale"), shape, node).astype(np.float64)
    zero = _along(constant_of(state, node, 2, "zero point"), shape, node).astype(np.int64)
    operand = state.operand(node.inputs[0], shape)
    a = cast(operand, Type.F32)
    tame = np.all((scale > 2.0**-100) & (scale < 2.0**100))
    if state.options.precision == "exact" and isinstance(operand, Leaf) and tame:
        quotient = divide(a, Const(scale, Type.F32))  # there is no other scale to meet
    else:
        quotient = mul(a, 1.0 / scale)
    _define_rounded(state, node, quotient, Const(zero, Type.I32))


@lowers("Quantize")
def _quantize_by_computed(state: Lowering, node: Node) -> None:
    """The same with a scale or a zero point that is computed; both broadcast to the operand."""
    x, scale, *zero = node.inputs
    shape = state.shape(node.outputs[0])
    known, a = state.constant(scale), cast(state.operand(x, shape), Type.F32)
    if known is None:
        quotient = _reciprocal(state, scale, shape).times(a)
    else:
        quotient = mul(a, 1 / known.astype(np.float64))
    low = state.operand(zero[0], shape) if zero else Const(np.zeros((), np.int64), Type.I32)
    _define_rounded(state, node, quotient, low)


def _reciprocal(state: Lowering, name: str, shape: tuple[int, ...]) -> Reciprocal:
    """What elements of `shape` are multiplied with to divide them; computed once where it is."""
    own = state.shape(name)
    found = reciprocal(state.operand(name, own))
    parts = (found.outer, found.inner, found.high, found.low)
    return Reciprocal(*(over(state, hold(state, part, own), shape) for part in parts))


@lowers("DequantizeLinear")
def _dequantize(state: Lowering, node: Node) -> None:
    source, out = node.inputs[0], node.outputs[0]
    shape = state.shape(out)
    scale = _along(constant_of(state, node, 1, "scale"), shape, node).astype(np.float64)
    if is_float(state.dtype(source)):
        real = mul(state.operand(source, shape), scale)
        state.define(out, round_to(real, state.dtype(out)))
        return
    zero = _along(constant_of(state, node, 2, "zero point"), shape, node).astype(np.int64)
    quant = Quant(source, scale, zero)
    array = state.constant(source)
    if array is None:
        state.define(out, state.dequantized(quant, shape)).quant = quant
        return

    def made() -> Expr:
        return Const((array.astype(np.int64) - zero) * scale, Type.F32)

    state.define(out, made).quant = quant


@lowers("Dequantize")
def _dequantize_by_computed(state: Lowering, node: Node) -> None:
    """(x - zero) * scale, with a scale or a zero point that is computed."""
    x, scale, *zero = node.inputs
    shape, dtype = state.shape(node.outputs[0]), state.dtype(node.outputs[0])
    a = state.operand(x, shape)
    if zero and not is_float(state.dtype(x)):
        a = combine("sub", a, state.operand(zero[0], shape))
    real = combine("mul", cast(a, Type.F32), cast(state.operand(scale, shape), Type.F32))
    state.define(node.outputs[0], round_to(real, dtype))
