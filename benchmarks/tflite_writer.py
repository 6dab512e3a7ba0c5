"""A quantized network of `convnets.py` as an int8 TFLite file: for tools that read nothing else.

    python benchmarks/tflite_writer.py MODEL.onnx OUT.tflite

Runs in the environment of `peers.py`: it needs onnx, numpy, flatbuffers and tflite. Images become
[N, H, W, C], uint8 becomes int8 with a zero point 128 lower. To add an operator, add a method of
its name to `Writer`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from onnx import numpy_helper
from tflite.BuiltinOperator import BuiltinOperator as Code
from tflite.BuiltinOptions import BuiltinOptions as Kind
from tflite.Padding import Padding
from tflite.TensorType import TensorType

Tensor = int
"""An index into the tensors of the file."""

_VERSIONS = {Code.RESHAPE: 1}
"""Of operators whose form for int8 is not the second."""

_TYPES = {"int8": TensorType.INT8, "int32": TensorType.INT32}


class File:
    """Tensors, buffers and operators, and the flatbuffer that they become."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1 << 20)
        self.buffers = [self.table("Buffer")]
        self.tensors: list[int] = []
        self.operators: list[int] = []
        self.codes: list[int] = []

    def table(self, name: str, **fields: int | float) -> int:
        """A table of the schema, its fields offsets or numbers."""
        module = importlib.import_module(f"tflite.{name}")
        module.Start(self.builder)
        for field, value in fields.items():
            getattr(module, f"Add{field}")(self.builder, value)
        return int(module.End(self.builder))

    def numbers(self, values: Any, dtype: str = "int32") -> int:
        return int(self.builder.CreateNumpyVector(np.asarray(values, dtype).ravel()))

    def offsets(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "int8",
        scale: float = 0.0,
        zero: int = 0,
        data: Any = None,
    ) -> Tensor:
        buffer = 0
        if data is not None:
            content = np.asarray(data, dtype)
            raw = self.numbers(np.frombuffer(content.tobytes(), np.uint8), "uint8")
            self.buffers.append(self.table("Buffer", Data=raw))
            buffer = len(self.buffers) - 1
        fields = {"Shape": self.numbers(shape), "Name": self.builder.CreateString(name)}
        if scale:
            scales, zeros = self.numbers([scale], "float32"), self.numbers([zero], "int64")
            fields["Quantization"] = self.table(
                "QuantizationParameters", Scale=scales, ZeroPoint=zeros
            )
        self.tensors.append(self.table("Tensor", Type=_TYPES[dtype], Buffer=buffer, **fields))
        return len(self.tensors) - 1

    def operator(
        self, code: int, inputs: Sequence[Tensor], output: Tensor, name: str = "", **options: Any
    ) -> None:
        """`name` is that of the options' table, or none."""
        if code not in self.codes:
            self.codes.append(code)
        fields = {"Inputs": self.numbers(inputs), "Outputs": self.numbers([output])}
        if name:
            fields["BuiltinOptions"] = self.table(name, **options)
            fields["BuiltinOptionsType"] = getattr(Kind, name)
        index = self.codes.index(code)
        self.operators.append(self.table("Operator", OpcodeIndex=index, **fields))

    def finish(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
        codes = [
            self.table(
                "OperatorCode", DeprecatedBuiltinCode=c, BuiltinCode=c, Version=_VERSIONS.get(c, 2)
            )
            for c in self.codes
        ]
        graph = {
            "Tensors": self.offsets(self.tensors),
            "Inputs": self.numbers(inputs),
            "Outputs": self.numbers(outputs),
            "Operators": self.offsets(self.operators),
        }
        whole = {
            "Subgraphs": self.offsets([self.table("SubGraph", **graph)]),
            "OperatorCodes": self.offsets(codes),
            "Buffers": self.offsets(self.buffers),
        }
        self.builder.Finish(self.table("Model", Version=3, **whole), file_identifier=b"TFL3")
        return bytes(self.builder.Output())


class Writer:
    """One model, node by node; `self.known` has the tensor behind each quantized value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.file, self.graph = File(), graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        infos = (*graph.input, *graph.value_info, *graph.output)
        self.shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.quantizers = {n.input[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
        self.known: dict[str, Tensor] = {}
        self.steps: dict[Tensor, tuple[float, int]] = {}

    def bytes(self) -> bytes:
        entry = self.graph.input[0].name
        self.known[entry] = self.activation(entry)
        for node in self.graph.node:
            write = getattr(self, node.op_type.lower(), None)
            if write is None:
                raise SystemExit(f"no way to write a {node.op_type}")
            write(node)
        last = self.makers[self.graph.output[0].name].input[0]
        return self.file.finish([self.known[entry]], [self.known[last]])

    # -- values ------------------------------------------------------------------------------------

    def activation(self, name: str) -> Tensor:
        """The tensor of a value that a QuantizeLinear takes, or a Reshape on the way to one."""
        end = name
        while end not in self.quantizers:
            (end,) = [n.output[0] for n in self.graph.node if end in n.input]
        _, scale, zero = self.quantizers[end].input
        return self.made(name, _last(self.shapes[name]), *self.step(scale, zero))

    def made(self, name: str, shape: Sequence[int], scale: float, zero: int) -> Tensor:
        tensor = self.file.tensor(name, shape, scale=scale, zero=zero)
        self.steps[tensor] = scale, zero
        return tensor

    def step(self, scale: str, zero: str) -> tuple[float, int]:
        value = self.constants[zero]
        return float(self.constants[scale]), int(value) - 128 * (value.dtype == np.uint8)

    def weight(self, name: str) -> tuple[Any, float]:
        """A dequantized constant and its scale."""
        quantized, scale, _ = self.makers[name].input
        return self.constants[quantized], float(self.constants[scale].ravel()[0])

    def sizes(self, tensor: str) -> list[int]:
        return _last(self.shapes[tensor])

    # -- operators ---------------------------------------------------------------------------------

    def quantizelinear(self, node: onnx.NodeProto) -> None:
        self.known[node.output[0]] = self.known[node.input[0]]

    def dequantizelinear(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self.known:
            self.known[node.output[0]] = self.known[node.input[0]]

    def conv(self, node: onnx.NodeProto) -> None:
        x, padding = self.padded(node)
        data, scale = self.weight(node.input[1])
        stride, wide = _attribute(node, "strides")[0], _attribute(node, "group") > 1
        data = data.transpose(1, 2, 3, 0) if wide else data.transpose(0, 2, 3, 1)
        options = {"Padding": padding, "StrideW": stride, "StrideH": stride}
        options |= {"DilationWFactor": 1, "DilationHFactor": 1}
        operands = self.operands(node, x, data, scale)
        name = "DepthwiseConv2DOptions" if wide else "Conv2DOptions"
        if wide:
            options["DepthMultiplier"] = 1
        code = Code.DEPTHWISE_CONV_2D if wide else Code.CONV_2D
        self.file.operator(code, operands, self.put(node), name, **options)

    def gemm(self, node: onnx.NodeProto) -> None:
        data, scale = self.weight(node.input[1])
        operands = self.operands(node, self.known[node.input[0]], data, scale)
        code = Code.FULLY_CONNECTED
        self.file.operator(code, operands, self.put(node), "FullyConnectedOptions")

    def add(self, node: onnx.NodeProto) -> None:
        operands = [self.known[name] for name in node.input]
        self.file.operator(Code.ADD, operands, self.put(node), "AddOptions")

    def maxpool(self, node: onnx.NodeProto) -> None:
        x, padding = self.padded(node)
        stride, size = _attribute(node, "strides")[0], _attribute(node, "kernel_shape")[0]
        options = {"StrideW": stride, "StrideH": stride, "FilterWidth": size, "FilterHeight": size}
        output = self.put(node)
        self.file.operator(
            Code.MAX_POOL_2D, [x], output, "Pool2DOptions", Padding=padding, **options
        )

    def reducemean(self, node: onnx.NodeProto) -> None:
        axes = self.file.tensor(f"{node.name}.axes", [2], "int32", data=[1, 2])
        operands = [self.known[node.input[0]], axes]
        self.file.operator(Code.MEAN, operands, self.put(node), "ReducerOptions", KeepDims=True)

    def reshape(self, node: onnx.NodeProto) -> None:
        shape = self.sizes(node.output[0])
        target = self.file.tensor(f"{node.name}.shape", [len(shape)], "int32", data=shape)
        operands = [self.known[node.input[0]], target]
        numbers = self.file.numbers(shape)
        self.file.operator(
            Code.RESHAPE, operands, self.put(node), "ReshapeOptions", NewShape=numbers
        )

    def put(self, node: onnx.NodeProto) -> Tensor:
        """The tensor of what a node makes."""
        name = node.output[0]
        self.known[name] = self.activation(name)
        return self.known[name]

    def operands(self, node: onnx.NodeProto, x: Tensor, data: Any, scale: float) -> list[Tensor]:
        weight = self.file.tensor(node.input[1], data.shape, scale=scale, data=data)
        bias, _ = self.weight(node.input[2])
        step = scale * self.steps[x][0]
        return [
            x,
            weight,
            self.file.tensor(node.input[2], bias.shape, "int32", step, data=bias),
        ]

    def padded(self, node: onnx.NodeProto) -> tuple[Tensor, int]:
        """The operand of a node with its border, and the kind of padding that is left to do."""
        x, pads = self.known[node.input[0]], _attribute(node, "pads")
        if not any(pads):
            return x, Padding.VALID
        if _attribute(node, "strides") == [1, 1]:
            return x, Padding.SAME  # half a kernel on each side, as ours have it
        pad = pads[0]
        n, h, w, c = self.sizes(node.input[0])
        border = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
        amounts = self.file.tensor(f"{node.name}.pads", [4, 2], "int32", data=border)
        wide = self.made(f"{node.name}.wide", [n, h + 2 * pad, w + 2 * pad, c], *self.steps[x])
        self.file.operator(Code.PAD, [x, amounts], wide, "PadOptions")
        return wide, Padding.VALID


def _last(shape: Sequence[int]) -> list[int]:
    """The shape of an image with its channels last."""
    return [shape[i] for i in (0, 2, 3, 1)] if len(shape) == 4 else list(shape)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name)


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(Writer(onnx.load(sys.argv[1])).bytes())
