"""Softmax and its like, along one axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clockstep_compiler.expr import Const, Expr, binary, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.lower import Lowering, lowers
from clockstep_compiler.lowering.reduce import Stored, hold, over, reduced, source
from clockstep_isa.table import Type

__all__ = ["exponential", "reciprocal"]


def exponential(a: Expr) -> Expr:
    """e**a as a power of two: within |a| 2**-24 + 2**-23, relatively."""
    return unary("exp2", mul(a, 1 / math.log(2)))


def reciprocal(a: Expr) -> Expr:
    """1 / a for a from 2**-126 on, as the square of rsqrt: within 2 ulp."""
    inverse = unary("rsqrt", a)
    return binary("mul", inverse, inverse)


@dataclass(frozen=True, slots=True)
class _Exponentials:
    """Every element less the greatest of its row, and e to that power."""

    shifted: Stored
    powers: Stored


def _exponentials(state: Lowering, x: Stored, dtype: str, axis: int) -> _Exponentials:
    def widen(a: Expr) -> Expr:
        return state.widen(a, dtype)

    greatest = hold(state, reduced(state, x, (axis,), "max", before=widen), _kept(x.shape, axis))
    element = widen(over(state, x, x.shape))
    shifted = hold(state, binary("sub", element, over(state, greatest, x.shape)), x.shape)
    powers = hold(state, exponential(over(state, shifted, x.shape)), x.shape)
    return _Exponentials(shifted, powers)


def _kept(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(1 if i == axis else d for i, d in enumerate(shape))


@lowers("Softmax")
def _softmax(state: Lowering, node: Node) -> None:
    """exp(x - max) / sum; a row of nothing but -inf gives NaN, as in onnxruntime."""
    name, out = node.inputs[0], node.outputs[0]
    shape = state.shape(out)
    if 0 in shape:
        state.define(out, Const(np.zeros(()), Type.F32))
        return
    axis = int(node.attributes.get("axis", -1)) % max(1, len(shape))
    parts = _exponentials(state, source(state, name), state.dtype(name), axis)
    inverse = reduced(state, parts.powers, (axis,), "add", after=reciprocal)
    factor = hold(state, inverse, _kept(shape, axis))
    power = over(state, parts.powers, shape)
    state.define(out, binary("mul", power, over(state, factor, shape)))
