"""Quantized models for tests: the integer operators, QLinear, and QDQ as onnxruntime writes it."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper

from tests.support.models import build, mlp, random_inputs

__all__ = [
    "full_range",
    "matmul_integer",
    "qdq_convnet",
    "qdq_mlp",
    "qdq_pair",
    "qlinear_matmul",
    "quantize",
]

Array = NDArray[np.generic]


def matmul_integer(
    rng: np.random.Generator,
    a: Sequence[int],
    b: Sequence[int],
    a_type: str = "int8",
    b_type: str = "int8",
    zero_points: str = "tensor",
) -> ModelProto:
    """MatMulInteger "a" @ constant "b" -> "y"; `zero_points` is "none", "tensor" or "column"."""
    constants = {"b": full_range(rng, b, b_type)}
    names = ["a", "b"]
    if zero_points != "none":
        constants["a_zero"] = full_range(rng, (), a_type)
        shape = (b[-1],) if zero_points == "column" else ()
        constants["b_zero"] = full_range(rng, shape, b_type)
        names += ["a_zero", "b_zero"]
    node = helper.make_node("MatMulInteger", names, ["y"], "matmul")
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    return build([node], {"a": (a_type, a)}, {"y": ("int32", shape)}, constants)


def qlinear_matmul(
    rng: np.random.Generator,
    a: Sequence[int],
    b: Sequence[int],
    a_type: str = "int8",
    b_type: str = "int8",
    y_type: str = "int8",
    per_column: bool = False,
) -> ModelProto:
    """QLinearMatMul "a" @ constant "b" -> "y", scales such that few results saturate."""
    columns = (b[-1],) if per_column else ()
    a_scale, b_scale = np.float32(rng.uniform(0.01, 0.05)), rng.uniform(0.01, 0.05, size=columns)
    spread = float(a_scale) * 0.05 * 74 * 74 * np.sqrt(a[-1])
    constants = {
        "a_scale": np.asarray(a_scale),
        "a_zero": _near_middle(rng, (), a_type),
        "b": full_range(rng, b, b_type),
        "b_scale": b_scale.astype(np.float32) if columns else np.asarray(b_scale, np.float32),
        "b_zero": _near_middle(rng, columns, b_type),
        "y_scale": np.asarray(spread / 50, np.float32),
        "y_zero": _near_middle(rng, (), y_type),
    }
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    node = helper.make_node("QLinearMatMul", names, ["y"], "matmul")
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    return build([node], {"a": (a_type, a)}, {"y": (y_type, shape)}, constants)


def qdq_pair(shape: Sequence[int], scale: Array, zero: Array, axis: int = 1) -> ModelProto:
    """QuantizeLinear then DequantizeLinear: "x" -> "q" and "y"; `zero` decides the type."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize", axis=axis),
        helper.make_node(
            "DequantizeLinear", ["q", "scale", "zero"], ["y"], "dequantize", axis=axis
        ),
    ]
    outputs = {"q": (zero.dtype.name, shape), "y": ("float32", shape)}
    return build(nodes, {"x": ("float32", shape)}, outputs, {"scale": scale, "zero": zero})


def qdq_mlp(
    rng: np.random.Generator,
    widths: Sequence[int],
    batch: int = 1,
    activations: Sequence[str] = ("Relu",),
    activation_type: str = "int8",
    weight_type: str = "int8",
    per_channel: bool = False,
    residual: bool = True,
) -> ModelProto:
    """`mlp` put through onnxruntime's static quantizer, calibrated on random inputs.

    Layers are those the quantizer can do per channel: a bias is a vector, alpha and beta are one.
    """
    model = mlp(rng, widths, batch, activations, ("matmul", "linear"), residual)
    samples = [random_inputs(model, rng) for _ in range(8)]
    return quantize(model, samples, activation_type, weight_type, per_channel)


