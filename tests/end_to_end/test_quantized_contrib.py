"""onnxruntime's own quantized operators, against its kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from tests.support.endtoend import expected, run_checked
from tests.support.machines import MACHINES
from tests.support.quantized import full_range

TINY = MACHINES["tiny"]
Array = NDArray[Any]

KINDS = ("int8", "uint8")


def contrib(
    op: str,
    operands: Sequence[str],
    values: Mapping[str, Array],
    inputs: Sequence[str],
    result: tuple[str, Sequence[int]],
    **attributes: Any,
) -> ModelProto:
    """One node of `com.microsoft` that gives "y"; values that are no inputs are constants."""
    node = helper.make_node(op, operands, ["y"], "node", domain="com.microsoft", **attributes)
    kinds = {name: helper.np_dtype_to_tensor_dtype(values[name].dtype) for name in inputs}
    graph = helper.make_graph(
        [node],
        "contrib",
        [helper.make_tensor_value_info(n, kinds[n], values[n].shape) for n in inputs],
        [
            helper.make_tensor_value_info(
                "y", helper.np_dtype_to_tensor_dtype(np.dtype(result[0])), result[1]
            )
        ],
        [numpy_helper.from_array(v, name) for name, v in values.items() if name not in inputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def check(
    model: ModelProto, values: Mapping[str, Array], steps: int = 0, variety: int = 10
) -> None:
    """Integers at most `steps` from onnxruntime's, and of many values; floats as near as f32."""
    inputs = {entry.name: values[entry.name] for entry in model.graph.input}
    found = run_checked(model, TINY, inputs).outputs["y"]
    want = expected(model, inputs)["y"]
    assert (found.shape, found.dtype) == (want.shape, want.dtype)
    assert len(np.unique(want)) >= variety
    if want.dtype.kind == "f":
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
        return
    distance = np.abs(found.astype(np.int64) - want.astype(np.int64))
    assert distance.max() <= steps
    assert np.mean(distance > 0) <= 0.02


def scale(value: float) -> Array:
    """A scale that is no simple multiple of others: these give ties, which all round their way."""
    return np.array(value * (1 + value / 3), np.float32)


def middle(dtype: str, shift: int = 0) -> Array:
    limits = np.iinfo(dtype)
    return np.array((int(limits.min) + int(limits.max) + 1) // 2 + shift, dtype)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(("op", "out"), [("QLinearAdd", 0.06), ("QLinearMul", 0.15)])
@pytest.mark.parametrize(
    ("one", "two"), [((5, 20), (5, 20)), ((5, 20), (20,)), ((3, 1), (2, 1, 17))]
)
def test_arithmetic(op: str, out: float, one: Any, two: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = {
        "a": full_range(rng, one, dtype),
        "as": scale(0.03),
        "az": middle(dtype, 5),
        "b": full_range(rng, two, dtype),
        "bs": scale(0.05),
        "bz": middle(dtype, -9),
        "ys": scale(out),
        "yz": middle(dtype, 20),
    }
    result = (dtype, np.broadcast_shapes(one, two))
    for inputs in (["a", "b"], ["a"]):
        check(contrib(op, list(values), values, inputs, result), values, steps=1)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(
    ("op", "attributes"),
    [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.2}), ("QLinearLeakyRelu", {})],
)
def test_functions(op: str, attributes: Any, dtype: str) -> None:
    rng = np.random.default_rng(1)
    values = {
        "x": full_range(rng, (6, 40), dtype),
        "xs": scale(0.05),
        "xz": middle(dtype, 5),
        "ys": scale(1 / 256 if op == "QLinearSigmoid" else 0.04),
        "yz": middle(dtype, -100),
    }
    check(contrib(op, list(values), values, ["x"], (dtype, (6, 40)), **attributes), values, 1)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(("axis", "opset"), [(-1, 13), (1, 13), (1, 12)])
def test_softmax(axis: int, opset: int, dtype: str) -> None:
    """onnxruntime takes exponentials from a table, scaled to integers."""
    rng = np.random.default_rng(2)
    values = {
        "x": full_range(rng, (3, 4, 6), dtype),
        "xs": scale(0.02),
        "xz": middle(dtype),
        "ys": np.array(1 / 256, np.float32),
        "yz": np.array(np.iinfo(dtype).min, dtype),
    }
    result = (dtype, (3, 4, 6))
    model = contrib("QLinearSoftmax", list(values), values, ["x"], result, axis=axis, opset=opset)
    check(model, values, 1)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("last", [0, 1])
def test_global_average_pool(last: int, dtype: str) -> None:
    rng = np.random.default_rng(3)
    shape, result = ((2, 5, 6, 9), (2, 1, 1, 9)) if last else ((2, 9, 5, 6), (2, 9, 1, 1))
    values = {
        "x": full_range(rng, shape, dtype),
        "xs": scale(0.05),
        "xz": middle(dtype, 5),
        "ys": scale(0.01),
        "yz": middle(dtype, 30),
    }
    model = contrib(
        "QLinearGlobalAveragePool", list(values), values, ["x"], (dtype, result), channels_last=last
    )
    check(model, values, 1)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("pads", [{}, {"pads": [1, 0, 1, 1], "count_include_pad": 1}])
def test_average_pool(pads: Any, last: int, dtype: str) -> None:
    rng = np.random.default_rng(4)
    shape = [2, 3, 6, 5]
    rows, columns = (6 + 2 - 3) // 2 + 1 if pads else 2, 5 + 1 - 2 + 1 if pads else 4
    result = [2, 3, rows, columns]
    if last:
        shape, result = ([s[0], *s[2:], s[1]] for s in (shape, result))
    values = {
        "x": full_range(rng, shape, dtype),
        "xs": scale(0.05),
        "xz": middle(dtype, 5),
        "ys": scale(0.03),
        "yz": middle(dtype, 30),
    }
    attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "channels_last": last, **pads}
    model = contrib(
        "QLinearAveragePool", list(values), values, ["x"], (dtype, result), **attributes
    )
    check(model, values, 1)


