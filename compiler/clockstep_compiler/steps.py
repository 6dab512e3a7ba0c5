"""The lowered model: stored matrices and the steps that make them.

Every tensor is a matrix: its last axis lies along the lanes (in tiles of one vector), all others
are rows, one word each. Steps are in an order in which they can run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Expr, Leaf, Op
from clockstep_isa.layout import Window
from clockstep_isa.table import Type

if TYPE_CHECKING:
    from clockstep_compiler.placed import Placed

__all__ = [
    "Broadcast",
    "Compute",
    "Interleaved",
    "Lookup",
    "Lowered",
    "Move",
    "Outer",
    "Product",
    "Put",
    "Relayout",
    "Step",
    "Term",
    "Transpose",
    "Value",
    "Weights",
    "sources_of",
]


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A matrix in SRAM. `origin` is "input" (the host loads it), "const" or "step".

    A constant has its stored elements in `data` [rows, columns]. An input is the graph input
    `source` with its axes in the order `axes`, so of `shape`, or `windows` of that, read as
    rows x columns. What a step makes on certain chips, its blocks in turn, names these `chips`.
    """

    number: int
    name: str
    rows: int
    columns: int
    type: Type
    origin: str
    data: NDArray[np.generic] | None = None
    source: str = ""
    axes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    windows: tuple[Window, ...] = ()
    chips: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Interleaved:
    """Columns `first` to `first` + `count` - 1 of computed weights, in turn from several matrices.

    Column `first` + n of m `values` is row `row` + n // m of number n % m. With `k_tile` they have
    that K tile alone, else all; `present` elements of a column are any number, all else is zero.
    """

    values: tuple[Value, ...]
    first: int
    count: int
    row: int
    k_tile: int | None
    present: int

    def is_zero(self, columns: range, k_tile: int) -> bool:
        """Whether nothing is in some columns and a K tile."""
        apart = columns.stop <= self.first or self.first + self.count <= columns.start
        return apart or self.k_tile not in (None, k_tile)


@dataclass(frozen=True, eq=False, slots=True)
class Weights:
    """The right operand of a product, lanes along the inner dimension.

    Constant: `data` [sets, columns, depth]. Otherwise `value` has rows set * columns + column; of
    its elements only the byte of number `byte`, as int8, if that is given. Or they are one set,
    zero but for what is `interleaved`.

    Of constant sets all rows take the one that `which` says, if that is given: a matrix of one
    element, the number of the set; then `chosen.in_words`, for whole tiles and for the last one.
    """

    sets: int
    columns: int
    depth: int
    data: NDArray[np.generic] | None = None
    value: Value | None = None
    byte: int | None = None
    interleaved: Interleaved | None = None
    which: tuple[Value, ...] = ()

    @property
    def read(self) -> tuple[Value, ...]:
        """All matrices that a product with them reads."""
        return self.which or self.matrices

    @property
    def matrices(self) -> tuple[Value, ...]:
        """What they are computed as; nothing if they are constant."""
        if self.interleaved is not None:
            return self.interleaved.values
        return () if self.value is None else (self.value,)


