"""Scatter and its kin: the last update wins, reductions are in the order of the updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import run_checked
from tests.support.machines import MACHINES
from tests.support.one_node import assert_same_elements, node_of, one_node

TINY = MACHINES["tiny"]
Array = NDArray[Any]
Shape = tuple[int, ...]


def whole(shape: Shape, seed: int = 0, dtype: str = "float32") -> Array:
    """Small integers, of which no sum or product rounds."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def places(shape: Shape, size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-size, size, shape)


REDUCTIONS = ("none", "add", "mul", "max", "min")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(draw=st.data())
def test_scatter_elements(draw: st.DataObject) -> None:
    shape = tuple(draw.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    axis = draw.draw(st.integers(-len(shape), len(shape) - 1))
    wanted = [draw.draw(st.integers(1, n)) for n in shape]
    wanted[axis] = draw.draw(st.integers(1, 5))
    index = places(tuple(wanted), shape[axis])
    inputs = {"x": whole(shape), "i": index, "u": whole(tuple(wanted), 1)}
    constant = draw.draw(st.sampled_from(((), ("i",))))
    assert_same_elements(
        "ScatterElements",
        inputs,
        constant,
        axis=axis,
        reduction=draw.draw(st.sampled_from(REDUCTIONS)),
    )


@pytest.mark.parametrize(
    ("shape", "wanted", "axis"),
    [((40,), (30,), 0), ((2, 25, 4), (2, 18, 3), 1), ((7, 40), (7, 30), 1)],
)
def test_many_elements(shape: Shape, wanted: Shape, axis: int) -> None:
    """The last update of every place is found rather than all of them made in turn."""
    inputs = {"x": whole(shape), "i": places(wanted, shape[axis]), "u": whole(wanted, 1)}
    assert_same_elements("ScatterElements", inputs, axis=axis)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(draw=st.data())
def test_scatter_nd(draw: st.DataObject) -> None:
    shape = tuple(draw.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    depth = draw.draw(st.integers(1, len(shape)))
    count = draw.draw(st.sampled_from((1, 4, 20)))
    reduction = draw.draw(st.sampled_from(REDUCTIONS if count < 20 else ("none",)))
    index = np.stack([places((count,), n, k) for k, n in enumerate(shape[:depth])], -1)
    inputs = {"x": whole(shape), "i": index, "u": whole((count, *shape[depth:]), 1)}
    constant = draw.draw(st.sampled_from(((), ("i",))))
    assert_same_elements("ScatterND", inputs, constant, reduction=reduction)


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "float16"])
def test_types(dtype: str) -> None:
    x = np.abs(whole((6, 5), 0, dtype))
    inputs = {"x": x, "i": places((20, 1), 6), "u": np.abs(whole((20, 5), 1, dtype))}
    assert_same_elements("ScatterND", inputs)


def test_no_updates() -> None:
    inputs = {"x": whole((4, 3)), "i": np.zeros((0, 1), np.int64), "u": whole((0, 3))}
    assert_same_elements("ScatterND", inputs)


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_caches(mode: str) -> None:
    start = np.array([3, 0]) if mode == "linear" else np.array([4, 1])
    inputs = {"p": whole((2, 2, 5, 3)), "u": whole((2, 2, 2, 3), 1), "w": start}
    model = one_node(node_of("TensorScatter", "p u w", mode=mode), inputs)
    (want,) = ReferenceEvaluator(model).run(None, inputs)
    have = run_checked(model, TINY, inputs, precision="exact").outputs["y"]
    np.testing.assert_array_equal(have, want)


def test_too_many_updates_to_combine() -> None:
    inputs = {"x": whole((300, 2)), "i": places((300, 1), 300), "u": whole((300, 2))}
    model = one_node(node_of("ScatterND", "x i u", reduction="add"), inputs, opset=18)
    with pytest.raises(UnsupportedModel, match="the most are 256"):
        compile_model(model.SerializeToString(), TINY, Options())


def test_reductions_of_truth_values() -> None:
    inputs = {
        "x": np.ones((3, 2), np.bool_),
        "i": places((1, 1), 3),
        "u": np.ones((1, 2), np.bool_),
    }
    model = one_node(node_of("ScatterND", "x i u", reduction="max"), inputs, kinds={"y": "bool"})
    with pytest.raises(UnsupportedModel, match="bool"):
        compile_model(model.SerializeToString(), TINY, Options())