@pytest.mark.parametrize("dtype", KINDS)
def test_concat(dtype: str) -> None:
    rng = np.random.default_rng(6)
    values = {
        "ys": scale(0.04),
        "yz": middle(dtype, 3),
        "a": full_range(rng, (3, 4), dtype),
        "as": scale(0.05),
        "az": middle(dtype, 5),
        "b": full_range(rng, (3, 20), dtype),
        "bs": scale(0.03),
        "bz": middle(dtype, -5),
    }
    model = contrib("QLinearConcat", list(values), values, ["a", "b"], (dtype, (3, 24)), axis=1)
    check(model, values, 1)


@pytest.mark.parametrize("dtype", KINDS)
def test_where(dtype: str) -> None:
    rng = np.random.default_rng(7)
    values = {
        "c": rng.integers(0, 2, (3, 20)).astype(bool),
        "a": full_range(rng, (3, 20), dtype),
        "as": scale(0.05),
        "az": middle(dtype, 5),
        "b": full_range(rng, (20,), dtype),
        "bs": scale(0.03),
        "bz": middle(dtype, -5),
        "ys": scale(0.04),
        "yz": middle(dtype, 3),
    }
    model = contrib("QLinearWhere", list(values), values, ["c", "a", "b"], (dtype, (3, 20)))
    check(model, values, 1)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize(("shape", "axis"), [((), 1), ((20,), 1), ((5,), 0)])
def test_quantize_and_dequantize(shape: Any, axis: int, dtype: str) -> None:
    rng = np.random.default_rng(8)
    limits = np.iinfo(dtype)
    values: dict[str, Array] = {
        "x": rng.normal(0, limits.max / 40, (5, 20)).astype(np.float32),
        "s": rng.uniform(0.01, 0.1, shape).astype(np.float32),
        "z": full_range(rng, shape, dtype),
    }
    result = (dtype, (5, 20))
    for inputs in (["x"], ["x", "s", "z"]):
        check(
            contrib("QuantizeLinear", ["x", "s", "z"], values, inputs, result, axis=axis), values, 1
        )
    values["x"] = full_range(rng, (5, 20), dtype)
    result = ("float32", (5, 20))
    for inputs in (["x"], ["x", "s", "z"]):
        model = contrib("DequantizeLinear", ["x", "s", "z"], values, inputs, result, axis=axis)
        check(model, values)


# -- products ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("columns", [(), (9,)])
@pytest.mark.parametrize("bias", ["", "bias"])
def test_dynamic_quantize_matmul(bias: str, columns: Any, dtype: str) -> None:
    rng = np.random.default_rng(9)
    values = {
        "a": rng.normal(0.3, 1, (2, 5, 33)).astype(np.float32),
        "b": full_range(rng, (33, 9), dtype),
        "bs": rng.uniform(1e-3, 2e-3, columns).astype(np.float32),
        "bz": full_range(rng, columns, dtype),
        "bias": rng.normal(size=9).astype(np.float32),
    }
    names = ["a", "b", "bs", "bz", bias]
    if not bias:
        values.pop("bias")
    check(contrib("DynamicQuantizeMatMul", names, values, ["a"], ("float32", (2, 5, 9))), values)


@pytest.mark.parametrize("types", [("int8", "int8"), ("uint8", "int8"), ("uint8", "uint8")])
@pytest.mark.parametrize("columns", [(), (9,)])
def test_matmul_integer_to_float(columns: Any, types: tuple[str, str]) -> None:
    rng = np.random.default_rng(10)
    left, right = types
    values = {
        "a": full_range(rng, (5, 33), left),
        "b": full_range(rng, (33, 9), right),
        "as": scale(0.02),
        "bs": rng.uniform(1e-3, 2e-3, columns).astype(np.float32),
        "az": middle(left, 7),
        "bz": full_range(rng, columns, right),
        "bias": rng.normal(size=9).astype(np.float32),
    }
    names = list(values)
    for inputs in (["a"], ["a", "as", "az"], ["a", "b", "as", "bs", "az", "bz"]):
        check(contrib("MatMulIntegerToFloat", names, values, inputs, ("float32", (5, 9))), values)


@pytest.mark.parametrize("types", [("int8", "int8"), ("uint8", "int8"), ("uint8", "uint8")])
@pytest.mark.parametrize("turned", [(0, 1), (1, 0), (1, 1)])
def test_gemm(turned: tuple[int, int], types: tuple[str, str]) -> None:
    rng = np.random.default_rng(11)
    left, right = types
    result = left if turned[0] else "float32"
    values = {
        "a": full_range(rng, (33, 5) if turned[0] else (5, 33), left),
        "as": scale(0.02),
        "az": middle(left, 7),
        "b": full_range(rng, (9, 33) if turned[1] else (33, 9), right),
        "bs": scale(0.002),
        "bz": middle(right),
        "c": rng.integers(-999, 999, 9, dtype=np.int32),
    }
    if result != "float32":
        values |= {"ys": scale(0.01), "yz": middle(left, 3)}
    attributes = {"transA": turned[0], "transB": turned[1], "alpha": 0.5}
    model = contrib("QGemm", list(values), values, ["a"], (result, (5, 9)), **attributes)
    check(model, values, 1)
