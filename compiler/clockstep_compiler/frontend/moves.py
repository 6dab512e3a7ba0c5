"""Operators that only move elements become `Move` nodes, by being run on element numbers.

The elements of the data operands are numbered 1, 2, ..., and the node is run on the numbers: the
result says for each element of the output which one it is, 0 where it is none (fill). For another
operator add a row to `MOVES`; `indexing` has those that onnx's reference evaluator does not suit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from clockstep_compiler.frontend.fold import evaluate
from clockstep_compiler.frontend.indexing import (
    gather_elements,
    gather_nd,
    scatter_elements,
    scatter_nd,
    slices,
    tensor_scatter,
)
from clockstep_compiler.frontend.infer import Inferred, schema_of
from clockstep_compiler.frontend.inline import Move, Step
from clockstep_compiler.frontend.load import attributes_of
from clockstep_compiler.frontend.settle import Moved, scalar, settle
from clockstep_compiler.frontend.tensors import Array, numpy_dtype
from clockstep_compiler.graph import Tensor

__all__ = ["ELEMENTS_LIMIT", "MOVES", "elements", "is_move", "moves"]

ELEMENTS_LIMIT = 1 << 27
"""Elements that one node may move: an index takes eight bytes for each."""

_LOWERED_ELSEWHERE = frozenset(("Flatten", "Reshape", "Squeeze", "Unsqueeze"))
"""Left as they are: they have a lowering of their own."""

Operands = list[Array | None]
Shapes = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    """One node, the values of its operands (numbers where they are data), and what it makes."""

    step: Step
    operands: Operands
    shapes: Shapes

    def operand(self, position: int) -> Array | None:
        return self.operands[position] if position < len(self.operands) else None

    def given(self, position: int) -> Array:
        value = self.operand(position)
        if value is None:
            raise ValueError(f"operand {position} is missing")
        return value

    def attribute(self, name: str) -> Any:
        """The attribute's value, else its default; None if it has none."""
        return _attribute(self.step, name)


_Evaluate = Callable[[_Call], list[Array] | None]


@dataclass(frozen=True, slots=True)
class _Row:
    """`data`: positions of the data operands, None for all; the others must be constant.

    `only`: an attribute, and the one value of it with which elements are but moved.
    `fill`: the attribute that has the value of elements that come from nowhere.
    """

    evaluate: _Evaluate
    data: tuple[int, ...] | None = (0,)
    only: tuple[str, str] = ("", "")
    fill: str = ""


def is_move(step: Step, constants: Mapping[str, Array]) -> bool:
    """Whether the step does nothing but move elements, to places known now."""
    node = step.node
    row = MOVES.get(node.op_type) if not node.domain else None
    if row is None or node.op_type in _LOWERED_ELSEWHERE or not _data(row, node):
        return False
    places = [n for i, n in enumerate(node.input) if n and row.data and i not in row.data]
    name, value = row.only
    if name and _attribute(step, name) not in (None, value):
        return False
    return all(n in constants for n in places)


def elements(step: Step, outputs: tuple[Inferred, ...], types: Mapping[str, Tensor]) -> int:
    """The most elements that an output has, or the data operands have together."""
    operands = sum(math.prod(types[n].shape) for n in _data(MOVES[step.node.op_type], step.node))
    return max(operands, *(math.prod(row.shape or ()) for row in outputs))


def moves(
    step: Step,
    outputs: tuple[Inferred, ...],
    types: Mapping[str, Tensor],
    constants: Mapping[str, Array],
) -> tuple[Moved, ...] | None:
    """A move for each output of a step that `is_move`; None if its operands do not fit."""
    row, names = MOVES[step.node.op_type], _data(MOVES[step.node.op_type], step.node)
    sizes = [math.prod(types[name].shape) for name in names]
    operands = _numbered(step.node, row, types, constants)
    call = _Call(step, operands, tuple(output.shape for output in outputs))
    try:
        found = row.evaluate(call)
    except (IndexError, ValueError):  # operands that do not fit; the node is judged as it stands
        return None
    if found is None or len(found) != len(outputs):
        return None
    rows = []
    for numbers, output in zip(found, outputs, strict=True):
        index = _index(numbers, output, sum(sizes))
        if index is None or output.dtype is None:
            return None
        move = Move(index, _fill(step, row, output.dtype), step.node.op_type, step.opset)
        target = Tensor(output.name, index.shape, output.dtype)
        moved = settle(target, names, sizes, move, constants)
        if moved is None:
            return None
        rows.append(moved)
    return tuple(rows)


