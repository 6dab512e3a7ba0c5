"""Operators that only move elements become `Move` nodes, by being run on element numbers.

The elements of the data operands are numbered 1, 2, ..., and the node is run on the numbers: the
result says for each element of the output which one it is, 0 where it is none (fill). For another
operator add a row to `movers.MOVES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from clockstep_compiler.frontend.infer import Inferred
from clockstep_compiler.frontend.inline import Move, Step
from clockstep_compiler.frontend.movers import MOVES, Call, Mover, Operands, attribute
from clockstep_compiler.frontend.settle import Moved, scalar, settle
from clockstep_compiler.frontend.tensors import Array, numpy_dtype
from clockstep_compiler.graph import Tensor

__all__ = ["ELEMENTS_LIMIT", "elements", "is_move", "moves"]

ELEMENTS_LIMIT = 1 << 27
"""Elements that one node may move: an index takes eight bytes for each."""

_LOWERED_ELSEWHERE = frozenset(("Flatten", "Reshape", "Squeeze", "Unsqueeze"))
"""Left as they are: they have a lowering of their own."""


def is_move(step: Step, constants: Mapping[str, Array]) -> bool:
    """Whether the step does nothing but move elements, to places known now."""
    node = step.node
    row = MOVES.get(node.op_type) if not node.domain else None
    if row is None or node.op_type in _LOWERED_ELSEWHERE or not _data(row, node):
        return False
    places = [n for i, n in enumerate(node.input) if n and row.data and i not in row.data]
    name, value = row.only
    if name and attribute(step, name) not in (None, value):
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
    call = Call(step, operands, tuple(output.shape for output in outputs))
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


def _data(row: Mover, node: NodeProto) -> list[str]:
    wanted = range(len(node.input)) if row.data is None else row.data
    return [node.input[i] for i in wanted if i < len(node.input) and node.input[i]]


def _numbered(
    node: NodeProto, row: Mover, types: Mapping[str, Tensor], constants: Mapping[str, Array]
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


def _fill(step: Step, row: Mover, dtype: str) -> bool | int | float:
    value = attribute(step, row.fill) if row.fill else None
    found = scalar(np.array(value or 0.0).astype(numpy_dtype(dtype)))
    return 0 if found is None else found
