"""Rules of errors for products of matrices and for convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fuzz.bounds import SINGLE, Floats, Known, Node, given, product
from fuzz.builder import Array

__all__ = ["bilinear", "dots", "gemm", "matmul"]


def dot(a: Floats, b: Floats) -> Floats:
    """a @ b in the same sense."""
    endless = (np.isinf(a).astype(float) @ (b != 0)) + ((a != 0).astype(float) @ np.isinf(b))
    finite = np.where(np.isinf(a), 0.0, a) @ np.where(np.isinf(b), 0.0, b)
    return np.asarray(np.where(endless > 0, np.inf, finite))


def _matrices(a: Array, b: Array) -> tuple[Array, Array]:
    """Vectors as matrices, as MatMul takes them."""
    return a.reshape(1, -1) if a.ndim == 1 else a, b.reshape(-1, 1) if b.ndim == 1 else b


def dots(one: Known, two: Known) -> Floats:
    """The error of a product of matrices that are not vectors."""
    (a, ea), (b, eb) = one, two
    size_a, size_b = np.abs(a, dtype=float), np.abs(b, dtype=float)
    return dot(size_a, eb) + dot(ea, size_b) + dot(ea, eb)


def matmul(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    (a, ea), (b, eb) = given(operands)
    (a, b), (ea, eb) = _matrices(a, b), _matrices(ea, eb)
    error = dots((a, ea), (b, eb)) + SINGLE * (np.abs(a) @ np.abs(b))
    return np.asarray(error.reshape(out.shape))


def gemm(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    (a, ea), (b, eb), *bias = given(operands)
    if node.attribute("transA", 0):
        a, ea = a.T, ea.T
    if node.attribute("transB", 0):
        b, eb = b.T, eb.T
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    exact = alpha * (a @ b)
    error = abs(alpha) * (dots((a, ea), (b, eb)) + SINGLE * (np.abs(a) @ np.abs(b)))
    error = node.storage.rounded(exact, error)  # the product may be stored before the bias is added
    for value, own in bias:
        error = error + node.storage.rounded(
            beta * value, product(np.full(own.shape, abs(beta)), own)
        )
    return np.asarray(error)


def bilinear(node: Node, operands: Sequence[Known | None], out: Array) -> Floats:
    """Convolutions: linear in the image, in the weights, and in the bias."""
    (x, ex), (w, ew), *bias = given(operands)
    if not (np.isfinite(ex).all() and np.isfinite(ew).all()):
        return np.full(out.shape, np.inf)
    size, weights = np.abs(x), np.abs(w)
    nothing = [None if o is None else np.zeros_like(o[1]) for o in operands[2:]]
    error = node.of([size, ew, *nothing]) + node.of([ex, weights + ew, *nothing])
    error = error + SINGLE * node.of([size, weights, *nothing])
    for value, own in bias:
        shape = [-1 if i == 1 else 1 for i in range(out.ndim)]
        error = error + (own + SINGLE * np.abs(value)).reshape(shape)
    return np.asarray(error)
