"""A graph under construction: what hypothesis decides becomes nodes, constants and inputs.

A node is added with `Graph.node`, which asks onnx's own evaluator for the type and the shape of
the result, so nothing here knows what any operator does. Every decision is one of hypothesis, so
that a failing graph shrinks to fewer nodes, smaller shapes and simpler values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun, RuntimeTypeError

__all__ = ["ELEMENTS", "Array", "Graph", "NoReference", "Skip", "draw_array", "evaluate_node"]

Array = NDArray[Any]
ELEMENTS = 400
"""Most elements of a tensor: enough for several tiles of every small machine."""

_SIZES = (1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 31, 40)
_STYLES = ("normal", "integers", "tiny", "large", "constant", "wide")


class Skip(Exception):
    """A row cannot do anything with the graph as it stands."""


class NoReference(Exception):
    """onnx's evaluator cannot say what the result is, as of the maximum of nothing but NaNs."""


class LRN(OpRun):
    """As ONNX defines it: onnx's own leaves out the channels beyond the number of images."""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        around = (size - 1) // 2, size // 2
        padded = np.pad(x**2, [(0, 0), around, *([(0, 0)] * (x.ndim - 2))])
        windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)
        return ((x / (bias + alpha / size * windows.sum(axis=-1)) ** beta).astype(x.dtype),)


def evaluate_node(node: NodeProto, inputs: dict[str, Array], opset: int) -> list[Array]:
    """The results of one node by onnx's reference evaluator.

    Some of its functions have float32 constants inside; these take float64 as float32. Raises
    `NoReference` where it fails on the values.
    """
    evaluator = ReferenceEvaluator(node, opsets={"": opset}, new_ops=[LRN])
    with np.errstate(all="ignore"):
        try:
            found = evaluator.run(None, inputs)
        except RuntimeTypeError:
            wide = {n: v.dtype == np.float64 for n, v in inputs.items()}
            single = {n: v.astype(np.float32) if wide[n] else v for n, v in inputs.items()}
            found = evaluator.run(None, single)
        except ValueError as error:
            raise NoReference(str(error)) from error
    return [np.asarray(value) for value in found]


