"""Steps that move elements between lanes and words: relayout, broadcast, transpose."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from clockstep_compiler.blocks import dynamic_runs, striped
from clockstep_compiler.kernel import Array, FromMem, FromMxm, FromSxm, Origin, Rows, Run
from clockstep_compiler.patterns import Join, Part, Source, Turn, filled, patterns
from clockstep_compiler.runs import regular_runs, spans
from clockstep_compiler.scheduler import Place, Scheduler, move_program
from clockstep_compiler.steps import Broadcast, Move, Relayout, Transpose, Value
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_compiler.stripes import stripe_slices
from clockstep_compiler.sums import group_size, sum_program
from clockstep_compiler.wave import WaveOp, WaveProgram
from clockstep_isa.table import Type

__all__ = ["TRUNCATE", "Mover", "chosen", "kept"]

TRUNCATE = WaveProgram(
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
    zero: Value | None = None
    choosers: dict[tuple[int, str, int, bytes], Array] = field(default_factory=dict)
    """Arrays that put one row's lanes elsewhere, by chip, plane and map."""

    def _begin(self, step: Relayout | Broadcast | Transpose | Move, chunk: int, tile: int) -> int:
        s = self.s
        rows = s.storage.rows_of(step.out, chunk)
        first, column = chunk * s.storage.block_rows(step.out), tile * s.plan.machine.vector
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
        first, size = chunk * s.storage.block_rows(step.out), s.storage.block_rows(step.source)
        for row in range(rows):
            places = self._segments(step, first + row, tile)
            key = tuple(segment for _, segment in places)
            alike.setdefault(key, []).append((row, [source for source, _ in places]))
        sources = frozenset().union(
            *(
                s.fetch(step.source, source // size, segment[0], chip, frozenset()).slices
                for key, members in alike.items()
                for _, found in members
                for source, segment in zip(found, key, strict=True)
            )
        )
        out, since = s.room(chip, step.out.type, rows, frozenset(), step.out.name, sources)
        for key, members in alike.items():
            into = np.array([row for row, _ in members])
            origins = [np.array([found[k] for _, found in members]) for k in range(len(key))]
            fixed = [index // size for index in origins]
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
            chunk, local = divmod(int(span[k][0]), s.storage.block_rows(step.source))
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
        row, top = 0, chunk * s.storage.block_rows(step.out)
        while row < rows:
            batch, column = divmod(top + row, source.columns)
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
        identity = self._identity()
        while count:
            size = s.storage.block_rows(identity)
            chunk, local = divmod(lane, size)
            part_count = min(count, size - local)
            rows = Rows(s.fetch(identity, chunk, 0, chip, out.slices), local, 1)
            origin = FromMxm(rows, Type.I8, depth, Array(side, plane, tuple(one)))
            s.run(chip, TRUNCATE, [origin], part_count, 1, place)
            place = place.moved(part_count)
            lane += part_count
            count -= part_count

    # -- any movement -------------------------------------------------------------------------

    def move(self, step: Move, chunk: int, tile: int, chip: int) -> None:
        """A block by the patterns in its elements."""
        s, lanes = self.s, self.s.plan.machine.vector
        rows = self._begin(step, chunk, tile)
        width, first = s.storage.lanes_of(step.out, tile), 0
        sources = []
        for value in step.sources:
            sources.append(Source(value.rows, value.columns, first))
            first += value.rows * value.columns
        top = chunk * s.storage.block_rows(step.out)
        block = step.index[top : top + rows]
        block = block[:, tile * lanes : tile * lanes + width]
        out, since = s.room(chip, step.out.type, rows, frozenset(), step.out.name)
        found = patterns(block, tuple(sources), lanes)
        joins = [pattern for pattern in found if isinstance(pattern, Join)]
        largest = max(joins, key=lambda join: len(join.into), default=None)
        whole = filled(largest, s.chunk) if largest else None
        if whole is not None:
            self._join_rows(step, whole, chip, Place(out, 0, 1, since=since))
            since = int(out.ready.max())
        for pattern in found:
            if isinstance(pattern, Turn):
                self._turn(step, pattern, chip, Place(out, 0, 1, since=since))
            elif whole is None or pattern is not largest:
                self._join_rows(step, pattern, chip, Place(out, 0, 1, since=since))
        s.storage.add((step.out.number, chunk, tile), chip, out)

    def _join_rows(self, step: Move, join: Join, chip: int, out: Place) -> None:
        """The rows of a join, in runs that advance regularly in every source."""
        s = self.s
        origins = [part.rows for part in join.parts]
        sizes = [s.storage.block_rows(step.sources[part.source]) for part in join.parts]
        blocks = [rows // size for rows, size in zip(origins, sizes, strict=True)]
        for span in spans([join.into, *origins], blocks):
            into, count = join.into[span.rows], span.length
            stride = int(into[1] - into[0]) if count > 1 else 0
            place = Place(out.copy, int(into[0]), stride, since=out.since)
            parts = [replace(part, rows=part.rows[span.rows]) for part in join.parts]
            if not parts:
                self._blank(step, count, chip, place)
            elif len(parts) == 1 and kept(parts[0].lanes):
                rows = self._part_rows(step, parts[0], chip, place.copy.slices)
                s.run(chip, move_program(step.out.type), [FromMem(rows)], count, 1, place)
            else:
                for byte in range(step.out.type.bytes):
                    self._choose(step, parts, count, byte, chip, place)

    def _part_rows(self, step: Move, part: Part, chip: int, avoid: frozenset[int]) -> Rows:
        value = step.sources[part.source]
        chunk, local = divmod(int(part.rows[0]), self.s.storage.block_rows(value))
        stride = int(part.rows[1] - part.rows[0]) if len(part.rows) > 1 else 0
        copy = self.s.fetch(value, chunk, part.tile, chip, avoid)
        return Rows(copy, local, stride)

    def _blank(self, step: Move, count: int, chip: int, place: Place) -> None:
        """Rows of zeros."""
        s, kind = self.s, step.out.type
        if self.zero is None:
            data = np.zeros((1, s.plan.machine.vector), np.int32)
            self.zero = Value(
                -(1 << 30) - 1, "zero", 1, data.shape[1], Type.I32, "const", data=data
            )
        copy = s.fetch(self.zero, 0, 0, chip, place.copy.slices)
        for byte in range(kind.bytes):
            rows = FromMem(Rows(copy, 0, 0, byte))
            one = replace(place, first_byte=byte, bytes=1)
            s.run(chip, move_program(Type.I8), [rows], count, 1, one)

    def _choose(
        self, step: Move, parts: list[Part], count: int, byte: int, chip: int, place: Place
    ) -> None:
        """One byte of joined rows: products with arrays of zeros and ones, added up.

        Every lane has at most one part, so sums are choices; bytes are exact as int8.
        """
        s = self.s
        size = group_size(s.plan, Type.I8)
        target = replace(place, first_byte=byte, bytes=1)
        joined: Copy | None = None
        for start in range(0, len(parts), size):
            group = parts[start : start + size]
            taken = place.copy.slices | (joined.slices if joined else frozenset())
            origins: list[Origin] = []
            turn = s.turn  # copies that the rows need are kernels, too
            for part in group:
                rows = self._part_rows(step, part, chip, taken)
                taken |= rows.copy.slices
                side, plane = s.plan.planes[(turn + len(origins)) % len(s.plan.planes)]
                array = self.chooser(chip, side, plane, part.lanes)
                depth = s.storage.lanes_of(step.sources[part.source], part.tile)
                origins.append(FromMxm(replace(rows, byte=byte), Type.I8, depth, array))
            program = chosen(len(group), joined is not None)
            if joined is not None:
                origins.append(FromMem(Rows(joined, 0, 1)))
            if start + size >= len(parts):
                s.run(chip, program, origins, count, 1, target)
            else:
                room, since = s.room(chip, Type.I8, count, taken, step.out.name)
                s.run(chip, program, origins, count, 1, Place(room, 0, 1, since=since))
            if joined is not None:
                s.storage.give(chip, joined, step.out.name, "scratch")
            joined = room if start + size < len(parts) else None

    def chooser(self, chip: int, side: str, plane: int, lanes: np.ndarray) -> Array:
        """An array whose column c is one in row `lanes[c]`, nowhere if that is -1."""
        key = (chip, side, plane, lanes.tobytes())
        if key not in self.choosers:
            matrix = np.zeros((len(lanes), self.s.plan.machine.vector), np.int8)
            wanted = np.flatnonzero(lanes >= 0)
            matrix[wanted, lanes[wanted]] = 1
            self.choosers[key] = Array(side, plane, self._weights(chip, side, plane, matrix))
        return self.choosers[key]

    def _weights(self, chip: int, side: str, plane: int, matrix: np.ndarray) -> tuple[Run, ...]:
        """Constant int8 columns [columns, rows] in stripes of a hemisphere."""
        plan, storage = self.s.plan, self.s.storage
        streams = min(plan.install_streams, len(matrix))
        words = -(-len(matrix) // streams)
        queues = stripe_slices(plan, storage.memories[chip], side, plane, streams, words, 0)
        if queues is None:
            raise NoRoom(chip, "maps of lanes", streams * words)
        stripes = []
        for i, queue in enumerate(queues):
            part = matrix[i::streams].view(np.uint8)
            address = storage.memories[chip].take_virgin(queue, len(part))
            storage.image.append((chip, queue, address, part))
            stripes.append((queue, address))
        return striped(tuple(stripes), len(matrix), 1)

    def _turn(self, step: Move, turn: Turn, chip: int, out: Place) -> None:
        """One-hot rows pick lanes of source rows that are loaded as columns, byte for byte."""
        s, source = self.s, step.sources[turn.source]
        depth = s.storage.lanes_of(source, turn.tile)
        identity = self._identity()
        for byte in range(step.out.type.bytes):
            columns = self._columns(source, turn, byte, chip)
            size = s.storage.block_rows(identity)
            for start, count in regular_runs([turn.into, turn.lanes], [turn.lanes // size]):
                side, plane = s.plan.planes[s.turn % len(s.plan.planes)]
                chunk, local = divmod(int(turn.lanes[start]), size)
                step_ = int(turn.lanes[start + 1] - turn.lanes[start]) if count > 1 else 0
                rows = Rows(s.fetch(identity, chunk, 0, chip, out.copy.slices), local, step_)
                stride = int(turn.into[start + 1] - turn.into[start]) if count > 1 else 0
                place = Place(out.copy, int(turn.into[start]), stride, byte, 1, out.since)
                origin = FromMxm(rows, Type.I8, depth, Array(side, plane, columns))
                s.run(chip, TRUNCATE, [origin], count, 1, place)

    def _columns(self, source: Value, turn: Turn, byte: int, chip: int) -> tuple[Run, ...]:
        """Source rows as the columns of an array, in runs that advance regularly."""
        s, runs = self.s, []
        size = s.storage.block_rows(source)
        for start, count in regular_runs([turn.columns], [turn.columns // size]):
            chunk, local = divmod(int(turn.columns[start]), size)
            stride = int(turn.columns[start + 1] - turn.columns[start]) if count > 1 else 0
            copy = s.fetch(source, chunk, turn.tile, chip, frozenset())
            queue, address = copy.planes[byte]
            stripe = (queue, address + local, stride, count)
            runs.append(Run((stripe,), count, 1, (Rows(copy, local, stride, byte),)))
        return tuple(runs)

    def _identity(self) -> Value:
        if self.identity is None:
            size = self.s.plan.machine.vector
            self.identity = Value(
                -(1 << 30), "identity", size, size, Type.I8, "const", np.eye(size, dtype=np.int8)
            )
        return self.identity


def kept(lanes: np.ndarray) -> bool:
    """Whether every lane stays where it is."""
    return bool((lanes == np.arange(len(lanes))).all())


def chosen(products: int, joined: bool) -> WaveProgram:
    """The low byte of a sum of products, together with a byte that is there already."""
    sums = sum_program(Type.I32, products)
    ops = list(sums.ops) if products > 1 else []
    shift = 1 if joined else 0
    ops = [
        op._replace(args=tuple(a + shift if a >= products else a for a in op.args)) for op in ops
    ]
    total = products + shift
    last = total + len(ops) - 1 if ops else 0
    ops.append(WaveOp("cast", Type.I32, (last,), Type.I8, (int(Type.I8), 0, 1)))
    if joined:
        ops.append(WaveOp("or", Type.I8, (total + len(ops) - 1, products), Type.I8))
    leaves = (Type.I32,) * products + (Type.I8,) * shift
    return WaveProgram(leaves, tuple(ops))
