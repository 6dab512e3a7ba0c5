"""Emission: a schedule becomes a `Program`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.driver import Schedule
from clockstep_compiler.graph import Graph
from clockstep_compiler.joined import join, joined_states
from clockstep_compiler.lowering.lower import offset_of
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import Lowered, Value
from clockstep_compiler.storage import Storage
from clockstep_isa.layout import PIECE, Binding, Layout
from clockstep_isa.program import ARGS, Code, Image, Node, Note, Probe, Program, end_cycle

__all__ = ["code_of", "emit"]


def emit(
    graph: Graph, lowered: Lowered, done: Schedule, weights: bool, info: Mapping[str, Any]
) -> Program:
    """Columns of instructions, the initial SRAM, bindings and what serves which node."""
    s = done.scheduler
    machine = s.plan.machine
    code = code_of(s)
    nodes = tuple(
        Node(node.name, node.op, *s.spans.get(index, (0, 0)))
        for index, node in enumerate(graph.nodes)
    )
    notes = tuple(Note(node, tile) for node, tile in s.notes)
    inputs = join(graph, tuple(_input(graph, lowered, s.storage, n) for n in graph.inputs))
    outputs = join(graph, tuple(_output(graph, s.storage, *pair) for pair in lowered.outputs))
    states = joined_states(graph)
    return Program(
        machine=machine,
        chips=s.chips,
        code=code,
        image=_image(s.storage, machine.vector, weights),
        inputs=inputs,
        outputs=_in_place(states, inputs, outputs),
        nodes=nodes,
        notes=notes,
        cycles=end_cycle(machine, code),
        probes=_probes(graph, lowered, s.storage),
        info=info,
        states=states,
    )


def code_of(s: Scheduler) -> Code:
    """The instructions of a schedule, in the order of the format."""
    rows = np.concatenate([np.empty((0, 5 + ARGS), np.int64), *s.rows])
    notes = np.repeat(np.array(s.row_notes, np.int32), [len(some) for some in s.rows])
    return Code(
        queue=rows[:, 0].astype(np.int32),
        cycle=rows[:, 1].copy(),
        opcode=rows[:, 2].astype(np.uint8),
        repeat=rows[:, 3].astype(np.int32),
        interval=rows[:, 4].astype(np.int32),
        args=rows[:, 5:],
        note=notes,
    ).sorted()


def _image(storage: Storage, lanes: int, weights: bool) -> Image:
    """Initial words by chip, slice and address."""
    parts = sorted(storage.image, key=lambda part: part[:3])
    regions = np.array([(c, q, a, len(w)) for c, q, a, w in parts], np.int64).reshape(-1, 4)
    if not weights:
        return Image(regions, None)
    data = np.zeros((int(regions[:, 3].sum()), lanes), np.uint8)
    at = 0
    for _, _, _, words in parts:
        data[at : at + len(words), : words.shape[1]] = words
        at += len(words)
    return Image(regions, data)


def _pieces(rows: list[tuple[int, ...]]) -> NDArray[np.int64]:
    return np.array(sorted(rows), np.int64).reshape(-1, len(PIECE))


def _input(graph: Graph, lowered: Lowered, storage: Storage, name: str) -> Binding:
    tensor = graph.tensors[name]
    layouts = tuple(
        _layout(value, tensor.dtype, value.axes, _pieces(storage.pieces.get(value.number, [])))
        for value in lowered.values
        if value.origin == "input" and value.source == name
    )
    # of the views that lowering asked for, those that something read
    used = tuple(layout for layout in layouts if len(layout.pieces)) or layouts[:1]
    return Binding(name, tensor.dtype, tensor.shape, used, lowered.limits.get(name))


def _output(graph: Graph, storage: Storage, name: str, value: Value) -> Binding:
    pieces, _ = _home(storage, value)
    return _whole(graph, name, value, pieces)


def _in_place(
    states: tuple[tuple[str, str], ...],
    inputs: tuple[Binding, ...],
    outputs: tuple[Binding, ...],
) -> tuple[Binding, ...]:
    """The outputs, those that are states where their inputs are."""
    given = {binding.name: binding for binding in inputs}
    sources = {made: given[name] for name, made in states}
    return tuple(
        replace(b, layouts=sources[b.name].layouts) if b.name in sources else b for b in outputs
    )


def _probes(graph: Graph, lowered: Lowered, storage: Storage) -> tuple[Probe, ...]:
    """Every tensor that a step stored, by the place in which it first lay as a whole."""
    makers = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs}
    known = {name for name, _ in lowered.stored}
    probes = []
    for name, value in sorted(lowered.stored, key=lambda pair: makers[pair[0]]):
        pieces, ready = _home(storage, value)
        nodes = _between(graph, makers, known, name)
        probes.append(Probe(_whole(graph, name, value, pieces), ready, nodes))
    return tuple(probes)


def _between(
    graph: Graph, makers: Mapping[str, int], known: set[str], name: str
) -> tuple[int, ...]:
    """The nodes that compute a tensor from inputs and `known` tensors."""
    found = {makers[name]}
    rest = [makers[name]]
    while rest:
        inputs = graph.nodes[rest.pop()].inputs
        new = {makers[i] for i in inputs if i in makers and i not in known} - found
        found |= new
        rest += sorted(new)
    return tuple(sorted(found))


def _home(storage: Storage, value: Value) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pieces of a matrix in its first copies, and the cycles from which each is there."""
    lanes = storage.plan.machine.vector
    found: list[tuple[tuple[int, ...], int]] = []
    for chunk in range(storage.chunks(value)):
        for tile in range(storage.tiles(value)):
            chip, copy = storage.homes[value.number, chunk, tile]
            place = (
                chunk * storage.block_rows(value),
                storage.rows_of(value, chunk),
                tile * lanes,
                storage.lanes_of(value, tile),
                chip,
            )
            ready = int(copy.ready.max())
            found += [((byte, *place, *plane), ready) for byte, plane in enumerate(copy.planes)]
    found.sort()
    cycles = np.array([ready for _, ready in found], np.int64)
    return _pieces([piece for piece, _ in found]), cycles


def _whole(graph: Graph, name: str, value: Value, pieces: NDArray[np.int64]) -> Binding:
    """A tensor with the last of its axes, as they lie, along the lanes, in one layout."""
    own = graph.tensors[name]
    tensor, axes = graph.views.get(name, (own, tuple(range(len(own.shape)))))
    layouts = (_layout(value, tensor.dtype, axes, pieces),)
    return Binding(tensor.name, tensor.dtype, tensor.shape, layouts)


def _layout(value: Value, dtype: str, axes: tuple[int, ...], pieces: NDArray[np.int64]) -> Layout:
    shape = value.rows, value.columns
    return Layout(value.type, offset_of(dtype), axes, *shape, pieces, value.windows)
