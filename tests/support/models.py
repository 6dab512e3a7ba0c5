"""Models for tests, built with `onnx.helper`: the same generator state gives the same bytes.

Quantized models are in `tests.support.quantized`. Weights are scaled by 1/sqrt(fan-in), so that
activations stay near one however deep the model is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

__all__ = [
    "ACTIVATIONS",
    "FORMS",
    "OPSET",
    "batched_matmul",
    "build",
    "computed_b",
    "elementwise",
    "elementwise_graph",
    "matmul_of_inputs",
    "mlp",
    "permuted",
    "random_inputs",
    "random_mlp",
    "reshapes",
]

Array = NDArray[np.generic]
Shape = Sequence[int | str]

OPSET = 21
ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "")
"""What may follow a layer of an MLP; "" is none."""

FORMS = ("matmul", "linear", "gemm")
"""MatMul and Add, Gemm as frameworks write it, and Gemm with everything it has."""


def build(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Mapping[str, tuple[str, Shape]],
    constants: Mapping[str, Array] | None = None,
    opset: int = OPSET,
) -> ModelProto:
    """A checked model; inputs and outputs are name -> (numpy dtype name, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [_value(name, *kind) for name, kind in inputs.items()],
        [_value(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def random_inputs(
    model: ModelProto, rng: np.random.Generator, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Inputs of a model: normal floats, the full range of small integers; `sizes` binds names."""
    constants = {tensor.name for tensor in model.graph.initializer}
    result: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        shape = [dim.dim_value or (sizes or {}).get(dim.dim_param, 0) for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        result[value.name] = _random(rng, shape, dtype)
    return result


class _Mlp:
    """Layers appended one by one; `x` is the name of the current activation."""

    def __init__(self, rng: np.random.Generator, batch: int) -> None:
        self.rng, self.batch = rng, batch
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.x = "x"
        self.inputs: dict[str, tuple[str, Shape]] = {}

    def constant(self, name: str, value: Array) -> str:
        self.constants[name] = np.asarray(value, np.float32)
        return name

    def node(self, op: str, inputs: list[str], **attributes: float) -> None:
        output = f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=f"n{len(self.nodes)}", **attributes)
        )
        self.x = output

    def layer(self, index: int, k: int, n: int, form: str) -> None:
        weight = self.rng.normal(size=(k, n)) / np.sqrt(k)
        vector = self.rng.normal(size=n) / 4
        if form == "matmul":
            self.node("MatMul", [self.x, self.constant(f"w{index}", weight)])
            self.node("Add", [self.x, self.constant(f"b{index}", vector)])
        elif form == "linear":
            names = [self.constant(f"w{index}", weight.T), self.constant(f"b{index}", vector)]
            self.node("Gemm", [self.x, *names], transB=1)
        else:
            self._gemm(index, weight)

    def _gemm(self, index: int, weight: Array) -> None:
        k, n = weight.shape
        scale = [float(value) for value in self.rng.choice([1.0, 0.5, 2.0], size=2)]
        trans_a, trans_b = (int(value) for value in self.rng.integers(2, size=2))
        trans_a = trans_a if index == 0 else 0
        inputs = [self.x, self.constant(f"w{index}", weight.T if trans_b else weight)]
        shapes = [None, (n,), (1, n), (self.batch, n), (self.batch, 1), (1,), ()]
        shape = shapes[int(self.rng.integers(len(shapes)))]
        if shape is not None:
            inputs.append(self.constant(f"b{index}", self.rng.normal(size=shape) / 4))
        if trans_a:
            self.inputs["x"] = ("float32", (k, self.batch))
        self.node("Gemm", inputs, alpha=scale[0], beta=scale[1], transA=trans_a, transB=trans_b)

    def activation(self, op: str, index: int) -> None:
        if op == "LeakyRelu":
            self.node(op, [self.x], alpha=float(self.rng.choice([0.01, 0.1, 0.25])))
        elif op == "Clip":
            low, high = sorted(self.rng.normal(size=2))
            bounds = [self.constant(f"lo{index}", low), self.constant(f"hi{index}", high)]
            self.node(op, [self.x, *bounds])
        elif op:
            self.node(op, [self.x])


def mlp(
    rng: np.random.Generator,
    widths: Sequence[int],
    batch: int = 1,
    activations: Sequence[str] = ("Relu",),
    forms: Sequence[str] = FORMS,
    residual: bool = True,
) -> ModelProto:
    """A float32 MLP from `widths[0]` features to `widths[-1]`, input "x", output "y".

    Each layer is of one of `forms`, chosen at random, and followed by one of `activations`. Where a
    layer has as many outputs as inputs, a residual Add follows (if `residual`).
    """
    model = _Mlp(rng, batch)
    model.inputs["x"] = ("float32", (batch, widths[0]))
    for index, (k, n) in enumerate(itertools.pairwise(widths)):
        before = model.x
        model.layer(index, k, n, str(rng.choice(list(forms))))
        model.activation(str(rng.choice(list(activations))), index)
        transposed = index == 0 and model.inputs["x"][1] != (batch, widths[0])
        if residual and k == n and not transposed:
            model.node("Add", [model.x, before])
    model.nodes[-1].output[0] = "y"
    return build(
        model.nodes, model.inputs, {"y": ("float32", (batch, widths[-1]))}, model.constants
    )


def random_mlp(
    rng: np.random.Generator,
    layers: tuple[int, int] = (1, 6),
    widths: tuple[int, int] = (1, 2000),
    batch: tuple[int, int] = (1, 70),
) -> ModelProto:
    """An MLP of random depth, widths and batch within the given bounds, both included.

    Widths are drawn from few values, so that neighbours often agree and get a residual.
    """
    depth = int(rng.integers(layers[0], layers[1] + 1))
    pool = rng.integers(widths[0], widths[1] + 1, size=3)
    sizes = [int(size) for size in rng.choice(pool, size=depth + 1)]
    return mlp(rng, sizes, int(rng.integers(batch[0], batch[1] + 1)), ACTIVATIONS)


def elementwise(
    op: str,
    shapes: Sequence[Sequence[int]],
    dtype: str = "float32",
    constants: Mapping[int, Array] | None = None,
    output_dtype: str | None = None,
    **attributes: float,
) -> ModelProto:
    """One operator on inputs "x0", "x1", ... that broadcast; `constants` replaces some by index."""
    names = [f"x{i}" for i in range(len(shapes))]
    fixed = {names[i]: np.asarray(value) for i, value in (constants or {}).items()}
    inputs = {n: (dtype, s) for n, s in zip(names, shapes, strict=True) if n not in fixed}
    shape = np.broadcast_shapes(*(tuple(s) for s in shapes))
    node = helper.make_node(op, names, ["y"], name="op", **attributes)
    return build([node], inputs, {"y": (output_dtype or dtype, shape)}, fixed)


def elementwise_graph(rng: np.random.Generator, rank: int, count: int = 6) -> ModelProto:
    """A random float32 graph of `count` elementwise operators with broadcasting, output "y"."""
    full = [int(size) for size in rng.integers(1, 6, size=rank)]
    pool: dict[str, Shape] = {}
    constants: dict[str, Array] = {}
    for index in range(4):
        kept = rng.integers(2, size=rank).astype(bool)
        shape = [size if keep else 1 for size, keep in zip(full, kept, strict=True)]
        shape = shape[int(rng.integers(rank + 1)) :]
        if index == 3:
            constants["c"] = rng.normal(size=shape).astype(np.float32)
            pool["c"] = shape
        else:
            pool[f"x{index}"] = full if index == 0 else shape
    inputs = {name: ("float32", shape) for name, shape in pool.items() if name not in constants}
    nodes: list[NodeProto] = []
    latest = "x0"
    for index in range(count):
        output = "y" if index == count - 1 else f"t{index}"
        binary = index < 3 or bool(rng.integers(2))
        op = str(
            rng.choice(["Add", "Sub", "Mul", "Max", "Min"] if binary else ["Neg", "Abs", "Relu"])
        )
        other = [str(rng.choice(sorted(pool)))] if index > 2 else [sorted(pool)[index]]
        nodes.append(
            helper.make_node(op, [latest, *(other if binary else [])], [output], f"n{index}")
        )
        pool[output] = full
        latest = output
    return build(nodes, inputs, {"y": ("float32", full)}, constants)


def reshapes(rng: np.random.Generator) -> ModelProto:
    """MatMul between Flatten, Reshape (with 0 and -1), Unsqueeze and Squeeze; one symbol, "N"."""
    constants: dict[str, Array] = {
        "w": (rng.normal(size=(24, 10)) / 5).astype(np.float32),
        "shape": np.array([0, 2, -1], np.int64),
        "first": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], "flatten", axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["product"], "matmul"),
        helper.make_node("Reshape", ["product", "shape"], ["pairs"], "reshape"),
        helper.make_node("Unsqueeze", ["pairs", "first"], ["wide"], "unsqueeze"),
        helper.make_node("Relu", ["wide"], ["kept"], "relu"),
        helper.make_node("Squeeze", ["kept", "first"], ["y"], "squeeze"),
    ]
    inputs = {"x": ("float32", ("N", 2, 3, 4))}
    return build(nodes, inputs, {"y": ("float32", ("N", 2, 5))}, constants)


def batched_matmul(
    rng: np.random.Generator, a: Sequence[int], b: Sequence[int], constant_b: bool = True
) -> ModelProto:
    """MatMul of any ranks with broadcast leading dimensions: "a" @ "b" -> "y"."""
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    value = (rng.normal(size=b) / np.sqrt(a[-1])).astype(np.float32)
    inputs: dict[str, tuple[str, Shape]] = {"a": ("float32", a)}
    if not constant_b:
        inputs["b"] = ("float32", b)
    node = helper.make_node("MatMul", ["a", "b"], ["y"], "matmul")
    return build([node], inputs, {"y": ("float32", shape)}, {"b": value} if constant_b else {})


def matmul_of_inputs(m: int, k: int, n: int) -> ModelProto:
    """MatMul of two inputs: the array has to be installed from what arrives at run time."""
    return batched_matmul(np.random.default_rng(0), (m, k), (k, n), constant_b=False)


def computed_b(rng: np.random.Generator, m: int, k: int, n: int) -> ModelProto:
    """x @ Relu(z + c): the right-hand side is computed, from an input and a constant."""
    constants: dict[str, Array] = {"c": rng.normal(size=(k, n)).astype(np.float32)}
    nodes = [
        helper.make_node("Add", ["z", "c"], ["sum"], "add"),
        helper.make_node("Relu", ["sum"], ["right"], "relu"),
        helper.make_node("MatMul", ["x", "right"], ["y"], "matmul"),
    ]
    inputs = {"x": ("float32", (m, k)), "z": ("float32", (k, n))}
    return build(nodes, inputs, {"y": ("float32", (m, n))}, constants)


def permuted(model: ModelProto, seed: int) -> ModelProto:
    """The same model with its initializers, and its nodes in another valid order, permuted."""
    rng = np.random.default_rng(seed)
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    waiting, nodes = list(graph.node), []
    produced = {name for node in waiting for name in node.output}
    while waiting:
        ready = [i for i, node in enumerate(waiting) if not produced.intersection(node.input)]
        node = waiting.pop(int(rng.choice(ready)))
        produced.difference_update(node.output)
        nodes.append(node)
    order = rng.permutation(len(graph.initializer))
    tensors = [graph.initializer[int(i)] for i in order]
    _refill(graph.node, nodes)
    _refill(graph.initializer, tensors)
    return copy


def _refill(field: object, items: Iterable[object]) -> None:
    copies = []
    for item in items:
        copy = type(item)()
        copy.CopyFrom(item)
        copies.append(copy)
    del field[:]
    field.extend(copies)


def _value(name: str, dtype: str, shape: Shape) -> onnx.ValueInfoProto:
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, elem, list(shape))


def _random(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[np.generic]) -> Array:
    if dtype == np.bool_:
        return rng.integers(2, size=shape).astype(np.bool_)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
    return rng.normal(size=shape).astype(dtype)
