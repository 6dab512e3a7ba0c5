"""Block products of fp16 against exact arithmetic: rationals rounded once."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_runtime.dot import HalfMatrix
from clockstep_runtime.products import HalfWeights, half_product
from clockstep_runtime.products import half as half_module
from tests.support.products import KINDS, half, same_bits
from tests.support.rounding import nearest

SMALLEST = 2.0**-24
LARGEST = 65504.0


def halves_by_the_interpreter(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The reference interpreter's product, row by row."""
    matrix = HalfMatrix(np.ascontiguousarray(w[:, : a.shape[1]].T))
    return np.stack([matrix.product(row, a.shape[1]) for row in a])


def rational(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The exact sums rounded by the book."""
    rows = [[Fraction(v) for v in row] for row in a.tolist()]
    columns = [[Fraction(v) for v in column] for column in w.tolist()]
    sums = [
        [nearest(sum((x * y for x, y in zip(r, c, strict=True)), Fraction(0)), np.float32)
         for c in columns]
        for r in rows
    ]  # fmt: skip
    return np.array(sums, np.float32)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 12),
    columns=st.integers(1, 12),
    r=st.integers(1, 48),
    more=st.integers(0, 4),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_fp16_is_the_interpreters_product(
    n: int, columns: int, r: int, more: int, kinds: tuple[str, str], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    a, w = half(generator, kinds[0], n, r), half(generator, kinds[1], columns, r + more)
    same_bits(half_product(a, HalfWeights(w)), halves_by_the_interpreter(a, w))


@pytest.mark.parametrize("kinds", [("normal", "normal"), ("wide", "wide"), ("relu", "tiny")])
@pytest.mark.parametrize("rows", [320, 2000])
def test_fp16_long_sums_against_rationals(rows: int, kinds: tuple[str, str]) -> None:
    generator = np.random.default_rng(rows)
    a, w = half(generator, kinds[0], 3, rows), half(generator, kinds[1], 4, rows)
    same_bits(half_product(a, HalfWeights(w)), rational(a, w))


def factors(value: Fraction) -> tuple[float, float]:
    """A power of two between 2**-48 and 2**30 as a product of two fp16 numbers."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return 2.0 ** (exponent // 2), 2.0 ** (exponent - exponent // 2)


def near_ties() -> Iterator[list[tuple[float, float]]]:
    """Factors of sums 2**k + j units + half a unit of float32 + a nudge of 0 or 2**-48, signed."""
    least = (SMALLEST, SMALLEST)
    for top in (28, 20, 16, 15, 14, 13, 8, 5, 4, 0, -4, -20):
        unit = Fraction(2) ** (top - 23)
        for steps in (0, 1):
            exact_half = [factors(Fraction(2) ** top), factors(unit / 2)] + [factors(unit)] * steps
            for nudge in ([], [least], [(-least[0], least[1])]):
                for sign in (1.0, -1.0):
                    yield [(sign * x, y) for x, y in exact_half + nudge]


def padded(cases: list[list[tuple[float, float]]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Case i as row i of the activation and column i of the weights, in scattered lanes."""
    a, w = np.zeros((len(cases), rows), np.float16), np.zeros((len(cases), rows), np.float16)
    generator = np.random.default_rng(8)
    for i, case in enumerate(cases):
        lanes = generator.permutation(rows)[: len(case)]
        a[i, lanes], w[i, lanes] = zip(*case, strict=True)
    return a, w


def test_narrow_weights() -> None:
    """The same bits where the float64 of weights is made anew for each product."""
    generator = np.random.default_rng(8)
    w = generator.standard_normal((40, 70)).astype(np.float16)
    w[3, 5], w[7, 1], w[9] = np.inf, np.nan, 0
    weights = HalfWeights(w, narrow=True)
    for scale in (1e-4, 1, 300):
        a = (scale * generator.standard_normal((9, 70))).astype(np.float16)
        a[2, 4] = -np.inf
        same_bits(half_product(a, weights), half_product(a, HalfWeights(w)))


def test_fp16_near_ties() -> None:
    cases = list(near_ties())
    a, w = padded(cases, 24)
    assert (np.count_nonzero(a, axis=1) == [len(case) for case in cases]).all()
    got = half_product(a, HalfWeights(w))
    same_bits(got, rational(a, w))
    # Alone, no case is settled because another of its row or column had to be.
    alone = [half_product(a[[i]], HalfWeights(w[[i]]))[0] for i in range(len(cases))]
    same_bits(np.concatenate(alone), np.diagonal(got))
    # The cases have teeth: rounding twice, to float64 and then to float32, gives other numbers.
    twice = (a.astype(np.float64) @ w.astype(np.float64).T).astype(np.float32)
    assert np.diagonal(twice != got).any()


def test_fp16_near_ties_hidden_by_cancellation() -> None:
    """Large terms that cancel leave float64 sums wrong by more than the distance to a tie."""
    large = [(LARGEST, LARGEST), (-LARGEST, LARGEST), (LARGEST, 3.0), (-3.0, LARGEST)]
    a, w = padded([large + case for case in near_ties()], 64)
    got = [half_product(a[[i]], HalfWeights(w[[i]]))[0] for i in range(len(a))]
    want = [rational(a[[i]], w[[i]])[0] for i in range(len(a))]
    same_bits(np.concatenate(got), np.concatenate(want))


@pytest.mark.parametrize("rows", [2, 320, 8192])
def test_fp16_range_of_sums(rows: int) -> None:
    """The largest sum, the smallest, and both at once; all are normal float32 numbers."""
    a = np.full((4, rows), LARGEST, np.float16)
    w = a.copy()
    a[1], a[2, 1:], a[3, 0] = SMALLEST, SMALLEST, -LARGEST
    w[1], w[2, 1:], w[3, 0] = SMALLEST, -SMALLEST, SMALLEST
    same_bits(half_product(a, HalfWeights(w)), rational(a, w))


def test_fp16_exact_zeros_are_plus_zero() -> None:
    generator = np.random.default_rng(9)
    a = half(generator, "cancelling", 5, 16)
    w = np.ones((4, 16), np.float16)
    w[1], w[2] = 0.0, -0.0
    w[3, 1:] = -0.0
    a[0] = -0.0
    a[1] = 0.0
    got = half_product(a, HalfWeights(w))
    same_bits(got[:, :3], np.zeros((5, 3), np.float32))
    same_bits(got[:2], np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    ("pairs", "want"),
    [
        ([(1.0, np.inf), (2.0, 3.0)], np.inf),
        ([(-1.0, np.inf), (2.0, 3.0)], -np.inf),
        ([(np.inf, 1.0), (1.0, -np.inf)], np.nan),
        ([(np.inf, np.inf), (-np.inf, -np.inf)], np.inf),
        ([(-np.inf, np.inf), (1.0, 1.0)], -np.inf),
        ([(np.inf, 0.0), (1.0, 1.0)], np.nan),
        ([(-0.0, -np.inf), (1.0, 1.0)], np.nan),
        ([(np.nan, 0.0), (1.0, 1.0)], np.nan),
        ([(1.0, np.nan), (np.inf, 1.0)], np.nan),
        ([(SMALLEST, -np.inf), (LARGEST, LARGEST)], -np.inf),
    ],
)
def test_fp16_specials(pairs: list[tuple[float, float]], want: float) -> None:
    a = np.array([[p[0] for p in pairs], [1.0, 2.0]], np.float16)
    w = np.array([[p[1] for p in pairs], [3.0, 4.0]], np.float16)
    got = half_product(a, HalfWeights(w))
    assert got.view(np.uint32)[0, 0] == np.float32(want).view(np.uint32)
    assert got[1, 1] == 11.0
    same_bits(got, halves_by_the_interpreter(a, w))


def test_fp16_nan_is_canonical_whatever_its_payload() -> None:
    a = np.array([[0xFDAB], [0x7C01]], np.uint16).view(np.float16)
    got = half_product(a, HalfWeights(np.ones((2, 1), np.float16)))
    assert (got.view(np.uint32) == 0x7FC00000).all()


def test_fp16_rows_beyond_the_activation_do_not_count() -> None:
    w = np.array([[2.0, np.nan, 0.5], [1.0, 3.0, -np.inf]], np.float16)
    a = np.array([[3.0], [0.0]], np.float16)
    same_bits(half_product(a, HalfWeights(w)), np.array([[6, 3], [0, 0]], np.float32))


def test_fp16_matrices_of_a_batch() -> None:
    generator = np.random.default_rng(10)
    a, w = half(generator, "wide", 5, 3, 10), half(generator, "normal", 3, 4, 12)
    own = np.stack([halves_by_the_interpreter(a[:, i], w[i]) for i in range(3)], axis=1)
    same_bits(half_product(a, HalfWeights(w)), own)
    common = np.stack([halves_by_the_interpreter(a[:, i], w[0]) for i in range(3)], axis=1)
    same_bits(half_product(a, HalfWeights(w[0])), common)


@pytest.mark.parametrize("kind", KINDS)
def test_fp16_batches_and_blocks_change_no_bit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row or seven at a time, another order of rows, blocks of any size."""
    generator = np.random.default_rng(11)
    a, w = half(generator, kind, 21, 320), half(generator, kind, 40, 320)
    whole = half_product(a, HalfWeights(w))
    weights = HalfWeights(w)
    for step in (1, 7):
        parts = [half_product(a[i : i + step], weights) for i in range(0, 21, step)]
        same_bits(np.concatenate(parts), whole)
    order = generator.permutation(320)
    same_bits(half_product(a[:, order], HalfWeights(w[:, order])), whole)
    monkeypatch.setattr("clockstep_runtime.products.half.BLOCK_ELEMENTS", 1000)
    same_bits(half_product(a, weights), whole)


def test_few_roundings_of_ordinary_values_are_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the slow path would be the usual one."""
    doubtful: list[int] = []
    again: list[int] = []
    settle, exact_product = half_module._settle, half_module.exact_product

    def counted_settle(result: np.ndarray, open_: np.ndarray, *rest: object) -> None:
        doubtful.append(int(open_.sum()))
        settle(result, open_, *rest)

    def counted_product(a: np.ndarray, w: np.ndarray) -> np.ndarray:
        again.append(len(a) * len(w))
        return exact_product(a, w)

    monkeypatch.setattr(half_module, "_settle", counted_settle)
    monkeypatch.setattr(half_module, "exact_product", counted_product)
    generator = np.random.default_rng(12)
    for kind in ("normal", "relu", "wide"):
        a, w = half(generator, kind, 300, 320), half(generator, "normal", 100, 320)
        half_product(a, HalfWeights(w))
    assert 0 < sum(doubtful) < 3 * 300 * 100 * 1e-2
    assert sum(again) < 3 * 300 * 100 * 1e-2
    again.clear()
    a, w = half(generator, "integers", 100, 320), half(generator, "integers", 100, 320)
    assert not half_product(a, HalfWeights(w)).all()
    diagonal = half(generator, "normal", 320) * np.eye(320, dtype=np.float16)
    half_product(half(generator, "relu", 50, 320), HalfWeights(diagonal))
    assert not again, "sums of integers, and sums of one product, are known to be exact"


@pytest.mark.parametrize("kind", ["normal", "wide", "tiny"])
def test_norms_are_bounds_from_above(kind: str) -> None:
    values = half(np.random.default_rng(14), kind, 20, 100)
    for row, norm in zip(values.tolist(), half_module._Vectors(values).norms.tolist(), strict=True):
        square = sum((Fraction(x) ** 2 for x in row), Fraction(0))
        assert square <= Fraction(norm) ** 2 <= square * Fraction(1 + 2.0**-16)


def test_a_negative_zero_of_a_blas_becomes_plus_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = np.ones((1, 2), np.float16)
    vectors, matrix = half_module._Vectors(ones), HalfWeights(ones).at(0)
    result, sums = np.ones((1, 1), np.float32), np.array([[-0.0]])
    half_module._settle(result, result > 0, sums, vectors, matrix)
    same_bits(result, np.zeros((1, 1), np.float32))
    half_module._round(result, sums, vectors, matrix)
    same_bits(result, np.zeros((1, 1), np.float32))
    weights = HalfWeights(ones)
    monkeypatch.setattr(np, "matmul", lambda *_: sums)
    same_bits(half_product(ones, weights), np.zeros((1, 1), np.float32))
