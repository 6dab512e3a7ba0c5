"""A graph under construction: nodes in order, weights drawn from one seed.

Networks of `convnets.py`, `encoder.py`, `recurrent.py` and `products.py` are built with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["Array", "Net"]

Array = NDArray[Any]


class Net:
    """Inputs, nodes and constants; `model` puts them together."""

    def __init__(self, name: str, opset: int = 20, seed: int = 0) -> None:
        self.name, self.opset = name, opset
        self.rng = np.random.default_rng(seed)
        self._ends: dict[str, list[onnx.ValueInfoProto]] = {"inputs": [], "outputs": []}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._domains: set[str] = set()

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        self._ends["inputs"].append(_end(name, shape, dtype))
        return name

    def output(self, value: str, name: str, shape: Sequence[int], dtype: str = "float32") -> None:
        """`value` goes out under `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"out.{name}"))
        self._ends["outputs"].append(_end(name, shape, dtype))

    def constant(self, value: Any, name: str = "", dtype: str = "float32") -> str:
        name = name or f"constant.{len(self._constants)}"
        array = np.asarray(value, dtype)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, shape: Sequence[int], std: float, name: str = "", mean: float = 0.0) -> str:
        """A constant of normal numbers."""
        drawn = self.rng.standard_normal(shape, dtype=np.float32)
        return self.constant(mean + std * drawn, name)

    def ops(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """A node of `count` outputs, whose names it returns."""
        domain = attributes.get("domain", "")
        if domain:
            self._domains.add(domain)
        name = f"{op}.{len(self._nodes)}"
        outputs = [f"{name}:{i}" for i in range(count)]
        self._nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output."""
        return self.ops(op, inputs, 1, **attributes)[0]

    def model(self) -> onnx.ModelProto:
        """The checked model, without the copies that only give outputs their names."""
        nodes = _named(self._nodes)
        graph = helper.make_graph(
            nodes, self.name, self._ends["inputs"], self._ends["outputs"], self._constants
        )
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(self._domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def _end(name: str, shape: Sequence[int], dtype: str) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)


def _named(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    names = {n.input[0]: n.output[0] for n in nodes if n.name.startswith("out.")}
    kept = [n for n in nodes if not n.name.startswith("out.")]
    for node in kept:
        for ends in (node.input, node.output):
            ends[:] = [names.get(end, end) for end in ends]
    return kept