def quantize(
    model: ModelProto,
    samples: Sequence[Mapping[str, Array]],
    activation_type: str = "int8",
    weight_type: str = "int8",
    per_channel: bool = False,
) -> ModelProto:
    """A float model as QDQ, by `onnxruntime.quantization.quantize_static` in silence."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        """Hands out `samples` one by one."""

        def __init__(self) -> None:
            self._rest: Iterator[Mapping[str, Array]] = iter(samples)

        def get_next(self) -> dict[str, Array] | None:
            sample = next(self._rest, None)
            return None if sample is None else dict(sample)

    kinds = {"int8": quantization.QuantType.QInt8, "uint8": quantization.QuantType.QUInt8}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source, target = Path(folder) / "float.onnx", Path(folder) / "qdq.onnx"
        onnx.save(model, source)
        logging.disable(logging.WARNING)
        try:
            quantization.quantize_static(
                source,
                target,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=kinds[activation_type],
                weight_type=kinds[weight_type],
                per_channel=per_channel,
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(target)


def full_range(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    """Integers over the whole range of `dtype`, ends included."""
    limits = np.iinfo(dtype)
    value = rng.integers(limits.min, limits.max, size=tuple(shape), dtype=dtype, endpoint=True)
    return np.asarray(value, dtype)


def _near_middle(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    limits = np.iinfo(dtype)
    middle = (limits.min + limits.max + 1) // 2
    return np.asarray(middle + rng.integers(-9, 10, size=tuple(shape)), dtype)


def qdq_convnet(
    rng: np.random.Generator,
    activation_type: str = "int8",
    weight_type: str = "int8",
    per_channel: bool = False,
) -> ModelProto:
    """A small network of images with all that such networks have, put through the quantizer.

    "x" [1, 3, 12, 10] -> "y" [1, 7]; convolutions of all kinds, a shortcut, and branches.
    """
    net = _Net(rng)
    size = int(rng.integers(4, 9))
    x = net.convolution("x", 3, size, 3, strides=[2, 1], pads=[1, 1, 1, 1])
    x = net.add(str(rng.choice(["Relu", "HardSwish", "Sigmoid", "LeakyRelu"])), x)
    deep = net.convolution(x, size, 2 * size, 1)
    deep = net.clip(deep)
    deep = net.convolution(deep, 2 * size, 2 * size, 3, group=2 * size, pads=[1, 1, 1, 1])
    deep = net.convolution(net.add("Relu", deep), 2 * size, size, 1)
    x = net.add("Add", x, deep)
    pooled = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    means = net.add("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    grown = net.add("Resize", pooled, "", net.constant(np.array([1, 1, 2, 2], np.float32)))
    x = net.add("Concat", grown, means, axis=1)
    x = net.convolution(x, 2 * size, 8, 3, group=2, dilations=[1, 2], pads=[1, 2, 1, 2])
    x = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", x)))
    net.layer("Gemm", [x, net.weights((7, 8), 8), net.weights((7,), 1)], "y", transB=1)
    outputs = {"y": ("float32", (1, 7))}
    model = build(net.nodes, {"x": ("float32", (1, 3, 12, 10))}, outputs, net.constants)
    samples = [random_inputs(model, rng) for _ in range(6)]
    return quantize(model, samples, activation_type, weight_type, per_channel)


class _Net:
    """Nodes and constants of a network as it grows."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def layer(self, op: str, inputs: list[str], out: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [out], f"{op}{len(self.nodes)}"))
        given = [helper.make_attribute(key, value) for key, value in attributes.items()]
        self.nodes[-1].attribute.extend(given)
        return out

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """A node after the others; the name of its output."""
        return self.layer(op, list(inputs), f"t{len(self.nodes)}", **attributes)

    def constant(self, value: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def weights(self, shape: tuple[int, ...], fan: int) -> str:
        return self.constant((self.rng.normal(size=shape) / np.sqrt(fan)).astype(np.float32))

    def convolution(self, x: str, c: int, m: int, kernel: int, **attributes: object) -> str:
        """A convolution with a bias, whose kernel is square."""
        width = c // int(attributes.get("group", 1))  # type: ignore[call-overload]
        fan = width * kernel * kernel
        w, b = self.weights((m, width, kernel, kernel), fan), self.weights((m,), 4)
        return self.add("Conv", x, w, b, **attributes)

    def clip(self, x: str) -> str:
        """ReLU6."""
        bounds = [self.constant(np.array(v, np.float32)) for v in (0, 6)]
        return self.add("Clip", x, *bounds)
