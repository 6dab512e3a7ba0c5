"""Matrix products: operators on the factors that `factors.py` lays out.

For another product of floats or bytes see `matmul_floats.py` and `matmul_integers.py`; for another
operator add a handler here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Const, Expr, cast, mul
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import attribute, combine, has_product
from clockstep_compiler.lowering.factors import (
    Operand,
    both_sides,
    lanes_matrix,
    lead_of,
    rows_of,
    swapped,
)
from clockstep_compiler.lowering.fixed_point import fixed_point_product, fixed_point_weights
from clockstep_compiler.lowering.lower import FLOATS, Lowering, Quant, lowers
from clockstep_compiler.lowering.matmul_floats import float_product
from clockstep_compiler.lowering.matmul_integers import integer_product
from clockstep_compiler.lowering.quantized import constant_of, requantize
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__: list[str] = []

Array = NDArray[Any]


def _quantized_pair(state: Lowering, a: Operand, b: Operand) -> tuple[Quant, Quant] | None:
    """Both operands' integers, if the product can be taken of them and scaled afterwards."""
    left, right = (state.tensors[o.name].quant if o.name in state.tensors else None for o in (a, b))
    if left is None or right is None:
        return None
    if any(state.dtype(q.source) not in ("int8", "uint8") for q in (left, right)):
        return None
    if left.scale.size != 1 or left.zero.size != 1:
        return None
    constant = state.constant(right.source) is not None
    columns = 2 if b.swap else 1
    for array in (right.scale, right.zero):
        if array.size == 1:
            continue
        if not constant or array.ndim < columns or array.shape[-columns] != array.size:
            return None
    return left, right


def _matmul(state: Lowering, a: str, b: str, swap_a: bool = False, swap_b: bool = False) -> Expr:
    """a @ b in f32, of the integers where both were dequantized, else in fp16."""
    left, right, _ = both_sides(state, a, b, swap_a, swap_b)
    precision = state.options.precision
    pair = None if precision == "fp16" else _quantized_pair(state, left, right)
    if pair is None and precision == "int8":
        raise UnsupportedModel(
            "element-type",
            f"{a!r} times {b!r} is a product of floats",
            help="quantize both operands (QuantizeLinear and DequantizeLinear), or use auto",
        )
    if pair is None:
        narrow = fixed_point_weights(state, right.name, right.shape, right.swap)
        if narrow is None:
            return float_product(state, left, right)
        lead = lead_of(left, right)
        rows = rows_of(left.shape[:-2], lead, left.shape[-2])
        value = lanes_matrix(state, left.name, swapped(left.shape, left.swap), left.swap, Type.F16)
        weights, scale = narrow
        count = math.prod(lead) * left.shape[-2]
        return mul(fixed_point_product(state, value, weights, count, rows), scale)
    qa, qb = pair
    product = integer_product(
        state,
        replace(left, name=qa.source, zero=qa.zero.reshape(())),
        replace(right, name=qb.source, zero=_column(qb.zero).astype(np.int64)),
    )
    scale = qa.scale.reshape(()) * _column(qb.scale).astype(np.float64)
    return mul(cast(product, Type.F32), scale)


def _column(array: Array) -> Array:
    """A scale or zero point of the right operand: a scalar, or [1, columns]."""
    return array.reshape(()) if array.size == 1 else array.reshape(1, -1)


def _reject_integers(state: Lowering, node: Node) -> None:
    for name in node.inputs[:2]:
        if state.dtype(name) not in FLOATS:
            raise UnsupportedModel(
                "element-type",
                f"{node.op} of {state.dtype(name)} is not supported",
                help="MatMulInteger multiplies int8",
            )


@lowers("MatMul")
def _lower_matmul(state: Lowering, node: Node) -> None:
    _reject_integers(state, node)
    a, b = node.inputs
    turned = bool(node.attributes.get("transB", 0))
    state.define(node.outputs[0], _matmul(state, a, b, swap_b=turned))


