"""Sequences of tensors: they vanish, as every element is known by its position on import.

A graph has no inputs and outputs that are sequences; what becomes of them in between is decided
here, so every position must be constant.
"""

from __future__ import annotations

import itertools

import numpy as np

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__ = [
    "at",
    "concat",
    "construct",
    "empty",
    "erase",
    "insert",
    "length",
    "mapped",
    "split",
]


def _elements(body: Body, name: str) -> tuple[str, ...]:
    found = body.sequence(name)
    if found is None:
        raise Mismatch(f"{name!r} is no sequence")
    return found


def _position(body: Body, name: str, count: int, *, end: bool = False) -> int:
    """A constant position among `count`, or at their `end`; -1 is the last."""
    value = body.value(name)
    if value is None or value.size != 1:
        problem = f"the position {name!r} is computed at run time"
        raise Refused("operand-not-constant", problem, "make it constant")
    position = int(value.item())
    if not -count <= position < count + end:
        raise Mismatch(f"position {position} of {count}")
    return position + count if position < 0 else position


@composes("SequenceEmpty")
def empty(body: Body) -> None:
    """No element."""
    body.give_sequence(0, ())


@composes("SequenceConstruct")
def construct(body: Body) -> None:
    """The inputs."""
    body.give_sequence(0, tuple(body.step.node.input))


@composes("SequenceAt")
def at(body: Body) -> None:
    """One element."""
    name, position = body.inputs(2)
    elements = _elements(body, name)
    body.give(0, elements[_position(body, position, len(elements))])


@composes("SequenceErase")
def erase(body: Body) -> None:
    """All elements but one, the last unless another is named."""
    name, position = body.inputs(2)
    elements = _elements(body, name)
    if not elements:
        raise Mismatch(f"{name!r} has no element")
    index = _position(body, position, len(elements)) if position else len(elements) - 1
    body.give_sequence(0, (*elements[:index], *elements[index + 1 :]))


@composes("SequenceInsert")
def insert(body: Body) -> None:
    """All elements and one more, at the end unless a position is named."""
    name, value, position = body.inputs(3)
    elements = _elements(body, name)
    count = len(elements)
    index = _position(body, position, count, end=True) if position else count
    body.give_sequence(0, (*elements[:index], value, *elements[index:]))


@composes("SequenceLength")
def length(body: Body) -> None:
    """How many elements there are."""
    (name,) = body.inputs(1)
    body.give(0, body.constant(len(_elements(body, name))))


@composes("SplitToSequence")
def split(body: Body) -> None:
    """Parts along an axis: of given sizes, of one size, or single places."""
    name, sizes = body.inputs(2)
    shape, axis = body.shape(name), body.attribute("axis", 0)
    if not -len(shape) <= axis < len(shape):
        raise Mismatch(f"axis {axis} of {name!r}, which has {len(shape)}")
    total, value = shape[axis], body.value(sizes)
    if sizes and value is None:
        problem = f"the sizes {sizes!r} are computed at run time"
        raise Refused("operand-not-constant", problem, "make them constant")
    if value is None and not body.attribute("keepdims", 1):
        body.give_sequence(0, [body.take(name, axis, i) for i in range(total)])
        return
    if value is None or value.ndim == 0:
        each = 1 if value is None else int(value.item())
        if each < 1:
            raise Mismatch(f"parts of {each} places")
        counts = [min(each, total - i) for i in range(0, total, each)]
    else:
        counts = [int(n) for n in value.ravel()]
    ends = np.cumsum([0, *counts])
    if min(counts, default=0) < 0 or ends[-1] != total:
        raise Mismatch(f"parts of {counts} of {total} places")
    parts = [body.slice(name, axis, int(a), int(b)) for a, b in itertools.pairwise(ends)]
    body.give_sequence(0, parts)


@composes("ConcatFromSequence")
def concat(body: Body) -> None:
    """The elements side by side, along an axis that they have or a new one."""
    (name,) = body.inputs(1)
    elements, axis = _elements(body, name), body.attribute("axis")
    if not elements or any(body.sequence(element) is not None for element in elements):
        raise Mismatch(f"{name!r} has no tensors")
    if body.attribute("new_axis", 0):
        if any(body.shape(element) != body.shape(elements[0]) for element in elements):
            raise Mismatch(f"the elements of {name!r} differ in shape")
        body.give(0, body.stack(elements, axis))
    else:
        body.give(0, body.op("Concat", *elements, axis=axis))


@composes("SequenceMap")
def mapped(body: Body) -> None:
    """The subgraph once for each element; an input that is a tensor is every element's."""
    graph = body.attribute("body")
    given = [(name, body.sequence(name)) for name in body.step.node.input]
    count = len(_elements(body, body.step.node.input[0]))
    if any(elements is not None and len(elements) != count for _, elements in given):
        raise Mismatch("the sequences differ in length")
    results = [
        body.inline(graph, [name if elements is None else elements[i] for name, elements in given])
        for i in range(count)
    ]
    for k in range(len(body.step.node.output)):
        body.give_sequence(k, [outputs[k] for outputs in results])
