"""Block products against exact arithmetic: integers for int8, rationals for fp16."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_isa.diagnostics import UsageError
from clockstep_runtime.dot import HalfMatrix, Int8Matrix
from clockstep_runtime.products import (
    HalfWeights,
    Int8Weights,
    half_product,
    int8_provider,
    int8_provider_available,
    int8_sum,
    provider,
)
from clockstep_runtime.products import half as half_module
from tests.support.rounding import nearest

SMALLEST = 2.0**-24
LARGEST = 65504.0
KINDS = ("normal", "wide", "integers", "tiny", "cancelling", "relu", "special")


@pytest.fixture(params=["none", "onnxruntime"])
def each_provider(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run with float32, then with onnxruntime where it is exact."""
    name = str(request.param)
    if name == "onnxruntime" and not int8_provider_available():
        pytest.skip("onnxruntime gives no exact int8 products here")
    with int8_provider(name):
        yield name


def int8(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.integers(-128, 128, shape).astype(np.int8)


def half(generator: np.random.Generator, kind: str, *shape: int) -> np.ndarray:
    """fp16 numbers of one kind; each kind strains another part of the arithmetic."""
    values = generator.standard_normal(shape)
    if kind == "wide":
        bits = generator.integers(0, 0x7C00, shape).astype(np.uint16)
        return (bits | (generator.integers(0, 2, shape) << 15).astype(np.uint16)).view(np.float16)
    if kind == "special":
        values = np.where(generator.random(shape) < 0.01, np.inf, values)
        values = np.where(generator.random(shape) < 0.01, -np.inf, values)
        values = np.where(generator.random(shape) < 0.005, np.nan, values)
        return np.where(generator.random(shape) < 0.1, 0.0, values).astype(np.float16)
    if kind == "cancelling":
        first = values[..., : (shape[-1] + 1) // 2]
        return np.concatenate([first, -first], axis=-1)[..., : shape[-1]].astype(np.float16)
    scaled = {
        "normal": values,
        "integers": np.round(values * 2),
        "tiny": values * 2.0**-20,
        "relu": np.maximum(values, 0),
    }
    return scaled[kind].astype(np.float16)


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


def same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


# int8


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 9),
    columns=st.integers(1, 9),
    depths=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("name", ["none", "onnxruntime"])
def test_int8_is_the_interpreters_sum(
    name: str, n: int, columns: int, depths: list[tuple[int, int]], seed: int
) -> None:
    if name == "onnxruntime" and not int8_provider_available():
        pytest.skip("onnxruntime gives no exact int8 products here")
    generator = np.random.default_rng(seed)
    pairs = [(int8(generator, n, r), int8(generator, columns, r + more)) for r, more in depths]
    with int8_provider(name):
        got = int8_sum([(a, Int8Weights(w)) for a, w in pairs])
    for i in range(n):
        want = sum(Int8Matrix(w.T).product(a[i], a.shape[1]).astype(int) for a, w in pairs)
        np.testing.assert_array_equal(got[i], want)


@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("weight", [-128, 127])
def test_int8_extremes_in_terms_longer_than_float32_is_exact(
    each_provider: str, value: int, weight: int
) -> None:
    """Odd sums above 2**24: adding one term more in float32 would lose bits."""
    depths = (320, 4096, 1, 1025, 320, 320, 320, 320)
    ones = Int8Weights(np.ones((5, 1), np.int8)), np.ones((3, 1), np.int8)
    terms = [
        (np.full((3, r), value, np.int8), Int8Weights(np.full((5, r), weight, np.int8)))
        for r in depths
    ]
    got = int8_sum([*terms, (ones[1], ones[0])])
    assert got.dtype == np.int32
    assert (got == sum(depths) * value * weight + 1).all(), each_provider


def test_int8_terms_that_float32_must_not_join() -> None:
    """Each term is exact alone; joined, the 1 would be lost."""
    deep = np.full((2, 1024), -128, np.int8)
    one = np.ones((2, 1), np.int8)
    with int8_provider("none"):
        got = int8_sum([(deep, Int8Weights(deep)), (one, Int8Weights(one))])
    assert (got == 2**24 + 1).all()


def test_int8_sums_of_one_term_that_float32_cannot_hold(each_provider: str) -> None:
    """Uneven values all of one sign: whatever the order, partial sums pass 2**24."""
    generator = np.random.default_rng(2)
    a, w = (generator.integers(90, 128, (size, 4096)).astype(np.int8) for size in (3, 40))
    want = a.astype(int) @ w.astype(int).T
    np.testing.assert_array_equal(int8_sum([(a, Int8Weights(w))]), want, each_provider)


def test_int8_wraps_as_additions_do(each_provider: str) -> None:
    deep = np.full((1, 8192), -128, np.int8)
    weights = Int8Weights(deep)
    got = int8_sum([(deep, weights)] * 17)
    assert got.tolist() == [[17 * 2**27 - 2**32]], each_provider


def test_int8_rows_beyond_the_activation_do_not_count(each_provider: str) -> None:
    generator = np.random.default_rng(3)
    a, w = int8(generator, 6, 40), int8(generator, 7, 64)
    want = a.astype(int) @ w[:, :40].astype(int).T
    np.testing.assert_array_equal(int8_sum([(a, Int8Weights(w))]), want, each_provider)


def test_int8_of_zeros_and_views(each_provider: str) -> None:
    generator = np.random.default_rng(4)
    a, w = int8(generator, 40, 12).T[::2], int8(generator, 40, 8).T
    zero = Int8Weights(np.zeros((8, 40), np.int8))
    want = a.astype(int) @ w.astype(int).T
    got = int8_sum([(a, zero), (a, Int8Weights(w)), (a, zero)])
    np.testing.assert_array_equal(got, want, each_provider)


def test_int8_blocks_of_rows_change_nothing(
    each_provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(5)
    terms = [(int8(generator, 23, 16), Int8Weights(int8(generator, 9, 16))) for _ in range(3)]
    whole = int8_sum(terms)
    monkeypatch.setattr("clockstep_runtime.products.int8.BLOCK_ELEMENTS", 64)
    np.testing.assert_array_equal(int8_sum(terms), whole, each_provider)


def test_int8_matrices_of_a_batch(each_provider: str) -> None:
    generator = np.random.default_rng(6)
    a, w, shared = int8(generator, 5, 3, 10), int8(generator, 3, 4, 12), int8(generator, 4, 10)
    own = np.einsum("nbr,bcr->nbc", a.astype(int), w[:, :, :10].astype(int))
    common = np.einsum("nbr,cr->nbc", a.astype(int), shared.astype(int))
    cases = [
        ([(a, Int8Weights(w))], own),
        ([(a, Int8Weights(shared))], common),
        ([(a, Int8Weights(w)), (a, Int8Weights(shared))], own + common),
    ]
    for terms, want in cases:
        np.testing.assert_array_equal(int8_sum(terms), want, each_provider)


@pytest.mark.parametrize("n", [0, 2])
def test_products_of_no_rows(each_provider: str, n: int) -> None:
    bytes_ = int8_sum([(np.zeros((n, 5), np.int8), Int8Weights(np.ones((4, 6), np.int8)))])
    halves = half_product(np.zeros((n, 5), np.float16), HalfWeights(np.ones((4, 6), np.float16)))
    assert bytes_.tolist() == halves.tolist() == [[0] * 4] * n, each_provider


# Providers


def saturating(activation: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What MatMulInteger gives without VNNI: pairs of products saturate in int16."""
    n, k = activation.shape
    a = np.zeros((n, k + k % 2), np.int64)
    w = np.zeros((k + k % 2, weights.shape[1]), np.int64)
    a[:, :k], w[:k] = activation, weights
    total = np.zeros((n, weights.shape[1]), np.int64)
    for i in range(0, a.shape[1], 2):
        pair = a[:, i : i + 2] @ w[i : i + 2]
        total += np.clip(pair, -(2**15), 2**15 - 1)
    return (total - 128 * w.sum(axis=0)).astype(np.int32)


def exact(activation: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return ((activation.astype(float) - 128) @ weights.astype(float)).astype(np.int32)


def test_the_self_test_refuses_saturation_and_accepts_the_truth() -> None:
    generator = np.random.default_rng(7)
    mild = np.uint8(128) + generator.integers(0, 50, (4, 6)).astype(np.uint8)
    small = generator.integers(-50, 50, (6, 3)).astype(np.int8)
    np.testing.assert_array_equal(saturating(mild, small), exact(mild, small))
    assert not provider.is_exact(saturating)
    assert provider.is_exact(exact)


@pytest.fixture
def fresh_provider() -> Iterator[None]:
    """Forget what onnxruntime proved, before and after."""
    provider._onnxruntime.cache_clear()
    yield
    provider._onnxruntime.cache_clear()


@pytest.mark.usefixtures("fresh_provider")
@pytest.mark.parametrize("fault", ["inexact", "missing", "broken"])
def test_a_provider_that_fails_is_never_used(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "inexact":
        monkeypatch.setattr(provider, "_matmul_integer", lambda: saturating)
    elif fault == "missing":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        monkeypatch.setattr(provider, "_matmul_integer", lambda: 1 / 0)
    monkeypatch.setattr(provider, "LEAST_WORK", 1)
    monkeypatch.setattr(provider, "LOADING_WORK", 1)
    high = np.full((2, 64), 127, np.int8)
    term = (high, Int8Weights(high))
    with int8_provider("auto"):
        assert (int8_sum([term]) == 64 * 127**2).all()
    with int8_provider("onnxruntime"), pytest.raises(UsageError, match="provider-missing"):
        int8_sum([term])


def test_auto_goes_by_the_size_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_onnxruntime", lambda: exact)
    monkeypatch.setattr(provider._Seen, "work", 0)
    with int8_provider("auto"):
        assert provider.chosen_product(provider.LOADING_WORK - 1) is None
        assert provider.chosen_product(provider.LEAST_WORK - 1) is None
        assert provider.chosen_product(provider.LEAST_WORK) is exact
        with int8_provider("none"):
            assert provider.chosen_product(provider.LOADING_WORK) is None
    with int8_provider("onnxruntime"):
        assert provider.chosen_product(1) is exact


def test_the_environment_names_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_onnxruntime", lambda: exact)
    monkeypatch.setenv(provider.ENVIRONMENT, "onnxruntime")
    assert provider.chosen_product(1) is exact
    monkeypatch.setenv(provider.ENVIRONMENT, "none")
    assert provider.chosen_product(provider.LOADING_WORK) is None
    monkeypatch.setenv(provider.ENVIRONMENT, "cuda")
    with pytest.raises(UsageError, match="cuda"):
        provider.chosen_product(1)
    with pytest.raises(UsageError, match="auto, none, onnxruntime"), int8_provider("fast"):
        pass


# fp16


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
    vectors, matrix = half_module._Vectors(ones), half_module._Matrix(ones)
    result, sums = np.ones((1, 1), np.float32), np.array([[-0.0]])
    half_module._settle(result, result > 0, sums, vectors, matrix)
    same_bits(result, np.zeros((1, 1), np.float32))
    half_module._round(result, sums, vectors, matrix)
    same_bits(result, np.zeros((1, 1), np.float32))
    weights = HalfWeights(ones)
    monkeypatch.setattr(np, "matmul", lambda *_: sums)
    same_bits(half_product(ones, weights), np.zeros((1, 1), np.float32))


# Threads


def digest() -> str:
    """A hash over products of every kind, large enough for a BLAS to use its threads."""
    generator = np.random.default_rng(13)
    total = hashlib.sha256()
    for kind in KINDS:
        a, w = half(generator, kind, 130, 320), half(generator, kind, 96, 320)
        total.update(half_product(a, HalfWeights(w)).tobytes())
    terms = [(int8(generator, 130, 320), Int8Weights(int8(generator, 96, 320)))] * 7
    with int8_provider("none"):
        total.update(int8_sum(terms).tobytes())
    return total.hexdigest()


def test_blas_threads_change_no_bit() -> None:
    code = "from tests.runtime.test_products import digest; print(digest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert digests == {digest() + "\n"}
