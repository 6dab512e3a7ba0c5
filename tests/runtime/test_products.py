"""Block products of int8 against exact integers, who computes them, and threads of a BLAS."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_isa.diagnostics import UsageError
from clockstep_runtime.dot import Int8Matrix
from clockstep_runtime.products import (
    HalfWeights,
    Int8Weights,
    half_product,
    int8_provider,
    int8_provider_available,
    int8_sum,
    provider,
)
from tests.support.products import KINDS, half, int8


@pytest.fixture(params=["none", "onnxruntime"])
def each_provider(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run with float32, then with onnxruntime where it is exact."""
    name = str(request.param)
    if name == "onnxruntime" and not int8_provider_available():
        pytest.skip("onnxruntime gives no exact int8 products here")
    with int8_provider(name):
        yield name


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