def draw_array(draw: st.DrawFn, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Values of a style and from a seed: two decisions, however large the array is."""
    style = draw(st.sampled_from(_STYLES))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = int(limits.min), int(limits.max)
        if style in ("integers", "tiny"):
            low, high = max(low, -4), min(high, 4)
        if style == "constant":
            low = high = int(rng.choice([low, max(low, -1), 0, 1, high]))
        return rng.integers(low, high, shape, np.int64, endpoint=True).astype(dtype)
    return _floats(rng, style, shape).astype(dtype)


def _floats(rng: np.random.Generator, style: str, shape: Sequence[int]) -> Array:
    """Finite floats that fp16 can hold, if not always exactly."""
    values = rng.normal(size=tuple(shape))
    if style == "integers":
        return np.round(values * 4)
    if style == "constant":
        return np.full(tuple(shape), rng.choice([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1 / 3]))
    if style == "wide":
        return values * 2.0 ** rng.integers(-14, 6, size=tuple(shape))
    return values * {"normal": 1.0, "tiny": 1e-5, "large": 60.0}[style]


class Graph:
    """Nodes so far, and the tensors that later ones may read: `tensors` has a zero array of each.

    `constants` and `inputs` have their values.
    """

    def __init__(self, draw: st.DrawFn, opset: int) -> None:
        self.draw, self.opset = draw, opset
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.inputs: dict[str, Array] = {}
        self.tensors: dict[str, Array] = {}

    # -- decisions ------------------------------------------------------------------------------

    def choose(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def size(self) -> int:
        return int(self.draw(st.sampled_from(_SIZES)))

    def shape(self, ranks: tuple[int, int] = (0, 5)) -> tuple[int, ...]:
        """A shape of at most `ELEMENTS` elements; now and then one without any."""
        sizes: list[int] = []
        for _ in range(self.integer(*ranks)):
            room = ELEMENTS // max(1, math.prod(sizes))
            sizes.append(min(self.size(), room))
        if sizes and self.integer(0, 39) == 39:
            sizes[self.integer(0, len(sizes) - 1)] = 0
        return tuple(sizes)

    # -- tensors --------------------------------------------------------------------------------

    def tensor(
        self,
        dtypes: Sequence[str] = (),
        ranks: tuple[int, int] = (0, 5),
        where: Callable[[Array], bool] = lambda value: True,
    ) -> str:
        """A tensor of any type (or one of `dtypes`) and of these ranks, late ones first.

        If there is none, it is a new input; `Skip` if that does not fit `where`.
        """
        known = [
            name
            for name, value in self.tensors.items()
            if value.dtype.name in (dtypes or (value.dtype.name,))
            and ranks[0] <= value.ndim <= ranks[1]
            and where(value)
        ]
        if known:
            return str(self.draw(st.sampled_from(known[::-1])))
        name = self.fresh(self.shape(ranks), self.choose(*(dtypes or ("float32",))), constant=False)
        if not where(self.like(name)):
            raise Skip
        return name

    def like(self, name: str) -> Array:
        """Zeros of a tensor's type and shape."""
        return self.tensors[name]

    def constant(self, value: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def fresh(self, shape: Sequence[int], dtype: Any, constant: bool | None = None) -> str:
        """A new constant or a new input."""
        value = draw_array(self.draw, tuple(shape), np.dtype(dtype))
        if self.flag() if constant is None else constant:
            return self.constant(value)
        name = f"x{len(self.inputs)}"
        self.inputs[name] = value
        self.tensors[name] = np.zeros_like(value)
        return name

    def operand(self, shape: Sequence[int], dtype: np.dtype[Any]) -> str:
        """Something of this very shape and type: a tensor, a new constant or a new input."""
        known = [n for n, v in self.tensors.items() if v.shape == tuple(shape) and v.dtype == dtype]
        if known and self.flag():
            return str(self.draw(st.sampled_from(known)))
        return self.fresh(shape, dtype)

    def broadcast(self, name: str, dtype: Any = None) -> str:
        """An operand that broadcasts with a tensor, one way or both ways."""
        value = self.like(name)
        kept = value.shape[self.integer(0, value.ndim) :]
        sizes = [n if self.flag() else 1 for n in kept]
        room = ELEMENTS // max(1, value.size)
        if value.ndim < 5 and room > 1 and self.integer(0, 4) == 4:
            sizes = [min(self.size(), room), *(1 for _ in value.shape[len(sizes) :]), *sizes]
        return self.operand(sizes, np.dtype(dtype or value.dtype))

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; the name of its result. `Skip` if onnx would not evaluate it."""
        return self.node_of(op, inputs, 1, **attributes)[0]

    def node_of(
        self, op: str, inputs: Sequence[str], count: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several results."""
        names = [f"t{len(self.nodes)}", *(f"t{len(self.nodes)}_{i}" for i in range(1, count))]
        node = helper.make_node(op, list(inputs), names, f"n{len(self.nodes)}", **attributes)
        known = {**self.tensors, **self.constants}
        if not _takes(op, self.opset, [known[n].dtype if n else None for n in inputs]):
            raise Skip
        try:
            results = evaluate_node(node, {n: known[n] for n in inputs if n}, self.opset)
        except Exception:
            raise Skip from None
        if len(results) != count or any(result.size > 2 * ELEMENTS for result in results):
            raise Skip
        if [list(result.shape) for result in results] != self._inferred(node, known):
            raise Skip  # onnx's evaluator and its shape inference are not of one mind
        self.nodes.append(node)
        self.tensors.update({n: np.zeros_like(r) for n, r in zip(names, results, strict=True)})
        return tuple(names)

    def _inferred(self, node: NodeProto, known: Mapping[str, Array]) -> list[list[int]]:
        """The shapes of a node's results, by onnx's inference."""
        names = [name for name in dict.fromkeys(node.input) if name]
        fixed = [
            numpy_helper.from_array(self.constants[n], n) for n in names if n in self.constants
        ]
        graph = helper.make_graph(
            [node],
            "one",
            [_info(name, known[name]) for name in names],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
            fixed,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
        return [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in found]

    def model(self, outputs: Sequence[str]) -> ModelProto:
        """The model of the nodes that `outputs` need."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(node.input)
        values = {**self.tensors, **self.constants}
        graph = helper.make_graph(
            nodes[::-1],
            "fuzz",
            [_info(name, value) for name, value in self.inputs.items() if name in needed],
            [_info(name, values[name]) for name in outputs],
            [numpy_helper.from_array(v, n) for n, v in self.constants.items() if n in needed],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets)
        )


def _takes(op: str, opset: int, dtypes: Sequence[np.dtype[Any] | None]) -> bool:
    """Whether the operator is defined for operands of these types."""
    try:
        schema = onnx.defs.get_schema(op, opset)
    except onnx.defs.SchemaError:
        return False
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    bound: dict[str, str] = {}
    for index, dtype in enumerate(dtypes):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
        if dtype is None:
            continue
        element = helper.np_dtype_to_tensor_dtype(dtype)
        text = f"tensor({onnx.TensorProto.DataType.Name(element).lower()})"
        if text not in allowed.get(formal, [formal]) or bound.setdefault(formal, text) != text:
            return False
    return True


def _info(name: str, value: Array) -> Any:
    element: int = helper.np_dtype_to_tensor_dtype(value.dtype)
    assert element != TensorProto.UNDEFINED
    return helper.make_tensor_value_info(name, element, list(value.shape))
