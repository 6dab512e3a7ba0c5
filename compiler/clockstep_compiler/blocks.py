"""One block of a computed matrix: its runs of rows, its groups of K tiles, its partial sums."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import Acc, Const, Leaf, Source, flatten
from clockstep_compiler.in_place import confined
from clockstep_compiler.kernel import Array, FromMem, FromMxm, Origin, Rows, Run, first_rows
from clockstep_compiler.partition import Group, find_product
from clockstep_compiler.runs import Span, spans
from clockstep_compiler.scheduler import Place, Scheduler
from clockstep_compiler.steps import Compute, Interleaved, Product, Value, sources_of
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_compiler.stripes import Member, columns_of
from clockstep_compiler.sums import sum_program, with_sum
from clockstep_compiler.sweep_parts import Operand
from clockstep_compiler.wave import WaveProgram
from clockstep_isa.layout import numpy_type
from clockstep_isa.table import Type

__all__ = ["BlockMaker", "dynamic_runs", "striped"]


_FEW_SLICES = 10
"""Slices of a hemisphere below which partial sums need one hemisphere for themselves."""


@dataclass(slots=True)
class _Sources:
    """What the last kernel of one run reads, and the slices it reads from."""

    origins: list[Origin]
    taken: frozenset[int]


@dataclass(frozen=True, eq=False, slots=True)
class _Partial:
    """Sums over the groups so far, for one run of rows."""

    chip: int
    kind: Type
    copy: Copy


def dynamic_runs(
    s: Scheduler, value: Value, first: int, count: int, tile: int, chip: int, side: str = "WE"
) -> tuple[Run, ...]:
    """Rows first..first+count-1 of one tile of a matrix as the columns of an array.

    From a hemisphere `side`, if there are copies in it.
    """
    runs = []
    row = first
    while row < first + count:
        chunk, local = divmod(row, s.storage.block_rows(value))
        rows = min(first + count - row, s.storage.rows_of(value, chunk) - local)
        found = s.storage.find((value.number, chunk, tile), chip, frozenset(), side)
        copy = s.fetch(value, chunk, tile, chip, frozenset(), side if found else "WE")
        stripes = tuple((queue, address + local, 1, rows) for queue, address in copy.planes)
        runs.append(Run(stripes, rows, 1, (Rows(copy, local, 1),)))
        row += rows
    return tuple(runs)


@dataclass(slots=True)
class BlockMaker:
    """Schedules the blocks of compute steps; `consts` keeps the matrices of their constants."""

    s: Scheduler
    consts: dict[tuple[Const, int], Value] = field(default_factory=dict)

    def make(self, step: Compute, chunk: int, tile: int, chip: int, groups: list[Group]) -> None:
        """Every kernel of one block of `step.out`, the last of each run on `chip`."""
        s = self.s
        rows, lanes = s.storage.rows_of(step.out, chunk), s.storage.lanes_of(step.out, tile)
        first = chunk * s.storage.block_rows(step.out)
        column = tile * s.plan.machine.vector
        s.begin(step.nodes, f"{step.out.name}[{first}:{first + rows}, {column}:{column + lanes}]")
        program, sources = flatten(step.expr)
        product = find_product(step.expr)
        operands = [self.operand(step, source, first, rows) for source in sources]
        runs = self._spans(operands, product, first, rows)
        found = [self._sources(operands, product, groups, chip, tile, first, span) for span in runs]
        shun = s.neighbours(step.out, chunk, tile, chip, sources_of(step))
        if len(groups) > 1 and s.plan.machine.mem.slices_per_hemisphere < _FEW_SLICES:
            self._gather(chip, found)
        try:
            out, since = self._out_room(step, rows, chip, found, shun)
        except NoRoom:
            self._gather(chip, found)
            out, since = self._out_room(step, rows, chip, found, frozenset())
        for span, run in zip(runs, found, strict=True):
            place = Place(out, span.start, span.step, since=since)
            if product is None:
                s.run(chip, program, run.origins, span.length, 1, place)
            else:
                self._multiply(program, sources, product, groups, tile, first, span, run, place)
        s.storage.add((step.out.number, chunk, tile), chip, out)

    def _out_room(
        self, step: Compute, rows: int, chip: int, found: list[_Sources], shun: frozenset[int]
    ) -> tuple[Copy, int]:
        """Room for the result, away from all that is read while it is written."""
        avoid = frozenset().union(*(run.taken for run in found))
        what = f"tensor {step.out.name!r}"
        return self.s.room(chip, step.out.type, rows, avoid, what, shun)

    def _gather(self, chip: int, found: list[_Sources]) -> None:
        """Copy blocks from the hemisphere that holds fewer of the sources to the other.

        Sources spread over both can leave too little of either for a result.
        """
        for run in found:
            held = {s: sum(q in run.taken for q in self.s.plan.slices[s]) for s in "WE"}
            to = max("WE", key=lambda side: held[side])
            for k, origin in enumerate(run.origins):
                rows = first_rows(origin)
                copy = rows.copy
                if copy.side == to:
                    continue
                kind = next(t for t in (Type.I8, Type.F16, Type.F32) if t.bytes == len(copy.planes))
                try:
                    moved = self.s.duplicate(copy, chip, kind, run.taken, "a source", to)
                except NoRoom:
                    continue
                self.s.scratch.append((chip, moved))
                run.origins[k] = replace(origin, rows=replace(rows, copy=moved))
                run.taken = run.taken - copy.slices | moved.slices

    # -- sources ------------------------------------------------------------------------------

    def operand(self, step: Compute, source: Source, first: int, rows: int) -> Operand | None:
        if isinstance(source, Acc):
            return None
        if isinstance(source, Const):
            array = source.array
            while array.ndim > max(1, len(step.shape)):  # a product with a vector has no rows
                array = array[..., 0, :]
            own = np.arange(math.prod(array.shape[:-1])).reshape(array.shape[:-1])
            index = np.broadcast_to(own, step.shape[:-1]).ravel()
            value = self._constant(source, step.out.columns)
        else:
            value = source.value
            index = np.arange(value.rows) if source.index is None else source.index
        tile = source.tile if isinstance(source, Leaf) else None
        return Operand(value, index[first : first + rows], tile=tile)

    def _constant(self, const: Const, columns: int) -> Value:
        key = const, columns
        if key not in self.consts:
            array = np.atleast_1d(const.array)
            array = array.reshape(-1, array.shape[-1])
            full = np.broadcast_to(array, (len(array), columns)).astype(numpy_type(const.out))
            self.consts[key] = Value(
                -1 - len(self.consts),
                "constant",
                len(array),
                columns,
                const.out,
                "const",
                np.ascontiguousarray(full),
            )
        return self.consts[key]

    def _spans(
        self, operands: list[Operand | None], product: Product | None, first: int, rows: int
    ) -> list[Span]:
        """Runs of rows over which every source advances by a constant step within one chunk."""
        read = [(o.value, o.index) for o in operands if o is not None]
        fixed = []
        window = slice(first, first + rows)
        if product is not None:
            read += [(t.a, self._row_index(t.index, first, rows)) for t in product.terms]
            if product.w_set is not None:
                fixed.append(product.w_set[window])
        fixed += [index // self.s.storage.block_rows(value) for value, index in read]
        fixed += [(index < 0).astype(np.int64) for _, index in read]
        return spans([index for _, index in read], fixed)

    @staticmethod
    def _row_index(index: NDArray[np.int64] | None, first: int, rows: int) -> NDArray[np.int64]:
        return np.arange(first, first + rows) if index is None else index[first : first + rows]

    def _rows(
        self,
        value: Value,
        index: NDArray[np.int64],
        span: Span,
        tile: int,
        chip: int,
        avoid: frozenset[int],
    ) -> Rows:
        """The rows of a source for one run, in slices other than `avoid`."""
        chosen = index[span.rows]
        chunk, local = divmod(int(chosen[0]), self.s.storage.block_rows(value))
        stride = int(chosen[1] - chosen[0]) if span.length > 1 else 0
        return Rows(self.s.fetch(value, chunk, tile, chip, avoid), local, stride)

    def _sources(
        self,
        operands: list[Operand | None],
        product: Product | None,
        groups: list[Group],
        chip: int,
        tile: int,
        first: int,
        span: Span,
    ) -> _Sources:
        """Bring what the last kernel of a run reads: the last group's operands, then the leaves."""
        origins: list[Origin] = []
        taken: frozenset[int] = frozenset()
        if product is not None:
            origins, taken = self._members(product, groups[-1], tile, first, span, taken)
        for operand in operands:
            if operand is None:
                continue
            at = operand.tile_for(tile)
            rows = self._rows(operand.value, operand.index, span, at, chip, taken)
            origins.append(FromMem(rows))
            taken |= rows.copy.slices
        return _Sources(origins, taken)

    def _members(
        self,
        product: Product,
        group: Group,
        tile: int,
        first: int,
        span: Span,
        taken: frozenset[int],
    ) -> tuple[list[Origin], frozenset[int]]:
        """The products of one group for one run of rows."""
        lanes = self.s.plan.machine.vector
        origins: list[Origin] = []
        for member in group.members:
            w_set = 0 if product.w_set is None else int(product.w_set[first + span.start])
            place = member.side, member.plane
            array = self.array(product, member, place, group.chip, tile, w_set)
            index = self._row_index(member.term.index, first, span.rows.stop)
            value = member.term.a
            if member.term.fill is not None and index[span.start] < 0:
                value, index = member.term.fill, np.zeros_like(index)
            rows = self._rows(value, index, span, member.k_tile, group.chip, taken)
            taken |= rows.copy.slices
            depth = min(lanes, member.term.weights.depth - member.k_tile * lanes)
            rows = replace(rows, byte=member.term.byte)
            origins.append(FromMxm(rows, product.type, depth, array))
        return origins, taken

    def array(
        self,
        product: Product,
        member: Member,
        place: tuple[str, int],
        chip: int,
        tile: int,
        w_set: int,
    ) -> Array:
        """The weights of a member in a plane `place`, constant or computed."""
        weights, lanes = member.term.weights, self.s.plan.machine.vector
        columns = columns_of(product, tile, lanes)
        if weights.interleaved is not None:
            first = tile * lanes
            found = self._interleaved(
                weights.interleaved, range(first, first + columns), member.k_tile, chip, place[0]
            )
            return Array(*place, tuple(found))
        if weights.value is None:
            runs = striped(member.from_side(place[0])[w_set], columns, product.type.bytes)
            if weights.which:
                which = weights.which[0 if (tile + 1) * lanes <= product.columns else -1]
                numbers = self._numbers(which, chip, place)
                pitch = self.s.plan.pitch(product.type.bytes, columns)
                reach = (weights.sets - 1) * pitch + 1
                runs = tuple(replace(run, numbers=numbers, reach=reach) for run in runs)
            return Array(*place, runs)
        start = w_set * product.columns + tile * lanes
        value, k_tile = weights.value, member.k_tile
        runs = dynamic_runs(self.s, value, start, columns, k_tile, chip, place[0])
        if weights.byte is not None:
            runs = tuple(run.byte(weights.byte) for run in runs)
        return Array(*place, runs)

    def _numbers(self, which: Value, chip: int, place: tuple[str, int]) -> Rows:
        """What says which set a plane gets, where nothing but that plane's numbers is read from."""
        side, plane = place
        own = sorted(self.s.plan.hub[side])[2 * plane : 2 * plane + 2]
        return Rows(confined(self.s, which, 0, chip, frozenset(own), side), 0, 0)

    def _interleaved(
        self, own: Interleaved, columns: range, k_tile: int, chip: int, side: str
    ) -> Iterator[Run]:
        """Some columns of interleaved weights: as many at a time as there are matrices."""
        tile, many = 0 if own.k_tile is not None else k_tile, len(own.values)
        at = max(own.first, columns.start)
        end, skipped = min(own.first + own.count, columns.stop), at - columns.start
        while at < end:
            number, turn = divmod(at - own.first, many)
            width = min(many - turn, end - at)
            size = self.s.storage.block_rows(own.values[0])
            chunk, local = divmod(own.row + number, size)
            count = min(size - local, (end - at) // many) if width == many else 1
            rows, taken = list[Rows](), frozenset[int]()
            for value in own.values[turn : turn + width]:
                found = self.s.storage.find((value.number, chunk, tile), chip, taken, side)
                copy = self.s.fetch(value, chunk, tile, chip, taken, side if found else "WE")
                taken |= copy.slices
                rows.append(Rows(copy, local, 1))
            stripes = tuple((q, first + local, 1, count) for r in rows for q, first in r.planes)
            yield Run(stripes, count, width, tuple(rows), skipped)
            at, skipped = at + count * width, 0

    # -- products -----------------------------------------------------------------------------

    def _multiply(
        self,
        program: WaveProgram,
        sources: tuple[Source, ...],
        product: Product,
        groups: list[Group],
        tile: int,
        first: int,
        span: Span,
        run: _Sources,
        place: Place,
    ) -> None:
        """All groups of one run: partial sums through SRAM, the last with what follows it."""
        s, count = self.s, span.length
        interval = 1 if product.type == Type.I8 else s.plan.machine.mxm.fp16_interval
        partial: _Partial | None = None
        avoid = run.taken | place.copy.slices
        for group in groups[:-1]:
            origins, taken = self._members(product, group, tile, first, span, frozenset())
            previous = self._bring_partial(partial, group.chip, taken)
            if previous is not None:
                origins.append(FromMem(Rows(previous.copy, 0, 1)))
                taken |= previous.copy.slices
            kind = Type.I32 if product.type == Type.I8 else Type.F32
            copy, since = self._partial_room(group.chip, kind, count, taken, avoid)
            sums = sum_program(kind, len(origins))
            s.run(group.chip, sums, origins, count, interval, Place(copy, 0, 1, since=since))
            self._release(previous)
            partial = _Partial(group.chip, kind, copy)
        last = groups[-1]
        partial = self._bring_partial(partial, last.chip, avoid)
        origins = list(run.origins)
        members = len(last.members)
        if partial is not None:
            origins.insert(members, FromMem(Rows(partial.copy, 0, 1)))
            members += 1
        position = next(i for i, source in enumerate(sources) if isinstance(source, Acc))
        s.run(last.chip, with_sum(program, position, members), origins, count, interval, place)
        self._release(partial)

    def _partial_room(
        self, chip: int, kind: Type, rows: int, taken: frozenset[int], later: frozenset[int]
    ) -> tuple[Copy, int]:
        """Room for partial sums, away from what is read with them now and, if it can be, later."""
        try:
            return self.s.room(chip, kind, rows, taken | later, "partial sums")
        except NoRoom:
            return self.s.room(chip, kind, rows, taken, "partial sums")

    def _bring_partial(
        self, partial: _Partial | None, chip: int, avoid: frozenset[int]
    ) -> _Partial | None:
        """Partial sums on `chip`, in slices other than `avoid`."""
        if partial is None:
            return None
        kind = partial.kind
        route = self.s.links.route([partial.chip], chip)
        for hop in route[1:]:
            sent = self.s.send(partial.copy, partial.chip, hop, kind, avoid, "partial sums")
            self._release(partial)
            partial = _Partial(hop, kind, sent)
        if partial.copy.slices & avoid:
            moved = self.s.duplicate(partial.copy, chip, kind, avoid, "partial sums")
            self._release(partial)
            partial = _Partial(chip, kind, moved)
        return partial

    def _release(self, partial: _Partial | None) -> None:
        if partial is not None:
            self.s.storage.give(partial.chip, partial.copy, "partial sums", "partial")


def striped(stripes: tuple[tuple[int, int], ...], columns: int, width: int) -> tuple[Run, ...]:
    """The columns of a constant tile: whole dispatches of all stripes, then what is left."""
    a_dispatch = len(stripes) // width
    full, rest = divmod(columns, a_dispatch)
    runs = []
    if full:
        every = tuple((queue, address, 1, full) for queue, address in stripes)
        runs.append(Run(every, full, a_dispatch))
    if rest:
        some = tuple((queue, address + full, 1, 1) for queue, address in stripes[: rest * width])
        runs.append(Run(some, 1, rest))
    return tuple(runs)
