"""Control flow made static: branches chosen or both computed, Loop and Scan pass by pass.

A condition that is computed when the model runs costs both branches, or all passes that the trip
count allows: each result is then selected.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto

from clockstep_compiler.frontend.body import Body, Refused, Unknown, composes
from clockstep_compiler.frontend.infer import Mismatch, static

__all__ = ["UNROLLED_LIMIT", "branch", "loop", "scan"]

UNROLLED_LIMIT = 50_000
"""Nodes that all passes through the loops of a model may come to."""


# -- If --------------------------------------------------------------------------------------------


@composes("If")
def branch(body: Body) -> None:
    """The branch that a constant condition chooses; else both, and each output selected."""
    graphs: list[GraphProto] = [body.attribute(k) for k in ("then_branch", "else_branch")]
    count = len(body.step.node.output)
    if any(len(graph.output) != count or graph.input for graph in graphs):
        raise Mismatch(f"the branches do not have {count} outputs and no input")
    (condition,) = body.inputs(1)
    value = body.value(condition)
    if value is not None and value.size == 1:
        found = body.inline(graphs[0 if value.item() else 1])
    else:
        condition = _scalar(body, condition)
        pairs = zip(*_both(body, graphs), strict=True)
        found = [_select(body, condition, *pair) for pair in pairs]
    for k, name in enumerate(found):
        body.give(k, name)


def _both(body: Body, graphs: list[GraphProto]) -> list[list[str]]:
    """The outputs of both branches. One may fit only when it is taken, which nobody knows."""
    mismatches = body.walk.mismatches
    before = len(mismatches)
    try:
        return [body.inline(graph) for graph in graphs]
    except Unknown:
        if len(mismatches) == before:
            raise
        problem = f"the branch depends on data, and one is not valid: {mismatches[before].message}"
        del mismatches[before:]
        raise Refused("control-flow", problem, "make the condition constant") from None


def _scalar(body: Body, condition: str) -> str:
    if body.dtype(condition) != "bool" or np.prod(body.shape(condition)) != 1:
        raise Mismatch(f"the condition {condition!r} is not one bool")
    return body.reshape(condition, ())


def _select(body: Body, condition: str, one: str, other: str) -> str:
    if one == other:
        return one
    several = [body.sequence(name) for name in (one, other)]
    if several != [None, None]:
        return _select_elements(body, condition, *several)
    kinds = [(body.dtype(name), body.shape(name)) for name in (one, other)]
    if kinds[0] != kinds[1]:
        shown = " or ".join(f"{dtype}{list(shape)}" for dtype, shape in kinds)
        problem = f"whether a result is {shown} depends on data"
        raise Refused("control-flow", problem, "make the condition constant")
    return body.op("Where", condition, one, other)


def _select_elements(
    body: Body, condition: str, one: tuple[str, ...] | None, other: tuple[str, ...] | None
) -> str:
    """A sequence of selected elements, under a name of its own."""
    if one is None or other is None or len(one) != len(other):
        problem = "how many elements a sequence has depends on data"
        raise Refused("control-flow", problem, "make the condition constant")
    name = body.walk.fresh(f"{body.step.name}/sequence")
    pairs = zip(one, other, strict=True)
    body.walk.sequences[name] = tuple(_select(body, condition, *pair) for pair in pairs)
    return name


# -- passes ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Passes:
    """The passes through a subgraph: what it carries on, and what each pass gave besides.

    Outputs are `first` that return, those carried on, and the rest.
    """

    body: Body
    graph: GraphProto
    carried: list[str]
    first: int = 0
    given: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        least = self.first + len(self.carried)
        if len(self.graph.output) < least:
            raise Mismatch(f"{self.graph.name!r} has {len(self.graph.output)} outputs, not {least}")

    def expect(self, passes: int) -> None:
        """Refuse the loop if so many more passes are too many."""
        if self.body.walk.unrolled + passes * max(1, len(self.graph.node)) > UNROLLED_LIMIT:
            problem = f"the passes of loops come to more than {UNROLLED_LIMIT} operators"
            raise Refused("control-flow", problem, "make the trip count or the sequence shorter")

    def next(self, before: Sequence[str], after: Sequence[str]) -> list[str]:
        """One more; its inputs stand before and after what is carried."""
        self.expect(1)
        self.body.walk.unrolled += max(1, len(self.graph.node))
        outputs = self.body.inline(self.graph, [*before, *self.carried, *after])
        rest = self.first + len(self.carried)
        self.carried = outputs[self.first : rest]
        self.given.append(outputs[rest:])
        return outputs[: self.first]

    @property
    def count(self) -> int:
        """Outputs besides."""
        return len(self.graph.output) - self.first - len(self.carried)

    def expect_outputs(self) -> None:
        """Check that the node has no more outputs than there are results."""
        given, made = len(self.body.step.node.output), len(self.carried) + self.count
        if given > made:
            raise Mismatch(f"the node has {given} outputs, {self.graph.name!r} makes {made}")

    def stacked(self, index: int, axis: int = 0, backward: bool = False) -> str:
        """One of the outputs besides, those of all passes along a new axis."""
        body, names = self.body, [outputs[index] for outputs in self.given]
        if not names:
            return self._empty(index)
        if any(body.sequence(name) is not None for name in names):
            raise Mismatch(f"a result of {self.graph.name!r} is a sequence")
        if any(body.shape(name) != body.shape(names[0]) for name in names):
            raise Mismatch(f"a result of {self.graph.name!r} changes its shape")
        return body.stack(names[::-1] if backward else names, axis)

    def _empty(self, index: int) -> str:
        """What no pass at all gives, of the type that the subgraph declares."""
        value = self.graph.output[len(self.graph.output) - self.count + index]
        row = static(value.name, value.type)
        if row.shape is None or row.dtype is None:
            problem = f"no pass is made, and the shape of {value.name!r} is not declared"
            raise Refused("dynamic-shape", problem)
        return self.body.cast(self.body.constant(np.zeros((0, *row.shape)), np.float32), row.dtype)


# -- Loop ------------------------------------------------------------------------------------------


@composes("Loop")
def loop(body: Body) -> None:
    """Pass by pass, as many as the trip count and a constant condition make."""
    count, condition = body.inputs(2)
    carried, trips = list(body.step.node.input[2:]), body.value(count)
    if count and (trips is None or trips.size != 1):
        raise Refused("control-flow", "the trip count depends on data", "make it constant")
    passes = _Passes(body, body.attribute("body"), carried, first=1)
    passes.expect_outputs()
    _make(body, passes, None if trips is None else int(trips.item()), condition)
    for k, name in enumerate(passes.carried):
        body.give(k, name)
    for k in range(passes.count):
        if body.wants(len(carried) + k):
            body.give(len(carried) + k, passes.stacked(k))


def _make(body: Body, passes: _Passes, trips: int | None, condition: str) -> None:
    """The passes that are certain; from where the condition is computed on, all, and selected."""
    going = condition or body.constant(True, np.bool_)
    for trip in itertools.count() if trips is None else range(trips):
        value = body.value(going)
        if value is None:
            _make_selected(body, passes, trip, trips, going)
            return
        if not value.any():
            return
        (after,) = passes.next([body.constant(trip), going], ())
        if condition:
            going = after
        elif (found := body.value(after)) is None or not found.all():
            problem = "the body ends a loop that has no condition; runtimes differ in what they do"
            raise Refused("control-flow", problem, "give the loop a condition")


def _make_selected(body: Body, passes: _Passes, trip: int, trips: int | None, going: str) -> None:
    """The other passes, of which only those count before which the condition held."""
    if trips is None or passes.count:
        problem = "the number of passes depends on data"
        remedy = "give a constant trip count, and carry results on instead of collecting them"
        raise Refused("control-flow", problem, remedy)
    passes.expect(trips - trip)
    going = _scalar(body, going)
    for number in range(trip, trips):
        before = passes.carried
        (after,) = passes.next([body.constant(number), going], ())
        pairs = zip(passes.carried, before, strict=True)
        passes.carried = [_select(body, going, *pair) for pair in pairs]
        going = body.op("And", going, _scalar(body, after))


# -- Scan ------------------------------------------------------------------------------------------


@composes("Scan")
def scan(body: Body) -> None:
    """Pass by pass, as many as the scanned inputs are long."""
    inputs, count = list(body.step.node.input), body.attribute("num_scan_inputs")
    if not 0 < count <= len(inputs):
        raise Mismatch(f"{count} of {len(inputs)} inputs are scanned")
    axes, backward = (_each(body, f"scan_input_{what}", count) for what in ("axes", "directions"))
    states, scanned = inputs[:-count], inputs[-count:]
    passes = _scanned(body, states, scanned, axes, backward)
    count = passes.count
    axes, backward = (_each(body, f"scan_output_{what}", count) for what in ("axes", "directions"))
    passes.expect_outputs()
    for k, name in enumerate(passes.carried):
        body.give(k, name)
    for k, (axis, turned) in enumerate(zip(axes, backward, strict=True)):
        if body.wants(len(states) + k):
            body.give(len(states) + k, passes.stacked(k, axis, bool(turned)))


def _each(body: Body, attribute: str, count: int) -> list[int]:
    """An attribute with one number for each of `count` values, by default 0."""
    found: list[int] = body.attribute(attribute, [0] * count)
    if len(found) != count:
        raise Mismatch(f"{attribute} has {len(found)} numbers, not {count}")
    return found


def _scanned(
    body: Body,
    states: list[str],
    scanned: list[str],
    axes: Sequence[int],
    backward: Sequence[int],
) -> _Passes:
    """All passes over inputs that are scanned along one axis each."""
    rows = list(zip(scanned, axes, backward, strict=True))
    for name, axis, _ in rows:
        rank = len(body.shape(name))
        if not -rank <= axis < rank:
            raise Mismatch(f"axis {axis} of {name!r}, which has {rank}")
    lengths = [body.shape(name)[axis] for name, axis, _ in rows]
    if len(frozenset(lengths)) != 1:
        raise Mismatch(f"the scanned inputs are {lengths} long")
    passes = _Passes(body, body.attribute("body"), states)
    passes.expect(lengths[0])
    for t in range(lengths[0]):
        at = [(name, axis, lengths[0] - 1 - t if turned else t) for name, axis, turned in rows]
        passes.next((), [body.take(*place) for place in at])
    return passes
