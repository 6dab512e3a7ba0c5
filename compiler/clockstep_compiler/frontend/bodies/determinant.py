"""Det: determinants of small matrices, as sums of products.

Rows are taken in from the last on: a minor of k rows is a sum of k products with minors of k - 1.
Nothing is divided, so a singular matrix is as good as any other.
"""

from __future__ import annotations

from itertools import combinations

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__: list[str] = []

_MOST = 8
"""Rows: one of n takes n 2**(n - 1) products."""


@composes("Det")
def _det(body: Body) -> None:
    (x,) = body.inputs(1)
    shape = body.shape(x)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise Mismatch(f"shape {shape} is not of square matrices")
    size, outer = shape[-1], shape[:-2]
    if not 1 <= size <= _MOST:
        raise Refused(
            "unsupported-form",
            f"the determinant of {size} rows",
            f"from 1 to {_MOST} are supported",
        )
    element = {
        (i, j): body.take(body.take(x, len(outer), i), len(outer), j)
        for i in range(size)
        for j in range(size)
    }
    minors: dict[tuple[int, ...], str] = {(j,): element[size - 1, j] for j in range(size)}
    for row in reversed(range(size - 1)):
        wanted = combinations(range(size), size - row)
        minors = {columns: _expanded(body, element, minors, row, columns) for columns in wanted}
    body.give(0, minors[tuple(range(size))])


def _expanded(
    body: Body,
    element: dict[tuple[int, int], str],
    minors: dict[tuple[int, ...], str],
    row: int,
    columns: tuple[int, ...],
) -> str:
    """A minor by its first row: products with smaller minors, added and taken away in turn."""
    total = ""
    for place, column in enumerate(columns):
        rest = minors[tuple(c for c in columns if c != column)]
        product = body.op("Mul", element[row, column], rest)
        total = body.op("Sub" if place % 2 else "Add", total, product) if total else product
    return total
