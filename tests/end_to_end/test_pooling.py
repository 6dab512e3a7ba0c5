"""Pooling beside onnxruntime: kernels, strides, padding, dilations, rounding up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from clockstep_isa import load_machine
from tests.support.endtoend import assert_close, assert_equal, expected, run_checked
from tests.support.images import inferred, pooling
from tests.support.machines import MACHINES

TINY = MACHINES["tiny"]

CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 3, 6, 7), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ((2, 20, 5, 4), {"kernel_shape": (2, 3), "ceil_mode": 1, "strides": (2, 2)}),
    ((2, 3, 5, 4), {"kernel_shape": (1, 1), "strides": (2, 3)}),
    ((1, 3, 9), {"kernel_shape": (3,), "dilations": (2,), "pads": (2, 2)}),
    ((1, 3, 6, 5), {"kernel_shape": (3, 2), "auto_pad": "SAME_LOWER"}),
    ((1, 3, 6, 5), {"kernel_shape": (4, 3), "auto_pad": "SAME_UPPER", "strides": (1, 2)}),
    ((1, 3, 3, 4, 3), {"kernel_shape": (2, 1, 2)}),
    ((1, 2, 4), {"kernel_shape": (1,)}),
    ((1, 2, 11), {"kernel_shape": (9,)}),
]


def check(op: str, image: tuple[int, ...], dtype: str = "float32", **settings: Any) -> None:
    machine = settings.pop("machine", TINY)
    model, inputs = pooling(np.random.default_rng(0), op, image, dtype, **settings)
    outputs, wanted = run_checked(model, machine, inputs).outputs, expected(model, inputs)
    if op in ("MaxPool", "GlobalMaxPool"):
        assert_equal(outputs, wanted)
    else:
        assert_close(outputs, wanted, 1e-6)


@pytest.mark.parametrize(("image", "attributes"), CASES)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_windows(op: str, image: tuple[int, ...], attributes: dict[str, Any]) -> None:
    check(op, image, **attributes)


@pytest.mark.parametrize("padded", [0, 1])
@pytest.mark.parametrize("up", [0, 1])
def test_what_an_average_counts(padded: int, up: int) -> None:
    check(
        "AveragePool",
        (1, 3, 6, 7),
        kernel_shape=(3, 3),
        pads=(1, 0, 1, 2),
        strides=(2, 2),
        ceil_mode=up,
        count_include_pad=padded,
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_largest_integers(dtype: str) -> None:
    check("MaxPool", (1, 3, 6, 5), dtype, kernel_shape=(3, 2), pads=(1, 1, 1, 0), strides=(2, 1))


LONG: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 2, 9, 10), {"kernel_shape": (9, 8), "pads": (4, 4, 4, 4)}),
    ((2, 3, 30), {"kernel_shape": (13,), "pads": (6, 5), "strides": (3,)}),
    ((1, 3, 60), {"kernel_shape": (10,), "pads": (8, 9), "strides": (4,), "dilations": (6,)}),
    ((1, 1, 44), {"kernel_shape": (11,), "dilations": (4,), "ceil_mode": 1}),
    ((1, 2, 20, 3), {"kernel_shape": (16, 1), "strides": (1, 2)}),
]


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize(("image", "attributes"), LONG)
def test_long_windows(image: tuple[int, ...], attributes: dict[str, Any], dtype: str) -> None:
    """Of which maxima are made of those of shorter ones."""
    check("MaxPool", image, dtype, **attributes)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("image", [(2, 20, 5, 3), (1, 3, 7)])
def test_everything(op: str, image: tuple[int, ...]) -> None:
    check(op, image)


@pytest.mark.parametrize("p", [1, 3, 4])
def test_sums_of_powers(p: int) -> None:
    check("LpPool", (1, 3, 5, 4), kernel_shape=(2, 2), p=p, pads=(1, 0, 0, 1))


def test_on_the_large_machine() -> None:
    machine = load_machine("lpu-v1")
    check("MaxPool", (1, 8, 12, 10), kernel_shape=(3, 3), strides=(2, 2), machine=machine)
    check("GlobalAveragePool", (1, 330, 7, 7), machine=machine)


def test_infinities() -> None:
    """They win or lose as they should."""
    model, _ = pooling(
        np.random.default_rng(1), "MaxPool", (1, 2, 4, 4), kernel_shape=(2, 2), pads=(1, 1, 1, 1)
    )
    x = np.random.default_rng(2).normal(size=(1, 2, 4, 4)).astype(np.float16).astype(np.float32)
    x[0, 0, 1, 1], x[0, 0, 2, 1], x[0, 1, 1, 2] = np.inf, -np.inf, -np.inf
    assert_equal(run_checked(model, TINY, {"x": x}).outputs, expected(model, {"x": x}))


def test_between_dense_layers() -> None:
    """What the layout costs is moved once: pooling, flattening, a product."""
    rng = np.random.default_rng(2)
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32) / 5,
        "d": rng.normal(size=(16, 5)).astype(np.float32) / 4,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=(1, 1, 1, 1)),
        helper.make_node("MaxPool", ["a"], ["b"], "pool", kernel_shape=(2, 2), strides=(2, 2)),
        helper.make_node("Flatten", ["b"], ["c"], "flat"),
        helper.make_node("MatMul", ["c", "d"], ["y"], "dense"),
    ]
    model = inferred(nodes, {"x": ("float32", (2, 3, 4, 4))}, constants)
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    outputs = run_checked(model, TINY, {"x": x}).outputs
    assert_close(outputs, expected(model, {"x": x}))
