"""Where every block of every matrix lies, chip by chip, and when it may be read.

A block is a chunk of rows by one tile of lanes; each byte of its elements is a run of words in a
slice of its own, all in one hemisphere so that they travel together. A block may have copies: on
other chips, or in other slices where two operands of one kernel would meet in one slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.calendar import Calendars
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.memory import ChipMemory
from clockstep_compiler.placed import Placed, contents, form_of
from clockstep_compiler.steps import Value
from clockstep_compiler.uniform import different, in_order, spread

__all__ = ["MANY_SLICES", "Block", "Copy", "Entry", "NoRoom", "NoWave", "Storage", "block_rows"]

Block = tuple[int, int, int]
"""(value number, chunk of rows, tile of lanes)."""


class NoRoom(Exception):
    """A chip has no room for something; the driver retries with more chips or reports it."""

    def __init__(self, chip: int, what: str, words: int) -> None:
        super().__init__(f"chip {chip} has no room for {what} ({words} words)")
        self.chip, self.what, self.words = chip, what, words

    def bare(self) -> NoRoom:
        """The error without the frames that it came through: they hold a whole schedule."""
        self.__traceback__ = self.__context__ = None
        return self


MANY_SLICES = 16
"""Slices of a hemisphere from which on every matrix is cut into blocks of its own size."""

_BLOCKS = 4
_CONSTANT = 16
"""Rows of what is read again and again, and so kept away from the slices of weights."""

_SHORT = 32


def _planes(part: NDArray[np.generic]) -> list[NDArray[np.uint8]]:
    """The words of elements [rows, lanes], uint8 for each of their bytes."""
    few = in_order(different(part))
    raw = spread(few.view(np.uint8).reshape(*few.shape, -1), (*part.shape, few.itemsize))
    return [raw[:, :, byte] for byte in range(few.itemsize)]


def block_rows(plan: Floorplan, most: int, value: Value) -> int:
    """Rows of a block of a matrix, at most `most`.

    A slice cannot be read while it is written, so a step can start on the rows of the one before
    only if those are in blocks, and so in slices, of their own.
    """
    if plan.machine.mem.slices_per_hemisphere < MANY_SLICES:
        return most
    return min(most, max(_SHORT, -(-value.rows // _BLOCKS)))


class NoWave(NoRoom):
    """No wave takes a step's operands from where they lie; `step` is the number of its result."""

    def __init__(self, chip: int, operations: int) -> None:
        super().__init__(chip, f"a wave of {operations} operations", 0)
        self.step = -1


@dataclass(eq=False, slots=True)
class Copy:
    """One copy of a block: `planes[b]` is (slice, address) of byte `b`; row r is r words on.

    `ready[r]` is the cycle from which row `r` may be read; `last_use` one past its last access.
    `writers` are the numbers of the bundles that write it. Once it is `given` back nothing may
    read or write it any more.
    """

    side: str
    planes: tuple[tuple[int, int], ...]
    ready: NDArray[np.int64]
    last_use: int = 0
    writers: list[int] = field(default_factory=list)
    given: bool = False

    def used(self, until: int) -> None:
        """Something reads or writes it until a cycle."""
        assert not self.given, "a copy is used whose room has been given back"
        self.last_use = max(self.last_use, until)

    @property
    def slices(self) -> frozenset[int]:
        return frozenset(queue for queue, _ in self.planes)


@dataclass(slots=True)
class Entry:
    """What a run of words held, for `inspect --section memory`."""

    chip: int
    queue: int
    address: int
    words: int
    tensor: str
    kind: str
    first: int
    last: int


