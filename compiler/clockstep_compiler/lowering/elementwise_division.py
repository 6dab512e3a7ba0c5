"""Quotients, remainders and powers, of integers exact."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.expr import Const, Expr, cast, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_bits import (
    SIGN,
    cut,
    f32,
    i32,
    select,
    whole,
)
from clockstep_compiler.lowering.elementwise_cast import to_float
from clockstep_compiler.lowering.elementwise_exponential import power
from clockstep_compiler.lowering.elementwise_operands import (
    WORDS,
    bounds,
    define_integer,
    operands,
    ordered,
    record_bounds,
    reject,
)
from clockstep_compiler.lowering.elementwise_quotient import divide, scaled, square_root
from clockstep_compiler.lowering.lower import FLOATS, Lowering, lowers
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.table import Type

__all__ = ["float_remainder", "quotient", "remainder"]

_SHORT = ("int8", "uint8", "int16", "uint16")


def _short_quotient(a: Expr, b: Expr) -> Expr:
    """a / b toward zero, of integers of at most 16 bits.

    In f32 with a relative error below 2**-21; what makes it a little too large, 2**-20, is less
    than the distance to the next integer, which is at least 2**-16 of it.
    """
    x, y = cast(a, Type.F32), cast(b, Type.F32)
    root = f32("rsqrt", f32("abs", y))
    size = f32("mul", f32("mul", f32("mul", x, root), root), 1 + 2.0**-20)
    return whole(f32("mov", i32("xor", size, i32("and", y, SIGN))))


def _floor_quotient(x: Expr, y: Expr, dividend: Expr) -> Expr:
    """x / y rounded down, x below 2**32 without sign and y from 1 to 2**31; `dividend` is x in f32.

    An estimate within 2**-21 of it, one more of what that leaves, which is exact in 32 bits, and
    then the remainder is off by one divisor at most.
    """
    root = f32("rsqrt", f32("abs", cast(y, Type.F32)))
    inverse = f32("mul", root, root)
    first = whole(f32("mul", dividend, inverse), nearest=True, wrap=True)
    rest = i32("sub", x, i32("mul", first, y))
    more = whole(f32("mul", cast(rest, Type.F32), inverse), nearest=True)
    rest = i32("sub", rest, i32("mul", more, y))
    return i32("sub", i32("add", first, more), i32("lt", rest, 0))


def _long_quotient(a: Expr, b: Expr) -> Expr:
    """a / b toward zero, of any i32; the magnitude of -2**31 is 2**31 without sign."""
    x = unary("abs", a)
    result = _floor_quotient(x, unary("abs", b), f32("abs", cast(x, Type.F32)))
    mask = i32("neg", i32("lt", i32("xor", a, b), 0))
    return i32("sub", i32("xor", result, mask), mask)


def _unsigned_quotient(a: Expr, b: Expr) -> Expr:
    """a / b of 32 bits without sign; by a divisor from 2**31 on it is 0 or 1."""
    below = i32("lt", ordered(a, "uint32"), ordered(b, "uint32"))
    usual = _floor_quotient(a, b, to_float(a, "uint32"))
    return select(i32("lt", b, 0), i32("xor", below, 1), usual)


def quotient(a: Expr, b: Expr, dtype: str) -> Expr:
    """a / b toward zero as C and numpy's truncated division have it; anything if b is 0."""
    if dtype == "uint32":
        return _unsigned_quotient(a, b)
    return _short_quotient(a, b) if dtype in _SHORT else _long_quotient(a, b)


def remainder(a: Expr, b: Expr, dtype: str, *, truncated: bool) -> Expr:
    """a - b q, with the sign of a if `truncated`, else of b."""
    rest = i32("sub", a, i32("mul", quotient(a, b, dtype), b))
    if truncated or dtype.startswith("u"):
        return rest
    # Of another sign than b, and not 0: one divisor more.
    other = i32("lt", i32("xor", rest, b), 0)
    wrong = i32("and", other, i32("xor", i32("eq", rest, 0), 1))
    return i32("add", rest, i32("and", i32("neg", wrong), b))


