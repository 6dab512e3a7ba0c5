"""A product of a whole image, flattened in whatever order: nothing is put in order but weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from clockstep_compiler.channel_rules import PULLED, RULES
from clockstep_compiler.channels import channels_last
from clockstep_compiler.frontend import import_model
from clockstep_compiler.options import Options
from tests.support.endtoend import assert_close, expected, fp16_inputs, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
Shape = tuple[int, ...]

IMAGE: Shape = (2, 5, 3, 4)
"""Of the convolution before it: two of five channels."""

FLAT = {
    "flatten": [helper.make_node("Flatten", ["c"], ["f"])],
    "reshape": [helper.make_node("Reshape", ["c", "shape"], ["f"])],
    "channels last": [
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["t"], ["f"]),
    ],
    "turned": [
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["t", "shape"], ["f"]),
    ],
}

PRODUCTS = {
    "matmul": helper.make_node("MatMul", ["f", "w"], ["y"]),
    "gemm": helper.make_node("Gemm", ["f", "w"], ["y"]),
    "turned": helper.make_node("Gemm", ["f", "turned", "bias"], ["y"], transB=1),
    "bias": helper.make_node("Gemm", ["f", "w", "row"], ["y"]),
    "scaled": helper.make_node("Gemm", ["f", "w", "bias"], ["y"], alpha=0.5, beta=2.0),
}


def network(flat: list[NodeProto], product: NodeProto) -> ModelProto:
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return rng.normal(size=shape).astype(np.float16).astype(np.float32)

    size = int(np.prod(IMAGE[1:]))
    w = normal(size, 7)
    constants = {"k": normal(5, 3, 2, 2), "shape": np.array([2, size]), "half": w[: size // 2]}
    constants |= {"w": w, "turned": np.ascontiguousarray(w.T)}
    constants |= {"bias": normal(7), "row": normal(1, 7)}
    constants |= {"start": np.array([1]), "end": np.array([3]), "axis": np.array([3])}
    read = {name for node in (*flat, product) for name in node.input} | {"k"}
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"]), *flat, product]
    kept = {name: value for name, value in constants.items() if name in read}
    return build(nodes, {"x": ("float32", (2, 3, 4, 5))}, {"y": ("float32", (2, 7))}, kept)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("flat", FLAT)
def test_as_onnxruntime(flat: str, product: str) -> None:
    model = network(FLAT[flat], PRODUCTS[product])
    graph = channels_last(import_model(model, Options()), RULES, PULLED)
    operators = [node.op for node in graph.nodes]
    assert operators.count("Conv") == (1 if product == "scaled" else 2)
    rng = np.random.default_rng(2)
    inputs = fp16_inputs({"x": rng.normal(size=(2, 3, 4, 5)).astype(np.float32)})
    assert_close(run_checked(model, TINY, inputs).outputs, expected(model, inputs))


def test_part_of_an_image_is_no_image() -> None:
    """Only two of four columns are taken, so that another order of weights would not do."""
    nodes = [
        helper.make_node("Slice", ["c", "start", "end", "axis"], ["s"]),
        helper.make_node("Flatten", ["s"], ["f"]),
    ]
    model = network(nodes, helper.make_node("MatMul", ["f", "half"], ["y"]))
    rng = np.random.default_rng(3)
    inputs = fp16_inputs({"x": rng.normal(size=(2, 3, 4, 5)).astype(np.float32)})
    assert_close(run_checked(model, TINY, inputs).outputs, expected(model, inputs))
