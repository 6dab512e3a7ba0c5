"""What sweeps are made of: operands and results row by row, partial sums, slices at work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Source
from clockstep_compiler.kernel import Piece, Rows, Track
from clockstep_compiler.runs import regular_runs
from clockstep_compiler.scheduler import Part, Place
from clockstep_compiler.steps import Compute, Move, Transpose, Value
from clockstep_compiler.storage import Copy
from clockstep_compiler.wave import WaveProgram

__all__ = ["APART", "Busy", "Job", "Operand", "Run", "Strip", "places", "runs_of"]

Ints = NDArray[np.int64]

APART = 48
"""Cycles by which units that work on the same row may be apart, more or less than is said here."""


@dataclass(frozen=True, eq=False, slots=True)
class Operand:
    """A matrix and the row of it that each row of the step reads; -1 is the row of `fill`.

    `tile` is the tile of columns that all tiles of the step read, None if each reads its own.
    """

    value: Value
    index: Ints
    fill: Value | None = None
    tile: int | None = None

    def tile_for(self, tile: int) -> int:
        """The tile of columns that a tile of the step reads."""
        if self.tile is not None:
            return self.tile
        return tile if self.value.columns > 1 else 0


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """`count` rows, the first at `at`, lie in one block from row `local` on, `stride` apart."""

    at: int
    count: int
    chunk: int
    local: int
    stride: int


def runs_of(index: Ints, size: int) -> Iterator[Run]:
    """Rows of a matrix that is cut into blocks of `size`, in regular runs; -1 apart."""
    for at, count in regular_runs([index], [index // size, (index < 0).astype(np.int64)]):
        first = int(index[at])
        stride = int(index[at + 1]) - first if count > 1 else 0
        yield Run(at, count, first // size, first % size if first >= 0 else 0, stride)


@dataclass(slots=True)
class Busy:
    """Slices that a kernel reads or writes, and when: cycles from about its first read."""

    pace: int
    spans: list[tuple[frozenset[int], int, int]] = field(default_factory=list)

    def parts(self, parts: tuple[Part, ...], after: int) -> None:
        """What is written, so long after the kernel's first read."""
        for part in parts:
            start = part.at * self.pace + after
            for copy in part.place.copies:
                self.spans.append((copy.slices, start, start + part.count * self.pace))

    def track(self, track: Track, after: int) -> Track:
        """What is read."""
        for piece in track:
            start = piece.at * self.pace + after
            slices = frozenset(queue for queue, _ in piece.rows.planes)
            self.spans.append((slices, start, start + piece.count * self.pace))
        return track

    def during(self, at: int, count: int, after: int) -> frozenset[int]:
        """Slices that are not free for some rows of the kernel."""
        low = at * self.pace + after - APART
        high = (at + count) * self.pace + after + APART
        return frozenset[int]().union(
            *(slices for slices, first, end in self.spans if first < high and low < end)
        )


@dataclass(slots=True)
class Strip:
    """Partial sums of consecutive rows, in blocks of `size` rows."""

    copies: list[Copy]
    size: int
    since: int

    @property
    def slices(self) -> frozenset[int]:
        return frozenset().union(*(copy.slices for copy in self.copies))

    def _pieces(self, low: int, high: int) -> Iterator[tuple[int, int, Copy, int]]:
        row = low
        while row < high:
            number, local = divmod(row, self.size)
            count = min(high - row, self.size - local)
            yield row - low, count, self.copies[number], local
            row += count

    def track(self, low: int, high: int) -> Track:
        pieces = self._pieces(low, high)
        return tuple(Piece(at, count, Rows(copy, local, 1)) for at, count, copy, local in pieces)

    def parts(self, low: int, high: int) -> tuple[Part, ...]:
        pieces = self._pieces(low, high)
        return tuple(
            Part(at, count, Place(copy, local, 1, since=self.since))
            for at, count, copy, local in pieces
        )


@dataclass(slots=True)
class Job:
    """What one call of `Sweeper.make` works on; `out` are the copies of each block."""

    step: Compute | Transpose | Move
    chip: int
    tile: int
    program: WaveProgram
    sources: tuple[Source, ...]
    operands: list[Operand | None]
    out: dict[int, tuple[Copy, ...]] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)

    @property
    def taken(self) -> frozenset[int]:
        """Slices of the result."""
        return frozenset().union(*(c.slices for copies in self.out.values() for c in copies))


def places(job: Job, rows: Ints, size: int, byte: int | None = None) -> tuple[Part, ...]:
    """Where rows of the result, which is in blocks of `size`, go: all of an element or a byte."""
    found = []
    first, count = (0, 0) if byte is None else (byte, 1)
    for run in runs_of(rows, size):
        copy, *also = job.out[run.chunk]
        since = job.since[run.chunk]
        place = Place(copy, run.local, run.stride, first, count, since, (*also,))
        found.append(Part(run.at, run.count, place))
    return tuple(found)