def _reduced(size: Expr, divisor: Expr) -> Expr:
    """The remainder of floats without sign: exact for quotients below 2**22, NaN for larger ones.

    The quotient is taken 12 bits at a time: then its products with halves of the divisor are exact.
    """
    root = f32("rsqrt", divisor)
    high = cut(divisor)
    low = f32("sub", divisor, high)

    def less(rest: Expr, count: Expr) -> Expr:
        rest = f32("sub", rest, f32("mul", high, count))
        return f32("sub", rest, f32("mul", low, count))

    estimate = f32("mul", f32("mul", size, root), root)
    first = cut(cast(whole(f32("min", estimate, 2.0**22)), Type.F32))
    rest = less(size, first)
    second = f32("mul", f32("mul", rest, root), root)
    rest = less(rest, cast(whole(second, nearest=True), Type.F32))
    rest = f32("add", rest, f32("mov", i32("and", i32("neg", f32("lt", rest, 0.0)), divisor)))
    nan = Const(np.full((), np.nan), Type.F32)
    rest = select(f32("lt", estimate, 2.0**22), rest, nan)
    # A smaller dividend is the remainder, also of infinity.
    return select(f32("lt", size, divisor), f32("mov", size), rest)


def float_remainder(x: Expr, y: Expr) -> Expr:
    """x - y q, q toward zero: exact for quotients below 2**42, NaN for larger ones.

    What is more than 2**21 divisors goes first: a remainder of the same remainder.
    """
    size, divisor = f32("abs", x), f32("abs", y)
    rest = _reduced(_reduced(size, f32("mul", divisor, 2.0**21)), divisor)
    return f32("mov", i32("or", rest, i32("and", x, SIGN)))


def _floored_remainder(x: Expr, y: Expr) -> Expr:
    """x - y q, q rounded down: the sign of y, also of 0, and as exact as the other remainder."""
    rest = float_remainder(x, y)
    zero = f32("eq", rest, 0.0)
    other = i32("and", i32("lt", i32("xor", rest, y), 0), i32("xor", zero, 1))
    moved = f32("add", rest, f32("mov", i32("and", i32("neg", other), y)))
    signed = i32("or", f32("abs", moved), i32("and", y, SIGN))
    return select(zero, f32("mov", signed), moved)


def _record_quotient(state: Lowering, node: Node) -> None:
    """-2**31 / -1 exceeds the words of int64."""
    low, high = bounds(state, node.inputs[0])
    least, most = bounds(state, node.inputs[1])
    reach = max(-low, high) if least <= -1 <= most else 0
    record_bounds(state, node.outputs[0], min(low, -reach), max(high, reach))


_SMOOTH = frozenset(
    (
        *("Add", "Sub", "Mul", "Conv", "Gemm", "MatMul", "Clip", "Relu", "Sigmoid", "Tanh", "Erf"),
        *("Exp", "Softmax", "HardSigmoid", "HardSwish", "LayerNormalization"),
    )
)
"""Operators to which a unit in the last place is but a unit, unlike to Floor or Equal."""


def _is_smooth(state: Lowering, name: str) -> bool:
    """Whether a quotient may be a product with a reciprocal, within 1.5 units of it."""
    readers: dict[str, set[str]] = state.memo.setdefault(("readers",), {})
    if not readers:
        for node in state.graph.nodes:
            for operand in node.inputs:
                readers.setdefault(operand, set()).add(node.op)
    return name not in state.graph.outputs and readers.get(name, set()) <= _SMOOTH


@lowers("Div")
def _divided(state: Lowering, node: Node) -> None:
    if state.dtype(node.outputs[0]) in WORDS:
        _record_quotient(state, node)
    out, dtype = node.outputs[0], state.dtype(node.outputs[0])
    a, b = operands(state, node.inputs, state.shape(out))
    if isinstance(b, Const) and dtype in FLOATS and _is_smooth(state, out):
        state.define(out, scaled(a, b))
    elif dtype in FLOATS:
        state.define(out, divide(a, b))
    else:
        define_integer(state, out, quotient(a, b, dtype))


@lowers("Mod")
def _modulo(state: Lowering, node: Node) -> None:
    out, dtype = node.outputs[0], state.dtype(node.outputs[0])
    truncated = bool(node.attributes.get("fmod", 0))
    a, b = operands(state, node.inputs, state.shape(out))
    if dtype not in FLOATS:
        define_integer(state, out, remainder(a, b, dtype, truncated=truncated))
    else:
        state.define(out, (float_remainder if truncated else _floored_remainder)(a, b))


