"""Einsum as what it is made of: diagonals, sums, products of two operands, a transposition.

Operands are taken from left to right. A product over common labels is a MatMul of stacked
matrices; without labels to sum over, or of integers, it is a Mul.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clockstep_compiler.frontend.body import Body, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__ = ["einsum"]

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Term:
    """A tensor and a label for each of its axes; those of an ellipsis are numbers."""

    name: str
    labels: Labels


@composes("Einsum")
def einsum(body: Body) -> None:
    """Replace an Einsum by other operators."""
    equation = body.attribute("equation")
    given = [(name, body.shape(name)) for name in body.step.node.input]
    labels, result = _parsed(equation, [shape for _, shape in given])
    sizes = _sizes(labels, [shape for _, shape in given])
    terms = [_Term(name, term) for (name, _), term in zip(given, labels, strict=True)]
    body.give(0, _Maker(body, sizes).evaluate(terms, result))


# -- the equation ----------------------------------------------------------------------------------


def _parsed(equation: str, shapes: Sequence[tuple[int, ...]]) -> tuple[list[Labels], Labels]:
    """The labels of every operand and of the result."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    written = left.split(",")
    if len(written) != len(shapes):
        raise Mismatch(f"the equation {equation!r} has {len(written)} terms, not {len(shapes)}")
    terms = [
        _labels(text, len(shape) - len(text.replace("...", "")))
        for text, shape in zip(written, shapes, strict=True)
    ]
    for text, term, shape in zip(written, terms, shapes, strict=True):
        if len(term) != len(shape):
            raise Mismatch(f"the term {text!r} does not have the {len(shape)} axes of its operand")
    depth = max((sum(label.isdigit() for label in term) for term in terms), default=0)
    if arrow:
        result = _labels(right, depth)
    else:
        every = [label for term in terms for label in term]
        once = sorted(n for n in dict.fromkeys(every) if not n.isdigit() and every.count(n) == 1)
        result = (*_labels("...", depth), *once)
    known = frozenset(label for term in terms for label in term)
    if len(frozenset(result)) != len(result) or not known.issuperset(result):
        raise Mismatch(f"the result of {equation!r} has a label twice, or one that no operand has")
    return terms, result


def _labels(text: str, ellipsis: int) -> Labels:
    """Letters as they are, an ellipsis as numbers counted from its end."""
    before, dots, after = text.partition("...")
    if not (before + after).isalpha() and before + after:
        raise Mismatch(f"the term {text!r} is not of letters and one ellipsis")
    numbers = tuple(str(i) for i in reversed(range(max(0, ellipsis)))) if dots else ()
    return (*before, *numbers, *after)


