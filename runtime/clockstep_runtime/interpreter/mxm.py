"""The planes of one hemisphere's MXM: weight buffers, arrays, and products in flight."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.layout import numpy_type
from clockstep_isa.machine import Machine
from clockstep_isa.table import Type
from clockstep_runtime.dot import HalfMatrix, Int8Matrix

__all__ = ["Array", "Mxm", "Plane"]


@dataclass(frozen=True, slots=True)
class Array:
    """Installed weights and the cycle of the `iw` that installed them."""

    type: Type
    installed: int
    weights: Int8Matrix | HalfMatrix


@dataclass(slots=True)
class Plane:
    """`buffer` is uint8 [columns, rows, bytes of an element]; `loaded` the types put into it.

    `products` has the product, as bytes [width, lanes], that the array delivers in each cycle.
    """

    buffer: NDArray[np.uint8]
    loaded: set[Type] = field(default_factory=set)
    array: Array | None = None
    products: dict[int, tuple[Type, NDArray[np.uint8]]] = field(default_factory=dict)


class Mxm:
    """All planes of one hemisphere."""

    def __init__(self, machine: Machine) -> None:
        mxm, lanes = machine.mxm, machine.vector
        self._group = mxm.fp16_planes
        self.planes = [
            Plane(np.zeros((lanes, lanes, Type.F16.bytes), np.uint8))
            for _ in range(mxm.planes_per_hemisphere)
        ]

    def load(self, plane: int, kind: Type, column: int, vectors: NDArray[np.uint8]) -> None:
        """Put streams, uint8 [count, lanes], into the columns from `column` on."""
        target = self.planes[plane]
        columns = len(vectors) // kind.bytes
        elements = vectors.reshape(columns, kind.bytes, -1).transpose(0, 2, 1)
        target.buffer[column : column + columns, :, : kind.bytes] = elements
        target.loaded.add(kind)

    def install(self, plane: int, kind: Type, cycle: int) -> None:
        """Take the buffer into the array and clear it; end what it takes the place of."""
        target = self.planes[plane]
        raw = np.ascontiguousarray(target.buffer[:, :, : kind.bytes].transpose(1, 0, 2))
        weights = raw.view(numpy_type(kind))[:, :, 0]
        matrix = Int8Matrix(weights) if kind is Type.I8 else HalfMatrix(weights)
        first = plane - plane % self._group
        for other in self.planes[first : first + self._group]:
            if kind is Type.F16 or (other.array and other.array.type is Type.F16):
                other.array = None
        target.array = Array(kind, cycle, matrix)
        target.buffer[:] = 0
        target.loaded.clear()
