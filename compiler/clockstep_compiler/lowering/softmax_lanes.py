"""Softmax over the last axis of bytes, for results that are stored in fp16 or quantized.

Powers are stored in fp16; each is rounded by 2**-12 at most as long as it is a normal number. Of
bytes whose powers are such whatever they are, nothing needs to be known, and the powers are summed
along the lanes; else their greatest is found, and made 2**15.
"""

from __future__ import annotations

import math

from clockstep_compiler.expr import Expr, Leaf, add, binary, cast, mul, unary
from clockstep_compiler.lowering.lane_sums import lane_sum, spread
from clockstep_compiler.lowering.lower import Lowering, matrix_shape
from clockstep_compiler.lowering.reduce_rows import Along, Stored, along, hold
from clockstep_compiler.steps import Value
from clockstep_isa.table import Type

__all__ = ["coarse_softmax", "reciprocal"]

_TOP = 15.0
"""Powers of two begin below here."""

_RANGE = 29.0
"""From there on down they are normal numbers of fp16."""

_COLUMNS = 256
"""Columns up to which sums are made where they are used: those of about a vector."""

_WIDE = 8
"""Rows that are combined at a time: all wait for the result, so few sums should wait for sums."""


def reciprocal(a: Expr) -> Expr:
    """1 / a for a from 2**-126 on, as the square of rsqrt: within 2 ulp."""
    inverse = unary("rsqrt", a)
    return binary("mul", inverse, inverse)


def coarse_softmax(state: Lowering, name: str, out: str, axis: int) -> Expr | None:
    """exp(x - max) / sum, within 2**-11 of itself or 2**-30 of 1; None where it must be better."""
    shape = state.shape(name)
    if shape[-1] == 1 or state.options.precision == "int8" or not state.is_coarse(out):
        return None
    quant = state.tensors[name].quant if name in state.tensors else None
    if quant is None or quant.scale.size > 1 or state.dtype(quant.source) not in ("int8", "uint8"):
        return None
    value, unit = state.store(quant.source), float(quant.scale.reshape(())) / math.log(2)
    few, last = 255 * unit <= _RANGE, axis == len(shape) - 1
    if few and last:
        return _of_few(state, value, unit)
    stored = Stored(value, matrix_shape(shape) if last else shape)
    return _over_rows(state, along(state, stored, 1 if last else axis), unit, few)


def _of_few(state: Lowering, value: Value, unit: float) -> Expr:
    """Of bytes all of whose powers are in `_RANGE`."""
    rows, columns = value.rows, value.columns
    exponents = add(mul(cast(Leaf(value, None), Type.F32), unit), _TOP - 127 * unit)
    powers = hold(state, cast(unary("exp2", exponents), Type.F16), (rows, columns))
    parts = [(powers.value, 1.0)]
    if columns <= _COLUMNS:
        factor = reciprocal(lane_sum(state, parts, columns))
    else:
        factor = spread(state, reciprocal(lane_sum(state, parts)), rows)
    return binary("mul", cast(Leaf(powers.value, None), Type.F32), factor)


def _over_rows(state: Lowering, x: Along, unit: float, few: bool) -> Expr:
    """With the axis over rows, where the greatest of any bytes are found, if not all of them are
    `few`."""

    def wide(a: Expr) -> Expr:
        return cast(a, Type.F32)

    own = Leaf(x.value, None)
    if few:
        exponents = add(mul(wide(own), unit), _TOP - 127 * unit)
    else:
        greatest = x.fold(state, x.value, "max", wide=_WIDE)
        exponents = add(mul(binary("sub", wide(own), wide(x.spread(greatest))), unit), _TOP)
    powers = x.hold(state, cast(unary("exp2", exponents), Type.F16))
    factor = x.fold(state, powers, "add", wide, reciprocal, _WIDE)
    result = binary("mul", wide(Leaf(powers, None)), x.spread(factor))
    if not x.turned:
        return result
    return wide(Leaf(x.back(state, x.hold(state, cast(result, Type.F16))), None))