def _data(row: _Row, node: NodeProto) -> list[str]:
    wanted = range(len(node.input)) if row.data is None else row.data
    return [node.input[i] for i in wanted if i < len(node.input) and node.input[i]]


def _numbered(
    node: NodeProto, row: _Row, types: Mapping[str, Tensor], constants: Mapping[str, Array]
) -> Operands:
    operands: Operands = []
    first = 1
    for i, name in enumerate(node.input):
        if not name:
            operands.append(None)
        elif row.data is None or i in row.data:
            shape = types[name].shape
            count = math.prod(shape)
            operands.append(np.arange(first, first + count).reshape(shape))
            first += count
        else:
            operands.append(constants[name])
    return operands


def _index(numbers: Array, output: Inferred, count: int) -> NDArray[np.int64] | None:
    """Numbers as places from 0, or None if they are none, or not of the inferred shape."""
    if output.shape not in (None, numbers.shape):
        return None
    index: NDArray[np.int64] = numbers.astype(np.int64)
    if numbers.dtype.kind == "f" and not np.array_equal(index, numbers):
        return None
    index = np.ascontiguousarray(index).reshape(numbers.shape)
    index -= 1
    if index.size and not -1 <= index.min() <= index.max() < count:
        return None
    return index


def _fill(step: Step, row: _Row, dtype: str) -> bool | int | float:
    value = _attribute(step, row.fill) if row.fill else None
    found = scalar(np.array(value or 0.0).astype(numpy_dtype(dtype)))
    return 0 if found is None else found


def _attribute(step: Step, name: str) -> Any:
    found = attributes_of(step.node).get(name)
    schema = schema_of(step.node, step.opset)
    if found is None and schema is not None and name in schema.attributes:
        found = schema.attributes[name].default_value
    if found is None or not found.name:
        return None
    value = onnx.helper.get_attribute_value(found)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _reference(call: _Call) -> list[Array] | None:
    """By onnx's reference evaluator; element types play no part in it."""
    node = NodeProto()
    node.CopyFrom(call.step.node)
    values = {str(i): value for i, value in enumerate(call.operands) if value is not None}
    node.input[:] = [str(i) if str(i) in values else "" for i in range(len(node.input))]
    types = {name: Tensor(name, value.shape, value.dtype.name) for name, value in values.items()}
    found = evaluate(replace(call.step, node=node), types, values)
    return None if found is None else list(found.values())


def _reshape(call: _Call) -> list[Array] | None:
    shape = call.shapes[0]
    return None if shape is None else [call.given(0).reshape(shape)]


def _slice(call: _Call) -> list[Array]:
    data = _numbers(call, 0)
    if call.attribute("starts") is not None:
        starts, ends, axes, steps = call.attribute("starts"), call.attribute("ends"), None, None
        axes = call.attribute("axes") or None
    else:
        starts, ends = call.given(1).tolist(), call.given(2).tolist()
        axes, steps = (v if v is None else v.tolist() for v in map(call.operand, (3, 4)))
    count = len(starts)
    axes = list(range(count)) if axes is None else axes
    return [slices(data, starts, ends, axes, [1] * count if steps is None else steps)]


