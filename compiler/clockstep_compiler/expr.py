"""Scalar expressions over matrices: what one wave computes for every element of a block.

Constants are kept apart until the end, so that scalings meet and merge: `x * a * b` is one
multiplication, and a scale moves below a `max` with zero. This is where the multiplications of a
quantized chain collapse into one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.wave import WaveOp, WaveProgram
from clockstep_isa.table import Type

if TYPE_CHECKING:
    from clockstep_compiler.steps import Product, Value

__all__ = [
    "Acc",
    "Const",
    "Expr",
    "Leaf",
    "Op",
    "Source",
    "add",
    "binary",
    "cast",
    "flatten",
    "mul",
    "relu",
    "size",
    "substituted",
    "unary",
]


@dataclass(frozen=True, eq=False, slots=True)
class Leaf:
    """A stored matrix; row `r` of the result reads row `index[r]` of it (None: row `r`).

    Every tile of the result reads tile `tile` of it (None: its own, or the only one).
    """

    value: Value
    index: NDArray[np.int64] | None
    tile: int | None = None

    @property
    def out(self) -> Type:
        return self.value.type


@dataclass(frozen=True, eq=False, slots=True)
class Const:
    """A constant of any shape that broadcasts to the result's, exact in float64 or int64."""

    array: NDArray[Any]
    out: Type


@dataclass(frozen=True, eq=False, slots=True)
class Acc:
    """The sum of a matrix product: i32 for int8 operands, f32 for fp16."""

    product: Product

    @property
    def out(self) -> Type:
        return Type.I32 if self.product.type == Type.I8 else Type.F32


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """An ALU operation; `name` is the stream form of a table row."""

    name: str
    type: Type
    args: tuple[Expr, ...]
    out: Type
    extra: tuple[int, ...] = ()


Source = Leaf | Acc | Const
Expr = Leaf | Acc | Const | Op


def unary(name: str, a: Expr) -> Expr:
    """neg, abs, exp2, tanh, rsqrt."""
    return Op(name, a.out, (a,), a.out)


def binary(name: str, a: Expr, b: Expr) -> Expr:
    """A two-operand row; both of one type."""
    assert a.out == b.out, f"{name}: {a.out} and {b.out}"
    return Op(name, a.out, (a, b), a.out)


def cast(a: Expr, to: Type, *, nearest: bool = True, saturate: bool = True) -> Expr:
    """Convert, rounding to nearest even or toward zero, clamping or keeping the low bits."""
    if a.out == to:
        return a
    extra = (int(to), 0 if nearest else 1, 0 if saturate else 1)
    return Op("cast", a.out, (a,), to, extra)


def mul(a: Expr, scale: NDArray[Any] | float) -> Expr:
    """`a * scale` in f32, merged in float64 with the scaling that `a` has already."""
    factor = np.asarray(scale, np.float64)
    if factor.size == 1 and float(factor.reshape(())) == 1.0:
        return a
    if isinstance(a, Op) and isinstance(a.args[-1], Const):
        inner, const = a.args[0], a.args[-1].array
        if a.name == "mul":
            return mul(inner, const * factor)
        if a.name == "max" and not np.any(const) and bool(np.all(factor > 0)):
            return relu(mul(inner, factor))
        if a.name == "add" and a.type == Type.F32 and _is_scaled(inner):
            return add(mul(inner, factor), const * factor)
    return binary("mul", a, Const(factor, Type.F32))


def _is_scaled(a: Expr) -> bool:
    return isinstance(a, Op) and a.name == "mul" and isinstance(a.args[-1], Const)


def add(a: Expr, term: NDArray[Any] | float) -> Expr:
    """`a + term`, in the type of `a`; terms of integers merge."""
    exact = np.int64 if a.out == Type.I32 else np.float64
    constant = np.asarray(term).astype(exact)
    if not constant.size or not np.any(constant):
        return a
    if isinstance(a, Op) and a.name == "add" and a.type == Type.I32:
        inner = a.args[-1]
        if isinstance(inner, Const):
            return add(a.args[0], inner.array + constant)
    return binary("add", a, Const(constant, a.out))


def relu(a: Expr) -> Expr:
    """max(a, 0)."""
    return binary("max", a, Const(np.zeros(()), a.out))


def size(expr: Expr) -> int:
    """Number of ALU operations of an expression, shared ones counted once."""
    seen: set[int] = set()

    def visit(e: Expr) -> None:
        if isinstance(e, Op) and id(e) not in seen:
            seen.add(id(e))
            for arg in e.args:
                visit(arg)

    visit(expr)
    return len(seen)


def substituted(expr: Expr, new: Callable[[Expr], Expr | None]) -> Expr:
    """The expression with parts replaced where `new` has others; shared parts stay shared."""
    done: dict[int, Expr] = {}

    def visit(e: Expr) -> Expr:
        if id(e) not in done:
            found = new(e)
            if found is None and isinstance(e, Op):
                found = replace(e, args=tuple(visit(arg) for arg in e.args))
            done[id(e)] = e if found is None else found
        return done[id(e)]

    return visit(expr)


def immediate_bits(value: float, kind: Type) -> int:
    """The 32 bits of an immediate operand of that type."""
    if kind == Type.F32:
        return int(struct.unpack("<I", struct.pack("<f", np.float32(value)))[0])
    if kind == Type.F16:
        return int(np.float16(value).view(np.uint16))
    return int(value) & 0xFFFFFFFF


def flatten(expr: Expr) -> tuple[WaveProgram, tuple[Source, ...]]:
    """The expression as a wave program, and the sources of its leaves in order.

    Scalar constants become immediates; other constants are leaves like any matrix.
    """
    leaves: list[Source] = []
    ops: list[tuple[WaveOp, tuple[int, ...]]] = []  # args as -1 - leaf or operation index
    known: dict[int, int] = {}
    sources: dict[object, int] = {}

    def leaf(e: Source) -> int:
        same = (id(e.value), id(e.index), e.tile) if isinstance(e, Leaf) else id(e)
        if same not in sources:
            leaves.append(e)
            sources[same] = -len(leaves)
        return sources[same]

    def emit(name: str, e: Op, args: tuple[int, ...], extra: tuple[int, ...]) -> int:
        ops.append((WaveOp(name, e.type, (), e.out, extra), args))
        known[id(e)] = len(ops) - 1
        return known[id(e)]

    def visit(e: Expr) -> int:
        if id(e) in known:
            return known[id(e)]
        if not isinstance(e, Op):
            return leaf(e)
        last = e.args[-1]
        if len(e.args) == 2 and isinstance(last, Const) and last.array.size == 1:
            bits = immediate_bits(last.array.reshape(()).item(), e.type)
            return emit(e.name + "i", e, (visit(e.args[0]),), (bits,))
        return emit(e.name, e, tuple(visit(arg) for arg in e.args), e.extra)

    visit(expr)
    if not ops:
        kind = expr.out
        ops.append((WaveOp("mov", kind, (), kind), (-1,)))
    count = len(leaves)

    def index(arg: int) -> int:
        return -1 - arg if arg < 0 else count + arg

    program = WaveProgram(
        tuple(e.out for e in leaves),
        tuple(op._replace(args=tuple(index(a) for a in args)) for op, args in ops),
    )
    return program, tuple(leaves)
