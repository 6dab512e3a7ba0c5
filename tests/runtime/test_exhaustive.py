"""Every input of the small types: all pairs of i8, all f16, all boundaries between two f16.

The oracle is Python's integers and fractions; an f16 is taken apart bit by bit here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest

from clockstep_isa.layout import numpy_type
from clockstep_isa.table import Type
from clockstep_runtime.semantics import EXECUTES
from tests.support.rounding import nearest

INTEGERS = (Type.I8, Type.I16, Type.I32)
EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
NAN16, NAN32 = 0x7E00, 0x7FC00000


def wrap(value: int, kind: Type) -> int:
    half = 1 << (8 * kind.bytes - 1)
    return (value + half) % (2 * half) - half


def clamp(value: int, kind: Type) -> int:
    half = 1 << (8 * kind.bytes - 1)
    return max(-half, min(half - 1, value))


def wrapped(operation: Callable[[int, int], int]) -> Callable[[int, int], int]:
    return lambda a, b: wrap(operation(a, b), Type.I8)


def clamped(operation: Callable[[int, int], int]) -> Callable[[int, int], int]:
    return lambda a, b: clamp(operation(a, b), Type.I8)


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": wrapped(operator.add),
    "sub": wrapped(operator.sub),
    "mul": wrapped(operator.mul),
    "add_sat": clamped(operator.add),
    "sub_sat": clamped(operator.sub),
    "mul_sat": clamped(operator.mul),
    "max": max,
    "min": min,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "eq": operator.eq,
    "lt": operator.lt,
    "le": operator.le,
}


def test_every_binary_operation_is_here() -> None:
    assert set(BINARY) == {name for name in EXECUTES if name + "i" in EXECUTES}


@pytest.mark.parametrize("name", BINARY)
def test_all_pairs_of_i8(name: str) -> None:
    pairs = list(product(range(-128, 128), repeat=2))
    a, b = np.array(pairs, np.int8).T
    wanted = [BINARY[name](x, y) for x, y in pairs]
    assert EXECUTES[name](a=a, b=b).tolist() == wanted
    column, row = np.ascontiguousarray(a[::256, None]), b[:256]
    assert EXECUTES[name](a=column, b=row).ravel().tolist() == wanted
    for value in (-128, -1, 0, 1, 127):
        immediate = EXECUTES[name + "i"](a=row, b=np.array(value, np.int8))
        assert immediate.tolist() == [BINARY[name](x, value) for x in range(-128, 128)]


@pytest.mark.parametrize("kind", [Type.I8, Type.I16])
def test_all_negatives_and_magnitudes(kind: Type) -> None:
    info = np.iinfo(numpy_type(kind))
    values = range(info.min, info.max + 1)
    a = np.array(values, numpy_type(kind))
    assert EXECUTES["neg"](a=a).tolist() == [wrap(-x, kind) for x in values]
    assert EXECUTES["abs"](a=a).tolist() == [wrap(abs(x), kind) for x in values]


@cache
def halves() -> list[Fraction | str]:
    """The value of every f16, by its bits: exact, or the name of an infinity or NaN."""
    values: list[Fraction | str] = []
    for bits in range(1 << 16):
        sign, exponent, fraction = bits >> 15, bits >> 10 & 31, bits & 1023
        if exponent == 31:
            values.append("nan" if fraction else ("-inf" if sign else "inf"))
        else:
            digits = fraction if exponent == 0 else fraction + 1024
            value = Fraction(digits) * Fraction(2) ** (max(exponent, 1) - 25)
            values.append(-value if sign else value)
    return values


def cast(a: np.ndarray, to: Type, rounding: str = "rne", overflow: str = "sat") -> np.ndarray:
    return EXECUTES["cast"](a=a, to=to, round=rounding, overflow=overflow)


def whole(value: Fraction | str, rounding: str, overflow: str, to: Type) -> int:
    if isinstance(value, str):
        bound = {"inf": 1 << 40, "-inf": -(1 << 40)}.get(value, 0)
        return clamp(bound, to) if overflow == "sat" else 0
    integer = round(value) if rounding == "rne" else int(value)
    return clamp(integer, to) if overflow == "sat" else wrap(integer, to)


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize(("rounding", "overflow"), [*product(("rne", "rtz"), ("sat", "wrap"))])
def test_every_f16_to_integers(rounding: str, overflow: str, to: Type) -> None:
    wanted = [whole(value, rounding, overflow, to) for value in halves()]
    got = cast(EVERY_HALF, to, rounding, overflow)
    assert got.tolist() == wanted
    # The same values as f32 take another way.
    wide = EVERY_HALF.astype(np.float32)
    assert cast(wide, to, rounding, overflow).tolist() == wanted


def test_every_f16_to_floats() -> None:
    """f32 holds every f16: sign, exponent and fraction move, denormals are normalised."""
    got = cast(EVERY_HALF, Type.F32)
    for bits, value, single in zip(
        range(1 << 16), halves(), got.view(np.uint32).tolist(), strict=True
    ):
        sign = bits >> 15 << 31
        if value == "nan":
            assert single == NAN32
        elif isinstance(value, str):
            assert single == sign | 0x7F800000
        else:
            assert single & 1 << 31 == sign
            assert Fraction(float(got[bits])) == value
    same = cast(EVERY_HALF, Type.F16).view(np.uint16).tolist()
    assert same == [NAN16 if v == "nan" else b for b, v in enumerate(halves())]


def test_every_f16_by_bits() -> None:
    bits = np.arange(1 << 16)
    for name, wanted in (("mov", bits), ("neg", bits ^ 0x8000), ("abs", bits & 0x7FFF)):
        got = EXECUTES[name](a=EVERY_HALF)
        assert got.dtype == np.float16
        assert got.view(np.uint16).tolist() == wanted.tolist()


@cache
def ordered_halves() -> list[tuple[int, int, int] | None]:
    """What orders every f16: its multiple of 2**-24, +0 above -0; then its bits. None for NaN."""
    infinite = {"inf": Fraction(1 << 20), "-inf": Fraction(-(1 << 20))}
    values = [infinite.get(value, value) for value in halves()]
    return [
        None if value == "nan" else (int(value * (1 << 24)), -(bits >> 15), bits)
        for bits, value in enumerate(values)
    ]


@pytest.mark.parametrize("name", ["eq", "lt", "le", "max", "min"])
def test_every_f16_against_some(name: str) -> None:
    operation, extreme = BINARY[name], name in ("max", "min")
    for other in (0x0000, 0x8000, 0x0001, 0xBC00, 0x7C00, 0xFC00, 0x7E01):
        y = ordered_halves()[other]
        wanted = []
        for x in ordered_halves():
            if x is None or y is None:
                wanted.append(NAN16 if extreme else 0)
            else:
                wanted.append(operation(x, y)[2] if extreme else operation(x[0], y[0]))
        got = EXECUTES[name](a=EVERY_HALF, b=EVERY_HALF[other : other + 1]).view(np.uint16)
        assert got.tolist() == wanted


@pytest.mark.parametrize("sign", [1, -1])
def test_every_boundary_between_two_f16(sign: int) -> None:
    """The middle goes to the even neighbour, the f32 beside it to the nearer one."""
    finite = np.arange(0x7C00)
    values = EVERY_HALF[finite].astype(np.float64)
    above = np.append(values[1:], 65536.0)
    middle = ((values + above) / 2).astype(np.float32)
    assert (middle.astype(np.float64) * 2 == values + above).all()
    below, beyond = (np.nextafter(middle, np.float32(end)) for end in (0, np.inf))
    for singles, wanted in (
        (middle, finite + (finite & 1)),
        (below, finite),
        (beyond, finite + 1),
    ):
        got = cast(np.float32(sign) * singles, Type.F16).view(np.uint16)
        assert got.tolist() == (wanted | (0x8000 if sign < 0 else 0)).tolist()


def test_every_i16_to_floats() -> None:
    values = range(-(1 << 15), 1 << 15)
    halved = [nearest(Fraction(x), np.float16) for x in values]
    for source in (np.int16, np.int32):
        a = np.array(values, source)
        assert cast(a, Type.F16).tolist() == halved
        assert cast(a, Type.F32).tolist() == list(values)
    a = np.arange(-128, 128).astype(np.int8)
    assert cast(a, Type.F16).tolist() == cast(a, Type.F32).tolist() == list(range(-128, 128))


def test_every_i32_that_is_finite_in_f16() -> None:
    values = range(32760, 65600)
    wanted = [nearest(Fraction(x), np.float16) for x in values]
    for sign in (1, -1):
        got = cast(sign * np.array(values, np.int32), Type.F16)
        assert got.tolist() == [sign * x for x in wanted]


@pytest.mark.parametrize(("kind", "to"), [*product((Type.I8, Type.I16), INTEGERS)])
def test_every_small_integer_to_integers(kind: Type, to: Type) -> None:
    info = np.iinfo(numpy_type(kind))
    values = range(info.min, info.max + 1)
    a = np.array(values, numpy_type(kind))
    for rounding in ("rne", "rtz"):
        assert cast(a, to, rounding, "sat").tolist() == [clamp(x, to) for x in values]
        assert cast(a, to, rounding, "wrap").tolist() == [wrap(x, to) for x in values]


def few_bits(kind: Type, count: int, seed: int) -> np.ndarray:
    """Floats of two or three set bits, within the precision of 1: their sums and products tie."""
    generator = np.random.default_rng(seed)
    precision = 11 if kind is Type.F16 else 24
    bits = generator.integers(0, precision, (count, 2))
    top = 2.0 ** generator.integers(-2, 3, count) * generator.choice([1, -1], count)
    return (top * (1 + (2.0**-bits).sum(1) / 2)).astype(numpy_type(kind))


@pytest.mark.parametrize("kind", [Type.F16, Type.F32])
@pytest.mark.parametrize("edge", ["ones", "least", "greatest"])
@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_float_arithmetic_where_it_ties(name: str, edge: str, kind: Type) -> None:
    """About 1, about the least denormal and about the greatest finite number."""
    info = np.finfo(numpy_type(kind))
    scale = {"least": info.smallest_subnormal * 8, "greatest": info.max / 32}.get(edge, 1)
    a, b = few_bits(kind, 2000, 1), few_bits(kind, 2000, 2)
    a *= scale
    b *= 1 if name == "mul" else scale
    if edge == "greatest":
        a[:500], b[:500] = a[:500] * 4, b[:500] * 4
    got = EXECUTES[name](a=a, b=b)
    exact = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}[name]
    rounded = 0
    for x, y, z in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        value = exact(Fraction(x), Fraction(y))
        assert z == nearest(value, numpy_type(kind)), (x, y)
        rounded += abs(z) == float("inf") or Fraction(z) != value
    # Sums of denormals are exact.
    assert rounded > 200 or (edge, name) in {("least", "add"), ("least", "sub")}
