"""How far a correct program may be from the true values: errors, carried from node to node.

The true value of every tensor is what onnx's evaluator gives in float64. Its error is an array
beside it: 0 where only this value is right, infinity where anything is. Floats may be rounded to
`Storage` wherever they stand, for that is how the compiler stores them, once for each node; what
becomes of earlier errors is the matter of an operator's rule.

A rule has the node, its operands (value and error, None if left out) and the value of the result,
and returns the error that the operands' errors make. Rounding of the result is added for all.
Here are the rules that many operators share; `bounds_products` and `bounds_quantized` have others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from fuzz.builder import Array, evaluate_node

__all__ = ["HALF", "SINGLE", "WHOLE", "Known", "Node", "Rule", "Storage", "given", "wraps"]

Floats = NDArray[np.float64]
Known = tuple[Array, Floats]
"""A tensor's value, floats as float64, and its error."""

SINGLE = 2.0**-20
"""A few roundings to float32, or one of its transcendental functions."""


@dataclass(frozen=True, slots=True)
class Storage:
    """How floats are stored: half a unit relative to 1, half the least step, the greatest."""

    unit: float
    least: float
    most: float

    def rounded(self, value: Array, error: Floats) -> Floats:
        """The error after the value was stored."""
        size = np.abs(value) + error
        error = error + self.unit * size + self.least
        return np.where(size < self.most, error, np.inf)


HALF = Storage(2.0**-11, 2.0**-25, 65504.0)
WHOLE = Storage(2.0**-24, 2.0**-149, 2.0**127)
"""Of fp16, and of float32 with `--precision exact`."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node, the opset it is of, how its floats are stored, and which of its results is meant."""

    proto: NodeProto
    opset: int
    storage: Storage = HALF
    index: int = 0

    def of(self, values: Sequence[Array | None]) -> Array:
        """The result for other operands; None are those left out."""
        names = [f"v{i}" if value is not None else "" for i, value in enumerate(values)]
        node = NodeProto()
        node.CopyFrom(self.proto)
        node.input[:] = names
        inputs = {n: v for n, v in zip(names, values, strict=True) if v is not None}
        return evaluate_node(node, inputs, self.opset)[self.index]

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute's value."""
        found = [helper.get_attribute_value(a) for a in self.proto.attribute if a.name == name]
        return found[0] if found else default


Rule = Callable[[Node, Sequence[Known | None], Array], Floats]


def given(operands: Sequence[Known | None]) -> list[Known]:
    """The operands that are there."""
    return [operand for operand in operands if operand is not None]


def wraps(out: Array, error: Floats) -> Floats:
    """Integers wrap around, so that what is not exact may be anything; bools are off by one."""
    if out.dtype.kind == "b":
        return np.where(error > 0, 1.0, 0.0)
    return np.where(error > 0, np.inf, 0.0) if out.dtype.kind in "iu" else error


def product(a: Floats, b: Floats) -> Floats:
    """a * b where infinity times nothing is nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where((a == 0) | (b == 0), 0.0, a * b))


def constant(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    return np.zeros(out.shape)


def all_or_nothing(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Exact for exact operands, anything for others."""
    exact = not any(np.any(error) for _, error in given(operands))
    return np.zeros(out.shape) if exact else np.full(out.shape, np.inf)


# -- element by element ----------------------------------------------------------------------------


