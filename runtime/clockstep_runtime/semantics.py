"""What every instruction computes: one small numpy function a row of the table.

To add an instruction, add its row to `clockstep_isa.table` and a function here under
`@executes`. Arguments are the row's fields by name, without `type`, `width` and `out`; an
immediate stands for operand `b`. VXM values are typed arrays [lanes]; SXM values are bytes
[streams, superlanes, lanes of a superlane]. Rows that only move vectors (read, write, lw, iw, acc,
send, receive) are done by the interpreter itself.

Numerics are defined to the bit. Float add, subtract and multiply are IEEE, to nearest, ties to
even; integers keep the low bits unless the name ends in `_sat`; a NaN result of arithmetic is the
one canonical quiet NaN, while `mov`, `neg`, `abs` and the bitwise operations act on bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.layout import numpy_type
from clockstep_isa.table import Type
from clockstep_runtime import transcendental
from clockstep_runtime.dot import HalfMatrix, Int8Matrix

__all__ = ["EXECUTES", "canonical", "executes"]

Array = NDArray[Any]
Function = Callable[..., Array]

EXECUTES: dict[str, Function] = {}
"""The function of each instruction, by its name in the table."""

_BITS: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
_INTEGERS: dict[int, np.dtype[Any]] = {1: np.dtype(np.int8), 2: np.dtype("<i2"), 4: np.dtype("<i4")}
_CANONICAL_NAN: dict[int, np.unsignedinteger[Any]] = {
    2: np.uint16(0x7E00),
    4: np.uint32(0x7FC00000),
}
_HALF_INFINITE = 65520.0
"""The least magnitude that rounds to infinity in fp16."""


def executes(*names: str) -> Callable[[Function], Function]:
    """Register the meaning of the rows `names`."""

    def register(function: Function) -> Function:
        for name in names:
            EXECUTES[name] = function
        return function

    return register


def canonical(values: Array) -> Array:
    """`values` with every NaN replaced by the canonical one; integers are returned as they are."""
    if values.dtype.kind != "f":
        return values
    nan = _CANONICAL_NAN[values.dtype.itemsize]
    return _like(values, np.where(np.isnan(values), nan, _bits(values)))


def _bits(a: Array) -> Array:
    """The same bytes as unsigned integers."""
    return a.view(_BITS[a.dtype.itemsize])


def _like(a: Array, bits: Array) -> Array:
    """Unsigned integers as the bytes of values of `a`'s type."""
    return bits.view(a.dtype)


def _arithmetic(
    operation: Callable[[Array, Array], Array], a: Array, b: Array, saturate: bool = False
) -> Array:
    """`operation` in a type that holds its exact result (integers) or rounds it rightly (floats).

    float16 is computed in float32: its 24 bits are at least 2 * 11 + 2, so rounding twice is
    rounding once.
    """
    if a.dtype.kind == "f":
        with np.errstate(all="ignore"):
            exact = operation(a.astype(np.float32), b.astype(np.float32))
            return canonical(exact.astype(a.dtype))
    wide = operation(a.astype(np.int64), b.astype(np.int64))
    return _narrow(wide, a.dtype, saturate)


def _narrow(wide: NDArray[np.int64], dtype: np.dtype[Any], saturate: bool) -> Array:
    if saturate:
        info = np.iinfo(dtype)
        wide = np.clip(wide, info.min, info.max)
    return wide.astype(dtype)


@executes("add", "addi")
def add(a: Array, b: Array) -> Array:
    return _arithmetic(np.add, a, b)


@executes("sub", "subi")
def subtract(a: Array, b: Array) -> Array:
    return _arithmetic(np.subtract, a, b)


@executes("mul", "muli")
def multiply(a: Array, b: Array) -> Array:
    return _arithmetic(np.multiply, a, b)


@executes("add_sat", "add_sati")
def add_saturated(a: Array, b: Array) -> Array:
    return _arithmetic(np.add, a, b, saturate=True)


@executes("sub_sat", "sub_sati")
def subtract_saturated(a: Array, b: Array) -> Array:
    return _arithmetic(np.subtract, a, b, saturate=True)


@executes("mul_sat", "mul_sati")
def multiply_saturated(a: Array, b: Array) -> Array:
    return _arithmetic(np.multiply, a, b, saturate=True)


@executes("max", "maxi")
def maximum(a: Array, b: Array) -> Array:
    """Operands that compare equal differ at most in the sign of zero: `and` keeps +0."""
    return _pick(a, b, a > b, _bits(a) & _bits(b))


@executes("min", "mini")
def minimum(a: Array, b: Array) -> Array:
    """Operands that compare equal differ at most in the sign of zero: `or` keeps -0."""
    return _pick(a, b, a < b, _bits(a) | _bits(b))


def _pick(a: Array, b: Array, first: Array, if_equal: Array) -> Array:
    """`a` where `first`, `if_equal` where a = b, else `b`; NaN where either is NaN."""
    chosen = np.where(first, a, np.where(a == b, _like(a, if_equal), b))
    return canonical(np.where(a != a, a, chosen).astype(a.dtype))


