"""The error of exp2, tanh and rsqrt against the true functions, for all 2**32 inputs.

    python benchmarks/transcendental_error.py                # every float32: some 10 minutes
    python benchmarks/transcendental_error.py --sample 1000000 --seed 1

The error is in ulp: units of 2**(max(e, -126) - 23) where 2**e <= |true value| < 2**(e + 1). Inputs
are screened with numpy's own float64 functions, which share nothing with the definitions; wherever
these leave a doubt about the rounding, the error is computed with 60-digit decimals. To add a
function, add a row to `FUNCTIONS`.
"""

from __future__ import annotations

import argparse
import decimal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.semantics import EXECUTES

__all__ = ["FUNCTIONS", "Found", "error", "measure"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BLOCK = 1 << 16
DOUBT = 2.0**-20
"""In ulp of float32. numpy's float64 functions are good to a few 2**-29 of these."""

CONTEXT = decimal.Context(prec=60, Emax=10**9, Emin=-(10**9))
LN2 = CONTEXT.ln(Decimal(2))


def _exp2(x: Decimal) -> Decimal:
    return CONTEXT.exp(CONTEXT.multiply(x, LN2))


def _tanh(x: Decimal) -> Decimal:
    if abs(x) < Decimal("1e-9"):
        return CONTEXT.subtract(x, CONTEXT.divide(CONTEXT.power(x, 3), 3))
    e = CONTEXT.exp(CONTEXT.multiply(2, x))
    return CONTEXT.divide(CONTEXT.subtract(e, 1), CONTEXT.add(e, 1))


def _rsqrt(x: Decimal) -> Decimal:
    return CONTEXT.divide(1, CONTEXT.sqrt(x))


@dataclass(frozen=True, slots=True)
class _Function:
    """`limits` hold the arguments whose true value is real and does not round to infinity.

    `slope` is 1 if the true function rises, -1 if it falls.
    """

    true: Callable[[Decimal], Decimal]
    screen: Callable[[Float64], Float64]
    limits: tuple[float, float]
    slope: int


FUNCTIONS = {
    "exp2": _Function(_exp2, np.exp2, (-np.inf, float(np.nextafter(np.float32(128), 0))), 1),
    "tanh": _Function(_tanh, np.tanh, (-np.inf, np.inf), 1),
    "rsqrt": _Function(_rsqrt, lambda x: np.power(x, -0.5), (2.0**-149, np.inf), -1),
}


@dataclass(slots=True)
class Found:
    """What was seen: inputs within the limits, the largest error, its input, and misroundings.

    `descents` counts neighbours among the inputs whose results stand in the wrong order.
    """

    inputs: int = 0
    worst: Decimal = Decimal(0)
    worst_bits: int = 0
    misrounded: list[int] = field(default_factory=list)
    descents: int = 0
    last: tuple[float, float] = (np.nan, np.nan)


def error(name: str, bits: int) -> Decimal:
    """The error in ulp of the result for the float32 with these bits."""
    x = np.array([bits], np.uint32).view(np.float32)
    true = FUNCTIONS[name].true(Decimal(float(x[0])))
    exponent = int(np.floor(np.log2(float(abs(true))))) if float(true) else -126
    if not Decimal(2) ** exponent <= abs(true) < Decimal(2) ** (exponent + 1):
        exponent += 1 if abs(true) >= Decimal(2) ** (exponent + 1) else -1
    unit = CONTEXT.power(2, max(exponent, -126) - 23)
    result = Decimal(float(EXECUTES[name](a=x)[0]))
    return abs(CONTEXT.divide(CONTEXT.subtract(result, true), unit))


def measure(name: str, blocks: Iterator[NDArray[np.uint32]]) -> Found:
    """The errors for blocks of inputs."""
    function, found = FUNCTIONS[name], Found()
    low, high = function.limits
    for bits in blocks:
        x = bits.view(np.float32)
        inside = np.isfinite(x) & (x >= low) & (x <= high)
        if not inside.all():
            bits, x = bits[inside], x[inside]
        if len(x):
            _measure_block(name, function, bits, found)
    return found


def _measure_block(name: str, function: _Function, bits: NDArray[np.uint32], found: Found) -> None:
    x = bits.view(np.float32)
    y = EXECUTES[name](a=x)
    found.inputs += len(x)
    found.descents += _descents(function.slope, x, y, found.last)
    found.last = float(x[-1]), float(y[-1])
    doubtful = np.flatnonzero(_error(y, function.screen(x.astype(np.float64))) > 0.5 - DOUBT)
    for at in bits[doubtful].tolist():
        exact = error(name, at)
        if exact > found.worst:
            found.worst, found.worst_bits = exact, at
        if exact > Decimal("0.5"):
            found.misrounded.append(at)


def _error(y: Float32, true: Float64) -> Float64:
    """Errors in ulp, `true` being good to float64."""
    exponent = (true.view(np.int64) >> 52) & 0x7FF
    per_ulp = ((1023 + 1023 + 23 - np.maximum(exponent, 1023 - 126)) << 52).view(np.float64)
    result: Float64 = np.abs(y.astype(np.float64) - true) * per_ulp
    return result


def _descents(slope: int, x: Float32, y: Float32, last: tuple[float, float]) -> int:
    """How often y steps against the slope from one x to the next, the first after `last`."""
    x0, y0 = (np.concatenate([[v], old[:-1]]) for v, old in zip(last, (x, y), strict=True))
    up, down = (y > y0, y < y0) if slope > 0 else (y < y0, y > y0)
    return int(((x > x0) & down | (x < x0) & up).sum())


def every_input() -> Iterator[NDArray[np.uint32]]:
    """All 2**32 bit patterns in order."""
    for start in range(0, 1 << 32, BLOCK):
        yield np.arange(start, start + BLOCK, dtype=np.uint32)


def sample(count: int, seed: int) -> Iterator[NDArray[np.uint32]]:
    """`count` bit patterns at random."""
    generator = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        yield generator.integers(0, 1 << 32, size, dtype=np.uint32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("functions", nargs="*", default=sorted(FUNCTIONS))
    parser.add_argument("--sample", type=int, help="that many random inputs instead of all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.functions:
        blocks = sample(options.sample, options.seed) if options.sample else every_input()
        found = measure(name, blocks)
        print(
            f"{name}: {found.inputs} inputs, largest error {found.worst:.9f} ulp at "
            f"0x{found.worst_bits:08x}, {len(found.misrounded)} misrounded, "
            f"{found.descents} descents",
            *(f"0x{bits:08x}" for bits in found.misrounded[:20]),
            flush=True,
        )


if __name__ == "__main__":
    main()
