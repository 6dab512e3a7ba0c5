"""Tables that rows are taken of by computed index: their bytes, constant or stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Leaf
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.lower import (
    Lowering,
    matrix_shape,
    offset_of,
    stored_elements,
)
from clockstep_compiler.lowering.reduce_rows import hold
from clockstep_compiler.steps import Value
from clockstep_compiler.uniform import different, spread
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import Type

__all__ = ["FEW", "Table", "integers_of", "table_of"]

FEW = 8
"""Rows of a table up to which each is masked and joined, not picked by a product."""

_UNSIGNED = {"uint8": 1, "uint16": 2, "uint32": 4}
"""Types whose stored elements are not the values, or wider: taken as i32, of so many bytes."""


@dataclass(frozen=True, slots=True)
class Table:
    """Tables of `sizes` [batch, height, inner, width]; `count` bytes of an element matter.

    With `last` they are one matrix [batch, height]. It is the constant `data`, or stored. What is
    taken of integers with a zero point that is not 0 has that in it yet.
    """

    sizes: tuple[int, int, int, int]
    last: bool
    kind: Type
    count: int
    signed: bool
    data: NDArray[Any] | None
    value: Value | None
    zero: int = 0

    @property
    def batch(self) -> int:
        return self.sizes[0]

    @property
    def height(self) -> int:
        return self.sizes[1]

    @property
    def inner(self) -> int:
        return self.sizes[2]

    @property
    def width(self) -> int:
        return self.sizes[3]

    def plane(self, byte: int) -> NDArray[np.int8] | None:
        """One byte of every element of a constant matrix."""
        if self.data is None:
            return None
        few = different(self.data)
        raw = np.ascontiguousarray(few).view(np.int8)
        return spread(raw.reshape(*few.shape, self.kind.bytes)[..., byte], self.data.shape)

    def stored(self, state: Lowering) -> Value:
        """The matrix in SRAM."""
        if self.data is not None:
            return state.constant_value("table", self.data)
        assert self.value is not None
        return self.value


def table_of(state: Lowering, node: Node, name: str, kind: Type) -> Table:
    """The table as it is stored, or as i32 where a stored zero is no zero."""
    shape, dtype, constant = state.shape(name), state.dtype(name), state.constant(name)
    last = bool(node.attributes.get("last", 0))
    sizes = _sizes(shape, last)
    if dtype in _UNSIGNED:
        count = _UNSIGNED[dtype]
        if constant is not None:
            data = _matrix(constant.astype(np.int64).astype(np.int32))
            return Table(sizes, last, Type.I32, count, False, data, None)
        wide = hold(state, state.widen(Leaf(state.store(name), None), dtype), shape).value
        return Table(sizes, last, Type.I32, count, False, None, wide)
    if constant is not None:
        stored = _matrix(stored_elements(constant, dtype, kind))
        return Table(sizes, last, kind, kind.bytes, True, stored, None)
    value = state.store(name)
    kind = value.type
    return Table(sizes, last, kind, kind.bytes, True, value.data, value)


def integers_of(state: Lowering, node: Node, name: str) -> Table | None:
    """The integers of a dequantized constant less their zero point, if one scale does for all.

    Where these need two bytes, products take them with their zero point, which needs one.
    """
    tensor = state.tensors.get(name)
    quant = tensor.quant if tensor is not None else None
    if quant is None or quant.scale.size != 1:
        return None
    constant = state.constant(quant.source)
    if constant is None:
        return None
    last = bool(node.attributes.get("last", 0))
    sizes = _sizes(constant.shape, last)
    integers = constant.astype(np.int64)
    values, zero = integers - quant.zero, 0
    offset = offset_of(state.dtype(quant.source))
    by_product = sizes[0] == sizes[2] == 1 and sizes[1] > FEW and not last
    if by_product and quant.zero.size == 1 and not _is_byte(values) and _is_byte(integers + offset):
        values, zero = integers + offset, int(quant.zero.reshape(())) + offset
    if not _is_byte(values) and not _is_byte(values >> 8):
        return None
    kind = Type.I8 if _is_byte(values) else Type.I16
    stored = values.astype(numpy_type(kind))
    return Table(sizes, last, kind, kind.bytes, True, _matrix(stored), None, zero)


def _is_byte(array: NDArray[np.int64]) -> bool:
    """Whether all of an array are signed integers of a byte."""
    return bool(np.array_equal(array.astype(np.int8), array))


def _matrix(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(matrix_shape(array.shape))


def _sizes(shape: tuple[int, ...], last: bool) -> tuple[int, int, int, int]:
    """Tables, rows of one, rows inside a row, columns."""
    if last:
        return shape[0], shape[1], 1, 1
    batch = shape[0] if len(shape) > 2 else 1
    inner = shape[2] if len(shape) > 3 else 1
    return batch, shape[0] if len(shape) < 3 else shape[1], inner, shape[-1]
