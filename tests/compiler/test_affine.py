"""Requantized sums: fewer operations, and the same byte for every sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clockstep_compiler.affine import quantized_sum
from clockstep_compiler.expr import Const, Expr, Leaf, Op, cast, mul
from clockstep_compiler.steps import Value
from clockstep_isa.table import Type

_SUMS = np.concatenate([np.arange(-300_000, 300_000), [-(2**31), 2**31 - 1]])


def _made(e: Expr) -> NDArray[Any]:
    """What an expression makes of all sums, as the VXM computes it."""
    if isinstance(e, Leaf):
        return _SUMS
    if isinstance(e, Const):
        return e.array.astype(np.float32) if e.out == Type.F32 else e.array
    assert isinstance(e, Op)
    args = [_made(arg) for arg in e.args]
    if e.name == "cast" and e.out == Type.F32:
        return args[0].astype(np.float32)
    if e.name == "cast":
        info = np.iinfo(np.int8 if e.out == Type.I8 else np.int32)
        return np.clip(np.rint(args[0].astype(np.float64)), info.min, info.max).astype(np.int64)
    if e.name == "add_sat":
        return np.clip(args[0] + args[1], -(2**31), 2**31 - 1)
    result: NDArray[Any] = args[0] * args[1] if e.name == "mul" else args[0] + args[1]
    return result


def _operations(e: Expr) -> int:
    return 1 + sum(map(_operations, e.args)) if isinstance(e, Op) else 0


@pytest.mark.parametrize("zero", [-127, -31, -3, 1, 5, 77, 127])
def test_odd_zero_points_are_added_before_rounding_where_no_byte_changes(zero: int) -> None:
    leaf = Leaf(Value(0, "sums", 4, 4, Type.I32, "step"), None)
    fewer = 0
    for scale in (0.00101, 0.0012929071672260761, 0.0021328686270862818, 0.00277, 0.013, 0.25, 0.5):
        total = mul(cast(leaf, Type.F32), scale)
        found = quantized_sum(total, np.asarray(zero), Type.I8)
        assert found is not None
        scaled = _SUMS.astype(np.float32) * np.float32(scale)
        wanted = np.clip(np.rint(scaled.astype(np.float64)) + zero, -128, 127)
        assert np.array_equal(_made(found), wanted)
        fewer += _operations(found) == 4
    assert 1 <= fewer < 7
