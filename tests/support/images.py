"""Models of one convolution or pooling with random attributes, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tests.support.models import OPSET
from tests.support.quantized import full_range

__all__ = ["convolution", "inferred", "integer_convolution", "pooling"]

Array = NDArray[np.generic]
Shape = Sequence[int]


def inferred(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[str, Shape]],
    constants: Mapping[str, Any],
    outputs: Sequence[str] = ("y",),
) -> ModelProto:
    """A checked model whose outputs have the types that onnx infers."""

    def made(ends: list[onnx.ValueInfoProto]) -> ModelProto:
        graph = helper.make_graph(
            nodes,
            "test",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
                )
                for name, (dtype, shape) in inputs.items()
            ],
            ends,
            [numpy_helper.from_array(np.asarray(value), n) for n, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    known = onnx.shape_inference.infer_shapes(made([]), strict_mode=True).graph.value_info
    model = made([next(v for v in known if v.name == name) for name in outputs])
    onnx.checker.check_model(model)
    return model


def convolution(
    rng: np.random.Generator,
    image: Shape,
    weights: Shape,
    *,
    op: str = "Conv",
    bias: bool = True,
    constant: bool = True,
    **attributes: Any,
) -> tuple[ModelProto, dict[str, Array]]:
    """A float convolution "x" -> "y" and inputs; weights and bias are constants or inputs.

    All of them are numbers that fp16 has.
    """
    channels = weights[0] if op == "Conv" else weights[1] * attributes.get("group", 1)
    values = {"w": rng.normal(size=weights) / np.sqrt(np.prod(weights[1:]))}
    if bias:
        values["b"] = rng.normal(size=channels)
    arrays = {n: v.astype(np.float16).astype(np.float32) for n, v in values.items()}
    node = helper.make_node(op, ["x", *arrays], ["y"], "conv", **attributes)
    x = rng.normal(size=image).astype(np.float16).astype(np.float32)
    inputs = {"x": ("float32", image)}
    if constant:
        return inferred([node], inputs, arrays), {"x": x}
    inputs.update((name, ("float32", array.shape)) for name, array in arrays.items())
    return inferred([node], inputs, {}), {"x": x, **arrays}


def integer_convolution(
    rng: np.random.Generator,
    image: Shape,
    weights: Shape,
    types: tuple[str, str, str] = ("uint8", "int8", "uint8"),
    *,
    per_channel: bool = True,
    constant: bool = True,
    **attributes: Any,
) -> tuple[ModelProto, dict[str, Array]]:
    """ConvInteger "x" -> "sums" and QLinearConv with a bias -> "y" of the same operands.

    The weights "w" are a constant or an input.
    """
    channels = (weights[0],) if per_channel else ()
    constants = {
        "x_zero": full_range(rng, (), types[0]),
        "w": full_range(rng, weights, types[1]),
        "w_zero": full_range(rng, (), types[1]),
        "w_zeros": full_range(rng, channels, types[1]),
        "x_scale": np.float32(0.02),
        "w_scale": rng.uniform(0.01, 0.05, size=channels).astype(np.float32),
        "y_scale": np.float32(0.6 * np.sqrt(np.prod(weights[1:]))),
        "y_zero": full_range(rng, (), types[2]),
        "bias": rng.integers(-5000, 5000, size=weights[0]).astype(np.int32),
    }
    names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zeros", "y_scale", "y_zero", "bias"]
    nodes = [
        helper.make_node("ConvInteger", ["x", "w", "x_zero", "w_zero"], ["sums"], **attributes),
        helper.make_node("QLinearConv", names, ["y"], **attributes),
    ]
    inputs = {"x": (types[0], image)}
    feeds = {"x": full_range(rng, image, types[0])}
    if not constant:
        inputs["w"] = (types[1], weights)
        feeds["w"] = np.asarray(constants.pop("w"))
    return inferred(nodes, inputs, constants, ("sums", "y")), feeds


def pooling(
    rng: np.random.Generator, op: str, image: Shape, dtype: str = "float32", **attributes: Any
) -> tuple[ModelProto, dict[str, Array]]:
    """A pooling "x" -> "y" and inputs, numbers that fp16 has."""
    model = inferred(
        [helper.make_node(op, ["x"], ["y"], "pool", **attributes)], {"x": (dtype, image)}, {}
    )
    if dtype != "float32":
        return model, {"x": full_range(rng, image, dtype)}
    return model, {"x": rng.normal(size=image).astype(np.float16).astype(np.float32)}
