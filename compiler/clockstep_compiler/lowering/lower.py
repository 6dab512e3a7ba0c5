"""The state of lowering: what each tensor is so far, and how it becomes a stored matrix.

A tensor is an expression until somebody needs it stored: a second reader, a product's operand, a
graph output. So a chain of operators with one reader each becomes one wave.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Expr, Leaf, Op, add, binary, cast, mul
from clockstep_compiler.graph import Graph, Node
from clockstep_compiler.lowering.refill import refilled
from clockstep_compiler.lowering.wide import stepped_tensors, wide_tensors
from clockstep_compiler.options import Options
from clockstep_compiler.steps import Broadcast, Compute, Step, Value
from clockstep_compiler.uniform import different, in_order, spread
from clockstep_isa.diagnostics import UnsupportedModel
from clockstep_isa.layout import numpy_type
from clockstep_isa.machine import Machine
from clockstep_isa.table import Type

__all__ = [
    "FLOATS",
    "HANDLERS",
    "SMALL_FLOATS",
    "STORED",
    "WORDS",
    "Lowering",
    "Quant",
    "Tensor",
    "is_float",
    "lowers",
    "stored_elements",
]

FLOATS = ("float16", "float32", "float64", "bfloat16")
"""Floats that are computed with."""

SMALL_FLOATS = (
    *("float4_e2m1fn", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    "float8_e8m0fnu",
)
"""Floats that are only converted and moved; a wider type holds each of their values."""

STORED = {
    **dict.fromkeys(FLOATS, Type.F16),
    **dict.fromkeys(SMALL_FLOATS, Type.F16),
    **dict.fromkeys(("float64", "float8_e8m0fnu"), Type.F32),
    **dict.fromkeys(("int4", "uint4", "int2", "uint2"), Type.I8),
    "int8": Type.I8,
    "uint8": Type.I8,
    "bool": Type.I8,
    "int16": Type.I16,
    "uint16": Type.I32,
    "int32": Type.I32,
    "uint32": Type.I32,
    "int64": Type.I32,
    "uint64": Type.I32,
}
"""How a tensor's elements are kept in SRAM: floats as fp16, float64 as f32, uint8 as int8 less 128,
uint32 as int32 less 2**31. A program refuses inputs of 64 bits that do not fit 32."""

WORDS = ("int64", "uint64")
"""Types whose values are kept in 32 bits: a program refuses inputs that do not fit."""

_SUB_BYTE = {"int4": (15, 8), "uint4": (15, 0), "int2": (3, 2), "uint2": (3, 0)}
"""Of integers under a byte: the bits, and the one that is the sign."""

Handler = Callable[["Lowering", Node], None]
HANDLERS: dict[str, Handler] = {}


def lowers(*names: str) -> Callable[[Handler], Handler]:
    """Register the lowering of operators."""

    def register(handler: Handler) -> Handler:
        for name in names:
            assert name not in HANDLERS, f"{name} is lowered twice"
            HANDLERS[name] = handler
        return handler

    return register


def is_float(dtype: str) -> bool:
    """Whether elements of a type are computed with as f32."""
    return dtype in FLOATS or dtype in SMALL_FLOATS


def offset_of(dtype: str) -> int:
    """What is added to an element before it is stored."""
    return {"uint8": -128, "uint32": -(2**31)}.get(dtype, 0)


def stored_elements(array: NDArray[np.generic], dtype: str, kind: Type) -> NDArray[np.generic]:
    """Elements of a tensor of type `dtype` as they are kept in SRAM."""
    target = numpy_type(kind)
    if is_float(dtype):
        with np.errstate(over="ignore"):
            return spread(different(array).astype(target), array.shape)
    few = different(array)
    exact = few.astype(np.int64)
    if dtype in ("int64", "uint64") and not np.array_equal(exact.astype(np.int32), few):
        raise UnsupportedModel(
            "integer-range",
            f"a constant of {dtype} exceeds the machine's 32 bits",
            help="use constants of 32 bits",
        )
    return spread((exact + offset_of(dtype)).astype(target), array.shape)


@dataclass(slots=True)
class Tensor:
    """A tensor while lowering: `expr` computes it in f32 or i32, or is the leaf that holds it; it
    may be `made` when it is first asked for.

    `narrow` is true if `expr` is in the storage type. `nodes` are those whose work `expr` holds.
    `values` are the matrices that hold it, by their type. `quant` says what a DequantizeLinear
    read, for the products that can use the integers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    made: Expr | Callable[[], Expr]
    nodes: tuple[int, ...]
    narrow: bool = False
    values: dict[Type, Value] = field(default_factory=dict)
    quant: Quant | None = None

    @property
    def expr(self) -> Expr:
        if not isinstance(self.made, Leaf | Acc | Const | Op):
            self.made = self.made()
        return self.made


