"""Operators that work element by element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import helper

from fuzz import bounds
from fuzz.builder import Graph
from fuzz.rows.row import ARITHMETIC, FLOATS, Row

__all__ = ["ROWS"]

_CASTS = (*ARITHMETIC, "bool", "int64")
_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")


def _unary(g: Graph, op: str) -> None:
    g.node(op, [g.tensor(ARITHMETIC)])


def _activation(g: Graph, op: str) -> None:
    g.node(op, [g.tensor(FLOATS)])


def _with(**choices: tuple[float, ...]) -> Callable[[Graph, str], None]:
    """A function of floats whose attributes are among these."""

    def make(g: Graph, op: str) -> None:
        given = {name: g.choose(*values) for name, values in choices.items() if g.flag()}
        g.node(op, [g.tensor(FLOATS)], **given)

    return make


def _binary(g: Graph, op: str) -> None:
    x = g.tensor(ARITHMETIC)
    names = [x, g.broadcast(x)]
    g.node(op, names[:: g.choose(1, -1)])


def _divide(g: Graph, op: str) -> None:
    """Divisors are constants without zeros, half of the time."""
    x = g.tensor(ARITHMETIC)
    if g.flag():
        g.node(op, [x, g.broadcast(x)])
        return
    value = g.like(x)
    divisor = np.asarray(
        g.choose(1, 2, 3, 7, 11) * (g.choose(1, -1) if value.dtype.kind != "u" else 1)
    )
    g.node(op, [x, g.constant(divisor.astype(value.dtype))])


def _mod(g: Graph, op: str) -> None:
    x = g.tensor(ARITHMETIC)
    value = g.like(x)
    divisor = np.asarray(g.choose(1, 2, 3, 5, 9)).astype(value.dtype)
    fmod = 1 if value.dtype.kind == "f" else g.integer(0, 1)
    g.node(op, [x, g.constant(divisor)], fmod=fmod)


def _pow(g: Graph, op: str) -> None:
    x = g.tensor(("float16", "float32", "float64", "int32"))
    exponent = g.choose(0.0, 0.5, 1.0, 2.0, 3.0, -1.0, -0.5, 1.7)
    kind = g.choose("float32", g.like(x).dtype.name)
    if kind == "int32" or g.like(x).dtype.kind == "i":
        exponent = abs(round(exponent))
    g.node(op, [x, g.constant(np.asarray(exponent).astype(kind))])


def _variadic(g: Graph, op: str) -> None:
    x = g.tensor(ARITHMETIC)
    g.node(op, [x, *(g.broadcast(x) for _ in range(g.integer(0, 2)))])


def _float_variadic(g: Graph, op: str) -> None:
    x = g.tensor(FLOATS)
    g.node(op, [x, *(g.broadcast(x) for _ in range(g.integer(0, 2)))])


def _leaky(g: Graph, op: str) -> None:
    alpha = g.choose(0.01, 0.25, 1.0, 0.0, -0.5, 3.0)
    g.node(op, [g.tensor(FLOATS)], alpha=alpha)


def _prelu(g: Graph, op: str) -> None:
    x = g.tensor(FLOATS)
    shape = g.like(x).shape
    slope = tuple(n if g.flag() else 1 for n in shape[g.integer(0, len(shape)) :])
    g.node(op, [x, g.operand(slope, g.like(x).dtype)])


def _clip(g: Graph, op: str) -> None:
    x = g.tensor(ARITHMETIC)
    dtype = g.like(x).dtype
    low, high = np.sort([g.integer(-3, 3), g.integer(-3, 3)])
    if dtype.kind == "u":
        low, high = abs(low), abs(low) + abs(high)
    bounds_ = [g.constant(np.asarray(value).astype(dtype)) for value in (low, high)]
    which = g.choose((0, 1), (0,), (1,), ())
    g.node(op, [x, *(bounds_[i] if i in which else "" for i in range(2))])


def _cast(g: Graph, op: str) -> None:
    x = g.tensor(_CASTS)
    to = helper.np_dtype_to_tensor_dtype(np.dtype(g.choose(*_CASTS)))
    g.node(op, [x], to=to)


def _cast_like(g: Graph, op: str) -> None:
    g.node(op, [g.tensor(_CASTS), g.operand((), np.dtype(g.choose(*_CASTS)))])


def _logical(g: Graph, op: str) -> None:
    x = g.tensor(("bool",))
    g.node(op, [x, *([] if op == "Not" else [g.broadcast(x)])])


def _bits(g: Graph, op: str) -> None:
    x = g.tensor(_INTEGERS)
    g.node(op, [x, *([] if op == "BitwiseNot" else [g.broadcast(x)])])


def _shift(g: Graph, op: str) -> None:
    x = g.tensor(("uint8", "uint16"))
    value = g.like(x)
    distance = g.constant(
        np.asarray(g.integer(0, value.dtype.itemsize * 8 - 1)).astype(value.dtype)
    )
    g.node(op, [x, distance], direction=g.choose("LEFT", "RIGHT"))


def _where(g: Graph, op: str) -> None:
    x = g.tensor(ARITHMETIC)
    names = [x, g.broadcast(x)]
    g.node(op, [g.broadcast(x, "bool"), *names[:: g.choose(1, -1)]])


def _constant(g: Graph, op: str) -> None:
    """A constant that is a node; something has to read it."""
    x = g.tensor(ARITHMETIC)
    value = g.constants[g.fresh(g.like(x).shape, g.like(x).dtype, constant=True)]
    made = g.node(op, [], value=helper.make_tensor(
        "value", helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.flatten()
    ))  # fmt: skip
    g.node("Add", [x, made])


# fmt: off
ROWS: tuple[Row, ...] = (
    *(Row(op, _unary, bounds.same) for op in ("Abs", "Neg", "Relu")),
    *(Row(op, _activation, bounds.ends) for op in (
        "Acos", "Acosh", "Asin", "Atanh", "Ceil", "Cosh", "Exp", "Floor", "IsInf", "IsNaN", "Log",
        "Reciprocal", "Round", "Sign", "Sinh", "Sqrt", "Tan",
    )),
    *(Row(op, _activation, bounds.steep(1.5)) for op in (
        "Asinh", "Atan", "Cos", "Erf", "HardSwish", "Mish", "Sigmoid", "Sin", "Softplus",
        "Softsign", "Tanh",
    )),
    *(Row(op, _binary, bounds.add) for op in ("Add", "Sub")),
    *(Row(op, _binary, bounds.compared) for op in
      ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(Row(op, _logical, bounds.either) for op in ("And", "Not", "Or", "Xor")),
    *(Row(op, _bits, bounds.either) for op in
      ("BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor")),
    *(Row(op, _variadic, bounds.greatest) for op in ("Max", "Min")),
    *(Row(op, _float_variadic, bounds.add) for op in ("Mean", "Sum")),
    Row("BitShift", _shift, bounds.either),
    Row("Cast", _cast, bounds.cast),
    Row("CastLike", _cast_like, bounds.cast),
    Row("Celu", _with(alpha=(0.5, 1.0, 3.0)), bounds.steep(1.0)),
    Row("Clip", _clip, bounds.same),
    Row("Constant", _constant, bounds.constant),
    Row("Div", _divide, bounds.divided),
    Row("Elu", _with(alpha=(0.5, 1.0, 3.0)), bounds.steep(3.0)),
    Row("Gelu", _activation, bounds.steep(1.2)),
    Row("HardSigmoid", _with(alpha=(0.2, 0.5, 1.0), beta=(0.0, 0.5)), bounds.steep(1.0)),
    Row("LeakyRelu", _leaky, bounds.leaky),
    Row("Mod", _mod, bounds.divided),
    Row("Mul", _binary, bounds.multiply),
    Row("PRelu", _prelu, bounds.each),
    Row("Pow", _pow, bounds.corners),
    Row("Selu", _with(alpha=(1.0, 1.6), gamma=(1.0, 1.1)), bounds.steep(2.0)),
    Row("Shrink", _with(lambd=(0.25, 0.5), bias=(0.0, 0.5)), bounds.ends),
    Row("Swish", _with(alpha=(0.5, 1.0, 1.7)), bounds.steep(1.5)),
    Row("ThresholdedRelu", _with(alpha=(0.25, 1.0)), bounds.ends),
    Row("Where", _where, bounds.where),
)
# fmt: on
