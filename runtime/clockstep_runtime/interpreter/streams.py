"""The stream registers of one chip: a vector for every direction, position and stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import EAST, geometry
from clockstep_isa.machine import Machine
from clockstep_runtime.interpreter.decode import Operand

__all__ = ["Streams"]


class _Lane:
    """All registers of one direction: `data` uint8 [positions, streams, lanes], and `full`.

    A second set of registers receives every move, as in hardware; the two then change places.
    """

    def __init__(self, machine: Machine, step: int) -> None:
        shape = (geometry(machine).positions, machine.streams.per_direction)
        self.data = np.zeros((*shape, machine.vector), np.uint8)
        self.full = np.zeros(shape, np.bool_)
        self.occupied = False
        self._next_data, self._next_full = np.zeros_like(self.data), np.zeros_like(self.full)
        self._step = step

    def move(self) -> None:
        if not self.occupied:
            return
        if self._step > 0:
            self._next_data[1:], self._next_full[1:] = self.data[:-1], self.full[:-1]
            self._next_full[0] = False
        else:
            self._next_data[:-1], self._next_full[:-1] = self.data[1:], self.full[1:]
            self._next_full[-1] = False
        self.data, self._next_data = self._next_data, self.data
        self.full, self._next_full = self._next_full, self.full
        self.occupied = bool(self.full.any())


class Streams:
    """The registers of one chip, both directions; a chip that does nothing has none."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lanes: tuple[_Lane, ...] = ()

    @property
    def occupied(self) -> bool:
        """Whether any register holds a vector."""
        return any(lane.occupied for lane in self._lanes)

    def sample(self, operand: Operand, x: int) -> NDArray[np.uint8] | None:
        """The vectors of a group at `x`, uint8 [width, lanes]; None if any register is empty."""
        if not self._lanes:
            return None
        lane = self._lanes[operand.direction]
        group = slice(operand.base, operand.base + operand.width)
        if not lane.full[x, group].all():
            return None
        return lane.data[x, group].copy()

    def write(self, operand: Operand, x: int, vectors: NDArray[np.uint8]) -> None:
        """Put the vectors of a group, uint8 [width, lanes], into the registers at `x`."""
        if not self._lanes:
            self._lanes = tuple(_Lane(self._machine, 1 if d == EAST else -1) for d in range(2))
        lane = self._lanes[operand.direction]
        group = slice(operand.base, operand.base + operand.width)
        lane.data[x, group] = vectors
        lane.full[x, group] = True
        lane.occupied = True

    def move(self) -> None:
        """Move every vector one hop on; those at the edges fall off."""
        for lane in self._lanes:
            lane.move()