def same(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Functions of the first operand that nowhere are steeper than 1."""
    return wraps(out, given(operands)[0][1]) + _units(out)


def _units(out: Array) -> Floats:
    """A transcendental function's own error; none of integers and bools."""
    if out.dtype.kind != "f":
        return np.zeros(out.shape)
    return np.where(np.isfinite(out), SINGLE * (np.abs(out) + 2.0**-14), np.inf)


def steep(most: float) -> Rule:
    """Functions of the first operand that nowhere are steeper than `most`."""

    def rule(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
        return wraps(out, given(operands)[0][1] * most) + _units(out)

    return rule


def leaky(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    steepest: float = max(1.0, abs(node.attribute("alpha", 0.01)))
    return same(node, operands, out) * steepest


def ends(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Functions of the first operand that rise or fall throughout: the ends of the interval."""
    (value, error), *rest = operands  # type: ignore[misc]
    others = [None if o is None else o[0] for o in rest]
    if out.dtype.kind in "iu":
        return wraps(out, error)
    found = [_moved_by(node, [value + e, *others], out) for e in (error, -error)]
    return wraps(out, np.max(found, axis=0)) + _units(out)


def corners(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Functions of two operands that rise or fall in each: the corners of the rectangle."""
    (a, one), (b, two) = given(operands)
    if out.dtype.kind in "iu":
        return wraps(out, np.broadcast_to(one + two, out.shape))
    signs = [(i, k) for i in (1, -1) for k in (1, -1)]
    found = [_moved_by(node, [a + i * one, b + k * two], out) for i, k in signs]
    return wraps(out, np.max(found, axis=0)) + _units(out)


def _moved_by(node: Node, values: Sequence[Array | None], out: Array) -> Floats:
    """How far other operands move the result; infinitely where either is not finite."""
    other = node.of(values).astype(np.float64)
    with np.errstate(invalid="ignore"):
        moved_ = np.abs(other - out.astype(np.float64))
    return np.where(np.isnan(moved_), np.inf, moved_)


def divided(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Quotients and remainders: anything where the divisor may be zero."""
    (a, one), (b, two) = given(operands)
    error = corners(node, operands, out)
    if node.proto.op_type == "Mod" and out.dtype.kind == "f":
        turns = [np.trunc((a + i * one) / (b + k * two)) for i in (1, -1) for k in (1, -1)]
        error = np.where(np.ptp(turns, axis=0) == 0, error + SINGLE * np.abs(a), np.inf)
    return np.where(np.abs(b) > two, error, np.inf)


def each(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Functions element by element of many operands, all of them moved by turns."""
    values = [None if o is None else o[0] for o in operands]
    total = np.zeros(out.shape)
    for i, operand in enumerate(operands):
        if operand is None or not np.any(operand[1]):
            continue
        sides = [
            _moved_by(node, [*values[:i], operand[0] + e, *values[i + 1 :]], out)
            for e in (operand[1], -operand[1])
        ]
        total += np.max(sides, axis=0)
    return wraps(out, total * 1.25) + _units(out)


def add(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    total = np.zeros(out.shape)
    for _, error in given(operands):
        total = total + error
    return wraps(out, total)


def multiply(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    (a, one), (b, two) = given(operands)
    parts = product(np.abs(a, dtype=float), two), product(one, np.abs(b, dtype=float))
    return wraps(out, parts[0] + parts[1] + product(one, two))


def greatest(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    errors = [np.broadcast_to(error, out.shape) for _, error in given(operands)]
    return np.asarray(np.max(errors, axis=0))


def compared(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Comparisons: either way where the operands are as near as their errors."""
    (a, one), (b, two) = given(operands)
    error = one + two
    with np.errstate(invalid="ignore"):
        near = ~(np.abs(a.astype(float) - b.astype(float)) > error)
    return np.where(near & (error > 0), 1.0, 0.0)


def either(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Results of bits and bools: anything where an operand is uncertain."""
    return wraps(out, add(node, operands, out.astype(float)))


def where(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    (condition, unsure), (_, one), (_, two) = given(operands)
    chosen = np.where(condition, one, two)
    return wraps(out, np.where(unsure > 0, np.inf, chosen))


def moved(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Operators that only move elements of the first operand: they move its errors alike."""
    first, *rest = operands
    assert first is not None
    return np.asarray(node.of([first[1], *(None if o is None else o[0] for o in rest)]), float)


def moved_all(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Operators that only move elements, of all operands."""
    return np.asarray(node.of([None if o is None else o[1] for o in operands]), float)


def padded(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """As `moved`, and exact where something is filled in."""
    (_, error), (pads, _), *_ = given(operands)
    return np.asarray(node.of([error, pads]), float)


def scattered(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Errors are written where the updates are."""
    (_, error), (index, _), (_, own) = given(operands)
    return np.asarray(node.of([error, index, own]), float)


def cast(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    value, error = given(operands)[0]
    if out.dtype.kind == "f":
        return error + SINGLE * np.abs(value)
    if out.dtype.kind == "b":
        return np.where(np.abs(value) > error, 0.0, np.where(error > 0, 1.0, 0.0))
    if value.dtype.kind != "f":
        return wraps(out, error)
    limits = np.iinfo(out.dtype)
    both = np.trunc([value - error, value + error])
    inside = (both[0] >= float(limits.min)) & (both[1] <= float(limits.max) / (1 + 2**-40))
    return np.where(inside, np.abs(both - out.astype(float)).max(axis=0), np.inf)