@dataclass(frozen=True, eq=False, slots=True)
class Term:
    """One product of the sum: row `index[r]` of `a` [any, depth] with `weights`.

    `byte`: only that byte of the elements of `a`, as int8. Where the index is -1, the row is
    the only one of `fill`.
    """

    a: Value
    weights: Weights
    index: NDArray[np.int64] | None
    byte: int | None = None
    fill: Value | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Product:
    """sum over terms of a[index[r]] . weights[w_set[r]][n]: a matrix [rows, columns].

    `w_set` None means set 0 for every row. `spread`: the only column is in every lane of the array,
    and so of the result.
    """

    type: Type
    rows: int
    columns: int
    terms: tuple[Term, ...]
    w_set: NDArray[np.int64] | None
    spread: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Compute:
    """out = expr, element by element; at most one `Acc` in it. `nodes` are those it serves,
    `shape` that of the tensor, which constants broadcast to."""

    out: Value
    expr: Expr
    nodes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Relayout:
    """The elements of `source` in row-major order, in rows of another length."""

    out: Value
    source: Value
    nodes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Broadcast:
    """The one column of `source` in every lane of `out`, which has one tile."""

    out: Value
    source: Value
    nodes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Transpose:
    """Each of `batch` matrices of `source` transposed."""

    out: Value
    source: Value
    batch: int
    nodes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Move:
    """Element [r, c] of `out` is element `index[r, c]` of the sources, one after the other.

    Elements are counted row by row; where the index is -1 the result is zero.
    """

    out: Value
    sources: tuple[Value, ...]
    index: NDArray[np.int64]
    nodes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Outer:
    """out[r] = sum over k of a[index[r], k] * b[sets[r] * depth + k], one after the other, in f32.

    `a` is [any, depth] and `b` [sets * depth, columns]; `index` None: row r, `sets` None: 0.
    """

    out: Value
    a: Value
    b: Value
    index: NDArray[np.int64] | None
    sets: NDArray[np.int64] | None
    nodes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Put:
    """`past` with rows of `new` in it, in its own place: nothing else reads `past`.

    Both are matrices of one set after the other, `past` of `rows` each, `new` of one. It goes to
    the row whose number is the only element of `place`, i16; nowhere if there is none.
    """

    out: Value
    past: Value
    new: Value
    place: Value
    rows: int
    nodes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Lookup:
    """out[r] = table[place[r] - first], zeros where the table has no such row.

    `table` is constant; `place` has one column, i16 without sign. `beside` are other parts of the
    same rows, which are read together with it.
    """

    out: Value
    table: Value
    place: Value
    first: int
    beside: tuple[Value, ...]
    nodes: tuple[int, ...]


Step = Compute | Relayout | Broadcast | Transpose | Move | Outer | Put | Lookup


@dataclass(frozen=True, slots=True)
class Lowered:
    """All steps of a model. `outputs` pairs each graph output with the matrix that holds it.

    `stored` pairs tensors with the matrices that steps make of them, each matrix once. `limits` are
    the least and the greatest value of inputs that are taken from less than their type's range.
    `states` are the graph inputs whose words outlive a run; `returned` pairs each matrix of one
    with the matrix that is written over it once nobody reads it again. `placed`, of an entry of
    several, is what those before it have placed.
    """

    steps: tuple[Step, ...]
    values: tuple[Value, ...]
    outputs: tuple[tuple[str, Value], ...]
    stored: tuple[tuple[str, Value], ...]
    weight_bytes: int
    warnings: tuple[str, ...]
    limits: Mapping[str, tuple[int, int]]
    states: frozenset[str] = frozenset()
    returned: tuple[tuple[Value, Value], ...] = ()
    placed: Placed | None = None


def sources_of(step: Step) -> list[Value]:
    """The matrices that a step reads, constant weights excepted."""
    if isinstance(step, Move):
        return list(step.sources)
    if isinstance(step, Outer):
        return [step.a, step.b]
    if isinstance(step, Put):
        return [step.past, step.new, step.place]
    if isinstance(step, Lookup):
        return [step.place]
    return _read(step.expr) if isinstance(step, Compute) else [step.source]


def _read(expr: Expr) -> list[Value]:
    """The matrices that an expression reads, operand by operand, shared parts once."""
    found: list[Value] = []
    seen: set[int] = set()

    def visit(e: Expr) -> None:
        if id(e) in seen:
            return
        seen.add(id(e))
        if isinstance(e, Leaf):
            found.append(e.value)
        elif isinstance(e, Op):
            for arg in e.args:
                visit(arg)
        elif isinstance(e, Acc):
            for term in e.product.terms:
                found.extend([term.a, *term.weights.read])

    visit(expr)
    return found