@lowers("Gemm")
def _lower_gemm(state: Lowering, node: Node) -> None:
    """alpha A' B' + beta C."""
    _reject_integers(state, node)
    a, b = node.inputs[:2]
    swap_a, swap_b = (bool(node.attributes.get(k, 0)) for k in ("transA", "transB"))
    result = mul(_matmul(state, a, b, swap_a, swap_b), attribute(node, "alpha", 1.0))
    c = node.inputs[2] if len(node.inputs) > 2 else ""
    beta = attribute(node, "beta", 1.0)
    if c and beta != 0:
        if c in state.tensors and has_product(state.tensors[c].expr):
            state.store(c)
        term = state.operand(c, state.shape(node.outputs[0]))
        scaled = Const(term.array * beta, Type.F32) if isinstance(term, Const) else mul(term, beta)
        result = combine("add", result, scaled)
    state.define(node.outputs[0], result)


def _parameter(array: Array, count: int, row: bool) -> Array:
    """A scale or zero point of an operand, one for each of `count` rows or columns, or scalar."""
    if array.size == 1:
        return array.reshape(())
    if array.ndim > 2 or array.size != count:
        raise UnsupportedModel(
            "unsupported-form", f"a scale or zero point of shape {list(array.shape)} for {count}"
        )
    return array.reshape(-1, 1) if row else array.reshape(1, -1)


def _quantized_product(
    state: Lowering,
    node: Node,
    inputs: tuple[int, int],
    zeros: tuple[int, int],
    scales: tuple[int, int] | None,
) -> tuple[Expr, Array]:
    """The i32 product of two inputs less their zero points, and the product of their scales.

    `inputs`, `zeros` and `scales` are positions among the node's inputs, left then right.
    """
    for position in inputs:
        if state.dtype(node.inputs[position]) not in ("int8", "uint8"):
            kind = state.dtype(node.inputs[position])
            raise UnsupportedModel("element-type", f"operand of type {kind}")
    left, right, turned = both_sides(state, node.inputs[inputs[0]], node.inputs[inputs[1]])
    sides = (left, right)
    if turned:
        zeros = zeros[::-1]
        scales = scales[::-1] if scales else None
    placed = [
        replace(
            side,
            zero=_parameter(
                constant_of(state, node, zero, "zero point"), side.shape[-2 + k], k == 0
            ).astype(np.int64),
        )
        for k, (side, zero) in enumerate(zip(sides, zeros, strict=True))
    ]
    product = integer_product(state, placed[0], placed[1])
    if scales is None:
        return product, np.ones(())
    a, b = (
        _parameter(constant_of(state, node, s, "scale"), side.shape[-2 + k], k == 0).astype(float)
        for k, (side, s) in enumerate(zip(sides, scales, strict=True))
    )
    return product, a * b


@lowers("MatMulInteger")
def _lower_integer(state: Lowering, node: Node) -> None:
    product, _ = _quantized_product(state, node, (0, 1), (2, 3), None)
    state.define(node.outputs[0], product)


@lowers("QLinearMatMul")
def _lower_qlinear(state: Lowering, node: Node) -> None:
    """Inputs a, scale, zero, b, scale, zero, then the result's scale and zero."""
    product, scale = _quantized_product(state, node, (0, 3), (2, 5), (1, 4))
    real = mul(cast(product, Type.F32), scale)
    out = node.outputs[0]
    result_scale = constant_of(state, node, 6, "scale").astype(np.float64)
    result_zero = constant_of(state, node, 7, "zero point").astype(np.int64)
    if result_scale.size != 1 or result_zero.size != 1:
        raise UnsupportedModel("unsupported-form", "a result scale or zero point for each row")
    expr = requantize(real, result_scale.reshape(()), result_zero.reshape(()), state.dtype(out))
    state.define(out, expr, narrow=True)
