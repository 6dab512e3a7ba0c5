"""What every instruction computes: one small numpy function a row of the table.

To add an instruction, add its row to `clockstep_isa.table` and a function here under
`@executes`. Arguments are the row's fields by name, without `type`, `width` and `out`; an
immediate stands for operand `b`, and units that work within superlanes get `per_superlane`, their
lanes. Leading axes are free, so that one function serves a vector and a batch of them:

* VXM: typed arrays of shapes that broadcast; an immediate has one element.
* SXM: bytes [..., lanes, streams], least significant stream first; maps have axes of their own.

No operand is changed, but a result may be an operand or a view of one. Rows that only move
vectors (read, write, lw, iw, acc, send, receive) are done by the interpreter itself.

Numerics are defined to the bit, in `isa/NUMERICS.md`. Float add, subtract and multiply are IEEE, to
nearest, ties to even; integers keep the low bits unless the name ends in `_sat`; a NaN result of
arithmetic is the one canonical quiet NaN, while `mov`, `neg`, `abs` and the bitwise operations act
on bits.
"""

from __future__ import annotations

import functools
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
_TWICE: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.int16),
    2: np.dtype(np.int32),
    4: np.dtype(np.int64),
}
"""By the bytes of an integer type, the type that holds its products exactly."""

_CANONICAL_NAN: dict[int, np.unsignedinteger[Any]] = {
    2: np.uint16(0x7E00),
    4: np.uint32(0x7FC00000),
}
_SIGN = np.uint32(1 << 31)
_HALF_INFINITE = 65520
"""The least magnitude that rounds to infinity in fp16."""

_BLOCK = 1 << 15
"""Elements that are taken through all steps of a long computation at once."""


def executes(*names: str) -> Callable[[Function], Function]:
    """Register the meaning of the rows `names`."""

    def register(function: Function) -> Function:
        for name in names:
            EXECUTES[name] = function
        return function

    return register


def _blockwise(function: Function) -> Function:
    """A function of one array, done in blocks: several passes over a block stay in the cache."""

    @functools.wraps(function)
    def blockwise(a: Array, **arguments: Any) -> Array:
        if a.size <= _BLOCK:
            return function(a, **arguments)
        flat = a.reshape(-1)
        starts = range(0, a.size, _BLOCK)
        blocks = [function(flat[start : start + _BLOCK], **arguments) for start in starts]
        return np.concatenate(blocks).reshape(a.shape)

    return blockwise


def canonical(values: Array) -> Array:
    """`values` with every NaN replaced by the canonical one; `values` itself if there is none."""
    if values.dtype.kind != "f" or not _has_nan(values):
        return values
    lost = np.isnan(values)
    return _like(values, np.where(lost, _CANONICAL_NAN[values.dtype.itemsize], _bits(values)))


def _has_nan(values: Array) -> bool:
    """Whether a float array holds a NaN: the maximum is one then, and needs no array of its own."""
    return bool(values.size and np.isnan(np.maximum.reduce(values, axis=None)))


def _bits(a: Array) -> Array:
    """The same bytes as unsigned integers."""
    return a.view(_BITS[a.dtype.itemsize])


def _like(a: Array, bits: Array) -> Array:
    """Unsigned integers as the bytes of values of `a`'s type."""
    return bits.view(a.dtype)


def _comparable(a: Array) -> Array:
    """Floats as float32, which holds every float16; integers as they are."""
    return a.astype(np.float32, copy=False) if a.dtype.kind == "f" else a


def _arithmetic(operation: Function, a: Array, b: Array) -> Array:
    """Integers wrap around, as numpy's own do.

    float16 is computed in float32: its 24 bits are at least 2 * 11 + 2, so rounding twice is
    rounding once.
    """
    if a.dtype.kind != "f":
        return operation(a, b)
    with np.errstate(all="ignore"):
        rounded = operation(a, b, dtype=np.float32)
        return canonical(rounded).astype(a.dtype, copy=False)


def _clamp(a: Array, target: np.dtype[Any]) -> Array:
    """Integers clamped to the range of an integer type."""
    if target.itemsize < a.dtype.itemsize:
        info = np.iinfo(target)
        a = np.clip(a, a.dtype.type(info.min), a.dtype.type(info.max))
    return a.astype(target, copy=False)


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
    """Integers: `a` is first bounded so that the sum stays in range; floats have infinity."""
    if a.dtype.kind == "f":
        return add(a, b)
    info = np.iinfo(a.dtype)
    return np.clip(a, info.min - np.minimum(b, 0), info.max - np.maximum(b, 0)) + b


