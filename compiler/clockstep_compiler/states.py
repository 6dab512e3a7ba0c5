"""States: outputs that the next run finds in the place of inputs, such as caches of attention.

`paired` says which they are, `stated` gives each matrix of such an input another of the same form
that is written over it. To know the names of another exporter, add them to `_PAST`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Leaf, cast
from clockstep_compiler.graph import Graph
from clockstep_compiler.steps import Compute, Lowered, Move, Put, Relayout, Step, Value, sources_of
from clockstep_isa.diagnostics import UsageError

__all__ = ["paired", "stated"]

_PRESENT = "present"
_PAST = ("past_key_values", "past")
"""What an input has in its name where the output that goes on with it has `_PRESENT`."""


def paired(graph: Graph, wanted: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """The states of a model: the `wanted`, or if that is None those that names and shapes tell.

    Raises `UsageError` if a wanted one is no input and output of one type and shape.
    """
    if wanted is None:
        return _found(graph)
    for given, made in wanted.items():
        if given not in graph.inputs or made not in graph.outputs:
            message = f"no input {given!r}, or no output {made!r}"
            known = f"inputs: {', '.join(graph.inputs)}; outputs: {', '.join(graph.outputs)}"
            raise UsageError("state", message, where=f"state {given!r}", help=known)
        if not _alike(graph, given, made):
            one, two = (graph.tensors[name] for name in (given, made))
            message = f"is {one.dtype}{list(one.shape)}, {made!r} is {two.dtype}{list(two.shape)}"
            raise UsageError("state", message, where=f"state {given!r}")
    if len(set(wanted.values())) < len(wanted):
        raise UsageError("state", "one output cannot be two states")
    return tuple(wanted.items())


def _found(graph: Graph) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for made in graph.outputs:
        names = [made.replace(_PRESENT, past, 1) for past in _PAST] if _PRESENT in made else []
        for given in names:
            if given in graph.inputs and given not in found and _alike(graph, given, made):
                found[given] = made
                break
    return tuple(found.items())


def _alike(graph: Graph, given: str, made: str) -> bool:
    one, two = graph.tensors[given], graph.tensors[made]
    return (one.shape, one.dtype) == (two.shape, two.dtype)


def stated(graph: Graph, lowered: Lowered) -> Lowered:
    """The model with a matrix to write over each one of a state that a step reads."""
    maker = _Maker(graph, lowered)
    outputs = dict(lowered.outputs)
    twins = {graph.views[name][0].name: name for name in outputs if name in graph.views}
    for given, made in graph.states:
        name = twins.get(made, made)
        outputs[name] = maker.returned(given, name, outputs[name])
    return replace(
        lowered,
        steps=tuple(maker.steps),
        values=tuple(maker.values),
        outputs=tuple(outputs.items()),
        returned=tuple(maker.pairs),
    )


class _Maker:
    """Steps and matrices as they are added."""

    def __init__(self, graph: Graph, lowered: Lowered) -> None:
        self.graph = graph
        self.steps: list[Step] = list(lowered.steps)
        self.values = list(lowered.values)
        self.pairs: list[tuple[Value, Value]] = []
        self._read = {v.number for step in lowered.steps for v in sources_of(step)}
        self._nodes = {step.out.number: step.nodes for step in lowered.steps}

    def returned(self, given: str, made: str, result: Value) -> Value:
        """Pair the matrices of an input; the one that now stands for the output `made`."""
        views = [v for v in self.values if v.origin == "input" and v.source == given]
        if result in views:
            return result  # it stays as it is
        used = [v for v in views if v.number in self._read] or views[:1]
        last = result
        if self._in_place(result) in used:
            return result  # it is where the input was
        for view in used:
            last = self._like(view, made, result)
            self.pairs.append((view, last))
        return last

    def _in_place(self, result: Value) -> Value:
        """The matrix that rows were put into, one after the other, to make a result."""
        pasts = {step.out.number: step.past for step in self.steps if isinstance(step, Put)}
        while result.number in pasts:
            result = pasts[result.number]
        return result

    def _like(self, view: Value, made: str, result: Value) -> Value:
        """The output in the order, the rows and the type of a matrix of the input."""
        nodes = self._nodes.get(result.number, (0,))
        if result.origin != "step" or result.type != view.type:
            expr = cast(Leaf(result, None), view.type)
            shape = (result.rows, result.columns)
            kept = self._new(replace(result, type=view.type))
            self.steps.append(Compute(kept, expr, nodes, shape))
            result = kept
        index = self._places(made).transpose(view.axes).reshape(view.rows, view.columns)
        if not np.array_equal(index.ravel(), np.arange(index.size)):
            moved = self._new(replace(view, name=made))
            self.steps.append(Move(moved, (result,), index, nodes))
            return moved
        if view.columns != result.columns:
            moved = self._new(replace(view, name=made))
            self.steps.append(Relayout(moved, result, nodes))
            return moved
        return result

    def _places(self, made: str) -> NDArray[np.int64]:
        """For every element of the output its place among those of its matrix."""
        own = self.graph.tensors[made]
        tensor, axes = self.graph.views.get(made, (own, tuple(range(len(own.shape)))))
        stored = np.arange(int(np.prod(tensor.shape)))
        stored = stored.reshape([tensor.shape[axis] for axis in axes])
        return stored.transpose(np.argsort(axes)) if axes else stored

    def _new(self, like: Value) -> Value:
        """Another matrix of that form, which a step makes."""
        value = replace(
            like,
            number=len(self.values),
            origin="step",
            data=None,
            source="",
            axes=(),
            shape=(),
            windows=(),
        )
        self.values.append(value)
        return value
