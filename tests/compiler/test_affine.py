"""Requantization takes four operations where f32 is good enough, and more where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_compiler.affine import quantized_sum
from clockstep_compiler.expr import Const, Expr, Leaf, add, cast, flatten, mul
from clockstep_compiler.steps import Value
from clockstep_isa.table import Type


def _requantized(scale: float, bias: int, shift: int) -> list[str]:
    """The operations of round((acc + bias) * scale) + shift, clamped to a byte."""
    acc: Expr = Leaf(Value(0, "acc", 4, 8, Type.I32, "step"), None)
    biased = add(acc, np.arange(8) + bias)
    quotient = mul(cast(biased, Type.F32), scale)
    found = quantized_sum(quotient, np.asarray(shift), Type.I8)
    assert found is not None
    assert not any(isinstance(s, Const) and s.out == Type.I8 for s in flatten(found)[1])
    return [op.name for op in flatten(found)[0].ops]


ONE_SUM = ["cast", "muli", "add", "cast"]


@pytest.mark.parametrize("shift", [-128, -13, 7])
@pytest.mark.parametrize("scale", [0.0031415926, 0.00271828, 0.01012357])
def test_bias_and_zero_point_are_one_constant(scale: float, shift: int) -> None:
    assert _requantized(scale, 5000, shift) == ONE_SUM


@pytest.mark.parametrize("scale", [2.0**-9, 3 * 2.0**-8, 1 / 6, 5 / 1234])
def test_ties_are_seen_before_an_odd_zero_point_is_added(scale: float) -> None:
    """A multiple of these scales lies just between two steps."""
    assert _requantized(scale, 100, -13) == ["add", "cast", "muli", "cast", "add_sati", "cast"]


@pytest.mark.parametrize("scale", [2.0**-9, 0.0031415926])
def test_a_large_constant_is_added_exactly(scale: float) -> None:
    """Of 4,000 steps f32 keeps too few bits."""
    bias = round(4000 / scale)
    assert _requantized(scale, bias, -128) == ["add", "cast", "muli", "addi", "cast"]


def test_no_operation_is_saved_without_a_zero_point() -> None:
    assert _requantized(0.0031415926, 5000, 0) == ["add", "cast", "muli", "cast"]
