"""Which copies a sweep reads its operands from."""

from __future__ import annotations

from dataclasses import dataclass

from clockstep_compiler.kernel import Piece, Rows, Track
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import Value
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_compiler.sweep_parts import Busy, Operand, runs_of

__all__ = ["Reader"]

_SHORT = 4
"""Rows of a constant of which every kernel may have a copy to itself."""

_COPIES = 12
"""Copies of it at most."""


@dataclass(slots=True)
class Reader:
    """Finds the rows of operands, in copies that are free when a kernel wants them."""

    s: Scheduler

    def track(
        self,
        operand: Operand,
        tile: int,
        chip: int,
        busy: Busy,
        byte: int | None,
        side: str = "",
        after: int = 0,
        shun: frozenset[int] = frozenset(),
    ) -> Track:
        """The rows of an operand, all in one hemisphere and in slices that are free for them.

        Copies of constants that are made for it are in slices of `shun` only if they must be.
        """
        s, value, fill = self.s, operand.value, operand.fill
        runs = list(runs_of(operand.index, s.storage.block_rows(value)))
        blocks: dict[int, tuple[int, int]] = {}  # the first and last row of the kernel in each
        for run in runs:
            low, high = blocks.get(run.chunk, (run.at, 0))
            blocks[run.chunk] = (min(low, run.at), max(high, run.at + run.count))
        wanted = []
        for chunk, (low, high) in sorted(blocks.items()):
            source = value if chunk >= 0 else fill
            assert source is not None
            wanted.append((source, chunk, busy.during(low, high - low, after)))
        side = side or self._side(wanted, tile, chip)
        copies = {
            chunk: self._copy(source, max(0, chunk), tile, chip, (avoid, shun), side)
            for source, chunk, avoid in wanted
        }
        found = []
        for run in runs:
            stride = run.stride if run.chunk >= 0 else 0
            found.append(Piece(run.at, run.count, Rows(copies[run.chunk], run.local, stride, byte)))
        return busy.track(tuple(found), after)

    def _copy(
        self,
        value: Value,
        chunk: int,
        tile: int,
        chip: int,
        apart: tuple[frozenset[int], frozenset[int]],
        side: str,
    ) -> Copy:
        """A copy of a block; of a short constant one that no other kernel is reading, if any."""
        s, block = self.s, (value.number, chunk, tile)
        avoid, shun = apart
        if value.origin == "const" and value.rows <= _SHORT:
            free = s.storage.find(block, chip, avoid, side)
            if free is None or s.storage.busy_until(chip, free) > s.storage.now:
                copies = s.storage.copies.get((block, chip), ())
                at_work = avoid | self._at_work(chip)
                for others in (at_work | shun, at_work, avoid):
                    if len(copies) < _COPIES:
                        try:
                            return s.storage.load(value, block, chip, others, side)
                        except NoRoom:
                            pass
        return s.fetch(value, chunk, tile, chip, avoid, side)

    def _at_work(self, chip: int) -> frozenset[int]:
        """Slices that are taken beyond the first read of the last kernel."""
        s, plan = self.s, self.s.plan
        return frozenset(
            q
            for q in plan.slices["W"] + plan.slices["E"]
            if s.calendars.busy_until(plan.queue_resource(chip, q)) > s.storage.now
        )

    def _side(self, wanted: list[tuple[Value, int, frozenset[int]]], tile: int, chip: int) -> str:
        """The hemisphere that has most of some blocks outside of the slices to avoid."""
        find = self.s.storage.find

        def had(side: str) -> int:
            return sum(
                find((source.number, max(0, chunk), tile), chip, avoid, side) is not None
                for source, chunk, avoid in wanted
            )

        return max("WE" if self.s.turn % 2 else "EW", key=had)
