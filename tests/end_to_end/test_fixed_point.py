"""Floats times weights of a byte: 16-bit fixed point, once the weights fill a part of a chip."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from clockstep_compiler import Options, compile_model
from clockstep_isa.program import Program
from clockstep_runtime import Session, verify
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
DEPTH, COLUMNS = 260, 200
Array = NDArray[Any]


def product(rows: int, weights: Array, scale: Array, zero: Array, *, gemm: bool) -> ModelProto:
    """x @ dequantized weights [DEPTH, COLUMNS], or by a Gemm with the transposed weights."""
    axis = 0 if gemm else 1
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=axis),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
        if gemm
        else helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = {"q": weights.T.copy() if gemm else weights, "scale": scale, "zero": zero}
    shape = (rows, DEPTH)
    return build(nodes, {"x": ("float32", shape)}, {"y": ("float32", (rows, COLUMNS))}, constants)


def parameters(dtype: str, seed: int) -> tuple[Array, Array, Array]:
    """Weights, scales and zero points; those of uint8 are 128."""
    rng = np.random.default_rng(seed)
    low, high = (0, 256) if dtype == "uint8" else (-128, 128)
    weights = rng.integers(low, high, (DEPTH, COLUMNS)).astype(dtype)
    scale = rng.uniform(0.001, 0.02, COLUMNS).astype(np.float32)
    return weights, scale, np.full(COLUMNS, 128 if dtype == "uint8" else 0, dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("rows", [1, 20])
def test_within_the_stated_error(dtype: str, gemm: bool, rows: int) -> None:
    """2**-14.9 of the largest of a row for each element, and what float32 rounds."""
    weights, scale, zero = parameters(dtype, rows)
    program = compile_model(product(rows, weights, scale, zero, gemm=gemm), TINY, Options())
    assert verify(program).ok
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(rows, DEPTH)) * 4.0 ** rng.integers(-6, 6, (rows, 1))).astype(np.float16)
    x[0, 3:7] = 0
    y = Session(program).run({"x": x.astype(np.float32)})["y"]
    real = (weights.astype(np.float64) - zero) * scale
    exact = x.astype(np.float64) @ real
    largest = np.abs(x.astype(np.float64)).max(axis=1, keepdims=True)
    bound = 2 * 2.0**-14.9 * largest * np.abs(real).sum(axis=0)
    bound += 2.0**-21 * (np.abs(x.astype(np.float64)) @ np.abs(real))
    assert (np.abs(y - exact) <= bound).all()
    assert np.abs(y - exact).max() < 2.0**-12 * np.abs(exact).max()  # fp16 weights lose more


def test_weights_take_a_byte() -> None:
    """And fp16 asked for takes two."""
    model = product(1, *parameters("int8", 0), gemm=False)
    narrow, wide = (compile_model(model, TINY, Options(precision=p)) for p in ("auto", "fp16"))
    assert narrow.info["weight_bytes"] == DEPTH * COLUMNS
    assert wide.info["weight_bytes"] == 2 * DEPTH * COLUMNS


@pytest.mark.parametrize("values", [[0.0], [6e-8, -6e-8], [65504.0, 6e-8], [1.0, -0.25, 255.5]])
def test_of_any_size(values: list[float]) -> None:
    """Rows of nothing but zeros, of numbers that differ by 40 powers of two."""
    weights, scale, _ = parameters("int8", 7)
    x = np.resize(np.array(values, np.float16), (1, DEPTH)).astype(np.float32)
    y = Session(_program()).run({"x": x})["y"]
    real = weights.astype(np.float64) * scale
    exact, sizes = (f(x.astype(np.float64)) @ f(real) for f in (np.positive, np.abs))
    bound = 2 * 2.0**-14.9 * np.abs(x).max() * np.abs(real).sum(axis=0) + 2.0**-21 * sizes
    assert (np.abs(y - exact) <= bound).all()


@cache
def _program() -> Program:
    return compile_model(product(1, *parameters("int8", 7), gemm=False), TINY, Options())


def test_an_infinite_element_gives_nan() -> None:
    weights, scale, zero = parameters("int8", 3)
    program = compile_model(product(2, weights, scale, zero, gemm=False), TINY, Options())
    x = np.ones((2, DEPTH), np.float32)
    x[1, 5] = np.inf
    y = Session(program).run({"x": x})["y"]
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()
