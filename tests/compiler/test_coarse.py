"""Functions in few operations: their errors, and where they are used."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clockstep_compiler.lowering.elementwise_coarse import coarse_erf, coarse_gelu
from tests.support.expressions import apply

X = np.concatenate([np.linspace(-10, 10, 200_001), [0.0, -0.0, 1e-20, -1e-3]]).astype(np.float32)
ERF = np.array([math.erf(float(x) / math.sqrt(2)) for x in X])


@pytest.mark.parametrize(("stepped", "bound"), [(False, 2.2e-5), (True, 1.6e-4)])
def test_gelu(stepped: bool, bound: float) -> None:
    x = X.astype(np.float64)
    off = np.abs(apply(lambda a: coarse_gelu(a, stepped), X) - x * (1 + ERF) / 2)
    assert (off <= bound * np.abs(x) * (1 + np.abs(ERF)) / 2).all()


def test_gelu_far_away() -> None:
    far = np.array([1e4, -1e4, 65504, -65504, 1e15, -1e15], np.float32)
    for stepped in (False, True):
        have = apply(lambda a, s=stepped: coarse_gelu(a, s), far)  # type: ignore[misc]
        np.testing.assert_array_equal(have, np.maximum(far, 0))


def test_error_function() -> None:
    have = apply(coarse_erf, (X / math.sqrt(2)).astype(np.float32))
    assert np.abs(have - ERF).max() <= 5e-5
    assert (np.signbit(have) == np.signbit(X)).all()