def _sizes(terms: Sequence[Labels], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            known = sizes.setdefault(label, size)
            if known != size and 1 not in (known, size):
                raise Mismatch(f"label {label!r} is {known} and {size} long")
            sizes[label] = size if known == 1 else known
    return sizes


# -- its operators ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Maker:
    """Adds the operators that one Einsum becomes; `sizes` are those of the labels."""

    body: Body
    sizes: dict[str, int]

    def evaluate(self, terms: list[_Term], result: Labels) -> str:
        """The name of the result."""
        terms = [self._narrowed(self._diagonal(term), result) for term in terms]
        first = self._summed(terms[0], terms[1:], result)
        for k, other in enumerate(terms[1:], 1):
            rest = terms[k + 1 :]
            first = self._product(first, self._summed(other, [first, *rest], result), rest, result)
        return self._ordered(first, result)

    def _diagonal(self, term: _Term) -> _Term:
        """A label that stands twice takes the elements at which both indices are equal."""
        twice = next((n for n in term.labels if term.labels.count(n) > 1), None)
        if twice is None:
            return term
        first, second = [i for i, n in enumerate(term.labels) if n == twice][:2]
        rest = [i for i in range(len(term.labels)) if i not in (first, second)]
        shape = self.body.shape(term.name)
        if shape[first] != shape[second]:
            raise Mismatch(f"label {twice!r} is {shape[first]} and {shape[second]} long")
        turned = self.body.op("Transpose", term.name, perm=[*rest, first, second])
        count = shape[first]
        flat = self.body.reshape(turned, [*(shape[i] for i in rest), count * count])
        places = self.body.constant([i * (count + 1) for i in range(count)])
        taken = self.body.op("Gather", flat, places, axis=len(rest))
        return self._diagonal(_Term(taken, (*(term.labels[i] for i in rest), twice)))

    def _narrowed(self, term: _Term, result: Labels) -> _Term:
        """Without the axes of length 1 that stand for longer ones of other operands."""
        shape = self.body.shape(term.name)
        kept = [i for i, n in enumerate(term.labels) if shape[i] == self.sizes[n]]
        if len(kept) == len(shape):
            return term
        name = self.body.reshape(term.name, [shape[i] for i in kept])
        return _Term(name, tuple(term.labels[i] for i in kept))

    def _summed(self, term: _Term, others: Sequence[_Term], result: Labels) -> _Term:
        """Without the labels that are nowhere else."""
        needed = frozenset((*result, *(n for other in others for n in other.labels)))
        axes = [i for i, n in enumerate(term.labels) if n not in needed]
        if not axes:
            return term
        name = self.body.op("ReduceSum", term.name, self.body.constant(axes), keepdims=0)
        return _Term(name, tuple(n for n in term.labels if n in needed))

    def _ordered(self, term: _Term, labels: Labels) -> str:
        if term.labels == labels:
            return term.name
        return self.body.op("Transpose", term.name, perm=[term.labels.index(n) for n in labels])

    def _product(self, a: _Term, b: _Term, rest: Sequence[_Term], result: Labels) -> _Term:
        """Both multiplied, and summed over what neither the result nor the rest needs."""
        needed = frozenset((*result, *(n for other in rest for n in other.labels)))
        both = [n for n in a.labels if n in b.labels]
        batch = tuple(n for n in both if n in needed)
        inner = tuple(n for n in both if n not in needed)
        left = tuple(n for n in a.labels if n not in both)
        right = tuple(n for n in b.labels if n not in both)
        if inner and self.body.dtype(a.name).startswith(("float", "bfloat")):
            return self._matrices(a, b, (batch, left, inner, right))
        return self._elements(a, b, (batch, left, inner, right))

    def _long(self, labels: Labels) -> list[int]:
        return [self.sizes[n] for n in labels]

    def _matrices(self, a: _Term, b: _Term, parts: tuple[Labels, ...]) -> _Term:
        batch, left, inner, right = parts
        stack = self._long(batch)
        rows, depth, columns = (math.prod(self._long(n)) for n in (left, inner, right))
        one = self.body.reshape(self._ordered(a, (*batch, *left, *inner)), [*stack, rows, depth])
        two = self.body.reshape(
            self._ordered(b, (*batch, *inner, *right)), [*stack, depth, columns]
        )
        labels = (*batch, *left, *right)
        return _Term(
            self.body.reshape(self.body.op("MatMul", one, two), self._long(labels)), labels
        )

    def _elements(self, a: _Term, b: _Term, parts: tuple[Labels, ...]) -> _Term:
        batch, left, inner, right = parts
        stack, ones = self._long(batch), [1] * len(left)
        outer, depth = [1] * len(right), self._long(inner)
        one = self._ordered(a, (*batch, *left, *inner))
        one = self.body.reshape(one, [*stack, *self._long(left), *outer, *depth])
        two = self._ordered(b, (*batch, *right, *inner))
        two = self.body.reshape(two, [*stack, *ones, *self._long(right), *depth])
        labels = (*batch, *left, *right)
        name = self.body.op("Mul", one, two)
        if inner:
            axes = [len(labels) + i for i in range(len(inner))]
            name = self.body.op("ReduceSum", name, self.body.constant(axes), keepdims=0)
        return _Term(name, labels)