@dataclass(frozen=True, slots=True)
class Quant:
    """A tensor as scale * (integers - zero); scale and zero broadcast to its shape."""

    source: str
    scale: NDArray[np.float64]
    zero: NDArray[np.int64]


def _is_alike(expr: Expr) -> bool:
    """Whether all rows of an expression are computed with the same constants."""
    if isinstance(expr, Const):
        return math.prod(expr.array.shape[:-1]) == 1
    return not isinstance(expr, Op) or all(map(_is_alike, expr.args))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor's matrix."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def _as_stored(expr: Expr, kind: Type, shape: tuple[int, int]) -> Value | None:
    """The matrix that an expression in f32 is no more than: an fp16 number is itself in f32."""
    if kind != Type.F16 or not isinstance(expr, Op) or expr.name != "cast":
        return None
    leaf = expr.args[0]
    if not isinstance(leaf, Leaf) or leaf.index is not None or leaf.out != kind:
        return None
    return leaf.value if (leaf.value.rows, leaf.value.columns) == shape else None


class Lowering:
    """Walks the graph once; handlers call `define` for each output of their node."""

    def __init__(
        self, graph: Graph, options: Options, machine: Machine, limits: Mapping[str, int]
    ) -> None:
        self.graph = graph
        self.options = options
        self.machine = machine
        self.limits = limits
        self.steps: list[Step] = []
        self.values: list[Value] = []
        self.tensors: dict[str, Tensor] = {}
        self.node = 0
        self._fused: set[int] = set()
        self.weight_bytes = 0
        self.warnings: list[str] = []
        self.uses = Counter(name for node in graph.nodes for name in node.inputs if name)
        self.uses.update(graph.outputs)
        self._views: dict[tuple[int, ...], dict[tuple[object, ...], Value]] = {}
        self.memo: dict[tuple[object, ...], Any] = {}  # what a family of operators works out once
        self.bounds = {
            name: (0 if graph.tensors[name].dtype == "uint64" else -most, most)
            for name, most in limits.items()
        }
        self.reach: dict[str, tuple[float, float]] = {}
        """The least and the greatest value of floats, where it is known."""
        self.refilled = refilled(graph)
        kept = {*self.refilled, *self.refilled.values()}  # where they lie there is no room for more
        self._wide, self._stepped = wide_tensors(graph) - kept, stepped_tensors(graph)
        for name in graph.inputs:
            self._define_input(name)

    def start_node(self, index: int) -> None:
        """Handlers work for node `index` from here on."""
        self.node = index
        self._fused = set()

    # -- reading ------------------------------------------------------------------------------

    @property
    def chips(self) -> tuple[int, ...]:
        """The chips that the node at hand is pinned to."""
        return self._chips_of((self.node,))

    @property
    def views(self) -> dict[tuple[object, ...], Value]:
        """Matrices made of others, such as their transposes, on the chips at hand."""
        return self._views.setdefault(self.chips, {})

    def _chips_of(self, nodes: tuple[int, ...]) -> tuple[int, ...]:
        return self.graph.nodes[nodes[-1]].chips if self.graph.nodes else ()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.tensors[name].shape

    def dtype(self, name: str) -> str:
        return self.graph.tensors[name].dtype

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """The array of a constant, None for anything computed or absent."""
        return self.graph.constants.get(name) if name else None

    def operand(self, name: str, shape: tuple[int, ...]) -> Expr:
        """A tensor as an expression over `shape`, in f32 or i32, ready to compute with."""
        constant = self.constant(name)
        if constant is not None:
            kind = Type.F32 if is_float(self.dtype(name)) else Type.I32
            exact = constant.astype(np.float64 if kind == Type.F32 else np.int64)
            return Const(exact, kind)
        tensor = self.tensors[name]
        if isinstance(tensor.expr, Const):
            return tensor.expr
        if tensor.quant is not None:
            return self.dequantized(tensor.quant, shape)
        inline = self.uses[name] == 1 and tensor.shape == shape
        if not inline or tensor.values or self._chips_of(tensor.nodes) != self.chips:
            return self.widen(self.leaf(name, shape), tensor.dtype)
        self._fused.update(tensor.nodes)
        return self.widen(tensor.expr, tensor.dtype) if tensor.narrow else tensor.expr

    def dequantized(self, quant: Quant, shape: tuple[int, ...]) -> Expr:
        """scale * (integers - zero) over `shape`, from the stored integers."""
        leaf, dtype = self.leaf(quant.source, shape), self.dtype(quant.source)
        if leaf.out == Type.I8:
            zero = quant.zero.astype(np.float64) + offset_of(dtype)
            return mul(add(cast(leaf, Type.F32), -zero), quant.scale)
        return mul(cast(add(self.widen(leaf, dtype), -quant.zero), Type.F32), quant.scale)

    def leaf(self, name: str, shape: tuple[int, ...]) -> Expr:
        """A stored tensor's leaf over `shape`, rows mapped by ONNX broadcasting."""
        value = self.store(name)
        return self.broadcast(value, self.tensors[name].shape, shape)

    def broadcast(self, value: Value, own: tuple[int, ...], shape: tuple[int, ...]) -> Leaf:
        """A matrix that holds a tensor of shape `own` as a leaf over `shape`."""
        if own == shape:
            return Leaf(value, None)
        if value.columns != (shape[-1] if shape else 1):
            value = self._spread(value)
        rows = np.arange(value.rows).reshape(own[:-1])
        index = np.broadcast_to(rows, shape[:-1]).ravel()
        return Leaf(value, np.ascontiguousarray(index))

    def widen(self, expr: Expr, dtype: str) -> Expr:
        """From the storage type to f32 or i32."""
        if is_float(dtype):
            return cast(expr, Type.F32)
        return add(cast(expr, Type.I32), -offset_of(dtype))

    def narrow(self, expr: Expr, dtype: str, stored: Type) -> Expr:
        """From f32 or i32 to the storage type of `dtype`; integers keep their low bits."""
        if dtype == "uint16":
            return binary("and", expr, Const(np.asarray(0xFFFF), Type.I32))
        if dtype in _SUB_BYTE:
            mask, sign = _SUB_BYTE[dtype]
            low = binary("and", expr, Const(np.asarray(mask), Type.I32))
            flipped = binary("xor", low, Const(np.asarray(sign), Type.I32)) if sign else low
            expr = add(flipped, -sign)
        if expr.out == Type.I32:
            expr = add(expr, offset_of(dtype))
        return cast(expr, stored, saturate=False)

    # -- writing ------------------------------------------------------------------------------

    def define(self, name: str, expr: Expr | Callable[[], Expr], *, narrow: bool = False) -> Tensor:
        """The tensor `name` is `expr`, in f32 or i32, or `narrow`: in its storage type."""
        tensor = self.graph.tensors[name]
        nodes = tuple(sorted(self._fused | {self.node}))
        self.tensors[name] = Tensor(name, tensor.shape, tensor.dtype, expr, nodes, narrow)
        return self.tensors[name]

    def define_value(self, name: str, value: Value) -> Tensor:
        """The tensor `name` is stored as `value`."""
        tensor = self.graph.tensors[name]
        values = {value.type: value}
        self.tensors[name] = Tensor(
            name, tensor.shape, tensor.dtype, Leaf(value, None), (self.node,), True, values
        )
        return self.tensors[name]

    def carry(self, name: str, out: str) -> bool:
        """Define `out` as what computes `name`, whose matrix has as many rows and columns.

        False if `name` is stored, or wanted elsewhere, or has constants that differ by row.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.values or tensor.quant is not None or self.uses[name] > 1:
            return False
        if self.constant(name) is not None or not _is_alike(tensor.expr):
            return False
        self._fused.update(tensor.nodes)
        self.define(out, tensor.expr, narrow=tensor.narrow)
        return True

    def stored_type(self, name: str) -> Type:
        """The type a tensor is stored in: by its dtype, and f32 where fp16 would not do."""
        dtype = self.dtype(name)
        exact = self.options.precision == "exact" and dtype in ("float32", "bfloat16")
        return Type.F32 if exact or name in self._wide else STORED[dtype]

    def is_coarse(self, name: str) -> bool:
        """Whether a relative error of 2**-12 is no more than becomes of a float's elements anyway:
        they are stored in fp16, or but quantized to a byte."""
        fp16 = self.options.precision != "exact" and self.stored_type(name) == Type.F16
        return fp16 or self.is_stepped(name)

    def is_stepped(self, name: str) -> bool:
        """Whether a float's elements are but quantized to a byte, and need not be exact."""
        return self.options.precision != "exact" and name in self._stepped

    def store(self, name: str, kind: Type | None = None) -> Value:
        """The matrix that holds a tensor, of type `kind` if given, made now if need be."""
        home = self.stored_type(name)
        kind = home if kind is None else kind
        constant = self.constant(name)
        if constant is not None and name not in self.tensors:
            self.define_value(name, self._constant_matrix(name, constant, kind))
        tensor = self.tensors[name]
        if kind not in tensor.values:
            tensor.values[kind] = self._make(tensor, kind, home)
            if kind == home:
                tensor.made, tensor.narrow = Leaf(tensor.values[kind], None), True
        return tensor.values[kind]

    def _make(self, tensor: Tensor, kind: Type, home: Type) -> Value:
        """A matrix of another type than those there are."""
        if isinstance(tensor.expr, Const):
            return self._constant_matrix(tensor.name, tensor.expr.array, kind)
        rows, columns = matrix_shape(tensor.shape)
        if not tensor.values and kind == home:
            if tensor.narrow:
                return self.compute(tensor, tensor.expr)
            same = _as_stored(tensor.expr, kind, (rows, columns))
            return same or self.compute(tensor, self.narrow(tensor.expr, tensor.dtype, kind))
        base = next(iter(tensor.values.values()), None) or self.store(tensor.name)
        if base.origin == "input":
            return self.input_view(base.source, base.axes, rows, columns, kind)
        if base.origin == "const":
            assert base.data is not None
            return self.constant_value(tensor.name, base.data.astype(numpy_type(kind)))
        return self.compute(tensor, cast(Leaf(base, None), kind))

    def compute(self, tensor: Tensor, expr: Expr) -> Value:
        """A step that stores `expr`, in its type, as the matrix of a tensor."""
        chips = self._chips_of(tensor.nodes)
        value = self._made(tensor.name, *matrix_shape(tensor.shape), expr.out, chips)
        self.steps.append(Compute(value, expr, tensor.nodes, tensor.shape))
        return value

    def new_value(self, name: str, rows: int, columns: int, kind: Type) -> Value:
        """A matrix that a step of the node at hand will make."""
        return self._made(name, rows, columns, kind, self.chips)

    def _made(
        self, name: str, rows: int, columns: int, kind: Type, chips: tuple[int, ...]
    ) -> Value:
        return self._keep(Value(len(self.values), name, rows, columns, kind, "step", chips=chips))

    def input_view(
        self, name: str, axes: tuple[int, ...], rows: int, columns: int, kind: Type
    ) -> Value:
        """A graph input, loaded by the host in a type, with its axes or rows in another order."""
        key = (name, axes, rows, columns, kind)
        if key not in self.views:
            number, shape = len(self.values), tuple(self.shape(name)[axis] for axis in axes)
            value = Value(number, name, rows, columns, kind, "input", None, name, axes, shape)
            self.views[key] = self._keep(value)
        return self.views[key]

    def constant_value(self, name: str, data: NDArray[np.generic]) -> Value:
        """A stored constant matrix [rows, columns] in a storage type's dtype."""
        kind = next(t for t in Type if numpy_type(t) == data.dtype)
        rows, columns = data.shape
        return self._keep(Value(len(self.values), name, rows, columns, kind, "const", data=data))

    def _keep(self, value: Value) -> Value:
        self.values.append(value)
        return value

    # -- inside -------------------------------------------------------------------------------

    def assume(self, name: str) -> bool:
        """Take a value as given by the host, if it can be stored: there is no way to make it."""
        if name and self.dtype(name) in STORED:
            self._define_input(name)
            return True
        return False

    def _define_input(self, name: str) -> None:
        tensor = self.graph.tensors[name]
        if tensor.dtype not in STORED:
            return  # reported with the node that reads it, or as an output
        axes = tuple(range(len(tensor.shape)))
        shape, kind = matrix_shape(tensor.shape), self.stored_type(name)
        self.define_value(name, self.input_view(name, axes, *shape, kind))

    def _constant_matrix(self, name: str, array: NDArray[np.generic], kind: Type) -> Value:
        tensor = self.graph.tensors[name]
        full = np.broadcast_to(array, tensor.shape).reshape(matrix_shape(tensor.shape))
        data = stored_elements(full, tensor.dtype, kind)
        if np.isinf(different(data)).any() and not np.isinf(different(full)).any():
            self.warnings.append(f"constant {name!r} exceeds fp16 and became infinite")
        return self.constant_value(name, in_order(data))

    def _spread(self, value: Value) -> Value:
        """A matrix of one column with that column in every lane."""
        assert value.columns == 1, value.name
        key = ("spread", value.number)
        if key not in self.views:
            out = self.new_value(value.name, value.rows, 1, value.type)
            self.steps.append(Broadcast(out, value, (self.node,)))
            self.views[key] = out
        return self.views[key]
