"""States are written over the inputs that they were, when nobody reads these again in the run.

The next run finds them where the host put them before the first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clockstep_compiler.kernel import FromMem, Rows
from clockstep_compiler.scheduler import Place, Scheduler, move_program
from clockstep_compiler.steps import Lowered, Value
from clockstep_compiler.storage import Block

__all__ = ["WriteBack"]


@dataclass(slots=True)
class WriteBack:
    """Writes each of `pairs`, (a state's matrix, what becomes of it), as soon as it may."""

    s: Scheduler
    pairs: tuple[tuple[Value, Value], ...]
    _due: dict[int, list[int]] = field(default_factory=dict)
    _nodes: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, s: Scheduler, lowered: Lowered, last_reader: dict[int, int]) -> WriteBack:
        """Those of a model. Room of a state is kept for the next run whatever else needs room."""
        found = cls(s, lowered.returned)
        made = {step.out.number: i for i, step in enumerate(lowered.steps)}
        found._nodes = {step.out.number: step.nodes for step in lowered.steps}
        for number, (given, result) in enumerate(found.pairs):
            due = max(made[result.number], last_reader.get(given.number, 0))
            found._due.setdefault(due, []).append(number)
            s.storage.constant.add(given.number)
        return found

    def after(self, step: int) -> None:
        """Write what is due once a step is scheduled."""
        for number in self._due.get(step, ()):
            given, result = self.pairs[number]
            for chunk in range(self.s.storage.chunks(given)):
                for tile in range(self.s.storage.tiles(given)):
                    self._write(given, result, chunk, tile)

    def _write(self, given: Value, result: Value, chunk: int, tile: int) -> None:
        """One block over all places in which the host loads it."""
        s, storage = self.s, self.s.storage
        block: Block = (given.number, chunk, tile)
        if not storage.holders(block):
            storage.load(given, block, storage.homes[result.number, chunk, tile][0], frozenset())
        s.begin(self._nodes[result.number], f"{result.name}[{chunk}, {tile}] kept")
        loaded = {tuple(piece[5:]) for piece in storage.pieces[given.number]}
        for chip in storage.holders(block):
            for copy in storage.copies[block, chip]:
                if (chip, *copy.planes[0]) not in loaded:
                    continue  # it was sent here in this run
                source = s.fetch(result, chunk, tile, chip, copy.slices)
                place = Place(copy, 0, 1, since=copy.last_use)
                count, program = storage.rows_of(given, chunk), move_program(given.type)
                s.run(chip, program, [FromMem(Rows(source, 0, 1))], count, 1, place)
                copy.last_use = max(copy.last_use, int(copy.ready.max()))
                copy.ready[:] = 0  # it is there from the start
