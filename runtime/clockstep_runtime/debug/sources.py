"""Who produced what an instruction takes in, for single dispatches.

The verifier's resolution joins all operands of a program at once; here one element at a time is
looked up in it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import ScheduleViolation
from clockstep_isa.geometry import Unit
from clockstep_isa.program import Program
from clockstep_isa.table import TABLE, Field, Instruction, Kind, Type
from clockstep_runtime.verifier import Block, Segments, resolve

__all__ = ["Column", "Dispatch", "Sources", "stream_operands"]

Ints = NDArray[np.int64]


class Dispatch(NamedTuple):
    """Dispatch `step` of the instruction at `place` in the code.

    Blocks of words that are there from the start go on where instructions end; their steps are
    words.
    """

    place: int
    step: int


class Column(NamedTuple):
    """A column of an array: the dispatch that loaded it, and which of its columns it was."""

    load: Dispatch
    number: int


def stream_operands(row: Instruction) -> list[Field]:
    """The operands that a row samples, in the order of their numbers."""
    return [item for item in row.fields if item.kind is Kind.STREAM and item.role == "in"]


class Sources:
    """Lookups in the resolution of one program; raises `ScheduleViolation` if there is none."""

    def __init__(self, program: Program) -> None:
        report, found = resolve(program)
        if found is None:
            raise ScheduleViolation(report.violations)
        self.program = program
        self.columns = found.columns
        self.initial: tuple[Block, ...] = found.words.initial
        self.outputs: tuple[Block, ...] = found.words.outputs
        self._found = found
        self._skew, self._latency = self.columns.skew, self.columns.latency
        self._arrays: dict[Dispatch, list[Column | None]] = {}
        self._queues: dict[tuple[int, str], tuple[list[int], list[Dispatch]]] = {}

    @property
    def instructions(self) -> int:
        return len(self.columns)

    def row(self, index: int) -> Instruction:
        """The row of an instruction."""
        return TABLE[int(self.columns.row[index])]

    def fields(self, index: int) -> dict[str, int]:
        """The fields of an instruction by name."""
        values = self.columns.args[index].tolist()
        return {item.name: v for item, v in zip(self.row(index).fields, values, strict=False)}

    def cycle(self, at: Dispatch) -> int:
        """The cycle of a dispatch; of a `scatter` the steps are its words, all at once."""
        if self.row(at.place).name == "scatter":
            return int(self.columns.start[at.place])
        return int(self.columns.start[at.place] + at.step * self.columns.step[at.place])

    def samples_at(self, at: Dispatch) -> int:
        """The cycle in which a dispatch takes its operands in."""
        return self.cycle(at) + int(self._skew[at.place])

    # -- streams, words, links ----------------------------------------------------------------

    def stream(self, at: Dispatch, operand: int, part: int) -> tuple[Dispatch, int]:
        """Whose result one stream of an operand is, and which stream of that result."""
        slots = self._found.slots
        owner = slots.samples.phases.owner
        low, high = np.searchsorted(owner, [at.place, at.place + 1])
        rows = np.arange(low, high)
        mine = (slots.samples.field[rows] == operand) & (slots.samples.part[rows] == part)
        producer, element = _element(slots.segments, int(rows[mine][0]), at.step)
        index = int(slots.results.phases.owner[producer])
        return Dispatch(index, element), int(slots.results.part[producer])

    def steps_up(self, at: Dispatch) -> int:
        """How many dispatches of a bulk instruction have lower addresses than one of them."""
        upwards = int(self.fields(at.place)["stride"]) >= 0
        return at.step if upwards else int(self.columns.count[at.place]) - 1 - at.step

    def word(self, at: Dispatch) -> Dispatch:
        """What a `read`, or a `scatter` or `gather` in a word that it may reach, finds: a `write`,
        or an initial block's word."""
        return Dispatch(*_element(self._found.words.segments, at.place, at.step))

    def constant(self, at: Dispatch) -> NDArray[np.uint8] | None:
        """The word [lanes] of the image that a dispatch reads; None if it does something else."""
        data = self.program.image.data
        if data is None or self.row(at.place).name != "read":
            return None
        found = self.word(at)
        number = found.place - self.instructions
        if number < 0 or self.initial[number].source != "image":
            return None
        region = self.initial[number].index[0]
        first = int(self.program.image.regions[:region, 3].sum())
        word: NDArray[np.uint8] = data[first + found.step]
        return word

    def output(self, block: int, word: int) -> Dispatch:
        """As `word`, for a word of block `block` of the outputs at the end."""
        return Dispatch(*_element(self._found.words.segments, self.instructions + block, word))

    def sent(self, at: Dispatch) -> Dispatch:
        """The `send` of what a `receive` takes."""
        return Dispatch(*_element(self._found.links, at.place, at.step))

    # -- products -----------------------------------------------------------------------------

    def product(self, at: Dispatch) -> Dispatch:
        """The `abc` of what an `acc` emits."""
        return Dispatch(*_element(self._found.products, at.place, at.step))

    def array(self, at: Dispatch) -> list[Column | None]:
        """Where each column of the array comes from that an `abc` meets; None is all zeros."""
        queue = self._loader(at.place)
        cycles, installs = self._dispatches(queue, "iw")
        last = bisect_right(cycles, self.samples_at(at)) - 1
        if installs[last] not in self._arrays:
            since = cycles[last - 1] if last else -1
            self._arrays[installs[last]] = self._loaded(queue, since, cycles[last])
        return self._arrays[installs[last]]

    def _loader(self, index: int) -> int:
        """The queue that loads the plane of an `abc`."""
        unit, place = self.columns.unit(index), self.columns.geometry
        chip = int(self.columns.chip[index])
        return chip * len(place.queues) + place.queue(Unit.LW, unit.hemisphere, unit.index).id

    def _dispatches(self, queue: int, name: str) -> tuple[list[int], list[Dispatch]]:
        """The cycles of every dispatch of some instructions of a queue, and these, in time."""
        if (queue, name) not in self._queues:
            low, high = np.searchsorted(self.columns.queue, [queue, queue + 1]).tolist()
            found = [
                Dispatch(index, step)
                for index in range(low, high)
                if self.row(index).name == name
                for step in range(int(self.columns.count[index]))
            ]
            found.sort(key=self.cycle)
            self._queues[queue, name] = ([self.cycle(at) for at in found], found)
        return self._queues[queue, name]

    def _loaded(self, queue: int, since: int, until: int) -> list[Column | None]:
        """The columns that are loaded between two installations; the last load wins."""
        columns: list[Column | None] = [None] * self.columns.machine.vector
        cycles, loads = self._dispatches(queue, "lw")
        for at in loads[bisect_right(cycles, since) : bisect_left(cycles, until)]:
            fields = self.fields(at.place)
            first = fields["column"] + at.step * fields["stride"]
            for number in range(fields["count"] // Type(fields["type"]).bytes):
                columns[first + number] = Column(at, number)
        return columns


def _element(segments: Segments, consumer: int, element: int) -> tuple[int, int]:
    """The producer of one element of a consumer, and which of its elements it is."""
    low, high = np.searchsorted(segments.consumer, [consumer, consumer + 1])
    number, rest = np.divmod(element - segments.first[low:high], segments.step[low:high])
    mine = (rest == 0) & (number >= 0) & (number < segments.count[low:high])
    assert np.count_nonzero(mine) == 1, f"element {element} of {consumer} has no single producer"
    at = low + int(np.argmax(mine))
    source = segments.source[at] + number[at - low] * segments.source_step[at]
    return int(segments.producer[at]), int(source)
