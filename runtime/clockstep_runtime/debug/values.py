"""Vectors of bytes as the elements that an instruction takes them for."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import BY_NAME, Field, Instruction, Type
from clockstep_runtime.semantics import EXECUTES

__all__ = ["elements", "operand_type", "result_type"]


def elements(vectors: NDArray[np.uint8], kind: Type) -> NDArray[Any]:
    """Streams uint8 [n * bytes, lanes], adjacent bytes of an element, as values [n, lanes]."""
    groups = vectors.reshape(-1, kind.bytes, vectors.shape[-1]).swapaxes(1, 2)
    return np.ascontiguousarray(groups).view(numpy_type(kind))[..., 0]


def operand_type(row: Instruction, fields: dict[str, int], operand: str) -> Type:
    """The element type of an operand: that of the row, or bytes where the row has none."""
    item = row.fields[row.field(operand)]
    typed = item.width == "type" or row.unit is Unit.LW
    return Type(fields["type"]) if typed else Type.I8


def result_type(row: Instruction, fields: dict[str, int]) -> Type:
    """The element type of a result, as `operand_type`."""
    item = row.fields[row.field("out")]
    if item.width == "to":
        return Type(fields["to"])
    if item.width != "type":
        return Type.I8
    kind = Type(fields["type"])
    return _computed(row.name, kind) if row.unit is Unit.VXM else kind


@lru_cache(maxsize=256)
def _computed(name: str, kind: Type) -> Type:
    """What an ALU makes of operands of a type: the semantics know (a comparison gives integers)."""
    names = [_argument(item) for item in BY_NAME[name].fields if item.name not in ("type", "out")]
    zeros = np.zeros(1, numpy_type(kind))
    dtype = EXECUTES[name](**dict.fromkeys(names, zeros)).dtype
    return next(t for t in Type if numpy_type(t) == dtype)


def _argument(item: Field) -> str:
    return "b" if item.name == "imm" else item.name
