"""Operators that only rename elements: free where rows stay rows, a relayout where they do not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.channels import order
from clockstep_compiler.expr import Leaf
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise_operands import carry_bounds
from clockstep_compiler.lowering.lower import (
    WORDS,
    Lowering,
    lowers,
    matrix_shape,
    stored_elements,
)
from clockstep_compiler.lowering.reduce_rows import relaid
from clockstep_compiler.lowering.views import in_longer_rows
from clockstep_compiler.steps import Compute, Move, Value
from clockstep_isa.table import Type

__all__: list[str] = []


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(state: Lowering, node: Node) -> None:
    """The same elements in row-major order under another shape; where rows stay rows, whatever
    computes them may go on."""
    name, out = node.inputs[0], node.outputs[0]
    carry_bounds(state, out, node.inputs[:1])
    rows_stay = matrix_shape(state.shape(name)) == matrix_shape(state.shape(out))
    if rows_stay and state.carry(name, out):
        return
    _rename(state, out, state.store(name))


def _rename(state: Lowering, out: str, value: Value) -> None:
    """`out` has the elements of `value` in their order."""
    shape = state.shape(out)
    rows, columns = matrix_shape(shape)
    if (value.rows, value.columns) == (rows, columns) or 0 in shape:
        state.define_value(out, value)
    elif value.origin == "input" and value.axes == tuple(sorted(value.axes)):
        state.define_value(
            out, state.input_view(value.source, value.axes, rows, columns, value.type)
        )
    elif value.origin == "const":
        assert value.data is not None
        data = np.ascontiguousarray(value.data.reshape(rows, columns))
        state.define_value(out, state.constant_value(out, data))
    else:
        state.define_value(out, relaid(state, value, rows, columns))


@lowers("Move")
def _move(state: Lowering, node: Node) -> None:
    """Elements put elsewhere by an index that the frontend worked out; -1 is the fill."""
    out = node.outputs[0]
    rows, columns = matrix_shape(state.shape(out))
    index = np.asarray(node.attributes["index"], np.int64).reshape(rows, columns)
    filled = state.dtype(out) in WORDS and bool((index < 0).any())
    carry_bounds(state, out, node.inputs, *([int(node.attributes["fill"])] if filled else []))
    kind = max((state.stored_type(name) for name in node.inputs), key=lambda t: t.bytes)
    axes = _permutation(node.attributes["index"], state.shape(node.inputs[0]))
    if axes is not None and node.inputs[0] in state.graph.inputs:
        state.define_value(out, state.input_view(node.inputs[0], axes, rows, columns, kind))
        return
    turned = _channels_last(state, node, index, kind)
    sources = [state.store(name, kind) for name in node.inputs]
    if turned is not None:
        sources, index = [turned[0]], turned[1]
    fill = stored_elements(np.asarray(node.attributes["fill"]), state.dtype(out), kind)
    if not index.size:
        state.define_value(out, state.constant_value(out, np.zeros(index.shape, fill.dtype)))
        return
    if len(sources) == 1 and np.array_equal(
        index.ravel(), np.arange(sources[0].rows * sources[0].columns)
    ):
        _rename(state, out, sources[0])
        return
    if fill.tobytes().strip(b"\0") and (index < 0).any():
        # Zero bits cost nothing; any other fill is one more source.
        index = np.where(index < 0, sum(v.rows * v.columns for v in sources), index)
        sources.append(state.constant_value("fill", fill.reshape(1, 1)))
    picked = _rows_picked(index, sources[0]) if len(sources) == 1 else None
    if picked is not None and kind == state.stored_type(out):
        state.define(out, Leaf(sources[0], picked), narrow=True)
        return
    if len(node.inputs) == 1:
        sources[0] = in_longer_rows(state, sources[0], index)
    sources, index = _enlarged(state, sources, index)
    result = state.new_value(out, rows, columns, kind)
    state.steps.append(Move(result, tuple(sources), index, (state.node,)))
    state.define_value(out, result)


def _enlarged(
    state: Lowering, sources: list[Value], index: NDArray[np.int64]
) -> tuple[list[Value], NDArray[np.int64]]:
    """What is joined with others and has each row several times gets these rows once, as they are.

    An image enlarged by eight in both directions and put beside another: enlarged along its lines,
    which is little, each of its lines goes on as long as the other's.
    """
    if len(sources) == 1:
        return sources, index
    found, moved, first, begin = [], index.copy(), 0, 0
    for source in sources:
        count = source.rows * source.columns
        inside = (index >= first) & (index < first + count)
        picked = _repeated(inside, (index - first) // source.columns)
        if picked is not None:
            lines, places = picked
            out = state.new_value(source.name, len(lines), source.columns, source.type)
            leaf = Leaf(source, lines)
            state.steps.append(Compute(out, leaf, (state.node,), (out.rows, out.columns)))
            kept = begin + places[:, None] * source.columns + (index - first) % source.columns
            source = out
        else:
            kept = index + (begin - first)
        moved[inside] = kept[inside]
        first += count
        begin += source.rows * source.columns
        found.append(source)
    return found, moved


def _repeated(
    inside: NDArray[np.bool_], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Of a source that gives each row of a result one of its rows, several times the same in turn:
    the rows of each line that is different, and where each row of the result is among these.

    Lines are as long as the first, which ends where rows begin anew. None where neither rows nor
    lines are repeated.
    """
    chosen = rows[:, inside.argmax(axis=1)[0]]
    if not inside.any(axis=1).all() or (inside & (rows != chosen[:, None])).any():
        return None
    back, same = np.diff(chosen) < 0, np.diff(chosen) == 0
    if not back.any() or 2 * same.sum() < len(chosen):
        return None
    length = 1 + int(back.argmax())
    if len(chosen) % length:
        return None
    lines, line = np.unique(chosen.reshape(-1, length), axis=0, return_inverse=True)
    if 2 * lines.size > len(chosen):
        return None
    return lines.ravel(), (line.reshape(-1, 1) * length + np.arange(length)).ravel()


