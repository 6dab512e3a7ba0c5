"""Where sweeps put their results and partial sums, away from what is read at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from clockstep_compiler.expr import Leaf, flatten
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.partition import find_product, in_groups, inner_tiles
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.steps import Compute, Lowered, Product, Value, sources_of
from clockstep_compiler.storage import NoRoom
from clockstep_compiler.sums import group_size
from clockstep_compiler.sweep_parts import Job, Strip
from clockstep_isa.table import Type

__all__ = ["Room", "read_at_once"]


_SHORT_ROWS = 64
"""Up to so many rows, weights are loaded at the same time, and wait for slices of partial sums."""


@dataclass(slots=True)
class Room:
    """Takes room in SRAM; `wanted` says of matrices how many copies are read at a time."""

    s: Scheduler
    wanted: dict[int, int]

    def fill(self, job: Job, chunks: range, run: Callable[[], None]) -> bool:
        """Take room for all blocks and enter them once `run` has made them; whether it could."""
        if not self.make(job, chunks):
            return False
        try:
            run()
        except NoRoom:
            self.give(job)
            return False
        self.enter(job)
        return True

    def enter(self, job: Job) -> None:
        """Say where the blocks are that have been made."""
        for chunk, copies in job.out.items():
            for copy in copies:
                self.s.storage.add((job.step.out.number, chunk, job.tile), job.chip, copy)

    def make(self, job: Job, chunks: range) -> bool:
        """Room for all blocks in one hemisphere, as many copies as will be read at a time."""
        s, value = self.s, job.step.out
        wanted, rows = self.wanted.get(value.number, 1), s.storage.block_rows(value)
        near = self._penalties(self.near(job))
        for copies in sorted({wanted, 1}, reverse=True):
            offers = []
            before = s.storage.copies.get(((value.number, chunks[0] - 1, job.tile), job.chip), ())
            for turn, side in enumerate("WE" if s.turn % 2 else "EW"):
                width = value.type.bytes * copies
                choice = s.storage.choose(job.chip, side, width, rows, frozenset(), near)
                if choice is not None:
                    apart = any(copy.side != side for copy in before)
                    offers.append((apart, choice[0], choice[1], turn, side))
            for *_, side in sorted(offers):
                try:
                    self._take(job, chunks, side, self.near(job), copies)
                except NoRoom:
                    self.give(job)
                    continue
                return True
        return False

    def _take(self, job: Job, chunks: range, side: str, near: frozenset[int], copies: int) -> None:
        s, value = self.s, job.step.out
        width = value.type.bytes
        for chunk in chunks:
            last = job.out.get(chunk - 1, ())
            avoid = frozenset[int]().union(*(copy.slices for copy in last))
            shun = self._penalties(near, job.taken, self._beside(job, chunk))
            rows = s.storage.rows_of(value, chunk)
            choice = s.storage.choose(job.chip, side, width * copies, rows, avoid, shun)
            if choice is None:
                raise NoRoom(job.chip, value.name, width * copies * rows)
            queues = choice[2]
            job.out[chunk] = tuple(
                s.storage.take(job.chip, queues[i : i + width], rows, side)
                for i in range(0, width * copies, width)
            )
            job.since[chunk] = choice[1]

    def _beside(self, job: Job, chunk: int) -> frozenset[int]:
        """Slices of blocks that may be written or read together with one: those before it, and of
        the tiles before those about there."""
        s, value, found = self.s, job.step.out, frozenset[int]()
        for tile in range(max(0, job.tile - 3), job.tile):
            for near in range(chunk - 1, chunk + 2):
                for copy in s.storage.copies.get(((value.number, near, tile), job.chip), ()):
                    found |= copy.slices
        for before in range(max(0, chunk - 3), chunk):
            for copy in s.storage.copies.get(((value.number, before, job.tile), job.chip), ()):
                found |= copy.slices
        return found

    def give(self, job: Job) -> None:
        for copies in job.out.values():
            for copy in copies:
                self.s.storage.give(job.chip, copy, job.step.out.name, "scratch")
        job.out.clear()

    def near(self, job: Job, *, moving: bool = False) -> frozenset[int]:
        """Slices of all that the step reads; `moving`: constants left out."""
        s, found = self.s, frozenset[int]()
        for value in sources_of(job.step):
            if moving and value.origin == "const":
                continue
            for chunk in range(s.storage.chunks(value)):
                for tile in range(s.storage.tiles(value)):
                    for copy in s.storage.copies.get(((value.number, chunk, tile), job.chip), ()):
                        found |= copy.slices
        return found

    def _penalties(self, *shunned: frozenset[int]) -> dict[int, int]:
        """How much slices should be avoided: those of weights a little, then each set more.

        Where loading weights takes the time, those come first: it waits for all slices at once.
        """
        plan = self.s.plan
        outer = 3 if plan.loading else 1
        found = {q: outer * (q not in plan.inner) for side in "WE" for q in plan.slices[side]}
        for power, slices in enumerate(shunned):
            for q in slices:
                found[q] += 2 << power
        return found

    def strip(self, job: Job, kind: Type, rows: int, blocks: int, avoid: frozenset[int]) -> Strip:
        """Room for partial sums, in one hemisphere, in blocks that are written side by side."""
        near = self.near(job)
        shun = self._penalties(near) if rows <= _SHORT_ROWS else near
        size = -(-rows // blocks)
        size = min(size, self.s.plan.machine.words_per_slice // 8)
        counts = [min(size, rows - first) for first in range(0, rows, size)]
        for sides in ("WE", "W"):
            try:
                return self._strip(job, kind, counts, avoid, shun, sides)
            except NoRoom:
                continue
        return self._strip(job, kind, counts, avoid, shun, "E")

    def _strip(
        self,
        job: Job,
        kind: Type,
        counts: list[int],
        avoid: frozenset[int],
        shun: frozenset[int] | Mapping[int, int],
        sides: str,
    ) -> Strip:
        """Room for blocks of so many rows in the hemisphere of `sides` that suits the first."""
        strip = Strip([], counts[0], 0)
        for count in counts:
            taken = avoid | strip.slices
            try:
                copy, since = self.s.room(
                    job.chip, kind, count, taken, "partial sums", shun, sides=sides
                )
            except NoRoom:
                self.release(job.chip, strip)
                raise
            strip.copies.append(copy)
            sides, strip.since = copy.side, max(strip.since, since)
        return strip

    def release(self, chip: int, strip: Strip) -> None:
        for copy in strip.copies:
            self.s.storage.give(chip, copy, "partial sums", "partial")


_MOST_BESIDE = 3
"""Copies of a matrix whose rows are read beside each other element by element."""


def read_at_once(plan: Floorplan, lowered: Lowered) -> dict[int, int]:
    """Of how many copies of a matrix kernels may read at a time, where it is more than one.

    K tiles that are summed in one wave may be the same rows moved a little, as those under the
    taps of a convolution or under a window are; tiles of the result may be computed side by side,
    and so may sets of weights, which read the same rows or a row each of what there is for all.
    What a product reads may be read once more by what follows it.
    """
    found: dict[int, int] = {}
    lanes = plan.machine.vector
    for step in lowered.steps:
        if not isinstance(step, Compute):
            continue
        product = find_product(step.expr)
        _, sources = flatten(step.expr)
        beside = Counter((s.value.number, s.tile) for s in sources if isinstance(s, Leaf))
        if product is None:
            for (number, _), count in beside.items():
                found[number] = max(found.get(number, 1), min(count, _MOST_BESIDE))
            continue
        arrays = len(plan.planes if product.type == Type.I8 else plan.pairs)
        size, tiles = group_size(plan, product.type), -(-product.columns // lanes)
        for value in _shared(step, product):
            least = arrays // min(size, len(inner_tiles(product, 0, lanes)))
            found[value.number] = max(found.get(value.number, 1), least)
        for tile in range(tiles):
            inner = inner_tiles(product, tile, lanes)
            for group in in_groups(inner, size):
                ways = min(tiles, arrays // len(group))
                taps = Counter((term.a.number, k) for term, k in group)
                for (number, _), count in taps.items():
                    count += beside[number, None]
                    found[number] = max(found.get(number, 1), min(arrays, count * ways))
    return found


def _shared(step: Compute, product: Product) -> Iterator[Value]:
    """Matrices of which several sets of weights read the same rows, or one after the other."""
    if product.terms[0].weights.sets > 1:
        _, sources = flatten(step.expr)
        leaves = [s.value for s in sources if isinstance(s, Leaf)]
        yield from (value for value in leaves if 1 < value.rows < step.out.rows)
        if all(term.weights.value is None for term in product.terms):
            yield from (term.a for term in product.terms)
