"""What elementwise operators read and write: operands in range, integers that fit their words."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, Op, size
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import SIGN, i32
from clockstep_compiler.lowering.lower import FLOATS, STORED, WORDS, Lowering
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.layout import integer_range

__all__ = [
    "WORDS",
    "bounds",
    "carry_bounds",
    "define_integer",
    "has_product",
    "in_range",
    "operands",
    "ordered",
    "record_bounds",
    "reject",
]

_NARROW = ("int8", "uint8", "int16", "uint16")
_INT32 = (-(2**31), 2**31 - 1)
_RING = ("add", "sub", "mul", "neg", "abs")
_SEVERAL_WAVES = 24
"""Operations."""


def has_product(expr: Expr) -> bool:
    """Whether an expression holds a product; a wave can hold one."""
    seen: set[int] = set()
    waiting = [expr]
    while waiting:
        e = waiting.pop()
        if isinstance(e, Acc):
            return True
        if isinstance(e, Op) and id(e) not in seen:
            seen.add(id(e))
            waiting += e.args
    return False


def in_range(state: Lowering, name: str, shape: tuple[int, ...]) -> Expr:
    """An operand whose value matters, not only its low bits: a narrow integer wrapped around.

    Sums, differences, products and negations of narrow integers may be computed in 32 bits and
    wrapped at the end; nothing else may. What takes several waves already is stored as it is: more
    of it in one expression would only make it hard to cut.
    """
    expr, dtype = state.operand(name, shape), state.dtype(name)
    if dtype in WORDS:
        record_bounds(state, name, *bounds(state, name))
    tensor = state.tensors.get(name)
    if tensor is None or not isinstance(expr, Op):
        return expr
    if dtype in _NARROW and not tensor.narrow and expr.name in _RING:
        expr = state.widen(state.narrow(expr, dtype, STORED[dtype]), dtype)
    if size(expr) > _SEVERAL_WAVES:
        return Leaf(state.compute(tensor, expr), None)
    return expr


def operands(state: Lowering, names: tuple[str, ...], shape: tuple[int, ...]) -> list[Expr]:
    """Several operands in range; of those that hold a product all but the first are stored."""
    found: list[Expr] = []
    for name in names:
        tensor = state.tensors.get(name)
        if tensor and has_product(tensor.expr) and any(has_product(expr) for expr in found):
            state.store(name)
        found.append(in_range(state, name, shape))
    return found


def ordered(expr: Expr, dtype: str) -> Expr:
    """Integers of 32 bits without sign as integers with sign in the same order, and back."""
    if dtype != "uint32":
        return expr
    if isinstance(expr, Const):
        return Const((expr.array.astype(np.int64) & 0xFFFFFFFF) + SIGN, expr.out)
    return i32("xor", expr, SIGN)


def define_integer(state: Lowering, name: str, expr: Expr) -> None:
    """The tensor `name` is `expr`, of which a narrow type keeps the low bits."""
    dtype = state.dtype(name)
    if dtype in _NARROW:
        state.define(name, state.narrow(expr, dtype, STORED[dtype]), narrow=True)
    else:
        state.define(name, expr)


def bounds(state: Lowering, name: str) -> tuple[int, int]:
    """The least and the greatest value that an integer tensor can have."""
    constant, dtype = state.constant(name), state.dtype(name)
    if constant is not None:
        return (int(constant.min()), int(constant.max())) if constant.size else (0, 0)
    if name in state.bounds:
        return state.bounds[name]
    if dtype == "bool":
        return 0, 1
    if dtype in WORDS:
        return (0 if dtype == "uint64" else _INT32[0]), _INT32[1]
    return integer_range(dtype)


def record_bounds(state: Lowering, name: str, low: int, high: int, *, ring: bool = False) -> None:
    """Note what values a 64-bit result can have; refuses it if they do not fit 32 bits.

    A negative value stands for one of uint64 that is 2**64 more: to sums, differences and products
    (`ring`), to moves and to the host that is the same.
    """
    dtype = state.dtype(name)
    if dtype not in WORDS:
        return
    least = 0 if dtype == "uint64" and not ring else _INT32[0]
    if low < least or high > _INT32[1]:
        raise UnsupportedModel(
            "integer-range",
            f"values of {name!r} from {low} to {high} could exceed the machine's 32 bits",
            help="cast the operands to int32",
        )
    state.bounds[name] = low, high


def carry_bounds(
    state: Lowering, name: str, sources: Iterable[str], *more: int, ring: bool = True
) -> None:
    """Note that a result has values of `sources`, or of the numbers `more`."""
    if state.dtype(name) in WORDS:
        pairs = [bounds(state, source) for source in sources]
        low, high = (zip(*pairs, strict=True)) if pairs else ((), ())
        record_bounds(state, name, min((*low, *more)), max((*high, *more)), ring=ring)


def reject(node: Node, state: Lowering, allowed: tuple[str, ...] = FLOATS) -> None:
    """Refuse a node whose first input is of a type that it has no lowering for."""
    dtype = state.dtype(node.inputs[0])
    if dtype not in allowed:
        raise UnsupportedModel(
            "element-type",
            f"{node.op} of {dtype} is not supported",
            help="cast to one of " + ", ".join(allowed),
        )
