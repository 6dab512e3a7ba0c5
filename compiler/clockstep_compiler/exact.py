"""Products in float32, on the VXM: what `--precision exact` multiplies with.

The array takes fp16 or int8. The ALUs multiply and add IEEE float32, so a product summed there has
float32's own error whatever the range of its operands: one element of a row at a time is put in
all lanes, multiplied by a row of the right operand, and added to the sum so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.kernel import FromMem, FromSxm, Origin, Rows
from clockstep_compiler.runs import regular_runs
from clockstep_compiler.scheduler import Place, Scheduler
from clockstep_compiler.steps import Outer
from clockstep_compiler.storage import Copy
from clockstep_compiler.wave import WaveOp, WaveProgram
from clockstep_isa.table import Type

__all__ = ["Summer"]

_F32 = Type.F32
_FIRST = WaveProgram((_F32, _F32), (WaveOp("mul", _F32, (0, 1), _F32),))
_NEXT = WaveProgram(
    (_F32, _F32, _F32), (WaveOp("mul", _F32, (0, 1), _F32), WaveOp("add", _F32, (2, 3), _F32))
)


@dataclass(slots=True)
class Summer:
    """Schedules the blocks of `Outer` steps."""

    s: Scheduler

    def outer(self, step: Outer, chunk: int, tile: int, chip: int) -> None:
        """One block: its rows in runs that advance regularly through one matrix of `b`."""
        s = self.s
        rows, lanes = s.storage.rows_of(step.out, chunk), s.storage.lanes_of(step.out, tile)
        first, column = chunk * s.storage.block_rows(step.out), tile * s.plan.machine.vector
        s.begin(step.nodes, f"{step.out.name}[{first}:{first + rows}, {column}:{column + lanes}]")
        window = slice(first, first + rows)
        index = np.arange(step.out.rows) if step.index is None else step.index
        sets = np.zeros(step.out.rows, np.int64) if step.sets is None else step.sets
        index, sets = index[window], sets[window]
        out, since = s.room(chip, _F32, rows, frozenset(), step.out.name)
        for start, count in regular_runs([index], [index // s.storage.block_rows(step.a), sets]):
            place = Place(out, start, 1, since=since)
            self._sum(step, index[start : start + count], int(sets[start]), tile, chip, place)
        s.storage.add((step.out.number, chunk, tile), chip, out)

    def _sum(
        self,
        step: Outer,
        index: NDArray[np.int64],
        number: int,
        tile: int,
        chip: int,
        place: Place,
    ) -> None:
        """All terms for one run of rows. Sums so far go to and fro between two blocks."""
        s, count, depth = self.s, len(index), step.a.columns
        chunk, local = divmod(int(index[0]), s.storage.block_rows(step.a))
        stride = int(index[1] - index[0]) if count > 1 else 0
        spare: list[Copy] = []
        free: dict[int, int] = {}  # by copy: since when it may be written
        partial: Copy | None = None
        for k in range(depth):
            taken = place.copy.slices.union(*(copy.slices for copy in spare))
            at, lane = divmod(k, s.plan.machine.vector)
            a = s.fetch(step.a, chunk, at, chip, taken)
            b_chunk, b_row = divmod(number * depth + k, s.storage.block_rows(step.b))
            b = s.fetch(step.b, b_chunk, tile, chip, taken | a.slices)
            spread = FromSxm(Rows(a, local, stride), a.side, "broadcast", (lane,))
            origins: list[Origin] = [spread, FromMem(Rows(b, b_row, 0))]
            if partial is not None:
                origins.append(FromMem(Rows(partial, 0, 1)))
            target = place
            if k < depth - 1:
                if len(spare) < 2:
                    room, since = s.room(chip, _F32, count, taken | a.slices | b.slices, "sums")
                    spare.append(room)
                    free[id(room)] = since
                other = spare[0] if partial is not spare[0] else spare[1]
                target = Place(other, 0, 1, since=max(other.last_use, free[id(other)]))
            s.run(chip, _NEXT if partial else _FIRST, origins, count, 1, target)
            partial = target.copy
        for copy in spare:
            s.storage.give(chip, copy, step.out.name, "scratch")
