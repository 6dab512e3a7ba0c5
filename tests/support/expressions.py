"""Expressions of the compiler evaluated by the instructions' own definitions, without a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, immediate_bits, size
from clockstep_compiler.steps import Value
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import BY_NAME, Type
from clockstep_runtime.semantics import EXECUTES

__all__ = ["apply", "operations", "ulps"]

Array = NDArray[Any]


def _leaves(arrays: tuple[Array, ...]) -> list[Leaf]:
    kinds = {numpy_type(kind): kind for kind in Type}
    values = [
        Value(k, f"x{k}", 1, array.size, kinds[array.dtype], "input")
        for k, array in enumerate(arrays)
    ]
    return [Leaf(value, None) for value in values]


def operations(function: Callable[..., Expr], *kinds: Type) -> int:
    """The ALU operations of a function of operands of those types."""
    return size(function(*_leaves(tuple(np.zeros(1, numpy_type(kind)) for kind in kinds))))


def apply(function: Callable[..., Expr], *arrays: Array) -> Array:
    """The result of a function that makes an expression of leaves, for arrays of one shape."""
    leaves = _leaves(arrays)
    known: dict[int, Array] = {id(e): a for e, a in zip(leaves, arrays, strict=True)}

    def visit(e: Expr) -> Array:
        if id(e) in known:
            return known[id(e)]
        assert not isinstance(e, Acc | Leaf)
        if isinstance(e, Const):
            return e.array.astype(numpy_type(e.out))
        args = [_typed(visit(arg), e.type) for arg in e.args]
        last = e.args[-1]
        name, extra = e.name, {}
        if len(args) == 2 and isinstance(last, Const) and last.array.size == 1:
            bits = np.array([immediate_bits(last.array.item(), e.type)], np.uint32)
            args[1], name = bits.view(numpy_type(e.type))[:1], e.name + "i"
        if name == "cast":
            to, rounding, overflow = e.extra
            extra = {
                "to": Type(to),
                "round": ("rne", "rtz")[rounding],
                "overflow": ("sat", "wrap")[overflow],
            }
        assert e.type in BY_NAME[name].types, f"{name} of {e.type}"
        known[id(e)] = EXECUTES[name](*args, **extra)
        return known[id(e)]

    expr = function(*leaves)
    return _typed(visit(expr), expr.out)


def _typed(array: Array, kind: Type) -> Array:
    return np.ascontiguousarray(array).view(numpy_type(kind))


def ulps(have: Array, want: Array) -> Array:
    """The distance from float32 to float64 in units in the last place of the nearest float32.

    Two NaN, or one infinity twice, are at no distance; a NaN or an infinity by itself is at an
    infinite one, unless the true value rounds to the infinity.
    """
    with np.errstate(all="ignore"):
        near = want.astype(np.float32)
        spacing = np.spacing(np.minimum(np.abs(near), np.finfo(np.float32).max)).astype(np.float64)
        off = np.abs(have.astype(np.float64) - want) / spacing
    same = (np.isnan(have) & np.isnan(want)) | (have == near)
    exact_infinity = np.isinf(near) & (have == near)
    off = np.where(exact_infinity | (np.isnan(have) & np.isnan(want)), 0.0, off)
    return np.where(np.isnan(off) & ~same, np.inf, np.where(np.isnan(off), 0.0, off))