def _pad(call: _Call) -> list[Array] | None:
    """Negative padding removes elements first; onnx's evaluator knows no such padding."""
    data, step = call.given(0), call.step
    name = next((n for n in ("pads", "paddings") if _attribute(step, n) is not None), "")
    if name:
        pads, value = np.array(call.attribute(name), np.int64), None
    else:
        pads, value = call.given(1).astype(np.int64), call.operand(2)
    axes = call.operand(3)
    chosen = range(data.ndim) if axes is None else [int(a) % data.ndim for a in axes]
    if pads.shape != (2 * len(chosen),) or len(frozenset(chosen)) != len(chosen):
        raise ValueError("the padding does not fit the axes")
    widths, kept = [(0, 0)] * data.ndim, [slice(None)] * data.ndim
    for axis, before, after in zip(chosen, pads, pads[len(chosen) :], strict=False):
        kept[axis] = slice(max(0, -before), max(0, data.shape[axis] + min(0, after)))
        widths[axis] = (max(0, before), max(0, after))
    mode = call.attribute("mode")
    fill = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
    return [np.pad(data[tuple(kept)], widths, mode=mode, **fill)]


def _resize(call: _Call) -> list[Array] | None:
    """As onnx's evaluator wants it: no negative axes, empty operands absent, fill apart."""
    node = NodeProto()
    node.CopyFrom(call.step.node)
    kept = [a for a in node.attribute if a.name not in ("axes", "extrapolation_value")]
    axes = call.attribute("axes")
    del node.attribute[:]
    node.attribute.extend(kept)
    if axes:
        rank = call.given(0).ndim
        node.attribute.append(onnx.helper.make_attribute("axes", [a % rank for a in axes]))
    rest = [value if value is not None and value.size else None for value in call.operands[1:]]
    step = replace(call.step, node=node)
    return _reference(replace(call, step=step, operands=[call.operands[0], *rest]))


def _gather_elements(call: _Call) -> list[Array]:
    return [gather_elements(_numbers(call, 0), call.given(1), call.attribute("axis"))]


def _gather_nd(call: _Call) -> list[Array]:
    return [gather_nd(_numbers(call, 0), call.given(1), call.attribute("batch_dims") or 0)]


def _scatter_elements(call: _Call) -> list[Array]:
    data, updates = _numbers(call, 0), _numbers(call, 2)
    return [scatter_elements(data, call.given(1), updates, call.attribute("axis"))]


def _scatter_nd(call: _Call) -> list[Array]:
    return [scatter_nd(_numbers(call, 0), call.given(1), _numbers(call, 2))]


def _tensor_scatter(call: _Call) -> list[Array]:
    cache, update, axis = _numbers(call, 0), _numbers(call, 1), call.attribute("axis")
    circular = call.attribute("mode") == "circular"
    return [tensor_scatter(cache, update, call.operand(2), axis, circular)]


def _numbers(call: _Call, position: int) -> NDArray[np.int64]:
    return call.given(position).astype(np.int64, copy=False)


_PLAIN = _Row(_reference)
_RENAMED = _Row(_reshape)
_NEAREST = ("mode", "nearest")
_WRITTEN = ("reduction", "none")

MOVES: Mapping[str, _Row] = {
    "CenterCropPad": _PLAIN,
    "Compress": _PLAIN,
    "Concat": _Row(_reference, None),
    "DepthToSpace": _PLAIN,
    "Expand": _PLAIN,
    "Flatten": _RENAMED,
    "Gather": _PLAIN,
    "GatherElements": _Row(_gather_elements),
    "GatherND": _Row(_gather_nd),
    "Pad": _Row(_pad, (0, 2), fill="value"),
    "Reshape": _RENAMED,
    "Resize": _Row(_resize, only=_NEAREST, fill="extrapolation_value"),
    "ReverseSequence": _PLAIN,
    "Scatter": _Row(_scatter_elements, (0, 2)),
    "ScatterElements": _Row(_scatter_elements, (0, 2), _WRITTEN),
    "ScatterND": _Row(_scatter_nd, (0, 2), _WRITTEN),
    "Slice": _Row(_slice),
    "SpaceToDepth": _PLAIN,
    "Split": _PLAIN,
    "Squeeze": _RENAMED,
    "TensorScatter": _Row(_tensor_scatter, (0, 1)),
    "Tile": _PLAIN,
    "Transpose": _PLAIN,
    "Trilu": _PLAIN,
    "Unsqueeze": _RENAMED,
    "Upsample": _Row(_reference, only=_NEAREST),
    "Where": _Row(_reference, (1, 2)),
}
"""The operators that move elements."""
