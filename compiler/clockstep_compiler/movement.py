"""Steps that move elements between lanes and words: relayout, broadcast, transpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clockstep_compiler.blocks import dynamic_runs
from clockstep_compiler.kernel import Array, FromMem, FromMxm, FromSxm, Origin, Rows
from clockstep_compiler.scheduler import Place, Scheduler, move_program, regular_runs
from clockstep_compiler.steps import Broadcast, Relayout, Transpose, Value
from clockstep_compiler.storage import Copy
from clockstep_compiler.wave import WaveOp, WaveProgram
from clockstep_isa.table import Type

__all__ = ["Mover"]

_TRUNCATE = WaveProgram(
    (Type.I32,), (WaveOp("cast", Type.I32, (0,), Type.I8, (int(Type.I8), 0, 1)),)
)
"""A byte's exact product with one, back to a byte."""

Segment = tuple[int, int, int, int]
"""(source tile, lane in it, lane in the result, lanes) of elements that stay together."""


@dataclass(slots=True)
class Mover:
    """Schedules the blocks of movement steps. `identity` is shared by all transposes."""

    s: Scheduler
    identity: Value | None = None

    def _begin(self, step: Relayout | Broadcast | Transpose, chunk: int, tile: int) -> int:
        s = self.s
        rows = s.storage.rows_of(step.out, chunk)
        first, column = chunk * s.chunk, tile * s.plan.machine.vector
        lanes = s.storage.lanes_of(step.out, tile)
        s.begin(step.nodes, f"{step.out.name}[{first}:{first + rows}, {column}:{column + lanes}]")
        return rows

    # -- broadcast ----------------------------------------------------------------------------

    def broadcast(self, step: Broadcast, chunk: int, tile: int, chip: int) -> None:
        """The first lane of every row, in all lanes."""
        s, kind = self.s, step.source.type
        rows = self._begin(step, chunk, tile)
        copy = s.fetch(step.source, chunk, 0, chip, frozenset())
        out, since = s.room(chip, kind, rows, copy.slices, step.out.name)
        origin = FromSxm(Rows(copy, 0, 1), copy.side, "broadcast", (0,))
        s.run(chip, move_program(kind), [origin], rows, 1, Place(out, 0, 1, since=since))
        s.storage.add((step.out.number, chunk, tile), chip, out)

    # -- relayout -----------------------------------------------------------------------------

    def relayout(self, step: Relayout, chunk: int, tile: int, chip: int) -> None:
        """Rows that are cut and joined alike are moved together, a segment at a time."""
        s = self.s
        rows = self._begin(step, chunk, tile)
        alike: dict[tuple[Segment, ...], list[tuple[int, list[int]]]] = {}
        for row in range(rows):
            places = self._segments(step, chunk * s.chunk + row, tile)
            key = tuple(segment for _, segment in places)
            alike.setdefault(key, []).append((row, [source for source, _ in places]))
        sources = frozenset().union(
            *(
                s.fetch(step.source, source // s.chunk, segment[0], chip, frozenset()).slices
                for key, members in alike.items()
                for _, found in members
                for source, segment in zip(found, key, strict=True)
            )
        )
        out, since = s.room(chip, step.out.type, rows, frozenset(), step.out.name, sources)
        for key, members in alike.items():
            into = np.array([row for row, _ in members])
            origins = [np.array([found[k] for _, found in members]) for k in range(len(key))]
            fixed = [index // s.chunk for index in origins]
            for start, count in regular_runs([into, *origins], fixed):
                stride = int(into[start + 1] - into[start]) if count > 1 else 0
                place = Place(out, int(into[start]), stride, since=since)
                span = [index[start : start + count] for index in origins]
                self._join(step, key, span, count, chip, place)
        s.storage.add((step.out.number, chunk, tile), chip, out)

    def _segments(self, step: Relayout, row: int, tile: int) -> list[tuple[int, Segment]]:
        """Source row and segment of everything in one tile of a row of the result."""
        lanes, source = self.s.plan.machine.vector, step.source
        flat = row * step.out.columns + tile * lanes
        end = flat + self.s.storage.lanes_of(step.out, tile)
        found, lane = [], 0
        while flat < end:
            source_row, column = divmod(flat, source.columns)
            source_tile, at = divmod(column, lanes)
            count = min(end - flat, lanes - at, source.columns - column)
            found.append((source_row, (source_tile, at, lane, count)))
            flat += count
            lane += count
        return found

    def _join(
        self,
        step: Relayout,
        key: tuple[Segment, ...],
        span: list[np.ndarray[tuple[int], np.dtype[np.int64]]],
        count: int,
        chip: int,
        place: Place,
    ) -> None:
        """Shift every segment to its lanes and `or` it to those before."""
        s, kind = self.s, step.out.type
        joined: Copy | None = None
        for k, (tile, at, lane, lanes) in enumerate(key):
            chunk, local = divmod(int(span[k][0]), s.chunk)
            stride = int(span[k][1] - span[k][0]) if count > 1 else 0
            avoid = place.copy.slices | (joined.slices if joined else frozenset())
            copy = s.fetch(step.source, chunk, tile, chip, avoid)
            rows = Rows(copy, local, stride)
            origin: Origin = FromMem(rows)
            if len(key) > 1 or at != lane:
                origin = FromSxm(rows, copy.side, "shift", (lane - at, lane, lane + lanes))
            origins, program = [origin], move_program(kind)
            if joined is not None:
                origins.append(FromMem(Rows(joined, 0, 1)))
                program = WaveProgram((kind, kind), (WaveOp("or", kind, (0, 1), kind),))
            target = place
            if k < len(key) - 1:
                room, since = s.room(chip, kind, count, avoid | copy.slices, step.out.name)
                target = Place(room, 0, 1, since=since)
            s.run(chip, program, origins, count, 1, target)
            if joined is not None:
                s.storage.give(chip, joined, step.out.name, "scratch")
            joined = target.copy

    # -- transpose ----------------------------------------------------------------------------

    def transpose(self, step: Transpose, chunk: int, tile: int, chip: int) -> None:
        """One-hot rows times a block of the source give its columns, byte for byte.

        The bytes of an element are products of their own, so every bit pattern passes exactly.
        """
        s, source, lanes = self.s, step.source, self.s.plan.machine.vector
        rows = self._begin(step, chunk, tile)
        height = source.rows // step.batch
        out, since = s.room(chip, source.type, rows, frozenset(), step.out.name)
        columns = s.storage.lanes_of(step.out, tile)
        row = 0
        while row < rows:
            batch, column = divmod(chunk * s.chunk + row, source.columns)
            block, lane = divmod(column, lanes)
            count = min(rows - row, lanes - lane, source.columns - column)
            first = batch * height + tile * lanes
            depth = min(lanes, source.columns - block * lanes)
            for byte in range(source.type.bytes):
                self._transpose_byte(
                    step,
                    out,
                    Place(out, row, 1, byte, 1, since),
                    chip,
                    (first, columns, block, lane, count, depth, byte),
                )
            row += count
        s.storage.add((step.out.number, chunk, tile), chip, out)

    def _transpose_byte(
        self, step: Transpose, out: Copy, place: Place, chip: int, part: tuple[int, ...]
    ) -> None:
        s = self.s
        first, columns, block, lane, count, depth, byte = part
        runs = dynamic_runs(s, step.source, first, columns, block, chip)
        one = [run.byte(byte) for run in runs]
        side, plane = s.plan.planes[s.turn % len(s.plan.planes)]
        if self.identity is None:
            size = s.plan.machine.vector
            self.identity = Value(
                -(1 << 30), "identity", size, size, Type.I8, "const", np.eye(size, dtype=np.int8)
            )
        while count:
            chunk, local = divmod(lane, s.chunk)
            part_count = min(count, s.chunk - local)
            rows = Rows(s.fetch(self.identity, chunk, 0, chip, out.slices), local, 1)
            origin = FromMxm(rows, Type.I8, depth, Array(side, plane, tuple(one)))
            s.run(chip, _TRUNCATE, [origin], part_count, 1, place)
            place = place.moved(part_count)
            lane += part_count
            count -= part_count