@executes("sub_sat", "sub_sati")
def subtract_saturated(a: Array, b: Array) -> Array:
    """As `add_saturated`."""
    if a.dtype.kind == "f":
        return subtract(a, b)
    info = np.iinfo(a.dtype)
    return np.clip(a, info.min + np.maximum(b, 0), info.max + np.minimum(b, 0)) - b


@executes("mul_sat", "mul_sati")
def multiply_saturated(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return multiply(a, b)
    return _clamp(np.multiply(a, b, dtype=_TWICE[a.dtype.itemsize]), a.dtype)


@executes("max", "maxi")
def maximum(a: Array, b: Array) -> Array:
    """If the greater is a zero, it is -0 only if the other operand is negative or -0 as well."""
    return _extreme(np.maximum, a, b, np.bitwise_and)


@executes("min", "mini")
def minimum(a: Array, b: Array) -> Array:
    """If the lesser is a zero, it is -0 if one of the operands is -0."""
    return _extreme(np.minimum, a, b, np.bitwise_or)


def _extreme(pick: Function, a: Array, b: Array, join: Function) -> Array:
    """`pick` with NaN where either is NaN; a zero has the signs of both operands, joined."""
    if a.dtype.kind != "f":
        return pick(a, b)
    with np.errstate(all="ignore"):
        x, y = _comparable(a), _comparable(b)
        picked = pick(x, y)
        # Which of two zeros numpy picks is not defined. It matters only if there is a -0.
        if (_bits(x) == _SIGN).any() or (_bits(y) == _SIGN).any():
            signs = join(_bits(x), _bits(y)) & _SIGN
            picked = _like(picked, np.where(picked == 0, signs, _bits(picked)))
        return canonical(picked).astype(a.dtype, copy=False)


@executes("and", "andi")
def bitwise_and(a: Array, b: Array) -> Array:
    return _like(a, _bits(a) & _bits(b))


@executes("or", "ori")
def bitwise_or(a: Array, b: Array) -> Array:
    return _like(a, _bits(a) | _bits(b))


@executes("xor", "xori")
def bitwise_xor(a: Array, b: Array) -> Array:
    return _like(a, _bits(a) ^ _bits(b))


@executes("eq", "eqi")
def equal(a: Array, b: Array) -> Array:
    return _compared(np.equal, a, b)


@executes("lt", "lti")
def less(a: Array, b: Array) -> Array:
    return _compared(np.less, a, b)


@executes("le", "lei")
def less_or_equal(a: Array, b: Array) -> Array:
    return _compared(np.less_equal, a, b)


def _compared(relation: Function, a: Array, b: Array) -> Array:
    """1 where the relation holds; it never does with NaN."""
    with np.errstate(all="ignore"):
        truth = relation(_comparable(a), _comparable(b))
        return truth.astype(_INTEGERS[a.dtype.itemsize])


@executes("mov")
def move(a: Array) -> Array:
    return a


@executes("neg")
def negate(a: Array) -> Array:
    return _like(a, _bits(a) ^ _sign_bit(a)) if a.dtype.kind == "f" else np.negative(a)


@executes("abs")
def absolute(a: Array) -> Array:
    return _like(a, _bits(a) & ~_sign_bit(a)) if a.dtype.kind == "f" else np.abs(a)


def _sign_bit(a: Array) -> Any:
    return _BITS[a.dtype.itemsize].type(1 << (8 * a.dtype.itemsize - 1))


@executes("cast")
def cast(a: Array, to: Type, round: str, overflow: str) -> Array:  # noqa: A002
    """Integers: rounded as said (NaN is 0), then clamped or cut; floats: rounded to nearest."""
    target = numpy_type(to)
    with np.errstate(all="ignore"):
        if target.kind == "f":
            return _to_float(a, target)
        if a.dtype.kind == "f":
            a = _clamped_whole(a, target, round) if overflow == "sat" else _cut_whole(a, round)
        elif overflow == "sat":
            return _clamp(a, target)
        return a.astype(target, copy=False)


def _to_float(a: Array, target: np.dtype[Any]) -> Array:
    if a.dtype.kind == "f":
        return canonical(a.astype(np.float32, copy=False)).astype(target, copy=False)
    if target.itemsize == 2:
        # Past the bound every integer is infinite; below it float32 holds it exactly, so that the
        # only rounding is the one to float16.
        a = np.clip(a.astype(np.int32, copy=False), -_HALF_INFINITE, _HALF_INFINITE)
    return a.astype(np.float32, copy=False).astype(target, copy=False)


def _whole(a: Array, round: str) -> Array:  # noqa: A002
    """A float array rounded to integers, with 0 for NaN; not `a` itself."""
    whole: Array = np.rint(a) if round == "rne" else np.trunc(a)
    if _has_nan(whole):
        whole[np.isnan(whole)] = 0
    return whole


def _clamped_whole(a: Array, target: np.dtype[Any], round: str) -> Array:  # noqa: A002
    """Floats as integers within the range of `target`, in a float type that holds them."""
    info = np.iinfo(target)
    whole = _whole(a.astype(np.float32, copy=False), round)
    if target.itemsize < 4:
        return whole.clip(np.float32(info.min), np.float32(info.max), out=whole)
    # float32 holds the lower end of int32, and one past the upper.
    least, most = (f.reduce(whole, axis=None, initial=0) for f in (np.minimum, np.maximum))
    if most < -float(info.min) and least >= info.min:
        return whole
    return np.clip(whole.astype(np.float64), info.min, info.max)


def _cut_whole(a: Array, round: str) -> NDArray[np.int64]:  # noqa: A002
    """Floats as int64 with the same 32 low bits as the exact integer."""
    whole = _whole(a.astype(np.float32, copy=False), round)
    # A float32 of 2**56 or more is a multiple of 2**32: its low bits are 0.
    whole[np.abs(whole) >= 2.0**56] = 0
    return whole.astype(np.int64)


@executes("exp2")
@_blockwise
def exp2(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return canonical(transcendental.exp2(a))


@executes("tanh")
@_blockwise
def tanh(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return canonical(transcendental.tanh(a))


@executes("rsqrt")
@_blockwise
def rsqrt(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return canonical(transcendental.rsqrt(a))


@executes("abc")
def dot(a: Array, weights: Int8Matrix | HalfMatrix, rows: int) -> Array:
    """Lane c: the sum over r < rows of a[r] * weights[r, c], int32 or float32."""
    return canonical(weights.product(a, rows))


@executes("shift")
def shift(a: Array, amount: int, low: int, high: int) -> Array:
    lanes = a.shape[-2]
    first, last = max(low, amount), min(high, lanes + amount, lanes)
    moved = np.zeros_like(a)
    if first < last:
        moved[..., first:last, :] = a[..., first - amount : last - amount, :]
    return moved


@executes("broadcast")
def broadcast(a: Array, lane: int) -> Array:
    return np.broadcast_to(a[..., lane : lane + 1, :], a.shape)


@executes("permute")
def permute(a: Array, map: Array) -> Array:  # noqa: A002
    low, high = map[..., 0].astype(np.intp), map[..., 1].astype(np.intp)
    index = low + 256 * high
    return _take(a, index, index < a.shape[-2])


@executes("transpose")
def transpose(a: Array, per_superlane: int) -> Array:
    superlanes = a.reshape(*a.shape[:-2], -1, per_superlane, per_superlane)
    return superlanes.swapaxes(-1, -2).reshape(a.shape)


@executes("distribute")
def distribute(a: Array, map: Array, per_superlane: int) -> Array:  # noqa: A002
    index = map[..., 0].astype(np.intp)
    within = np.arange(a.shape[-2]) % per_superlane
    return _take(a, np.arange(a.shape[-2]) - within + index, index < per_superlane)


def _take(a: Array, index: NDArray[np.intp], valid: NDArray[np.bool_]) -> Array:
    """Lane i is lane `index[i]` of `a` where `valid`, else 0; leading axes broadcast."""
    shape = np.broadcast_shapes(a.shape[:-1], index.shape)
    source = np.broadcast_to(a, (*shape, a.shape[-1]))
    lanes = np.broadcast_to(np.where(valid, index, 0), shape)[..., None]
    return np.where(valid[..., None], np.take_along_axis(source, lanes, axis=-2), np.uint8(0))
