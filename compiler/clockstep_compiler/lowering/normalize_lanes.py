"""Normalisation over the last axis by sums along the lanes.

Squares are of deviations, as fp16, after a scaling that brings them to where fp16 has its range:
that of integers is known, that of floats follows the mean magnitude of their row. So fp16 rounds
each square by 2**-12 at most, in no direction, and the sum of n by a fraction of that; where the
result must be better, squares go in two parts as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clockstep_compiler.expr import Const, Expr, Leaf, add, binary, cast, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.lane_sums import Part, halves, lane_sum, spread
from clockstep_compiler.lowering.lower import Lowering, Quant, matrix_shape, offset_of
from clockstep_compiler.lowering.reduce_rows import hold, source
from clockstep_isa.table import Type

__all__ = ["normalized"]

_MOST = 1 << 14
"""Columns up to which the squares of elements as large as their mean are normal numbers of fp16,
and that of one as large as all of them together is no infinity."""

_SPAN = 2.0**6
"""The largest magnitude of what is squared."""

_DOWN = 2.0**-5
"""What f32 are multiplied with: fp16 then holds magnitudes up to 2 million."""

_LEAST = 2.0**-24
"""The mean magnitude that smaller ones are taken for: so much is 2**-19 before `_DOWN`."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Elements in f32 less their row's mean; their squares, scaled, for the array; the scale of
    each row, squared, and what epsilon is to be multiplied with: None and a number if they are
    the same for all."""

    centred: Expr
    squares: list[Part]
    scale: Expr | None
    unit: float


def normalized(state: Lowering, node: Node, epsilon: float, centred: bool) -> Expr | None:
    """x / sqrt(mean of x**2 + epsilon) over the last axis, x less its mean if `centred`.

    None where it is not done so: one column or too many, exact precision, further results.
    """
    name, out = node.inputs[0], node.outputs[0]
    rows, columns = matrix_shape(state.shape(name))
    exact = state.options.precision in ("exact", "int8")
    if exact or any(node.outputs[1:]) or not 1 < columns <= _MOST:
        return None
    tensor = state.tensors.get(name)
    quant = None if tensor is None else tensor.quant
    coarse = state.is_coarse(out)
    if quant is not None and quant.scale.size == 1 and _is_byte(state, quant):
        found = _integers(state, quant, (rows, columns), centred, coarse)
    else:
        found = _floats(state, name, (rows, columns), centred, coarse)
    variance = mul(lane_sum(state, found.squares), 1 / columns)
    if found.scale is None:
        factor = unary("rsqrt", add(variance, epsilon / found.unit**2))
    else:
        total = binary("add", variance, mul(binary("mul", found.scale, found.scale), epsilon))
        factor = binary("mul", unary("rsqrt", total), found.scale)
    return binary("mul", found.centred, spread(state, factor, rows))


def _is_byte(state: Lowering, quant: Quant) -> bool:
    return state.dtype(quant.source) in ("int8", "uint8") and quant.zero.size == 1


def _integers(
    state: Lowering, quant: Quant, shape: tuple[int, int], centred: bool, coarse: bool
) -> _Rows:
    """In units of the scale; a mean takes the zero point with it. Squares are below 2**16."""
    value = state.store(quant.source)
    x: Expr = Leaf(value, None)
    if centred:
        mean = mul(cast(lane_sum(state, [(value, 1)]), Type.F32), 1 / shape[1])
        x = binary("sub", cast(x, Type.F32), spread(state, mean, shape[0]))
    else:
        zero = quant.zero.reshape(()) + offset_of(state.dtype(quant.source))
        x = add(cast(x, Type.F32), -zero.astype(np.float64))
    squares = halves(state, binary("mul", x, x), shape, coarse=coarse)
    return _Rows(x, squares, None, float(quant.scale.reshape(())))


def _floats(
    state: Lowering, name: str, shape: tuple[int, int], centred: bool, coarse: bool
) -> _Rows:
    """Elements as they are; a row is scaled by the inverse of its mean magnitude."""
    half = coarse and state.stored_type(name) == Type.F16
    value = state.store(name) if half else source(state, name).value
    x: Expr = cast(Leaf(value, None), Type.F32)
    narrow, unit, parts = value.type == Type.F16, 1.0, [(value, 1.0)]
    if not narrow:
        unit, parts = 1 / _DOWN, halves(state, mul(x, _DOWN), shape, coarse=False)
    magnitude = hold(state, unary("abs", Leaf(parts[0][0], None)), shape).value
    mean = mul(lane_sum(state, [(magnitude, 1.0)]), 1 / shape[1])
    root = unary("rsqrt", binary("max", mean, Const(np.asarray(_LEAST), Type.F32)))
    scale = spread(state, mul(binary("mul", root, root), _SPAN / shape[1] / unit), shape[0])
    if centred:
        mean = mul(lane_sum(state, parts), unit / shape[1])
        x = binary("sub", x, spread(state, mean, shape[0]))
    scaled = binary("mul", x, scale)
    squares = halves(state, binary("mul", scaled, scaled), shape, coarse=narrow)
    return _Rows(x, squares, scale, 1.0)
