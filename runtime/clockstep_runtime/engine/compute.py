"""What a step computes from its operands, by the row of its instruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.layout import numpy_type
from clockstep_isa.machine import Machine
from clockstep_isa.table import ENUMS, TABLE, Instruction, Kind, Type
from clockstep_runtime.engine.gather import UNSIGNED, as_bytes, as_value
from clockstep_runtime.semantics import EXECUTES

__all__ = ["COMPUTES", "Compute"]

Array = NDArray[Any]
Compute = Callable[[Machine, list[int], list[Array]], Array]
"""The machine, the fields of the instruction and its operands, to the value it makes."""


def _elementwise(row: Instruction) -> Compute:
    """A VXM row: its function in `semantics`, on typed elements."""
    function = EXECUTES[row.name]
    kind_at = row.field("type")
    others = [
        (item.name, item.kind, row.field(item.name))
        for item in row.fields
        if item.kind is not Kind.STREAM and item.name != "type"
    ]

    def compute(machine: Machine, fields: list[int], operands: list[Array]) -> Array:
        dtype = numpy_type(Type(fields[kind_at]))
        typed = [operand.view(dtype) for operand in operands]
        named: dict[str, Any] = {}
        for name, kind, at in others:
            if kind is Kind.IMMEDIATE:
                typed.append(np.array([fields[at]], "<u4").view(dtype)[:1])
            elif kind is Kind.TYPE:
                named[name] = Type(fields[at])
            else:
                named[name] = ENUMS[kind][fields[at]]
        result = function(*typed, **named)
        value: Array = result.view(UNSIGNED[result.dtype.itemsize])
        return value

    return compute


def _exchange(row: Instruction) -> Compute:
    """An SXM row: its function in `semantics`, on bytes [..., lanes, streams]."""
    function = EXECUTES[row.name]
    others = [
        (item.name, row.field(item.name))
        for item in row.fields
        if item.kind is not Kind.STREAM and item.name != "width"
    ]
    within = row.unit in (Unit.TRANSPOSE, Unit.DISTRIBUTE)

    def compute(machine: Machine, fields: list[int], operands: list[Array]) -> Array:
        named = {name: fields[at] for name, at in others}
        if within:
            named["per_superlane"] = machine.lanes.per_superlane
        return as_value(function(*(as_bytes(operand) for operand in operands), **named))

    return compute


def _compute_of(row: Instruction) -> Compute | None:
    if row.unit is Unit.VXM:
        return _elementwise(row)
    if row.unit in (Unit.PERMUTE, Unit.TRANSPOSE, Unit.DISTRIBUTE):
        return _exchange(row)
    return None


COMPUTES: tuple[Compute | None, ...] = tuple(_compute_of(row) for row in TABLE)
"""By index in the table; None for rows that the engine does itself: `iw`, `abc`, movers."""
