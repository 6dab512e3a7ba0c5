"""A small language model that decodes a token at a time, as exporters write them.

Two layers with a cache of fixed size, in two spellings: `genai` as onnxruntime-genai's builder has
it, with packed weights, and `opset` with ONNX's own operators. To add a spelling, write its layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["Decoder"]

Array = NDArray[Any]


@dataclass
class Decoder:
    """Adds nodes and constants; `model` is the whole. Sizes are those of the model."""

    spelling: str
    size: int = 16
    hidden: int = 32
    heads: int = 2
    groups: int = 1
    vocabulary: int = 40
    layers: int = 2
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    @property
    def width(self) -> int:
        """Elements of a head."""
        return self.hidden // self.heads

    @property
    def caches(self) -> dict[str, tuple[int, ...]]:
        """Names and shape of the caches; each comes back as the output `new_` and its name."""
        shape = (1, self.groups, self.size, self.width)
        return {f"{n}{i}": shape for i in range(self.layers) for n in ("key", "value")}

    def model(self, count: int) -> ModelProto:
        """From `count` tokens [1, count] and how many there are with them, to the logits."""
        self.nodes.clear()
        self.constants.clear()
        self._constants(count)
        x = self._node("Gather", "table", "tokens", axis=0)
        for i in range(self.layers):
            x = self._layer(i, x, count)
        x = self._norm(x, "last")
        logits = self._product(x, "head", self.vocabulary)
        self.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        kinds = {"tokens": TensorProto.INT64, "length": TensorProto.INT64}
        shapes: dict[str, tuple[int, ...]] = {"tokens": (1, count), "length": (1,)}
        inputs = [helper.make_tensor_value_info(n, kinds[n], shapes[n]) for n in kinds]
        inputs += [_info(n, shape) for n, shape in self.caches.items()]
        outputs = [_info("logits", (1, count, self.vocabulary))]
        outputs += [_info(f"new_{n}", shape) for n, shape in self.caches.items()]
        weights = [numpy_helper.from_array(v, n) for n, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, weights)
        opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _constants(self, count: int) -> None:
        self.rng = np.random.default_rng(3)
        angles = np.outer(np.arange(self.size), 10.0 ** -np.linspace(0, 2, self.width // 2))
        self.constants["cos"] = np.cos(angles).astype(np.float32)
        self.constants["sin"] = np.sin(angles).astype(np.float32)
        self._weights("table", (self.vocabulary, self.hidden))
        self.constants["total"] = np.array(self.size, np.int32)
        self.constants["count"] = np.array([count], np.int64)
        self.constants["steps"] = np.arange(count).reshape(1, -1)

    def _weights(self, name: str, shape: tuple[int, ...]) -> str:
        values = self.rng.standard_normal(shape) / np.sqrt(shape[0])
        self.constants[name] = values.astype(np.float32)
        return name

    def _node(self, op: str, *operands: str, **given: Any) -> str:
        return self._nodes(op, operands, 1, **given)[0]

    def _nodes(self, op: str, operands: tuple[str, ...], count: int, **given: Any) -> list[str]:
        name = f"n{len(self.nodes)}"
        made = [name, *(f"{name}_{i}" for i in range(1, count))]
        self.nodes.append(helper.make_node(op, operands, made, name, **given))
        return made

    def _norm(self, x: str, name: str) -> str:
        self.constants[f"{name}_g"] = 1 + 0.1 * self.rng.standard_normal(self.hidden).astype("f")
        op = "SimplifiedLayerNormalization" if self.spelling == "genai" else "RMSNormalization"
        return self._node(op, x, f"{name}_g", axis=-1, epsilon=1e-6)

    def _product(self, x: str, name: str, columns: int) -> str:
        depth = 2 * self.hidden if name.endswith("_2") else self.hidden
        if self.spelling != "genai":
            return self._node("MatMul", x, self._weights(name, (depth, columns)))
        blocks = depth // 16
        codes = self.rng.integers(0, 256, (columns, blocks, 8)).astype(np.uint8)
        scales = self.rng.uniform(0.5, 1.5, (columns, blocks)) / np.sqrt(20 * depth)
        self.constants |= {f"{name}_b": codes, f"{name}_s": scales.astype(np.float32)}
        sizes: dict[str, Any] = {"K": depth, "N": columns, "bits": 4, "block_size": 16}
        names = (x, f"{name}_b", f"{name}_s")
        return self._node("MatMulNBits", *names, domain="com.microsoft", accuracy_level=1, **sizes)

    def _layer(self, i: int, x: str, count: int) -> str:
        inner = self._norm(x, f"a{i}")
        parts = [("q", self.heads), ("k", self.groups), ("v", self.groups)]
        q, k, v = (self._product(inner, f"{n}{i}", heads * self.width) for n, heads in parts)
        attend = self._grouped if self.spelling == "genai" else self._attention
        y = self._product(attend(i, q, k, v), f"o{i}", self.hidden)
        x = self._node("Add", x, y)
        inner = self._norm(x, f"b{i}")
        gate, up = (self._product(inner, f"{n}{i}", 2 * self.hidden) for n in ("gate", "up"))
        gate = self._node("Mul", gate, self._node("Sigmoid", gate))
        inner = self._node("Mul", gate, up)
        return self._node("Add", x, self._product(inner, f"down{i}_2", self.hidden))

    def _grouped(self, i: int, q: str, k: str, v: str) -> str:
        """Places and turns are the operator's own; it takes the length less one."""
        self.constants["one"] = np.array([1])
        last = self._node("Cast", self._node("Sub", "length", "one"), to=TensorProto.INT32)
        found = [f"y{i}", f"new_key{i}", f"new_value{i}"]
        operands = [q, k, v, f"key{i}", f"value{i}", last, "total", "cos", "sin"]
        given: dict[str, Any] = {
            "num_heads": self.heads,
            "kv_num_heads": self.groups,
        }
        node = helper.make_node(
            "GroupQueryAttention", operands, found, domain="com.microsoft", do_rotary=1, **given
        )
        self.nodes.append(node)
        return found[0]

    def _attention(self, i: int, q: str, k: str, v: str) -> str:
        """A cache outside: new rows are scattered, and the number of valid rows masks the rest."""
        first = self._node("Sub", "length", "count")
        places = self._node("Add", self._node("Unsqueeze", first, "axis"), "steps")
        self.constants["axis"] = np.array([1])
        turned = [
            self._node("RotaryEmbedding", n, "cos", "sin", places, num_heads=heads)
            for n, heads in ((q, self.heads), (k, self.groups))
        ]
        for name, new in ((f"key{i}", turned[1]), (f"value{i}", v)):
            shape = f"shape_{name}"
            self.constants[shape] = np.array([1, -1, self.groups, self.width])
            rows = self._node("Transpose", self._node("Reshape", new, shape), perm=[0, 2, 1, 3])
            operands = [name, rows, first]
            self.nodes.append(helper.make_node("TensorScatter", operands, [f"new_{name}"], axis=2))
        self.constants["whole"] = np.array([1, -1, self.heads, self.width])
        q4 = self._node("Reshape", turned[0], "whole")
        q4 = self._node("Transpose", q4, perm=[0, 2, 1, 3])
        operands = [q4, f"new_key{i}", f"new_value{i}", "", "", "", "length"]
        y = self._node("Attention", *operands, is_causal=1)
        y = self._node("Transpose", y, perm=[0, 2, 1, 3])
        self.constants["flat"] = np.array([1, -1, self.hidden])
        return self._node("Reshape", y, "flat")


def _info(name: str, shape: tuple[int, ...]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
