"""`--precision exact` where the array multiplies: operands of float32 in fp16 parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from clockstep_compiler.lowering import convolve, matmul_floats, parts
from clockstep_isa import load_machine
from tests.support.endtoend import Array, assert_close, expected, run_checked
from tests.support.images import convolution
from tests.support.machines import MACHINES

TINY = MACHINES["tiny"]
FLOAT = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))


@pytest.fixture(autouse=True)
def every_product_on_the_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_MODEL", 0)
    monkeypatch.setattr(parts, "_PRODUCT", 0)


def run(model: ModelProto, inputs: dict[str, Array], machine: str = "tiny") -> dict[str, Array]:
    """What a model gives, whose products went to the array."""
    done = run_checked(model, load_machine(machine), inputs, precision="exact")
    assert any("fp16 parts" in text for text in done.program.info["warnings"])
    return done.outputs


def product(
    a: Array, b: Array, constant: bool, op: str = "MatMul", machine: str = "tiny", **attributes: Any
) -> Array:
    """a @ b; `b` is a constant or an input."""
    given = {"a": a} if constant else {"a": a, "b": b}
    inputs = [helper.make_tensor_value_info(name, FLOAT, v.shape) for name, v in given.items()]
    weights = [numpy_helper.from_array(b, "b")] if constant else []
    node = helper.make_node(op, ["a", "b"], ["y"], name="product", **attributes)
    out = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return run(model, given, machine)["y"]


def bound(a: Array, b: Array, column: bool) -> NDArray[np.float64]:
    """The documented error of a @ b, and half the least float32."""
    left, right = np.abs(a).astype(np.float64), np.abs(b).astype(np.float64)
    depth, largest = a.shape[-1], right.max(axis=-2, keepdims=True) if column else right.max()
    error = depth * 2.0**-24 * (left @ right) + depth * 2.0**-38 * left.max() * largest
    return np.asarray(error + 2.0**-150)


def assert_bounded(y: Array, a: Array, b: Array, column: bool) -> None:
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert (np.abs(y - exact) <= bound(a, b, column)).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_bound(data: st.DataObject) -> None:
    """Random sizes and magnitudes, from the least of float32 to the greatest."""
    rows, depth, columns = (data.draw(st.integers(low, 40)) for low in (1, 16, 1))
    first = data.draw(st.integers(-149, 110))
    second = data.draw(st.integers(max(-149, -150 - first), min(110, 110 - first)))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    spread = data.draw(st.sampled_from([0, 8, 30]))
    a, b = (
        np.ldexp(
            generator.standard_normal(shape), exponent - generator.integers(0, spread + 1, shape)
        ).astype(np.float32)
        for shape, exponent in (((rows, depth), first), ((depth, columns), second))
    )
    constant = data.draw(st.booleans())
    assert_bounded(product(a, b, constant), a, b, constant)


@pytest.mark.parametrize("constant", [True, False])
def test_zeros_and_halves(constant: bool) -> None:
    """Nothing but zeros; elements whose parts do not have all of their bits."""
    a = np.zeros((3, 17), np.float32)
    b = np.full((17, 2), np.float32(1 + 2**-11 + 2**-23))
    assert not product(a, b, constant).any()
    assert not product(b.T.copy(), np.zeros((17, 5), np.float32), constant).any()
    assert_bounded(product(b.T.copy(), b, constant), b.T, b, constant)


@pytest.mark.parametrize("constant", [True, False])
def test_only_rows_with_infinities_suffer(constant: bool) -> None:
    generator = np.random.default_rng(3)
    a = generator.standard_normal((4, 20)).astype(np.float32)
    b = generator.standard_normal((20, 3)).astype(np.float32)
    a[1, 2], a[2, 5] = np.inf, np.nan
    y = product(a, b, constant)
    assert np.isnan(y[1:3]).all()
    assert_bounded(y[[0, 3]], a[[0, 3]], b, constant)


@pytest.mark.parametrize("lead", [((2, 3), (2, 3)), ((2, 1), (3,)), ((), (2,))])
@pytest.mark.parametrize("constant", [True, False])
def test_stacks(lead: tuple[tuple[int, ...], tuple[int, ...]], constant: bool) -> None:
    generator = np.random.default_rng(6)
    a = generator.standard_normal((*lead[0], 3, 18)).astype(np.float32)
    b = generator.standard_normal((*lead[1], 18, 17)).astype(np.float32)
    assert_bounded(product(a, b, constant), a, b, False)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("turned", [0, 1])
def test_gemm(turned: int, constant: bool) -> None:
    generator = np.random.default_rng(7)
    a = generator.standard_normal((5, 33)).astype(np.float32)
    b = generator.standard_normal((33, 18)).astype(np.float32)
    left, right = (np.ascontiguousarray(v.T) if turned else v for v in (a, b))
    y = product(left, right, constant, "Gemm", transA=turned, transB=turned)
    assert_bounded(y, a, b, constant)


def test_long_rows_are_not_put_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (matmul_floats, convolve):
        monkeypatch.setattr(module, "SHORT", 20)
    generator = np.random.default_rng(8)
    model, inputs = convolution(generator, (1, 33, 3, 4), (5, 33, 1, 1), constant=True)
    assert_close(run(model, inputs), expected(model, inputs), 1e-6)
    a = generator.standard_normal((3, 41)).astype(np.float32)
    b = generator.standard_normal((41, 5)).astype(np.float32)
    for constant in (True, False):
        assert_bounded(product(a, b, constant), a, b, constant)


def test_large_machine() -> None:
    generator = np.random.default_rng(9)
    a = generator.standard_normal((50, 130)).astype(np.float32)
    b = generator.standard_normal((130, 330)).astype(np.float32)
    assert_bounded(product(a, b, True, machine="lpu-v1"), a, b, True)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("op", "image", "weights", "attributes"),
    [
        ("Conv", (1, 3, 6, 7), (5, 3, 3, 3), {}),
        ("Conv", (2, 5, 6, 7), (5, 5, 3, 2), {"pads": (1, 0, 2, 1), "strides": (2, 1)}),
        ("Conv", (1, 20, 4, 5), (18, 20, 1, 1), {"strides": (2, 3)}),
        ("Conv", (1, 12, 4, 4), (9, 4, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
        ("Conv", (1, 6, 19), (2, 6, 5), {"dilations": (3,), "pads": (2, 1)}),
        ("Conv", (1, 5, 3, 4, 3), (3, 5, 2, 3, 2), {"pads": (1, 1, 1, 0, 0, 0)}),
        ("ConvTranspose", (1, 16, 3, 4), (16, 2, 3, 3), {"strides": (2, 2)}),
        ("ConvTranspose", (2, 32, 4), (32, 3, 3), {"strides": (3,), "group": 2}),
        ("ConvTranspose", (1, 8, 4, 3), (8, 2, 3, 3), {"pads": (1, 0, 1, 1)}),
    ],
)
def test_convolutions(
    op: str,
    image: tuple[int, ...],
    weights: tuple[int, ...],
    attributes: dict[str, Any],
    constant: bool,
) -> None:
    generator = np.random.default_rng(1)
    model, inputs = convolution(
        generator, image, weights, op=op, constant=constant, bias=constant, **attributes
    )
    inputs["x"] = (generator.standard_normal(image) * 1e6).astype(np.float32)
    assert_close(run(model, inputs), expected(model, inputs), 1e-6)


@pytest.mark.parametrize("turned", [0, 1])
def test_dequantized_weights(turned: int) -> None:
    """Integers with a scale for each column, as they lie or transposed, are their floats' parts."""
    generator = np.random.default_rng(8)
    a = generator.standard_normal((3, 18)).astype(np.float32)
    codes = generator.integers(-128, 128, (18, 17)).astype(np.int8)
    scale = generator.uniform(0.001, 0.1, 17).astype(np.float32)
    stored = codes.T.copy() if turned else codes
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["b"], axis=1 - turned),
        helper.make_node("Gemm", ["a", "b"], ["y"], name="product", transB=turned),
    ]
    weights = [numpy_helper.from_array(stored, "q"), numpy_helper.from_array(scale, "s")]
    given = [helper.make_tensor_value_info("a", FLOAT, a.shape)]
    out = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph(nodes, "g", given, [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert_bounded(run(model, {"a": a})["y"], a, codes * scale, True)
