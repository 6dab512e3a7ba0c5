"""The models that benchmarks run, with weights from fixed seeds.

To add a kind of model, add a function that returns a `ModelProto`; which sizes are measured stands
in `run.py` and `engine.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Mlp", "chain", "digits", "matmul", "matmul_integer"]

_DIGITS = Path(__file__).parents[1] / "samples" / "digits"


@dataclass(frozen=True, slots=True)
class Mlp:
    """Gemm and Relu layers, float32."""

    name: str
    batch: int
    widths: tuple[int, ...]

    def model(self) -> onnx.ModelProto:
        rng = np.random.default_rng(0)
        nodes, constants, value = [], {}, "x"
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        for i, (k, n) in enumerate(pairs):
            weight = rng.standard_normal((k, n), dtype=np.float32)
            constants[f"w{i}"] = weight / np.float32(k**0.5)
            constants[f"b{i}"] = rng.standard_normal(n, dtype=np.float32)
            out = "y" if i == len(pairs) - 1 else f"h{i}"
            nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"g{i}"]))
            nodes.append(helper.make_node("Relu", [f"g{i}"], [out]))
            value = out
        shapes = (self.batch, self.widths[0]), (self.batch, self.widths[-1])
        return _model(self.name, nodes, shapes, constants)


def matmul(n: int) -> onnx.ModelProto:
    """x [n, n] @ constant [n, n], float32."""
    weight = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _model("matmul", [node], ((n, n), (n, n)), {"w": weight / np.float32(n**0.5)})


def matmul_integer(n: int, unsigned: bool = False) -> onnx.ModelProto:
    """x [n, n] @ constant [n, n], int8 to int32; x may be uint8 with a zero point of 128."""
    weight = np.random.default_rng(0).integers(-128, 128, (n, n)).astype(np.int8)
    constants: dict[str, NDArray[Any]] = {"w": weight}
    if unsigned:
        constants["zero"] = np.array(128, np.uint8)
    node = helper.make_node("MatMulInteger", ["x", *constants], ["y"])
    kinds = (TensorProto.UINT8 if unsigned else TensorProto.INT8, TensorProto.INT32)
    return _model("matmul_integer", [node], ((n, n), (n, n)), constants, kinds)


def chain(rows: int, columns: int) -> onnx.ModelProto:
    """Elementwise operators one after the other on x [rows, columns], float32."""
    steps = (("Mul", "c0"), ("Add", "c1"), ("Relu",), ("Sub", "c1"), ("Tanh",), ("Max", "c0"))
    nodes, value = [], "x"
    for i, (op, *others) in enumerate(steps):
        out = "y" if i == len(steps) - 1 else f"v{i}"
        nodes.append(helper.make_node(op, [value, *others], [out]))
        value = out
    rng = np.random.default_rng(0)
    constants = {f"c{i}": rng.standard_normal(columns, dtype=np.float32) for i in range(2)}
    return _model("chain", nodes, ((rows, columns), (rows, columns)), constants)


def digits(form: str = "") -> onnx.ModelProto:
    """The sample's classifier, x [N, 64]: float32, or as `form` ".int8" with Q and DQ nodes."""
    return onnx.load(_DIGITS / f"digits{form}.onnx")


def _model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    shapes: tuple[tuple[int, int], tuple[int, int]],
    constants: dict[str, NDArray[Any]],
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
) -> onnx.ModelProto:
    """From x to y, of `shapes` and element types `kinds`."""
    ends = [
        helper.make_tensor_value_info(end, kind, shape)
        for end, kind, shape in zip(("x", "y"), kinds, shapes, strict=True)
    ]
    weights = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
