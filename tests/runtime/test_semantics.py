"""The numerics of every instruction against Python's integers, fractions and bit patterns."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_isa.geometry import Unit
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import TABLE, Type
from clockstep_runtime.semantics import EXECUTES, canonical
from tests.support.rounding import nearest

INTEGERS = (Type.I8, Type.I16, Type.I32)
FLOATS = (Type.F16, Type.F32)
EXACT: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
}
SXM_UNITS = (Unit.PERMUTE, Unit.TRANSPOSE, Unit.DISTRIBUTE)
BINARY = sorted(name for name in EXECUTES if name + "i" in EXECUTES)
CANONICAL = {Type.F16: 0x7E00, Type.F32: 0x7FC00000}
UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def bits_of(values: np.ndarray) -> list[int]:
    return values.view(UNSIGNED[values.dtype.itemsize]).tolist()


def random_bits(kind: Type, count: int, seed: int) -> np.ndarray:
    """Values with uniformly random bits: all exponents, NaN and denormals among them."""
    raw = np.random.default_rng(seed).integers(0, 256, (count, kind.bytes), dtype=np.uint8)
    return raw.view(numpy_type(kind))[:, 0]


def specials(kind: Type) -> np.ndarray:
    """Every pair of these is tried in binary operations."""
    if kind in INTEGERS:
        info = np.iinfo(numpy_type(kind))
        values = [info.min, info.min + 1, -2, -1, 0, 1, 2, info.max - 1, info.max]
        return np.array(values, numpy_type(kind))
    info = np.finfo(numpy_type(kind))
    positive = [0.0, info.smallest_subnormal, info.tiny, 1.0, 1.5, 2.0, info.max, np.inf]
    return np.array([*positive, *(-v for v in positive), np.nan], numpy_type(kind))


def pairs(kind: Type) -> tuple[np.ndarray, np.ndarray]:
    special = specials(kind)
    a, b = (grid.ravel() for grid in np.meshgrid(special, special))
    noise = [random_bits(kind, 300, seed) for seed in (1, 2)]
    return np.concatenate([a, noise[0]]), np.concatenate([b, noise[1]])


def wrap(value: int, kind: Type) -> int:
    bits = 8 * kind.bytes
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def clamp(value: int, kind: Type) -> int:
    bits = 8 * kind.bytes
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def test_every_row_that_computes_has_one_meaning_and_nothing_else_has() -> None:
    computing = (Unit.VXM, *SXM_UNITS)
    wanted = {row.name for row in TABLE if row.unit in computing} | {"abc"}
    assert set(EXECUTES) == wanted


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "add_sat", "sub_sat", "mul_sat"])
def test_integer_arithmetic(name: str, kind: Type) -> None:
    a, b = pairs(kind)
    fit = clamp if name.endswith("_sat") else wrap
    exact = EXACT[name.removesuffix("_sat")]
    wanted = [fit(exact(x, y), kind) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    got = EXECUTES[name](a=a, b=b)
    assert got.dtype == numpy_type(kind)
    assert got.tolist() == wanted


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "add_sat", "sub_sat", "mul_sat"])
def test_float_arithmetic_is_rounded_once(name: str, kind: Type) -> None:
    a, b = pairs(kind)
    got = EXECUTES[name](a=a, b=b)
    assert got.dtype == numpy_type(kind)
    exact = EXACT[name.removesuffix("_sat")]
    finite = np.isfinite(a) & np.isfinite(b)
    for x, y, z in zip(*(v[finite].tolist() for v in (a, b, got)), strict=True):
        assert z == nearest(exact(Fraction(x), Fraction(y)), numpy_type(kind))
    # With infinities float64 gives the IEEE answer; every NaN is the canonical one.
    with np.errstate(all="ignore"):
        wide = exact(a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_array_equal(got[~finite], wide[~finite])
    assert set(bits_of(got[np.isnan(got)])) == {CANONICAL[kind]}


@pytest.mark.parametrize("kind", FLOATS)
def test_signs_of_zero(kind: Type) -> None:
    plus, minus = (np.array([v], numpy_type(kind)) for v in (0.0, -0.0))
    sign = {
        (name, *key): bool(np.signbit(EXECUTES[name](a=x, b=y)[0]))
        for name in ("add", "mul", "max", "min")
        for key, x, y in (("+-", plus, minus), ("-+", minus, plus), ("--", minus, minus))
    }
    assert sign == {
        ("add", "+", "-"): False,
        ("add", "-", "+"): False,
        ("add", "-", "-"): True,
        ("mul", "+", "-"): True,
        ("mul", "-", "+"): True,
        ("mul", "-", "-"): False,
        ("max", "+", "-"): False,
        ("max", "-", "+"): False,
        ("max", "-", "-"): True,
        ("min", "+", "-"): True,
        ("min", "-", "+"): True,
        ("min", "-", "-"): True,
    }


@pytest.mark.parametrize("kind", Type)
@pytest.mark.parametrize(("name", "pick"), [("max", max), ("min", min)])
def test_extremes(name: str, pick: Callable[[Any, Any], Any], kind: Type) -> None:
    a, b = pairs(kind)
    got = EXECUTES[name](a=a, b=b)
    assert got.dtype == numpy_type(kind)
    lost = (a != a) | (b != b)
    wanted = [pick(x, y) for x, y in zip(a[~lost].tolist(), b[~lost].tolist(), strict=True)]
    assert got[~lost].tolist() == wanted
    if kind in FLOATS:
        assert set(bits_of(got[lost])) == {CANONICAL[kind]}


@pytest.mark.parametrize("kind", Type)
@pytest.mark.parametrize(
    ("name", "compare"), [("eq", operator.eq), ("lt", operator.lt), ("le", operator.le)]
)
def test_comparisons(name: str, compare: Callable[[Any, Any], bool], kind: Type) -> None:
    a, b = pairs(kind)
    got = EXECUTES[name](a=a, b=b)
    assert got.dtype.kind == "i"
    assert got.dtype.itemsize == kind.bytes
    wanted = [int(compare(x, y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert got.tolist() == wanted


@pytest.mark.parametrize("kind", Type)
@pytest.mark.parametrize(
    ("name", "op"), [("and", operator.and_), ("or", operator.or_), ("xor", operator.xor)]
)
def test_bitwise(name: str, op: Callable[[int, int], int], kind: Type) -> None:
    a, b = pairs(kind)
    got = EXECUTES[name](a=a, b=b)
    assert got.dtype == a.dtype
    assert bits_of(got) == [op(x, y) for x, y in zip(bits_of(a), bits_of(b), strict=True)]


@pytest.mark.parametrize("kind", Type)
def test_unary(kind: Type) -> None:
    a, _ = pairs(kind)
    assert bits_of(EXECUTES["mov"](a=a)) == bits_of(a)
    negative, absolute = EXECUTES["neg"](a=a), EXECUTES["abs"](a=a)
    if kind in INTEGERS:
        assert negative.tolist() == [wrap(-x, kind) for x in a.tolist()]
        assert absolute.tolist() == [wrap(abs(x), kind) for x in a.tolist()]
        return
    sign = 1 << (8 * kind.bytes - 1)
    assert bits_of(negative) == [x ^ sign for x in bits_of(a)]
    assert bits_of(absolute) == [x & ~sign for x in bits_of(a)]


@pytest.mark.parametrize("name", BINARY)
def test_an_immediate_is_an_operand_on_all_lanes(name: str) -> None:
    a = random_bits(Type.I16, 50, 3)
    for value in (-7, 0, 12345):
        b = np.array([value], np.int16)
        spread = EXECUTES[name](a=a, b=np.full(50, value, np.int16))
        assert EXECUTES[name + "i"](a=a, b=b).tolist() == spread.tolist()


def cast(a: np.ndarray, to: Type, rounding: str = "rne", overflow: str = "sat") -> np.ndarray:
    got = EXECUTES["cast"](a=a, to=to, round=rounding, overflow=overflow)
    assert got.dtype == numpy_type(to)
    return got


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("rounding", ["rne", "rtz"])
@pytest.mark.parametrize("overflow", ["sat", "wrap"])
def test_float_to_integer(kind: Type, to: Type, rounding: str, overflow: str) -> None:
    near = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, -128.5, -129.5, 300.7, 2.0**15])
    a = np.concatenate([specials(kind), near.astype(numpy_type(kind)), random_bits(kind, 400, 4)])
    for x, y in zip(a.tolist(), cast(a, to, rounding, overflow).tolist(), strict=True):
        if x != x:
            wanted = 0
        elif x in (float("inf"), float("-inf")):
            top = 1 << 60 if x > 0 else -(1 << 60)
            wanted = clamp(top, to) if overflow == "sat" else 0
        else:
            whole = round(Fraction(x)) if rounding == "rne" else int(Fraction(x))
            wanted = clamp(whole, to) if overflow == "sat" else wrap(whole, to)
        assert y == wanted, x


@pytest.mark.parametrize("to", FLOATS)
@pytest.mark.parametrize("kind", INTEGERS)
def test_integer_to_float_is_rounded_once(kind: Type, to: Type) -> None:
    # 2**24 + 2**k + 1 and the like would differ if rounded to float32 on the way to float16.
    ties = [65519, 65520, 2049, 2051, 4098, 4097, 16777217, 16777219, 33554435, 2147483583]
    info = np.iinfo(numpy_type(kind))
    extra = np.array([s * t for t in ties for s in (1, -1) if t <= info.max], numpy_type(kind))
    a = np.concatenate([specials(kind), extra, random_bits(kind, 300, 5)])
    got = cast(a, to).tolist()
    assert got == [nearest(Fraction(x), numpy_type(to)) for x in a.tolist()]


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("to", FLOATS)
def test_float_to_float(kind: Type, to: Type) -> None:
    a = np.concatenate([specials(kind), random_bits(kind, 400, 6)])
    if kind is Type.F32:
        bits = np.random.default_rng(8).integers(0x32000000, 0x48000000, 400, dtype=np.uint32)
        a = np.concatenate([a, bits.view(np.float32), np.array([65519.99, 65520.0], np.float32)])
    got = cast(a, to)
    finite = np.isfinite(a)
    wanted = [nearest(Fraction(x), numpy_type(to)) for x in a[finite].tolist()]
    assert got[finite].tolist() == wanted
    assert (np.signbit(got) == np.signbit(a))[~np.isnan(a)].all()
    np.testing.assert_array_equal(got[np.isinf(a)], a[np.isinf(a)].astype(np.float64))
    assert set(bits_of(got[np.isnan(a)])) == {CANONICAL[to]}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize(("overflow", "fit"), [("sat", clamp), ("wrap", wrap)])
def test_integer_to_integer(
    kind: Type, to: Type, overflow: str, fit: Callable[[int, Type], int]
) -> None:
    a = np.concatenate([specials(kind), random_bits(kind, 200, 9)])
    assert cast(a, to, overflow=overflow).tolist() == [fit(x, to) for x in a.tolist()]


def lanes_of(*streams: Any) -> np.ndarray:
    """Bytes [lanes, streams], from the bytes of each stream."""
    return np.array(streams, np.uint8).T


@settings(deadline=None)
@given(st.integers(-9000, 9000), st.integers(0, 30), st.integers(0, 30), st.sampled_from([1, 2, 4]))
def test_shift(amount: int, low: int, high: int, width: int) -> None:
    a = np.arange(1, width * 16 + 1, dtype=np.uint8).reshape(16, width)
    got = EXECUTES["shift"](a=a, amount=amount, low=low, high=high)
    for i, lane in enumerate(got.tolist()):
        kept = low <= i < high and 0 <= i - amount < 16
        assert lane == (a[i - amount].tolist() if kept else [0] * width)


def test_broadcast() -> None:
    a = np.arange(32, dtype=np.uint8).reshape(16, 2)
    assert EXECUTES["broadcast"](a=a, lane=5).tolist() == [[10, 11]] * 16


def test_permute_has_a_16_bit_map_and_zero_beyond_the_lanes() -> None:
    a = np.arange(10, 42, dtype=np.uint8).reshape(16, 2)
    index = [15, 0, 3, 3, 16, 255, 256, 65535, 1, 2, 4, 5, 6, 7, 8, 9]
    bits = lanes_of([i % 256 for i in index], [i // 256 for i in index])
    got = EXECUTES["permute"](a=a, map=bits)
    assert got.tolist() == [a[i].tolist() if i < 16 else [0, 0] for i in index]


def test_permute_reads_both_bytes_of_the_map() -> None:
    a = lanes_of([i % 251 for i in range(600)])
    index = np.random.default_rng(4).integers(0, 700, 600)
    got = EXECUTES["permute"](a=a, map=lanes_of(index % 256, index // 256))
    assert got[:, 0].tolist() == [i % 251 if i < 600 else 0 for i in index.tolist()]


def test_transpose_swaps_stream_and_lane_in_every_superlane() -> None:
    a = np.random.default_rng(0).integers(0, 256, (20, 4), dtype=np.uint8)
    got = EXECUTES["transpose"](a=a, per_superlane=4)
    for superlane in range(5):
        for lane in range(4):
            for stream in range(4):
                assert got[4 * superlane + lane, stream] == a[4 * superlane + stream, lane]


def test_distribute_stays_in_the_superlane() -> None:
    a = lanes_of(list(range(16)))
    index = lanes_of([3, 3, 0, 4] * 3 + [1, 255, 2, 0])
    got = EXECUTES["distribute"](a=a, map=index, per_superlane=4)
    assert got[:, 0].tolist() == [3, 3, 0, 0, 7, 7, 4, 0, 11, 11, 8, 0, 13, 0, 14, 12]


SXM: dict[str, dict[str, Any]] = {
    "shift": {"amount": 3, "low": 1, "high": 9},
    "broadcast": {"lane": 7},
    "permute": {},
    "transpose": {"per_superlane": 4},
    "distribute": {"per_superlane": 4},
}
MAP_STREAMS = {"permute": 2, "distribute": 1}


def test_every_row_of_the_sxm_is_tried_in_batches() -> None:
    assert set(SXM) == {row.name for row in TABLE if row.unit in SXM_UNITS}


@pytest.mark.parametrize("name", SXM)
def test_sxm_takes_leading_axes(name: str) -> None:
    """A batch gives what its vectors give one by one, with maps for each or one for all."""
    generator = np.random.default_rng(11)
    width = {"transpose": 4, "distribute": 1}.get(name, 2)
    a = generator.integers(0, 256, (3, 2, 16, width), dtype=np.uint8)
    streams = MAP_STREAMS.get(name)
    maps = [{}]
    if streams:
        # Mostly within the lanes, some beyond, also by the high byte alone.
        table = generator.integers(0, 18, (3, 2, 16, streams), dtype=np.uint8)
        table[..., 1:] = generator.random((3, 2, 16, streams - 1)) < 0.1
        maps = [{"map": table}, {"map": table[1, 0]}, {"map": table[:, :1]}]
    for found in maps:
        got = EXECUTES[name](a=a, **found, **SXM[name])
        assert got.shape == a.shape
        for i, j in np.ndindex(3, 2):
            one = {key: np.broadcast_to(m, (3, 2, *m.shape[-2:]))[i, j] for key, m in found.items()}
            wanted = EXECUTES[name](a=a[i, j], **one, **SXM[name])
            assert got[i, j].tolist() == wanted.tolist()


@pytest.mark.parametrize("kind", Type)
@pytest.mark.parametrize("name", BINARY)
def test_vxm_operands_broadcast(name: str, kind: Type) -> None:
    """[batch, rows, lanes] with [rows, lanes], [1, lanes] or one element; nothing is changed."""
    a = np.concatenate([specials(kind), random_bits(kind, 60, 20)])[:60].reshape(3, 4, 5)
    for b in (a[1], a[2, 3:], a[0, 0, :1], a[0, 0, 0:1].reshape(())):
        before = a.copy(), b.copy()
        got = EXECUTES[name](a=a, b=b)
        spread = np.ascontiguousarray(np.broadcast_to(b, a.shape))
        flat = EXECUTES[name](a=a.ravel(), b=spread.ravel())
        assert got.shape == a.shape
        assert got.tobytes() == flat.tobytes()
        assert (a.tobytes(), b.tobytes()) == tuple(x.tobytes() for x in before)


def test_long_arrays_are_computed_as_their_pieces() -> None:
    """Long computations go block by block; no element may get lost between blocks."""
    for kind in Type:
        a = random_bits(kind, 3 * 32768 + 7, 21).reshape(1, -1, 1)
        operations = [partial(cast, to=to) for to in Type]
        if kind is Type.F32:
            operations += [partial(EXECUTES[name]) for name in ("exp2", "tanh", "rsqrt")]
        for operation in operations:
            pieces = [operation(a=a[:, i : i + 5000]).tobytes() for i in range(0, a.size, 5000)]
            whole = operation(a=a)
            assert whole.shape == a.shape
            assert whole.tobytes() == b"".join(pieces)


@pytest.mark.parametrize("kind", Type)
def test_operands_need_not_lie_in_order(kind: Type) -> None:
    """Transposed and strided operands give the same as copies of them."""
    a = np.concatenate([specials(kind), random_bits(kind, 80, 22)])[:80].reshape(8, 10).T[::2]
    for name in (*BINARY, "mov", "neg", "abs"):
        b = {"b": a[:, ::-1]} if name in BINARY else {}
        copies = {key: value.copy() for key, value in {"a": a, **b}.items()}
        assert EXECUTES[name](a=a, **b).tobytes() == EXECUTES[name](**copies).tobytes()
    for to in Type:
        assert cast(a, to).tobytes() == cast(a.copy(), to).tobytes()


@pytest.mark.parametrize("kind", Type)
def test_canonical_copies_only_what_holds_a_nan(kind: Type) -> None:
    a = specials(kind)
    clean = a[a == a]
    assert canonical(clean) is clean
    if kind in FLOATS:
        raw = a.copy().view(UNSIGNED[kind.bytes])
        raw[-1] |= 1
        assert bits_of(canonical(raw.view(a.dtype))) == [*bits_of(a)[:-1], CANONICAL[kind]]
