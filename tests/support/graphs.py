"""Random graphs of every operator we have, over tensors of any rank, with several outputs.

Integer graphs wrap around alike everywhere, so they are compared exactly however deep they are;
float graphs are kept near one, where fp16 is at home. To add an operator, add a method of
`_Graph` and its name to `_MOVES`, `_FLOATS` or `_INTEGERS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from tests.support.models import build
from tests.support.quantized import full_range

__all__ = ["random_graph"]

_MOVES = ("reshape", "flatten", "unsqueeze", "squeeze")
_FLOATS = ("unary", "binary", "binary", "leaky", "clip", "matmul", "gemm", "both", *_MOVES)
_INTEGERS = ("unary", "binary", "binary", "narrow", "clip", "integer", "integers", *_MOVES)


class _Graph:
    """Nodes so far, and the tensors that later ones may read: name -> shape."""

    def __init__(self, rng: np.random.Generator, dtype: str) -> None:
        self.rng, self.dtype = rng, dtype
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.inputs: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.pool: dict[str, tuple[int, ...]] = {}

    def pick(self, *options: str) -> str:
        return str(self.rng.choice(list(options)))

    def tensor(self) -> str:
        """Any tensor, more often a late one."""
        names = list(self.pool)
        return names[-1 - min(int(self.rng.geometric(0.4)) - 1, len(names) - 1)]

    def values(self, shape: Sequence[int], scale: float = 1.0) -> NDArray[np.generic]:
        if self.dtype == "float32":
            return (self.rng.normal(size=tuple(shape)) * scale).astype(np.float32)
        return full_range(self.rng, shape, self.dtype)

    def fresh(self, shape: tuple[int, ...], scale: float = 1.0) -> str:
        """A new constant, or a new input."""
        if self.rng.integers(2):
            name = f"c{len(self.constants)}"
            self.constants[name] = self.values(shape, scale)
        else:
            name = f"x{len(self.inputs)}"
            self.inputs[name] = (self.dtype, shape)
        return name

    def hidden(self, array: NDArray[np.generic]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def node(self, op: str, names: list[str], shape: Sequence[int], **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, names, [output], f"n{len(self.nodes)}", **attributes)
        )
        self.pool[output] = tuple(shape)
        return output

    # -- elementwise ----------------------------------------------------------------------------

    def unary(self) -> None:
        x = self.tensor()
        floats = ("Tanh", "Sigmoid") if self.dtype == "float32" else ()
        self.node(self.pick("Neg", "Abs", "Relu", *floats), [x], self.pool[x])

    def binary(self) -> None:
        x = self.tensor()
        shape = self.pool[x]
        like = [name for name, other in self.pool.items() if other == shape]
        if self.rng.integers(2):
            other = self.pick(*like)
        else:
            kept = shape[int(self.rng.integers(len(shape) + 1)) :]
            other = self.fresh(tuple(n if self.rng.integers(3) else 1 for n in kept))
        names = [x, other] if self.rng.integers(2) else [other, x]
        self.node(self.pick("Add", "Sub", "Mul", "Max", "Min"), names, shape)

    def leaky(self) -> None:
        x = self.tensor()
        self.node("LeakyRelu", [x], self.pool[x], alpha=float(self.rng.choice([-0.5, 0.01, 0.25])))

    def clip(self) -> None:
        x = self.tensor()
        low, high = np.sort(self.values((2,)))
        bounds = [self.hidden(np.asarray(low)), self.hidden(np.asarray(high))]
        self.node("Clip", [x, *bounds], self.pool[x])

    # -- products -------------------------------------------------------------------------------

    def matmul(self) -> None:
        x = self.tensor()
        shape = self.pool[x]
        if not shape:
            return
        n = int(self.rng.integers(1, 40))
        weight = self.fresh((shape[-1], n), 1 / math.sqrt(shape[-1]))
        self.node("MatMul", [x, weight], (*shape[:-1], n))

    def gemm(self) -> None:
        x = self.tensor()
        if len(self.pool[x]) != 2:
            return
        trans = [int(t) for t in self.rng.integers(2, size=2)]
        m, k = self.pool[x][:: -1 if trans[0] else 1]
        n = int(self.rng.integers(1, 40))
        weight = self.fresh((n, k) if trans[1] else (k, n), 1 / math.sqrt(k))
        bias = self.fresh([(n,), (m, 1), (1, n), ()][int(self.rng.integers(4))])
        self.node("Gemm", [x, weight, bias], (m, n), transA=trans[0], transB=trans[1], beta=0.5)

    def both(self) -> None:
        """A tensor with its own transpose: both sides are computed; Tanh keeps it near one."""
        x = self.tensor()
        if len(self.pool[x]) != 2:
            return
        m, k = self.pool[x]
        product = self.node("Gemm", [x, x], (m, m), transB=1, alpha=1 / k)
        self.node("Tanh", [product], (m, m))

    def narrow(self, x: str = "") -> str:
        """Through 8 bits and back, which keeps the low ones; returns the narrow tensor."""
        x = x or self.tensor()
        kind = TensorProto.INT8 if self.rng.integers(2) else TensorProto.UINT8
        small = self.node("Cast", [x], self.pool[x], to=kind)
        shape = self.pool.pop(small)
        self.node("Cast", [small], shape, to=TensorProto.INT32)
        return small

    def integer(self) -> None:
        x = self.tensor()
        shape = self.pool[x]
        if not shape:
            return
        small = self.narrow(x)
        n = int(self.rng.integers(1, 40))
        weight = self.hidden(full_range(self.rng, (shape[-1], n), self.pick("int8", "uint8")))
        self.node("MatMulInteger", [small, weight], (*shape[:-1], n))

    def integers(self) -> None:
        """x @ x^T of the low bits, the transpose by a reshape where that is one."""
        x = self.tensor()
        flat = self.hidden(np.array([1, -1], np.int64))
        tall = self.hidden(np.array([-1, 1], np.int64))
        size = math.prod(self.pool[x])
        if size > 40:
            return
        row = self.narrow(self.node("Reshape", [x, flat], (1, size)))
        column = self.narrow(self.node("Reshape", [x, tall], (size, 1)))
        self.node("MatMulInteger", [column, row], (size, size))

    # -- shapes ---------------------------------------------------------------------------------

    def reshape(self) -> None:
        x = self.tensor()
        left, sizes = math.prod(self.pool[x]), []
        while left > 1 and len(sizes) < 3:
            divisors = [d for d in range(1, left + 1) if left % d == 0]
            sizes.append(int(self.rng.choice(divisors)))
            left //= sizes[-1]
        wanted = self.hidden(np.array([*sizes, left], np.int64))
        self.node("Reshape", [x, wanted], (*sizes, left))

    def flatten(self) -> None:
        x = self.tensor()
        shape = self.pool[x]
        axis = int(self.rng.integers(len(shape) + 1))
        self.node("Flatten", [x], (math.prod(shape[:axis]), math.prod(shape[axis:])), axis=axis)

    def unsqueeze(self) -> None:
        x = self.tensor()
        if len(self.pool[x]) > 3:
            return
        axis = int(self.rng.integers(len(self.pool[x]) + 1))
        axes = self.hidden(np.array([axis], np.int64))
        self.node("Unsqueeze", [x, axes], np.expand_dims(np.zeros(self.pool[x]), axis).shape)

    def squeeze(self) -> None:
        x = self.tensor()
        axes = self.hidden(np.array([i for i, n in enumerate(self.pool[x]) if n == 1], np.int64))
        if self.constants[axes].size:
            self.node("Squeeze", [x, axes], tuple(n for n in self.pool[x] if n != 1))


def random_graph(rng: np.random.Generator, dtype: str = "float32", steps: int = 10) -> ModelProto:
    """A graph of about `steps` nodes on `dtype` float32 or int32; outputs are "t<number>"."""
    graph = _Graph(rng, dtype)
    rank = int(rng.integers(1, 4))
    shape = tuple(int(n) for n in rng.integers(1, (0, 80, 24, 10)[rank], size=rank))
    graph.inputs["x0"] = (dtype, shape)
    graph.pool["x0"] = shape
    kinds = _FLOATS if dtype == "float32" else _INTEGERS
    while len(graph.nodes) < steps:
        getattr(graph, graph.pick(*kinds))()
    names = [name for name in graph.pool if name.startswith("t")]
    chosen = {names[-1], *(str(n) for n in rng.choice(names, size=2))}
    outputs = {name: (dtype, graph.pool[name]) for name in names if name in chosen}
    used = {name for node in graph.nodes for name in node.input}
    constants = {name: value for name, value in graph.constants.items() if name in used}
    return build(graph.nodes, graph.inputs, outputs, constants)