@executes("and", "andi")
def bitwise_and(a: Array, b: Array) -> Array:
    return _like(a, _bits(a) & _bits(b))


@executes("or", "ori")
def bitwise_or(a: Array, b: Array) -> Array:
    return _like(a, _bits(a) | _bits(b))


@executes("xor", "xori")
def bitwise_xor(a: Array, b: Array) -> Array:
    return _like(a, _bits(a) ^ _bits(b))


def _truth(condition: Array, a: Array) -> Array:
    return condition.astype(_INTEGERS[a.dtype.itemsize])


@executes("eq", "eqi")
def equal(a: Array, b: Array) -> Array:
    return _truth(a == b, a)


@executes("lt", "lti")
def less(a: Array, b: Array) -> Array:
    return _truth(a < b, a)


@executes("le", "lei")
def less_or_equal(a: Array, b: Array) -> Array:
    return _truth(a <= b, a)


@executes("mov")
def move(a: Array) -> Array:
    return a


@executes("neg")
def negate(a: Array) -> Array:
    if a.dtype.kind == "f":
        return _like(a, _bits(a) ^ _sign_bit(a))
    return _narrow(-a.astype(np.int64), a.dtype, saturate=False)


@executes("abs")
def absolute(a: Array) -> Array:
    if a.dtype.kind == "f":
        return _like(a, _bits(a) & ~_sign_bit(a))
    return _narrow(np.abs(a.astype(np.int64)), a.dtype, saturate=False)


def _sign_bit(a: Array) -> Any:
    return _BITS[a.dtype.itemsize].type(1 << (8 * a.dtype.itemsize - 1))


@executes("cast")
def cast(a: Array, to: Type, round: str, overflow: str) -> Array:  # noqa: A002
    """Integers: rounded as said (NaN is 0), then clamped or cut; floats: rounded to nearest."""
    target = numpy_type(to)
    if target.kind == "f":
        return canonical(_to_float(a, target))
    saturate = overflow == "sat"
    if a.dtype.kind != "f":
        return _narrow(a.astype(np.int64), target, saturate)
    with np.errstate(invalid="ignore"):
        wide = a.astype(np.float64)
        whole = np.rint(wide) if round == "rne" else np.trunc(wide)
    whole = np.where(np.isnan(wide), 0.0, whole)
    if saturate:
        whole = np.clip(whole, -(2.0**31), 2.0**31)
    # A float32 of 2**56 or more is a multiple of 2**32: cut to any type it gives 0.
    whole = np.where(np.abs(whole) < 2.0**56, whole, 0.0)
    return _narrow(whole.astype(np.int64), target, saturate)


def _to_float(a: Array, target: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        if a.dtype.kind != "f" and target.itemsize == 2:
            # Past the bound every integer is infinite; below it float32 holds it exactly, so
            # that the only rounding is the one to float16.
            bounded = np.clip(a.astype(np.float64), -_HALF_INFINITE, _HALF_INFINITE)
            return bounded.astype(np.float32).astype(target)
        return a.astype(target)


@executes("exp2")
def exp2(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return canonical(transcendental.exp2(a))


@executes("tanh")
def tanh(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return canonical(transcendental.tanh(a))


@executes("rsqrt")
def rsqrt(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return canonical(transcendental.rsqrt(a))


@executes("abc")
def dot(a: Array, weights: Int8Matrix | HalfMatrix, rows: int) -> Array:
    """Lane c: the sum over r < rows of a[r] * weights[r, c], int32 or float32."""
    return canonical(weights.product(a, rows))


@executes("shift")
def shift(a: Array, amount: int, low: int, high: int) -> Array:
    flat = a.reshape(len(a), -1)
    lanes = flat.shape[1]
    source = np.arange(lanes) - amount
    target = np.arange(lanes)
    kept = (target >= low) & (target < high) & (source >= 0) & (source < lanes)
    moved = np.where(kept, flat[:, np.clip(source, 0, lanes - 1)], np.uint8(0))
    return moved.reshape(a.shape)


@executes("broadcast")
def broadcast(a: Array, lane: int) -> Array:
    flat = a.reshape(len(a), -1)
    return np.repeat(flat[:, lane], flat.shape[1]).reshape(a.shape)


@executes("permute")
def permute(a: Array, map: Array) -> Array:  # noqa: A002
    flat = a.reshape(len(a), -1)
    low, high = map.reshape(2, -1).astype(np.int64)
    return _take(flat, low + 256 * high).reshape(a.shape)


@executes("transpose")
def transpose(a: Array) -> Array:
    return np.ascontiguousarray(a.transpose(2, 1, 0))


@executes("distribute")
def distribute(a: Array, map: Array) -> Array:  # noqa: A002
    rows = zip(a[0], map[0].astype(np.int64), strict=True)
    return np.stack([_take(values, index) for values, index in rows])[None]


def _take(values: Array, index: NDArray[np.int64]) -> Array:
    """`values[..., index]`, and 0 where `index` is past the end."""
    count = values.shape[-1]
    return np.where(index < count, values[..., np.minimum(index, count - 1)], np.uint8(0))
