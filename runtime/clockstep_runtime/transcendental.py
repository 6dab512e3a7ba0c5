"""exp2, tanh and rsqrt of float32, defined to the bit by IEEE float64 operations alone.

Every step is a float64 add, subtract, multiply, divide, square root or round to integer, each of
which IEEE 754 rounds in one way only; nothing is fused, and no libm function is called. The result
is rounded once to float32. Each numpy operation below is one such step, in the order written: the
order is part of the definition. `isa/NUMERICS.md` has the steps, and the errors over all inputs. To
add a function, add it here and its `@executes` in `semantics.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["exp2", "rsqrt", "tanh"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

EXP2_COEFFICIENTS = (
    1.0,
    0.6931471805599453,
    0.24022650695910072,
    0.05550410866482158,
    0.009618129107628477,
    0.0013333558146428443,
    0.0001540353039338161,
    1.5252733804059841e-05,
    1.321548679014431e-06,
    1.01780860092397e-07,
    7.054911620801123e-09,
    4.4455382718708116e-10,
)
"""ln(2)**k / k!, the Taylor series of 2**r: the first term left out is below 1e-16 at |r| = 1/2."""

TANH_COEFFICIENTS = (1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835)
"""Taylor series of tanh(x) / x in x**2: the first term left out is below 2e-20 at |x| = 2**-6."""

LOG2_E_TWICE = 2.8853900817779268
"""2 / ln(2): exp(2x) = 2**(LOG2_E_TWICE * x)."""

TANH_SMALL = 2.0**-6
TANH_LARGE = 20.0
"""From here on tanh rounds to 1 in float32, and in float64 too."""


def exp2(x: Float32) -> Float32:
    """2**x, the nearest float32 for all but two inputs; exact for every integer x.

    With n the integer nearest x (ties to even) and r = x - n: Horner's rule on the series at r,
    times 2**n, rounded once, so results below 2**-126 are correctly denormal.
    """
    # Beyond these bounds the result is 0 or infinity, and 2**n would leave float64's range.
    return _exp2_wide(np.clip(x.astype(np.float64), -200.0, 200.0)).astype(np.float32)


def tanh(x: Float32) -> Float32:
    """Hyperbolic tangent, the nearest float32 for all but two inputs; tanh(-0) is -0.

    Below 2**-6 in magnitude the odd series, else 1 - 2 / (exp(2|x|) + 1) with the sign of x.
    """
    wide = np.clip(x.astype(np.float64), -TANH_LARGE, TANH_LARGE)
    square = wide * wide
    small = wide * _horner(square, TANH_COEFFICIENTS)
    magnitude = 1.0 - 2.0 / (_exp2_wide(np.abs(wide) * LOG2_E_TWICE) + 1.0)
    large = np.copysign(magnitude, wide)
    return np.where(np.abs(wide) < TANH_SMALL, small, large).astype(np.float32)


def rsqrt(x: Float32) -> Float32:
    """1 / sqrt(x), the nearest float32 for every input.

    rsqrt(+0) is +inf, rsqrt(-0) is -inf, of a negative number NaN, of +inf +0.
    """
    return (1.0 / np.sqrt(x.astype(np.float64))).astype(np.float32)


def _exp2_wide(x: Float64) -> Float64:
    """2**x in float64 for |x| <= 200; NaN stays NaN."""
    whole = np.rint(x)
    fraction = _horner(x - whole, EXP2_COEFFICIENTS)
    exponent = np.where(np.isnan(whole), 0.0, whole).astype(np.int64)
    power = ((exponent + 1023) << 52).view(np.float64)
    return fraction * power


def _horner(x: Float64, coefficients: tuple[float, ...]) -> Float64:
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total *= x
        total += coefficient
    return total
