"""Inputs and outputs that lie in parts on several chips, as the host knows them: whole."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.graph import Graph
from clockstep_isa.layout import PIECE, Binding, Layout

__all__ = ["join", "joined_states"]


def joined_states(graph: Graph) -> tuple[tuple[str, str], ...]:
    """The states of the model: of those in parts each once."""
    whole = _wholes(graph)
    return tuple(dict.fromkeys((whole.get(a, a), whole.get(b, b)) for a, b in graph.states))


def join(graph: Graph, bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
    """The bindings of a graph's inputs or outputs with the parts of each in one."""
    own, whole = {binding.name: binding for binding in bindings}, _wholes(graph)
    names = dict.fromkeys(whole.get(binding.name, binding.name) for binding in bindings)
    return tuple(_joined(graph, name, own) if name in graph.joined else own[name] for name in names)


def _wholes(graph: Graph) -> dict[str, str]:
    """The names of what parts are parts of."""
    return {part: name for name, (_, parts) in graph.joined.items() for part in parts}


_Form = tuple[object, ...]


def _joined(graph: Graph, name: str, own: dict[str, Binding]) -> Binding:
    """One binding of all parts of a tensor; layouts that all parts have come first."""
    axis, parts = graph.joined[name]
    found: dict[_Form, list[tuple[int, Layout]]] = {}
    for rank, part in enumerate(parts):
        for layout in own[part].layouts:
            assert not layout.windows, f"windows of a part of {name!r}"
            form = layout.stored, layout.offset, layout.axes, layout.rows, layout.columns
            found.setdefault(form, []).append((rank, layout))
    tensor = graph.tensors[name]
    layouts = tuple(
        _merged(tensor.shape, axis, len(parts), some)
        for some in sorted(found.values(), key=lambda some: -len(some))
    )
    return Binding(name, tensor.dtype, tensor.shape, layouts, own[parts[0]].limits)


def _merged(
    shape: tuple[int, ...], axis: int, ranks: int, parts: list[tuple[int, Layout]]
) -> Layout:
    """A layout of all of a tensor: its matrix has rows as long as those of its parts."""
    layout = parts[0][1]
    behind = layout.axes[layout.axes.index(axis) :]
    own, rest = divmod(math.prod(shape[a] for a in behind) // ranks, layout.columns)
    assert not rest, "a row of a part is no row of all of it"
    rows = [row for rank, part in parts for row in _inside(part.pieces, rank, ranks, own)]
    pieces = np.array(sorted(rows), np.int64).reshape(-1, len(PIECE))
    count = layout.rows * ranks
    return Layout(layout.stored, layout.offset, layout.axes, count, layout.columns, pieces)


def _inside(
    pieces: NDArray[np.int64], rank: int, ranks: int, own: int
) -> Iterator[tuple[int, ...]]:
    """The pieces of a part as pieces of all of it: every `own` rows are followed by others'."""
    for byte, first, count, column, columns, chip, queue, address in pieces.tolist():
        row = first
        while row < first + count:
            outer, inner = divmod(row, own)
            rows = min(first + count - row, own - inner)
            place = (outer * ranks + rank) * own + inner
            yield byte, place, rows, column, columns, chip, queue, address + row - first
            row += rows
