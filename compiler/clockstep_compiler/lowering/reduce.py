"""The Reduce operators: rows of `_REDUCTIONS` over the primitive of `reduce_rows`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clockstep_compiler.expr import Const, Expr, binary, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_exponential import logarithm
from clockstep_compiler.lowering.elementwise_operands import bounds, ordered, record_bounds
from clockstep_compiler.lowering.elementwise_quotient import square_root
from clockstep_compiler.lowering.lower import FLOATS, WORDS, Lowering, lowers
from clockstep_compiler.lowering.reduce_rows import reduced, source
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["INTEGERS", "axes_of", "refuse_types"]

Map = Callable[[Expr], Expr]

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
"""Integer types that all of these operators take."""


def axes_of(state: Lowering, node: Node, rank: int) -> tuple[int, ...]:
    """The axes of a node, an attribute or a constant input, from 0 on; all if it names none."""
    name = node.inputs[1] if len(node.inputs) > 1 else ""
    axes = node.attributes.get("axes", ())
    if name:
        constant = state.constant(name)
        if constant is None:
            raise UnsupportedModel(
                "operand-not-constant",
                f"the axes {name!r} are computed at run time",
                help="make them an initializer: shapes depend on them",
            )
        axes = constant.ravel().tolist()
    if not len(axes) and not node.attributes.get("noop_with_empty_axes", 0):
        return tuple(range(rank))
    return tuple(sorted({int(axis) % rank for axis in axes}))


def _same(a: Expr) -> Expr:
    return a


def _square(a: Expr) -> Expr:
    return binary("mul", a, a)


def _magnitude(a: Expr) -> Expr:
    return unary("abs", a)


def refuse_types(node: Node, dtype: str, integers: Sequence[str]) -> None:
    """Refuse an operand that is neither a float nor of one of these integer types."""
    if dtype in FLOATS or dtype in integers:
        return
    raise UnsupportedModel(
        "element-type", f"{node.op} of {dtype} is not supported", help="cast the operand to float32"
    )


@dataclass(frozen=True, slots=True)
class _Reduction:
    """A row of the VXM, what comes before and after it, and the result for no elements."""

    row: str
    empty: float
    before: Map = _same
    after: Map = _same
    integers: tuple[str, ...] = INTEGERS


_REDUCTIONS = {
    "ReduceSum": _Reduction("add", 0.0),
    "ReduceMean": _Reduction("add", math.nan, integers=()),
    "ReduceProd": _Reduction("mul", 1.0),
    "ReduceMax": _Reduction("max", -math.inf, integers=(*INTEGERS, "bool")),
    "ReduceMin": _Reduction("min", math.inf, integers=(*INTEGERS, "bool")),
    "ReduceL1": _Reduction("add", 0.0, _magnitude),
    "ReduceL2": _Reduction("add", 0.0, _square, square_root, ()),
    "ReduceLogSum": _Reduction("add", -math.inf, after=logarithm, integers=()),
    "ReduceSumSquare": _Reduction("add", 0.0, _square),
}


@lowers(*_REDUCTIONS)
def _reduce(state: Lowering, node: Node) -> None:
    row, name, out = _REDUCTIONS[node.op], node.inputs[0], node.outputs[0]
    dtype = state.dtype(name)
    refuse_types(node, dtype, row.integers)
    shape = state.shape(name)
    axes = axes_of(state, node, len(shape))
    count = math.prod(shape[axis] for axis in axes)
    if dtype in WORDS:
        _record_reduced(state, node, count)
    if not count or 0 in state.shape(out):
        state.define(out, _of_nothing(row.empty, dtype))
        return

    chosen = dtype if row.row in ("max", "min") else ""
    positive = row.before is _magnitude and dtype.startswith("u")

    def before(a: Expr) -> Expr:
        wide = state.widen(a, dtype)
        return wide if positive else ordered(row.before(wide), chosen)

    def after(a: Expr) -> Expr:
        return row.after(mul(a, 1 / count) if node.op == "ReduceMean" else ordered(a, chosen))

    operand, target = source(state, name), state.shape(out)
    expr = reduced(state, operand, axes, row.row, before=before, after=after, shape=target)
    state.define(out, expr)


def _record_reduced(state: Lowering, node: Node, count: int) -> None:
    """Note what `count` integers of 64 bits, combined, can come to."""
    low, high = bounds(state, node.inputs[0])
    reach = max(-low, high)
    name, out = node.op, node.outputs[0]
    if name == "ReduceSum":
        record_bounds(state, out, low * count, high * count, ring=True)
        return
    record_bounds(state, node.inputs[0], low, high)
    if name == "ReduceProd":
        most = max(1, reach) ** min(count, 64)
        low, high = (-most if low < 0 else 0), most
    elif name not in ("ReduceMax", "ReduceMin"):
        low, high = 0, count * (reach * reach if name == "ReduceSumSquare" else reach)
    record_bounds(state, out, low, high)


def _of_nothing(value: float, dtype: str) -> Const:
    """The result for no elements: as for floats, or the least or greatest of an integer type."""
    if dtype in FLOATS:
        return Const(np.asarray(value), Type.F32)
    if math.isfinite(value):
        return Const(np.asarray(int(value)), Type.I32)
    if dtype == "bool":
        return Const(np.asarray(int(value > 0)), Type.I32)
    if dtype in WORDS:
        raise UnsupportedModel("integer-range", f"the limit of {dtype} exceeds 32 bits")
    limits = np.iinfo(dtype)
    return Const(np.asarray(limits.max if value > 0 else limits.min), Type.I32)
