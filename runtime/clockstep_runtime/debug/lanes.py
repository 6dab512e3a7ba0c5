"""Which lanes of the operands the lanes of a result depend on.

Of instructions that move lanes about this is what their semantics do to numbers that name lanes;
all others work lane by lane.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.machine import Machine
from clockstep_isa.table import Instruction, Kind, Type
from clockstep_runtime.debug.sources import stream_operands
from clockstep_runtime.semantics import EXECUTES

__all__ = ["operand_lanes"]

Mask = NDArray[np.bool_]
Map = NDArray[np.uint8]

_SHUFFLING = (Unit.PERMUTE, Unit.TRANSPOSE, Unit.DISTRIBUTE)


def operand_lanes(
    row: Instruction, fields: Mapping[str, int], need: Mask, maps: Map | None, machine: Machine
) -> dict[str, Mask]:
    """For every operand the lanes of its streams, bool [streams, lanes], behind those in `need`.

    `need` is [streams of the result, lanes]; `maps` [streams, lanes] is the operand `map`, of rows
    that have one.
    """
    if row.unit in _SHUFFLING:
        return _shuffled(row, fields, need, maps, machine)
    lanes: Mask = np.logical_or.reduce(need)
    widths = {item.name: _width(item.width, fields) for item in stream_operands(row)}
    return {name: np.repeat(lanes[None], width, axis=0) for name, width in widths.items()}


def _width(width: int | str, fields: Mapping[str, int]) -> int:
    if isinstance(width, int):
        return width
    return Type(fields[width]).bytes if width in ("type", "to") else fields[width]


def _shuffled(
    row: Instruction, fields: Mapping[str, int], need: Mask, maps: Map | None, machine: Machine
) -> dict[str, Mask]:
    streams, lanes = need.shape
    # One more than the number of the byte, because 0 is what fills lanes that nothing comes to.
    names = 1 + np.arange(lanes * streams).reshape(lanes, streams)
    arguments = {
        item.name: fields[item.name]
        for item in row.fields
        if item.kind is not Kind.STREAM and item.name != "width"
    }
    if row.unit in (Unit.TRANSPOSE, Unit.DISTRIBUTE):
        arguments["per_superlane"] = machine.lanes.per_superlane
    given = {"a": names} if maps is None else {"a": names, "map": maps.T}
    origin = EXECUTES[row.name](**given, **arguments)[need.T]
    flat = np.zeros(lanes * streams + 1, np.bool_)
    flat[origin] = True
    found = {"a": np.ascontiguousarray(flat[1:].reshape(lanes, streams).T)}
    if maps is not None:
        picked: Mask = np.logical_or.reduce(need)
        found["map"] = np.repeat(picked[None], len(maps), axis=0)
    return found
