"""The comparison with a reference: tolerances, units in the last place, what is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clockstep import UsageError
from clockstep.compare import Comparison, compare


def versus(ours: Any, reference: Any, dtype: str = "float32", **tolerance: float) -> Comparison:
    return compare(
        np.array(ours, dtype),
        np.array(reference, dtype),
        tolerance.get("rtol"),
        tolerance.get("atol"),
        "y",
    )


def test_equal_arrays() -> None:
    assert versus([1.0, -2.0], [1.0, -2.0]) == Comparison(0.0, 0.0, 0, 0, 2)


def test_the_default_tolerance_is_relative_to_the_range() -> None:
    assert versus([100.0, 0.4], [100.0, 0.0]).mismatched == 0
    assert versus([100.0, 0.6], [100.0, 0.0]).mismatched == 1


def test_explicit_tolerances() -> None:
    assert versus([100.0, 0.4], [100.0, 0.0], atol=0.1).mismatched == 1
    assert versus([101.0], [100.0], rtol=0.001, atol=0.0).mismatched == 1
    assert versus([101.0], [100.0], rtol=0.02, atol=0.0).mismatched == 0


def test_integers_match_only_exactly() -> None:
    assert versus([127], [126], "int8").mismatched == 1
    assert versus([127], [126], "int8", atol=1).mismatched == 0
    assert versus([-128], [127], "int8") == Comparison(255.0, 255 / 127, 255, 1, 1)
    assert versus([2**62 + 1], [2**62], "int64").mismatched == 1


def test_booleans() -> None:
    assert versus([True, False], [True, True], "bool").mismatched == 1


def test_what_is_not_finite_matches_itself_only() -> None:
    nan, inf = float("nan"), float("inf")
    assert versus([nan, inf, -inf], [nan, inf, -inf]).mismatched == 0
    assert versus([nan, inf, 1.0], [1.0, -inf, inf]).mismatched == 3
    assert versus([nan, inf], [1.0, 1.0]).max_abs == 0.0


def test_units_in_the_last_place() -> None:
    one = np.float32(1)
    assert versus([np.nextafter(one, np.float32(2))], [one]).max_ulp == 1
    assert versus([-0.0], [0.0]).max_ulp == 0
    smallest = np.finfo(np.float32).smallest_subnormal
    assert versus([-smallest], [smallest]).max_ulp == 2
    assert versus([1.0], [1.0009765625], "float16").max_ulp == 1


def test_an_empty_output() -> None:
    assert versus([], []) == Comparison(0.0, 0.0, 0, 0, 0)


def test_other_shapes_and_types_are_refused() -> None:
    with pytest.raises(UsageError, match=r"float32\[1\] here and float32\[2\]"):
        versus([1.0], [1.0, 2.0])
    with pytest.raises(UsageError):
        compare(np.zeros(1, np.int8), np.zeros(1, np.uint8), None, None, "y")


def test_worst_of_several_outputs() -> None:
    parts = [Comparison(1.0, 0.5, 3, 1, 10), Comparison(0.5, 2.0, 9, 0, 5)]
    assert Comparison.worst(parts) == Comparison(1.0, 2.0, 9, 1, 15)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_steps_of_nextafter_are_counted(values: list[float]) -> None:
    start: NDArray[Any] = np.array(values, np.float32)
    end = start
    for _ in range(3):
        with np.errstate(over="ignore"):
            end = np.nextafter(end, np.float32(np.inf))
    if np.isfinite(end).all():
        assert compare(end, start, None, None, "y").max_ulp == 3