@dataclass(slots=True)
class Storage:
    """All SRAM of all chips; `image` collects the words that must be there at the start."""

    plan: Floorplan
    chips: int
    calendars: Calendars
    chunk: int
    placed: Placed | None = None
    """What is there already."""
    memories: list[ChipMemory] = field(init=False)
    copies: dict[tuple[Block, int], list[Copy]] = field(default_factory=dict)
    homes: dict[Block, tuple[int, Copy]] = field(default_factory=dict)
    """The chip and the first copy of every block; its room may have been given back since."""
    image: list[tuple[int, int, int, NDArray[np.uint8]]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    pieces: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    now: int = 0
    """About when the next kernel runs: room that is free by then is as good as any."""
    constant: set[int] = field(default_factory=set)
    """Numbers of constant values: their copies stay for the next run."""

    tables: dict[tuple[Block, int], Copy] = field(default_factory=dict)
    """Tables whose rows are looked up, whole: by number and tile, and chip."""

    def __post_init__(self) -> None:
        every = self.plan.slices["W"] + self.plan.slices["E"]
        words = self.plan.machine.words_per_slice
        self.memories = [ChipMemory(every, words) for _ in range(self.chips)]
        if self.placed is not None and self.placed.memories:
            self.memories = deepcopy(list(self.placed.memories))
            self.image = list(self.placed.image)

    # -- shapes -------------------------------------------------------------------------------

    def block_rows(self, value: Value) -> int:
        """Rows of a block of a matrix, the last one excepted."""
        return block_rows(self.plan, self.chunk, value)

    def rows_of(self, value: Value, chunk: int) -> int:
        size = self.block_rows(value)
        return min(size, value.rows - chunk * size)

    def lanes_of(self, value: Value, tile: int) -> int:
        return min(self.plan.machine.vector, value.columns - tile * self.plan.machine.vector)

    def tiles(self, value: Value) -> int:
        return -(-value.columns // self.plan.machine.vector)

    def chunks(self, value: Value) -> int:
        return -(-value.rows // self.block_rows(value))

    # -- choosing slices ----------------------------------------------------------------------

    def choose(
        self,
        chip: int,
        side: str,
        count: int,
        words: int,
        avoid: frozenset[int],
        shun: frozenset[int] | Mapping[int, int] = frozenset(),
    ) -> tuple[tuple[int, int], int, list[int]] | None:
        """`count` slices of a hemisphere with room for `words` each: how many of them have only
        scarce words and how many are in `shun` (or the penalties of them all), when all are
        writable, and which.

        None of these if it can be. Emptier slices first (by eighths), so that no slice fills up
        while others lie idle; of those the inner ones, where no weights are read, then the first
        to be writable.
        """
        memory = self.memories[chip]
        offers = []
        for queue in self.plan.slices[side]:
            offer = None if queue in avoid else memory.offer(queue, words, self.now)
            if offer is not None:
                scarce, since = offer
                busy = self.calendars.busy_until(self.plan.queue_resource(chip, queue))
                filled = 8 * (memory.words - memory.free_words(queue)) // memory.words
                outer = queue not in self.plan.inner
                penalty = int(queue in shun) if isinstance(shun, frozenset) else shun.get(queue, 0)
                offers.append((scarce, penalty, filled, outer, since, busy, queue))
        if len(offers) < count:
            return None
        best = sorted(offers)[:count]
        against = sum(offer[0] for offer in best), sum(offer[1] for offer in best)
        return against, max(offer[4] for offer in best), [offer[6] for offer in best]

    def take(self, chip: int, queues: list[int], rows: int, side: str) -> Copy:
        """Take room for a block of `rows` rows; its rows are ready once they are written."""
        memory = self.memories[chip]
        offers = [memory.offer(q, rows, self.now) for q in queues]
        since = max((offer[1] for offer in offers if offer is not None), default=0)
        planes = tuple((q, memory.take(q, rows, self.now)) for q in queues)
        # What was there is read until then, even if this block is given back unused.
        return Copy(side, planes, np.full(rows, -1, np.int64), last_use=since)

    def give(self, chip: int, copy: Copy, tensor: str, kind: str) -> None:
        """Give a copy's room back from its last use on."""
        assert not copy.given, "room is given back twice"
        copy.given = True
        since = max(copy.last_use, int(copy.ready.max(initial=0)))
        for queue, address in copy.planes:
            self.memories[chip].give(queue, address, len(copy.ready), since)
            self._enter(chip, queue, address, len(copy.ready), tensor, kind, copy, since)

    def _enter(
        self,
        chip: int,
        queue: int,
        address: int,
        words: int,
        tensor: str,
        kind: str,
        copy: Copy,
        last: int,
    ) -> None:
        first = int(copy.ready.min()) if len(copy.ready) else 0
        self.entries.append(Entry(chip, queue, address, words, tensor, kind, max(first, 0), last))

    # -- blocks -------------------------------------------------------------------------------

    def add(self, block: Block, chip: int, copy: Copy) -> None:
        self.copies.setdefault((block, chip), []).append(copy)
        self.homes.setdefault(block, (chip, copy))

    def find(
        self, block: Block, chip: int, avoid: frozenset[int], sides: str = "WE"
    ) -> Copy | None:
        """A copy on this chip, in one of some hemispheres, that shares no slice with `avoid`.

        Of several the one whose slices are free first.
        """
        found = [
            copy
            for copy in self.copies.get((block, chip), ())
            if copy.side in sides and not copy.slices & avoid
        ]
        return (
            min(found, key=lambda copy: self.busy_until(chip, copy))
            if len(found) > 1
            else (found[0] if found else None)
        )

    def busy_until(self, chip: int, copy: Copy) -> int:
        """When the slices of a copy are free for good, as things stand."""
        plan = self.plan
        return max(
            self.calendars.busy_until(plan.queue_resource(chip, queue)) for queue, _ in copy.planes
        )

    def evict(self, chip: int, pinned: Set[Copy], names: dict[int, str]) -> bool:
        """Give back every copy on a chip that nobody is about to read; whether any was.

        A block keeps one copy on the chip where it was made.
        """
        found = False
        for (block, where), copies in list(self.copies.items()):
            if where != chip or block[0] in self.constant:
                continue
            home = self.homes[block][0]
            kept = 0 if where != home and (block, home) in self.copies else 1
            for copy in [c for c in copies[kept:] if c not in pinned]:
                copies.remove(copy)
                self.give(chip, copy, names.get(block[0], ""), "copy")
                found = True
            if not copies:
                del self.copies[block, where]
        return found

    def holders(self, block: Block) -> list[int]:
        """Chips that have a copy, in order."""
        return [chip for chip in range(self.chips) if (block, chip) in self.copies]

    def load(
        self, value: Value, block: Block, chip: int, avoid: frozenset[int], sides: str = "WE"
    ) -> Copy:
        """A new copy of a constant's or input's block, there before the first cycle."""
        _, chunk, tile = block
        rows, lanes = self.rows_of(value, chunk), self.lanes_of(value, tile)
        what = f"{value.origin} {value.name!r}"
        row, column = chunk * self.block_rows(value), tile * self.plan.machine.vector
        if value.data is not None:
            self.constant.add(value.number)
            planes = self._block(value, value.data, chunk, tile)
            known = self._known(value, block, planes, chip, avoid, sides)
            copy = known or self.initial(chip, value.type.bytes, rows, avoid, what, sides)
            if known is None:
                self._fill(chip, copy, planes)
        else:
            if self.placed is not None and form_of(value) in self.placed.states:
                raise NoRoom(chip, f"another copy of {what}", value.type.bytes * rows)
            copy = self.initial(chip, value.type.bytes, rows, avoid, what, sides)
            found = self.pieces.setdefault(value.number, [])
            for byte, (queue, address) in enumerate(copy.planes):
                found.append((byte, row, rows, column, lanes, chip, queue, address))
        self.add(block, chip, copy)
        return copy

    def table(self, value: Value, tile: int, chip: int) -> Copy:
        """All rows of a tile of a table, one after another in a slice for each byte."""
        key = (value.number, 0, tile), chip
        if key not in self.tables:
            rim, what = self.plan.rim["W"] | self.plan.rim["E"], f"table {value.name!r}"
            # What is computed goes to the inner slices: a table that fills one lies elsewhere.
            large = 2 * value.rows > self.plan.machine.words_per_slice
            avoid = rim | self.plan.inner if large else rim
            planes = self._tile(value, tile)
            copy = self._known(value, key[0], planes, chip, rim, "WE")
            if copy is None:
                try:
                    copy = self.initial(chip, value.type.bytes, value.rows, avoid, what, "WE")
                except NoRoom:
                    copy = self.initial(chip, value.type.bytes, value.rows, rim, what, "WE")
                self._fill(chip, copy, planes)
            self.tables[key] = copy
        return self.tables[key]

    def table_home(self, value: Value, tile: int) -> int | None:
        """The chip that has a tile of a table already, if one has."""
        if self.placed is None:
            return None
        rim, planes = self.plan.rim["W"] | self.plan.rim["E"], self._tile(value, tile)
        found = self.placed.found(contents(planes, value.name, 0, tile), None, rim, "WE")
        return found.chip if found else None

    def _tile(self, value: Value, tile: int) -> list[NDArray[np.uint8]]:
        """The words of a tile of a table, for each byte of its elements."""
        column, lanes = tile * self.plan.machine.vector, self.lanes_of(value, tile)
        assert value.data is not None
        return _planes(value.data[:, column : column + lanes])

    def _known(
        self,
        value: Value,
        block: Block,
        planes: list[NDArray[np.uint8]],
        chip: int,
        avoid: frozenset[int],
        sides: str,
    ) -> Copy | None:
        """Where on a chip the words of a block are already, if they are."""
        if self.placed is None or not self.placed.blocks:
            return None
        key = contents(planes, value.name, *block[1:])
        found = self.placed.found(key, chip, avoid, sides)
        ready = np.zeros(len(planes[0]), np.int64)
        return None if found is None else Copy(found.side, found.planes, ready)

    def _fill(self, chip: int, copy: Copy, planes: list[NDArray[np.uint8]]) -> None:
        """Let words be in a copy before the first cycle."""
        for (queue, address), words in zip(copy.planes, planes, strict=True):
            self.image.append((chip, queue, address, words))

    def settle(self, values: Sequence[Value]) -> None:
        """Have the states and the constants where the entries before left them."""
        for value in values if self.placed is not None else ():
            if value.origin == "input":
                self._settle_state(value)
            elif value.data is not None:
                self._settle_constant(value, value.data)

    def _settle_state(self, value: Value) -> None:
        lanes = self.plan.machine.vector
        states = {} if self.placed is None else self.placed.states
        for pieces in states.get(form_of(value), ()):
            _, row, rows, column, _, chip, queue, _ = pieces[0]
            planes = tuple((piece[6], piece[7]) for piece in pieces)
            side = self.plan.queues[queue].hemisphere
            self.pieces.setdefault(value.number, []).extend(pieces)
            block = (value.number, row // self.block_rows(value), column // lanes)
            self.add(block, chip, Copy(side, planes, np.zeros(rows, np.int64)))

    def _settle_constant(self, value: Value, data: NDArray[np.generic]) -> None:
        blocks = {} if self.placed is None else self.placed.blocks
        for chunk, tile in np.ndindex(self.chunks(value), self.tiles(value)) if blocks else ():
            planes = self._block(value, data, chunk, tile)
            for held in blocks.get(contents(planes, value.name, chunk, tile), ()):
                self.constant.add(value.number)
                ready = np.zeros(len(planes[0]), np.int64)
                copy = Copy(held.side, held.planes, ready)
                self.add((value.number, chunk, tile), held.chip, copy)

    def _block(
        self, value: Value, data: NDArray[np.generic], chunk: int, tile: int
    ) -> list[NDArray[np.uint8]]:
        """The words of a block of a constant, for each byte of its elements."""
        row, column = chunk * self.block_rows(value), tile * self.plan.machine.vector
        rows, lanes = self.rows_of(value, chunk), self.lanes_of(value, tile)
        return _planes(data[row : row + rows, column : column + lanes])

    def initial(
        self, chip: int, count: int, rows: int, avoid: frozenset[int], what: str, sides: str
    ) -> Copy:
        """Room for rows that are there before the first cycle, `count` bytes an element."""
        memory = self.memories[chip]
        for side in self._sides(chip):
            if side not in sides:
                continue
            room = [
                (q not in self.plan.inner and rows <= _CONSTANT, -memory.virgin_room(q), q)
                for q in self.plan.slices[side]
                if q not in avoid and memory.virgin_room(q) >= rows
            ]
            best = sorted(room)[:count]  # the emptiest: tiles read together end up apart
            if len(best) == count:
                planes = tuple((q, memory.take_virgin(q, rows)) for *_, q in best)
                return Copy(side, planes, np.zeros(rows, np.int64))
        raise NoRoom(chip, what, count * rows)

    def _sides(self, chip: int) -> list[str]:
        """Hemispheres, the freer first."""
        memory = self.memories[chip]
        free = {s: sum(memory.free_words(q) for q in self.plan.slices[s]) for s in "WE"}
        return sorted("WE", key=lambda s: -free[s])

    def finish(self, names: dict[int, str]) -> None:
        """Enter every block that is still there at the end."""
        tables = [(key, [copy]) for key, copy in self.tables.items()]
        for ((number, _, _), chip), copies in [*self.copies.items(), *tables]:
            for copy in copies:
                last = max(copy.last_use, int(copy.ready.max(initial=0)))
                for queue, address in copy.planes:
                    self._enter(
                        chip, queue, address, len(copy.ready), names[number], "block", copy, last
                    )
