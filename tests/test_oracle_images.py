"""The oracle on images: against onnxruntime and onnx's evaluator, and what it is used to judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from tests.acceptance.quantized_oracle import judge
from tests.support.endtoend import expected
from tests.support.images import convolution, inferred, integer_convolution, pooling
from tests.support.models import random_inputs
from tests.support.oracle import (
    as_float,
    compare_steps,
    end_to_end,
    evaluate,
    expose_quantized,
    layerwise,
)
from tests.support.quantized import qdq_convnet

FORMS: list[dict[str, Any]] = [
    {},
    {"pads": [1, 0, 2, 1]},
    {"strides": [2, 3], "pads": [1, 1, 1, 1]},
    {"dilations": [2, 1]},
    {"group": 2, "auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
]


@pytest.mark.parametrize("attributes", FORMS)
def test_convolutions(attributes: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    groups = attributes.get("group", 1)
    model, inputs = convolution(rng, (2, 4, 9, 8), (6, 4 // groups, 3, 2), **attributes)
    want = expected(model, inputs)["y"]
    np.testing.assert_allclose(as_float(evaluate(model, inputs)["y"]), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attributes", FORMS[:4])
def test_convolutions_of_integers(attributes: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    model, inputs = integer_convolution(rng, (1, 4, 7, 6), (6, 4, 3, 2), **attributes)
    found, want = evaluate(model, inputs), expected(model, inputs)
    np.testing.assert_array_equal(np.asarray(found["sums"]), want["sums"])
    worst, same = compare_steps(np.asarray(found["y"]), want["y"])
    assert worst <= 1
    assert same > 0.99


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 1, 1]},
        {"strides": [2, 2], "ceil_mode": 1},
        {"strides": [3, 2], "pads": [1, 1, 0, 0], "ceil_mode": 1},
        {"auto_pad": "SAME_UPPER"},
    ],
)
def test_poolings(op: str, attributes: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    choices = [{}, {"count_include_pad": 1}] if op == "AveragePool" else [{}]
    for more in choices:
        form = {"kernel_shape": [3, 2], **attributes, **more}
        model, inputs = pooling(rng, op, (2, 3, 8, 9), **form)
        want = expected(model, inputs)["y"]
        np.testing.assert_allclose(as_float(evaluate(model, inputs)["y"]), want, 1e-5, 1e-6)


def test_moves_and_means() -> None:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["big"], "grow", mode="nearest"),
        helper.make_node("Concat", ["big", "big"], ["pair"], "join", axis=1),
        helper.make_node("Slice", ["pair", "one", "four", "axis"], ["some"], "cut"),
        helper.make_node("HardSwish", ["some"], ["swish"], "swish"),
        helper.make_node("GlobalAveragePool", ["swish"], ["mean"], "mean"),
        helper.make_node("Softmax", ["mean"], ["y"], "softmax", axis=1),
    ]
    constants = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "one": np.array([1]),
        "four": np.array([4]),
        "axis": np.array([1]),
    }
    model = inferred(nodes, {"x": ("float32", (1, 3, 4, 5))}, constants)
    inputs = random_inputs(model, rng)
    want = expected(model, inputs)["y"]
    np.testing.assert_allclose(as_float(evaluate(model, inputs)["y"]), want, 1e-5, 1e-6)


def network() -> tuple[ModelProto, dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(4)
    model = expose_quantized(qdq_convnet(rng, "uint8", "int8", per_channel=True))
    return model, random_inputs(model, rng)


def test_onnxruntime_is_near_the_exact_network() -> None:
    model, inputs = network()
    actual = expected(model, inputs)
    for name, want in layerwise(model, inputs, actual).items():
        worst, same = compare_steps(want, actual[name])
        assert worst <= 1, name
        assert same > 0.95, name
    quantized, results = end_to_end(model, inputs)
    every = evaluate(model, inputs)
    for name, value in quantized.items():
        np.testing.assert_array_equal(value, np.asarray(every[name]))
    np.testing.assert_allclose(as_float(results["y"]), actual["y"], rtol=0.05, atol=0.05)


def test_the_judgement() -> None:
    """The exact tensors are good, and a layer that is wrong is seen, as is a wrong class."""
    model, inputs = network()
    quantized, results = end_to_end(model, inputs)
    exact = {**quantized, "y": as_float(results["y"]).astype(np.float32)}
    runtime = expected(model, inputs)
    verdict = judge(model, inputs, exact, runtime)
    assert verdict.good
    assert (verdict.worst, verdict.differing, verdict.ours) == (0, 0, 0)
    assert verdict.margin > 1
    name = min(quantized)
    wrong = {**exact, name: quantized[name] ^ 2}
    assert judge(model, inputs, wrong, runtime).worst >= 2
    assert not judge(model, inputs, wrong, runtime).good
    assert not judge(model, inputs, {**exact, "y": -exact["y"]}, runtime).good
    assert not replace(verdict, ours=1, theirs=0).good
