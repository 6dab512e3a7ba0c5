"""Dot products against rationals: exact sums, one rounding, whatever the values."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_runtime.dot import HalfMatrix, Int8Matrix
from tests.support.rounding import nearest

FINITE = st.floats(width=16, allow_nan=False, allow_infinity=False)


def exact(a: np.ndarray, w: np.ndarray) -> list[float]:
    vector = [Fraction(v) for v in a.tolist()]
    columns = [[Fraction(v) for v in column] for column in w.T.tolist()]
    sums = [sum((x * y for x, y in zip(vector, c, strict=True)), Fraction(0)) for c in columns]
    return [nearest(total, np.float32) for total in sums]


@pytest.mark.parametrize("lanes", [1, 16, 320, 1500, 4096])
def test_int8_extremes_are_exact(lanes: int) -> None:
    w = np.full((lanes, 3), -128, np.int8)
    w[:, 1] = 127
    w[:, 2] = np.arange(lanes) % 256 - 128
    for value in (-128, 127, 1):
        a = np.full(lanes, value, np.int8)
        got = Int8Matrix(w).product(a, lanes)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, a.astype(np.int64) @ w.astype(np.int64))


def test_int8_takes_only_its_rows() -> None:
    generator = np.random.default_rng(0)
    a, w = generator.integers(-128, 128, 16), generator.integers(-128, 128, (16, 16))
    for rows in (1, 7, 16):
        got = Int8Matrix(w.astype(np.int8)).product(a.astype(np.int8), rows)
        np.testing.assert_array_equal(got, a[:rows] @ w[:rows])


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=12))
def test_fp16_sum_is_rounded_once(pairs: list[tuple[float, float]]) -> None:
    a = np.array([p[0] for p in pairs], np.float16)
    w = np.array([[p[1]] for p in pairs], np.float16)
    assert HalfMatrix(w).product(a, len(a)).tolist() == exact(a, w)


@pytest.mark.parametrize("scale", [-24, -14, -3, 0, 6, 15])
@pytest.mark.parametrize("lanes", [16, 320])
def test_fp16_random(scale: int, lanes: int) -> None:
    generator = np.random.default_rng(scale + 99)
    a = (generator.standard_normal(lanes) * 2.0**scale).clip(-65504, 65504).astype(np.float16)
    w = generator.standard_normal((lanes, 8)).astype(np.float16)
    assert HalfMatrix(w).product(a, lanes).tolist() == exact(a, w)


def test_fp16_widest_range_and_longest_sum() -> None:
    """4096 lanes of the largest magnitude, and of largest beside least."""
    lanes = 4096
    w = np.full((lanes, 4), 65504, np.float16)
    w[:, 1] = -65504
    w[1::2, 2] = -65504
    w[:, 3] = 2.0**-24
    a = np.full(lanes, 65504, np.float16)
    assert HalfMatrix(w).product(a, lanes).tolist() == exact(a, w)
    a[-1] = 2.0**-24
    assert HalfMatrix(w).product(a, lanes).tolist() == exact(a, w)


def power(k: int) -> tuple[float, float]:
    """2**k as a product of two fp16 numbers."""
    return 2.0 ** (k // 2), 2.0 ** (k - k // 2)


def near_ties() -> list[list[tuple[float, float]]]:
    """Sums at, just below and just above the middle of two float32 numbers, of any size."""
    cases = []
    for top in (15, 14, 8, 1, 0, -1):
        tie = [power(2 * top - 24)]
        odd = [power(2 * top - 23)]
        for nudge in ([], [(2.0**-24, 2.0**-24)], [(-(2.0**-24), 2.0**-24)]):
            for sign in (1.0, -1.0):
                pairs = [power(2 * top), *tie, *nudge]
                cases.append([(sign * x, y) for x, y in pairs])
                cases.append([(sign * x, y) for x, y in pairs + odd])
    return cases


@pytest.mark.parametrize("pairs", near_ties())
def test_fp16_near_ties(pairs: list[tuple[float, float]]) -> None:
    a = np.array([p[0] for p in pairs], np.float16)
    w = np.array([[p[1]] for p in pairs], np.float16)
    assert a.astype(float).tolist() == [p[0] for p in pairs]
    assert w[:, 0].astype(float).tolist() == [p[1] for p in pairs]
    assert HalfMatrix(w).product(a, len(a)).tolist() == exact(a, w)


def test_near_ties_do_tell_one_rounding_from_two() -> None:
    """At least one case differs if the sum is first rounded to float64: the test has teeth."""
    differs = 0
    for pairs in near_ties():
        twice = np.float32(np.sum([x * y for x, y in pairs]))
        total = sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction(0))
        differs += float(twice) != nearest(total, np.float32)
    assert differs


def test_order_of_rows_changes_no_bit() -> None:
    generator = np.random.default_rng(5)
    a = generator.standard_normal(320).astype(np.float16)
    w = generator.standard_normal((320, 40)).astype(np.float16)
    first = HalfMatrix(w).product(a, 320)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(320)
        again = HalfMatrix(w[order]).product(a[order], 320)
        assert again.tobytes() == first.tobytes()


def test_fp16_specials() -> None:
    inf, nan = np.inf, np.nan
    columns = [
        ([1.0, inf], inf),
        ([1.0, -inf], -inf),
        ([inf, -inf], nan),
        ([nan, 1.0], nan),
        ([1.0, 2.0], 3.0),
        ([-1.0, 1.0], 0.0),
    ]
    w = np.array([c for c, _ in columns], np.float16).T
    got = HalfMatrix(w).product(np.array([1, 1], np.float16), 2)
    np.testing.assert_array_equal(got, np.array([r for _, r in columns], np.float32))
    assert not np.signbit(got[-1])
    zero_times_infinity = HalfMatrix(np.array([[inf]], np.float16))
    assert np.isnan(zero_times_infinity.product(np.array([0], np.float16), 1)[0])
    infinite_input = HalfMatrix(np.array([[-2.0, 0.0]], np.float16))
    got = infinite_input.product(np.array([inf], np.float16), 1)
    assert got[0] == -inf
    assert np.isnan(got[1])


def test_special_values_in_unused_rows_do_not_count() -> None:
    w = np.array([[2.0], [np.nan]], np.float16)
    assert HalfMatrix(w).product(np.array([3.0, np.inf], np.float16), 1).tolist() == [6.0]


def test_an_exact_zero_is_plus_zero() -> None:
    w = np.array([[-0.0, 5.0]], np.float16)
    got = HalfMatrix(w).product(np.array([0.0], np.float16), 1)
    assert got.view(np.uint32).tolist() == [0, 0]
