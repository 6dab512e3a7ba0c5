"""Products of matrices, and what ONNX builds of them."""

from __future__ import annotations

import numpy as np

from fuzz import bounds_products as bounds
from fuzz.bounds_reduce import perturbed
from fuzz.builder import Graph, Skip
from fuzz.rows.row import FLOATS, Row

__all__ = ["ROWS"]


def _matmul(g: Graph, op: str) -> None:
    x = g.tensor(FLOATS, (1, 5))
    shape, dtype = g.like(x).shape, g.like(x).dtype
    k, n = shape[-1], g.size()
    batch = shape[:-2] if len(shape) > 2 and g.flag() else ()
    other = g.operand(g.choose((*batch, k, n), (k, n), (k,)), dtype)
    g.node(op, [x, other])


def _matmul_left(g: Graph, op: str) -> None:
    """The tensor on the right, so that the array is loaded from what is computed."""
    x = g.tensor(FLOATS, (2, 5))
    g.node(op, [g.operand((g.size(), g.like(x).shape[-2]), g.like(x).dtype), x])


def _products(g: Graph, op: str) -> None:
    (_matmul_left if g.integer(0, 3) == 3 else _matmul)(g, op)


def _gemm(g: Graph, op: str) -> None:
    x = g.tensor(FLOATS, (2, 2))
    dtype, trans_a, trans_b = g.like(x).dtype, g.integer(0, 1), g.integer(0, 1)
    m, k = g.like(x).shape[:: -1 if trans_a else 1]
    n = g.size()
    weight = g.operand((n, k) if trans_b else (k, n), dtype)
    shape = g.choose(None, (n,), (1, n), (m, 1), (m, n), (1,), ())
    bias = [] if shape is None else [g.operand(shape, dtype)]
    factors = {"alpha": g.choose(1.0, 0.5, 2.0, 0.3), "beta": g.choose(1.0, 0.5, -1.0, 0.0)}
    g.node(op, [x, weight, *bias], transA=trans_a, transB=trans_b, **factors)


_EQUATIONS = ("ij,jk->ik", "bij,bjk->bik", "ij->ji", "ij->i", "ii->i", "ij,ij->", "...i,...i->...")


def _einsum(g: Graph, op: str) -> None:
    equation = g.choose(*_EQUATIONS)
    sizes: dict[str, int] = {}
    names = []
    for term in equation.partition("->")[0].split(","):
        shape = [sizes.setdefault(n, g.integer(1, 5)) for n in term.replace("...", "xy")]
        names.append(g.operand(shape, np.dtype("float32")))
    if not set(names).intersection(g.tensors):
        raise Skip
    g.node(op, names, equation=equation)


# fmt: off
ROWS: tuple[Row, ...] = (
    Row("Einsum", _einsum, perturbed),
    Row("Gemm", _gemm, bounds.gemm),
    Row("MatMul", _products, bounds.matmul),
)
# fmt: on
