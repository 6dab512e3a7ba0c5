"""Unary functions and activations of floats, each an expression of its operand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from clockstep_compiler.expr import Const, Expr, binary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering import elementwise_trigonometric as circular
from clockstep_compiler.lowering.elementwise_bits import SIGN, f32, i32, one_where, select
from clockstep_compiler.lowering.elementwise_coarse import coarse_erf, coarse_gelu
from clockstep_compiler.lowering.elementwise_exponential import (
    error_function,
    exponential,
    exponential_minus_one,
    log1p_unit,
    logarithm,
)
from clockstep_compiler.lowering.elementwise_operands import in_range, operands, reject
from clockstep_compiler.lowering.elementwise_quotient import (
    divide,
    reciprocal_near_one,
    square_root,
)
from clockstep_compiler.lowering.lower import FLOATS, Lowering, lowers
from clockstep_isa.table import Type

__all__ = ["ceiling", "floor", "nearest", "sigmoid", "softplus"]

_ZERO = Const(np.zeros(()), Type.F32)


def _parameters(node: Node, **defaults: float) -> list[float]:
    return [float(node.attributes.get(name, value)) for name, value in defaults.items()]


# -- rounding --------------------------------------------------------------------------------


def _rounded(x: Expr, away: bool) -> Expr:
    """To the nearest integer, or to the one below; from 2**23 on every f32 is integral."""
    size = f32("abs", x)
    small = f32("lt", size, 2.0**23)
    # An integer below 2**23 has no fraction when 2**23 is added.
    result: Expr = i32("or", f32("sub", f32("add", size, 2.0**23), 2.0**23), i32("and", x, SIGN))
    if away:
        result = f32("sub", result, one_where(f32("lt", x, result)))
    return select(small, f32("mov", result), f32("mov", x))


def nearest(x: Expr) -> Expr:
    """The nearest integer, of halves the even one; signs of zeros stay."""
    return _rounded(x, away=False)


def floor(x: Expr) -> Expr:
    """The greatest integer that is not above."""
    return _rounded(x, away=True)


def ceiling(x: Expr) -> Expr:
    """The least integer that is not below."""
    return f32("neg", floor(f32("neg", x)))


# -- activations -----------------------------------------------------------------------------


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x), the quotient as the square of rsqrt: accurate at both ends."""
    power = f32("exp2", f32("mul", x, -1 / math.log(2)))
    return reciprocal_near_one(f32("add", power, 1.0))


def softplus(x: Expr) -> Expr:
    """log(1 + e**x) = max(x, 0) + log(1 + e**-|x|)."""
    return f32("add", f32("max", x, 0.0), log1p_unit(exponential(f32("neg", f32("abs", x)))))


def _reciprocal(x: Expr) -> Expr:
    return divide(Const(np.ones(()), Type.F32), x)


def _softsign(x: Expr) -> Expr:
    root = f32("rsqrt", f32("add", f32("abs", x), 1.0))
    return f32("mul", f32("mul", x, root), root)


def _mish(x: Expr) -> Expr:
    return f32("mul", x, f32("tanh", softplus(x)))


_FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "Acos": circular.arccosine,
    "Acosh": circular.hyperbolic_arccosine,
    "Asin": circular.arcsine,
    "Asinh": circular.hyperbolic_arcsine,
    "Atan": circular.arctangent,
    "Atanh": circular.hyperbolic_arctangent,
    "Ceil": ceiling,
    "Cos": circular.cosine,
    "Cosh": circular.hyperbolic_cosine,
    "Erf": error_function,
    "Exp": exponential,
    "Floor": floor,
    "Log": logarithm,
    "Mish": _mish,
    "Reciprocal": _reciprocal,
    "Round": nearest,
    "Sin": circular.sine,
    "Sinh": circular.hyperbolic_sine,
    "Softplus": softplus,
    "Softsign": _softsign,
    "Sqrt": square_root,
    "Tan": circular.tangent,
}


@lowers(*_FUNCTIONS)
def _function(state: Lowering, node: Node) -> None:
    reject(node, state)
    a = in_range(state, node.inputs[0], state.shape(node.outputs[0]))
    if node.op == "Erf" and state.is_coarse(node.outputs[0]):
        state.define(node.outputs[0], coarse_erf(a))
        return
    if node.op in ("Ceil", "Floor", "Round") and node.inputs[0] in state.reach:
        low, high = state.reach[node.inputs[0]]
        state.reach[node.outputs[0]] = low - 1, high + 1
    state.define(node.outputs[0], _FUNCTIONS[node.op](a))


def _negative_part(x: Expr, alpha: float) -> Expr:
    """alpha (e**x - 1) below 0, and 0 above."""
    return f32("mul", exponential_minus_one(f32("min", x, 0.0)), alpha)


def _elu(node: Node, x: Expr) -> Expr:
    (alpha,) = _parameters(node, alpha=1.0)
    return f32("add", f32("max", x, 0.0), _negative_part(x, alpha))