@lowers("Pow")
def _powered(state: Lowering, node: Node) -> None:
    reject(node, state, (*FLOATS, "int32", "int64"))
    out, exponent, kind = (
        node.outputs[0],
        state.constant(node.inputs[1]),
        state.dtype(node.inputs[1]),
    )
    number = None
    if exponent is not None and exponent.size == 1:
        number = float(exponent.reshape(()).item())
    base, y = operands(state, node.inputs[:2], state.shape(out))
    if state.dtype(out) in FLOATS:
        exact = y if y.out == Type.F32 else to_float(y, kind)
        state.define(out, _float_power(base, exact, number))
        return
    if y.out == Type.F32:
        y = _integral(y)
    if state.dtype(out) in WORDS:
        _record_power(state, node, int(y.array.max(initial=0)) if isinstance(y, Const) else None)
    if number is not None and number >= 0:
        state.define(out, _repeated(base, int(number)))
    else:
        state.define(out, _integer_power(base, y, kind))


def _record_power(state: Lowering, node: Node, exponent: int | None) -> None:
    low, high = bounds(state, node.inputs[0])
    exponent = bounds(state, node.inputs[1])[1] if exponent is None else exponent
    most = max(1, max(-low, high) ** min(max(exponent, 0), 64))
    record_bounds(state, node.outputs[0], -most if low < 0 else 0, most)


def _integral(y: Expr) -> Expr:
    """Constant exponents that are floats as integers; those of an integer must be integral."""
    if isinstance(y, Const) and np.array_equal(y.array, np.rint(np.clip(y.array, -99, 2**30))):
        return Const(y.array.astype(np.int64), Type.I32)
    raise UnsupportedModel(
        "operand-not-constant",
        "the exponents of an integer are floats, and not constant integers",
        help="cast the base to float, or the exponent to an integer",
    )


def _integer_power(base: Expr, y: Expr, kind: str) -> Expr:
    """base**y, the low 32 bits, by squaring; towards zero where y is negative.

    From 32 on only whether y is odd matters: but for 0, 1 and -1 the result is too large.
    """
    odd = i32("and", y, 1)
    large = i32("or", odd, 32)
    if kind in ("uint32", "uint64"):
        exponent = select(i32("lt", y, 0), large, i32("min", y, large))
        kept = None
    else:
        negative = i32("lt", y, 0)
        exponent = select(negative, odd, i32("min", y, large))
        unit = i32("eq", i32("abs", base), 1)
        kept = i32("neg", i32("or", i32("xor", negative, 1), unit))
    result: Expr = Const(np.ones((), np.int64), Type.I32)
    power, less = base, i32("sub", base, Const(np.ones((), np.int64), Type.I32))
    for bit in range(6):
        chosen = i32("neg", i32("eq", i32("and", exponent, 1 << bit), 1 << bit))
        factor = i32("add", i32("and", less, chosen), 1)
        result = factor if bit == 0 else i32("mul", result, factor)
        if bit < 5:
            power = i32("mul", power, power)
            less = i32("add", power, -1)
    return result if kept is None else i32("and", result, kept)


def _repeated(base: Expr, exponent: int) -> Expr:
    """A product of `exponent` bases, by squaring."""
    one: Expr = Const(np.ones((), np.float64 if base.out == Type.F32 else np.int64), base.out)
    row = f32 if base.out == Type.F32 else i32
    result: Expr | None = None
    exponent = min(exponent, 64) if exponent > 64 and base.out == Type.F32 else exponent
    while exponent:
        if exponent & 1:
            result = base if result is None else row("mul", result, base)
        exponent >>= 1
        if exponent:
            base = row("mul", base, base)
    return one if result is None else result


def _float_power(base: Expr, y: Expr, number: float | None) -> Expr:
    """x**y; the usual constants are products, quotients and roots."""
    if number is not None and number in (0, 1, 2, 3, 4):
        return _repeated(base, int(number))
    if number == 0.5:
        # Minus infinity has the power infinity, and -0 has 0.
        size = f32("eq", base, float("-inf"))
        root = square_root(f32("add", base, 0.0))
        return select(size, Const(np.full((), np.inf), Type.F32), root)
    if number == -1:
        return divide(Const(np.ones(()), Type.F32), base)
    return power(base, y)
