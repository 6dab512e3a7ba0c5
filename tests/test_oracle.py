"""The oracle against fractions, onnx's reference evaluator and onnxruntime."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from tests.support.exact import round_half_even, to_exact
from tests.support.models import (
    ACTIVATIONS,
    batched_matmul,
    elementwise,
    elementwise_graph,
    mlp,
    random_inputs,
    reshapes,
)
from tests.support.oracle import (
    as_float,
    compare_steps,
    evaluate,
    expose_quantized,
    layerwise,
    quantized_names,
)
from tests.support.quantized import matmul_integer, qdq_mlp, qdq_pair, qlinear_matmul

Array = NDArray[np.generic]

_FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _runtime(model: ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@given(st.lists(_FINITE, min_size=1, max_size=5), st.lists(_FINITE, min_size=1, max_size=1))
def test_exact_arithmetic_is_that_of_fractions(xs: list[float], ys: list[float]) -> None:
    a, b = to_exact(np.array(xs, np.float32)), to_exact(np.array(ys, np.float32))
    for result, want in (
        (a + b, [Fraction(x) + Fraction(ys[0]) for x in xs]),
        (a - b, [Fraction(x) - Fraction(ys[0]) for x in xs]),
        (a * b, [Fraction(x) * Fraction(ys[0]) for x in xs]),
        (a.maximum(b), [max(Fraction(x), Fraction(ys[0])) for x in xs]),
        (a.minimum(b), [min(Fraction(x), Fraction(ys[0])) for x in xs]),
    ):
        power = Fraction(2) ** result.exponent
        assert [int(n) * power for n in result.numerators] == want


@given(_FINITE, st.floats(min_value=2.0**-100, max_value=2.0**66, width=32))
def test_rounding_is_that_of_fractions(x: float, scale: float) -> None:
    found = round_half_even(to_exact(np.array([x])), to_exact(np.array(scale)))
    assert int(found[0]) == round(Fraction(x) / Fraction(scale))


def test_to_float_rounds_to_nearest() -> None:
    third = to_exact(np.array([1.0, -7.5, 2.0**-1070])) + to_exact(np.array(2.0**-200))
    assert third.to_float().tolist() == [1.0, -7.5, 2.0**-200]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantize_rounds_half_to_even_and_saturates(dtype: str) -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, 126.5, 127.5], np.float32)
    model = qdq_pair(x.shape, np.float32(1), np.array(1, dtype))
    values = evaluate(model, {"x": x})
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    want = np.clip(np.array([0, 2, 2, 0, -2, 1000, -1000, 126, 128]) + 1, low, high)
    assert np.asarray(values["q"]).tolist() == want.tolist()
    assert as_float(values["y"]).tolist() == (want - 1).tolist()


def test_quantize_knows_what_float32_division_does_not() -> None:
    """Just below a tie in exact arithmetic; float32 rounds the quotient up to the tie itself."""
    scale = np.float32(0.1)
    x = np.array([np.float32(2.5) * scale], np.float32)
    exact = Fraction(float(x[0])) / Fraction(float(scale))
    values = evaluate(qdq_pair((1,), scale, np.int8(0)), {"x": x})
    assert np.asarray(values["q"]).tolist() == [round(exact)]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_axis_parameters(axis: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    size = x.shape[axis]
    scale = (2.0 ** -rng.integers(2, 6, size=size)).astype(np.float32)
    zero = rng.integers(-5, 6, size=size).astype(np.int8)
    model = qdq_pair(x.shape, scale, zero, axis)
    values, want = evaluate(model, {"x": x}), _runtime(model, {"x": x})
    np.testing.assert_array_equal(np.asarray(values["q"]), want["q"])
    np.testing.assert_array_equal(as_float(values["y"]), want["y"])


@pytest.mark.parametrize("zero_points", ["none", "tensor", "column"])
@pytest.mark.parametrize(("a_type", "b_type"), [("int8", "int8"), ("uint8", "int8")])
def test_matmul_integer_is_exact(a_type: str, b_type: str, zero_points: str) -> None:
    rng = np.random.default_rng(1)
    model = matmul_integer(rng, (2, 5, 40), (40, 7), a_type, b_type, zero_points)
    inputs = random_inputs(model, rng)
    want = ReferenceEvaluator(model).run(None, inputs)[0]
    np.testing.assert_array_equal(np.asarray(evaluate(model, inputs)["y"]), want)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize(("a_type", "b_type"), [("int8", "int8"), ("uint8", "uint8")])
def test_qlinear_matmul_is_near_onnxruntime(a_type: str, b_type: str, per_column: bool) -> None:
    rng = np.random.default_rng(2)
    model = qlinear_matmul(rng, (30, 50), (50, 20), a_type, b_type, a_type, per_column)
    inputs = random_inputs(model, rng)
    found = np.asarray(evaluate(model, inputs)["y"])
    worst, identical = compare_steps(found, _runtime(model, inputs)["y"])
    assert worst <= 1
    assert identical > 0.99
    assert len(np.unique(found)) > 50


@pytest.mark.parametrize("seed", range(8))
def test_float_graphs_agree_with_onnxruntime(seed: int) -> None:
    rng = np.random.default_rng(seed)
    models = [
        elementwise_graph(rng, seed % 5),
        mlp(rng, [6, 6, 3], 4, ACTIVATIONS),
        batched_matmul(rng, (2, 1, 3, 4), (5, 4, 2)),
    ]
    for model in models:
        inputs = random_inputs(model, rng)
        want = _runtime(model, inputs)["y"]
        np.testing.assert_allclose(as_float(evaluate(model, inputs)["y"]), want, 1e-5, 1e-5)


def test_reshapes_agree_with_onnxruntime() -> None:
    rng = np.random.default_rng(0)
    model = reshapes(rng)
    inputs = random_inputs(model, rng, {"N": 3})
    want = _runtime(model, inputs)["y"]
    np.testing.assert_allclose(as_float(evaluate(model, inputs)["y"]), want, 1e-5, 1e-5)


def test_int32_wraps_around() -> None:
    model = elementwise("Mul", [(2,), (2,)], "int32")
    inputs = {"x0": np.array([2**30, -(2**31)], np.int32), "x1": np.array([4, -1], np.int32)}
    assert np.asarray(evaluate(model, inputs)["y"]).tolist() == [0, -(2**31)]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("activation", "weight"), [("int8", "int8"), ("uint8", "int8")])
def test_qdq_models_layer_by_layer(activation: str, weight: str, per_channel: bool) -> None:
    rng = np.random.default_rng(3)
    model = expose_quantized(
        qdq_mlp(rng, [20, 16, 16, 5], 20, ACTIVATIONS, activation, weight, per_channel)
    )
    inputs = random_inputs(model, rng)
    actual = _runtime(model, inputs)
    expected = layerwise(model, inputs, actual)
    assert len(expected) == len(quantized_names(model)) >= 4
    for name, value in expected.items():
        worst, identical = compare_steps(value, actual[name])
        assert worst <= 1, name
        assert identical > 0.98, name


def test_layerwise_judges_each_layer_on_the_inputs_it_had() -> None:
    rng = np.random.default_rng(4)
    model = expose_quantized(qdq_mlp(rng, [8, 8, 4], 3))
    inputs = random_inputs(model, rng)
    names = quantized_names(model)
    honest = {
        name: np.asarray(value) for name, value in evaluate(model, inputs).items() if name in names
    }
    wrong = dict(honest)
    wrong[names[0]] = np.zeros_like(honest[names[0]]) + 40
    expected = layerwise(model, inputs, wrong)
    np.testing.assert_array_equal(expected[names[0]], honest[names[0]])
    assert compare_steps(expected[names[1]], honest[names[1]])[0] > 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_generators_are_deterministic(seed: int) -> None:
    first, second = (mlp(np.random.default_rng(seed), [3, 3], 2, ACTIVATIONS) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