def _selu(node: Node, x: Expr) -> Expr:
    alpha, gamma = _parameters(
        node, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875
    )
    scaled = f32("mul", f32("max", x, 0.0), gamma)
    return f32("add", scaled, _negative_part(x, alpha * gamma))


def _celu(node: Node, x: Expr) -> Expr:
    """max(x, 0) + min(alpha (e**(x / alpha) - 1), 0)."""
    (alpha,) = _parameters(node, alpha=1.0)
    if alpha < 0:
        # e**(x / alpha) - 1 is above 0 where x is negative: times alpha it is below.
        power = f32("sub", exponential(f32("mul", x, 1 / alpha)), 1.0)
        return f32("add", f32("max", x, 0.0), f32("min", f32("mul", power, alpha), 0.0))
    return f32("add", f32("max", x, 0.0), _negative_part(f32("mul", x, 1 / alpha), alpha))


def _thresholded(node: Node, x: Expr) -> Expr:
    (alpha,) = _parameters(node, alpha=1.0)
    return select(f32("lt", f32("neg", x), -alpha), f32("mov", x), _ZERO)


def _hard_sigmoid(node: Node, x: Expr) -> Expr:
    alpha, beta = _parameters(node, alpha=0.2, beta=0.5)
    line = f32("add", f32("mul", x, alpha), beta)
    return f32("max", f32("min", line, 1.0), 0.0)


def _hard_swish(node: Node, x: Expr) -> Expr:
    line = f32("add", f32("mul", x, 1 / 6), 0.5)
    return f32("mul", f32("max", f32("min", line, 1.0), 0.0), x)


def _swish(node: Node, x: Expr) -> Expr:
    (alpha,) = _parameters(node, alpha=1.0)
    return f32("mul", x, sigmoid(f32("mul", x, alpha)))


def _gelu(node: Node, x: Expr) -> Expr:
    if node.attributes.get("approximate", "none") == "tanh":
        cube = f32("mul", f32("mul", x, x), x)
        inner = f32("add", f32("mul", cube, 0.044715), x)
        inner = f32("tanh", f32("mul", inner, math.sqrt(2 / math.pi)))
    else:
        inner = error_function(f32("mul", x, math.sqrt(0.5)))
    return f32("mul", f32("mul", x, 0.5), f32("add", inner, 1.0))


def _shrink(node: Node, x: Expr) -> Expr:
    bias, lambd = _parameters(node, bias=0.0, lambd=0.5)
    below = f32("lt", x, -lambd)
    above = f32("lt", f32("neg", x), -lambd)
    positive = select(above, f32("sub", x, bias), _ZERO)
    return select(below, f32("add", x, bias), positive)


_ACTIVATIONS: dict[str, Callable[[Node, Expr], Expr]] = {
    "Celu": _celu,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Selu": _selu,
    "Shrink": _shrink,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded,
}


@lowers(*_ACTIVATIONS)
def _activation(state: Lowering, node: Node) -> None:
    reject(node, state)
    out = node.outputs[0]
    a = in_range(state, node.inputs[0], state.shape(out))
    plain = node.op == "Gelu" and node.attributes.get("approximate", "none") == "none"
    if plain and state.is_coarse(out):
        state.define(out, coarse_gelu(a, state.is_stepped(out)))
        return
    state.define(out, _ACTIVATIONS[node.op](node, a))


@lowers("PRelu")
def _prelu(state: Lowering, node: Node) -> None:
    """x, and slope x where x is negative; of floats the sum of both parts, one of which is 0."""
    reject(node, state, (*FLOATS, "int32"))
    a, slope = operands(state, node.inputs, state.shape(node.outputs[0]))
    scaled = binary("mul", a, slope) if not isinstance(a, Const) else binary("mul", slope, a)
    if a.out == Type.F32 and isinstance(slope, Const) and np.isfinite(slope.array).all():
        below = binary("mul", f32("min", a, 0.0), slope)
        state.define(node.outputs[0], binary("add", f32("max", a, 0.0), below))
        return
    negative = f32("lt", a, 0.0) if a.out == Type.F32 else i32("lt", a, 0)
    state.define(node.outputs[0], select(negative, scaled, a))


@lowers("Sign")
def _signum(state: Lowering, node: Node) -> None:
    """-1, 0 or 1, NaN of NaN: the operand clamped, after a float was made large enough."""
    a = in_range(state, node.inputs[0], state.shape(node.outputs[0]))
    if a.out == Type.F32:
        large = f32("mul", f32("mul", a, 2.0**127), 2.0**127)
        result = f32("max", f32("min", large, 1.0), -1.0)
    elif state.dtype(node.inputs[0]) == "uint32":
        result = i32("xor", i32("eq", a, 0), 1)
    else:
        result = i32("max", i32("min", a, 1), -1)
    state.define(node.outputs[0], result)