def _channels_last(
    state: Lowering, node: Node, index: NDArray[np.int64], kind: Type
) -> tuple[Value, NDArray[np.int64]] | None:
    """An input loaded with channels last, where that keeps more elements together; the index."""
    name = node.inputs[0]
    shape = state.shape(name)
    if len(node.inputs) != 1 or name not in state.graph.inputs or len(shape) < 3:
        return None
    axes = order(len(shape))
    last = tuple(shape[axis] for axis in axes)
    places = np.arange(math.prod(shape)).reshape(last).transpose(np.argsort(axes)).ravel()
    other = np.append(places, -1)[index]
    if _together(other) <= _together(index):
        return None
    return state.input_view(name, axes, *matrix_shape(last), kind), other


def _together(index: NDArray[np.int64]) -> int:
    """Neighbours in a row that were neighbours before."""
    return int((np.diff(index, axis=1) == 1).sum())


def _permutation(index: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of the axes of `shape`, if that is all that a move changes."""
    if sorted(index.shape) != sorted(shape) or not index.size:
        return None
    # An axis of the result steps through one of the source, whose step is the elements inside it.
    steps = [int(np.diff(index, axis=i).flat[0]) if n > 1 else 0 for i, n in enumerate(index.shape)]
    inside = [math.prod(shape[i + 1 :]) if n > 1 else 0 for i, n in enumerate(shape)]
    axes: list[int] = []
    for step in steps:
        found = [i for i, n in enumerate(inside) if n == step and i not in axes]
        axes += found[:1]
    if len(axes) != len(shape):
        return None
    same = np.arange(index.size).reshape(shape).transpose(axes)
    return tuple(axes) if np.array_equal(same, index) else None


def _rows_picked(index: NDArray[np.int64], source: Value) -> NDArray[np.int64] | None:
    """The row of the source for every row of the result, if rows stay as they are."""
    if index.shape[1] != source.columns or (index < 0).any():
        return None
    whole = (index[:, :1] % source.columns == 0).all()
    steady = (np.diff(index, axis=1) == 1).all()
    return np.ascontiguousarray(index[:, 0] // source.columns) if whole and steady else None
