"""int8 products that are only added up: one sum of products instead of many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.table import Type
from clockstep_runtime.linker.operands import Operands
from clockstep_runtime.verifier import Columns

__all__ = ["roots"]

Ints = NDArray[np.int64]


def roots(columns: Columns, operands: Operands) -> Ints:
    """Per instruction the `add.i32` that ends the sum it belongs to, or -1.

    A sum is a tree of `add.i32`; its leaves are int8 products of as many vectors, and nobody else
    uses any of them. 32-bit addition wraps, so neither order nor grouping matter.
    """
    total = len(columns)
    of_adds = columns.where("add")
    of_adds = of_adds[columns.field("type")[of_adds] == Type.I32]
    member = np.zeros(total, np.bool_)
    product = columns.where("abc")
    product = product[columns.field("type")[product] == Type.I8]
    member[product] = True
    member[of_adds] = True
    uses = np.bincount(operands.value, minlength=total)[:total]
    at = np.searchsorted(operands.owner, of_adds)
    pair = np.stack([at, at + 1]) if len(of_adds) else np.zeros((2, 0), np.int64)
    simple = operands.entire(columns)
    adding: NDArray[np.bool_] = np.ones(len(of_adds), np.bool_)
    value = np.zeros(pair.shape, np.int64)
    if len(of_adds):
        value = operands.value[operands.begin[pair]]
        adding = simple[pair[0]] & simple[pair[1]]
    known = np.where(value < total, value, 0)
    single = (value < total) & (uses[known] == 1)
    # An add is a sum if both its operands are; what is left after no more fall out.
    while True:
        member[of_adds[~adding]] = False
        stay = adding & np.all(member[known] & single, axis=0)
        if np.array_equal(stay, adding):
            break
        adding = stay
    parent = np.full(total, -1, np.int64)
    parent[known[:, adding]] = of_adds[adding]
    root = np.where(parent >= 0, parent, np.where(member, np.arange(total), -1))
    while True:
        above = np.where((root >= 0) & (parent[root] >= 0), parent[root], root)
        if (above == root).all():
            break
        root = above
    # A product that nothing adds to another is no sum.
    lone = parent[product] < 0
    root[product[lone]] = -1
    return root
