"""Functions in few operations, for results that are stored in fp16 or quantized.

erf(x / sqrt(2)) is the hyperbolic tangent of x p(x**2), p nearly a polynomial of first or second
degree. What is given of errors was measured from -10 to 10 by `tests/compiler/test_coarse.py`.
"""

from __future__ import annotations

import math

from clockstep_compiler.expr import Expr, mul
from clockstep_compiler.lowering.elementwise_bits import f32

__all__ = ["coarse_erf", "coarse_gelu"]

_LINE = 0.79858343, 0.03538753
"""p by its coefficients, within 1.6e-4 of Gelu."""

_VERTEX, _CURVE, _PEAK = -59.83061754, -3.07133859e-4, 1.89720416
"""p = _PEAK + _CURVE (z + _VERTEX)**2 up to the vertex, constant beyond: within 2.2e-5 of Gelu."""


def coarse_gelu(x: Expr, stepped: bool) -> Expr:
    """x (1 + erf(x / sqrt(2))) / 2: within 2.2e-5 of Gelu of |x|, or 1.6e-4 if `stepped`: no more
    than a twentieth of a step where 256 steps reach to Gelu of |x|."""
    return mul(f32("mul", f32("add", _erf_of_root(x, stepped), 1.0), x), 0.5)


def coarse_erf(x: Expr) -> Expr:
    """erf(x): within 5e-5."""
    return _erf_of_root(f32("mul", x, math.sqrt(2)), False)


def _erf_of_root(x: Expr, stepped: bool) -> Expr:
    """erf(x / sqrt(2))."""
    z = f32("mul", x, x)
    if stepped:
        p = f32("add", f32("mul", z, _LINE[1]), _LINE[0])
    else:
        below = f32("min", f32("add", z, _VERTEX), 0.0)
        p = f32("add", f32("mul", f32("mul", below, below), _CURVE), _PEAK)
    return f32("tanh", f32("mul", p, x))
