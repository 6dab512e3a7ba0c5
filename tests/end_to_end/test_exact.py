"""`--precision exact`: products summed in float32, whatever the range of their operands."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from onnx import helper, numpy_helper

from clockstep_isa import UnsupportedModel, load_machine
from tests.support.endtoend import run_checked

Array = np.ndarray


def product(a: Array, b: Array, constant: bool) -> Array:
    """a @ b on `tiny`; `b` is a constant or an input."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(v.dtype) for name, v in (("a", a), ("b", b))}
    inputs = [helper.make_tensor_value_info("a", kinds["a"], a.shape)]
    if not constant:
        inputs.append(helper.make_tensor_value_info("b", kinds["b"], b.shape))
    weights = [numpy_helper.from_array(b, "b")] if constant else []
    out = helper.make_tensor_value_info("y", kinds["a"], None)
    node = helper.make_node("MatMul", ["a", "b"], ["y"], name="matmul")
    graph = helper.make_graph([node], "g", inputs, [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"a": a} if constant else {"a": a, "b": b}
    run = run_checked(model, load_machine("tiny"), feeds, precision="exact")
    return run.outputs["y"]


def in_order(a: Array, b: Array) -> Array:
    """The sum of products in float32, one after the other."""
    with np.errstate(all="ignore"):
        total = a[:, :1] * b[:1]
        for k in range(1, a.shape[1]):
            total = total + a[:, k : k + 1] * b[k : k + 1]
    return total


def wide(generator: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Floats of every magnitude that float32 has, denormal ones too, some of them zero."""
    exponent = generator.integers(-149, 127, shape)
    values = np.ldexp(generator.uniform(1, 2, shape), exponent) * generator.choice(
        [-1, 0, 1], shape
    )
    return values.astype(np.float32)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_every_magnitude(seed: int, constant: bool) -> None:
    """Bit for bit what float32 gives: overflow to infinity, gradual underflow, and NaN of those."""
    generator = np.random.default_rng(seed)
    a, b = wide(generator, (3, 19)), wide(generator, (19, 5))
    got, want = product(a, b, constant), in_order(a, b)
    np.testing.assert_array_equal(got, want)


def test_specials() -> None:
    a = np.array([[1, np.inf, 0], [np.nan, 1, 1], [0, -0.0, 1]], np.float32)
    b = np.array([[1, np.inf], [0, 1], [-2, np.nan]], np.float32)
    np.testing.assert_array_equal(product(a, b, False), in_order(a, b))


@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_float32s_own(seed: int) -> None:
    """At most K * 2**-24 * sum |a||b|, in rational arithmetic; a row may have one huge element."""
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((2, 21)).astype(np.float32)
    b = generator.standard_normal((21, 4)).astype(np.float32)
    a[0, 3], b[3] = 1e30, 0
    got = product(a, b, True)
    for r in range(a.shape[0]):
        for c in range(b.shape[1]):
            terms = [
                Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a[r], b[:, c], strict=True)
            ]
            bound = a.shape[1] * Fraction(1, 2**24) * sum(abs(t) for t in terms)
            assert abs(Fraction(float(got[r, c])) - sum(terms)) <= bound


@pytest.mark.parametrize("shapes", [((7,), (7, 5)), ((4, 7), (7,)), ((7,), (7,))])
def test_vectors(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    generator = np.random.default_rng(5)
    a, b = (generator.standard_normal(shape).astype(np.float32) for shape in shapes)
    for constant in (True, False):
        np.testing.assert_allclose(product(a, b, constant), a @ b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lead", [((2, 3), (2, 3)), ((2, 1), (3,)), ((), (2,))])
def test_stacks(lead: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    generator = np.random.default_rng(6)
    a = generator.standard_normal((*lead[0], 3, 18)).astype(np.float32)
    b = generator.standard_normal((*lead[1], 18, 17)).astype(np.float32)
    np.testing.assert_allclose(product(a, b, False), a @ b, rtol=1e-4, atol=1e-5)


def test_float16_is_rounded_where_it_is_stored() -> None:
    generator = np.random.default_rng(7)
    a = generator.standard_normal((2, 9)).astype(np.float16)
    b = generator.standard_normal((9, 3)).astype(np.float16)
    want = in_order(a.astype(np.float32), b.astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(product(a, b, False), want)


def test_float64_is_refused() -> None:
    one = np.ones((2, 2))
    with pytest.raises(UnsupportedModel, match="float64"):
        product(one, one, False)
