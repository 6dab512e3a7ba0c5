"""From an element of an output back to the elements of inputs and the weights that made it.

The walk goes from consumers to producers, latest first, and collects which lanes of every vector
are wanted. So each dispatch is visited once, however many elements depend on it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.layout import Binding
from clockstep_isa.program import Program
from clockstep_isa.table import TABLE, Type
from clockstep_runtime.debug.lanes import operand_lanes
from clockstep_runtime.debug.sources import Dispatch, Sources, stream_operands
from clockstep_runtime.debug.values import elements, result_type
from clockstep_runtime.interpreter import Issue, Observer, observe

__all__ = ["Provenance", "Step", "Word", "provenance"]

Mask = NDArray[np.bool_]
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """A dispatch that the output depends on. `lanes` is bool [streams, lanes] of its result.

    An `abc` has columns of its array for lanes, an `lw` what it loads, a `write` or `send` what it
    takes. `sources` are the steps and the words before, by operand: `a`, `b` and `map` as in the
    table, `weights`, `word` of a read, `product` of an `acc`, `link` of a `receive`. `value` is
    that of the lane if it is only one.
    """

    at: Dispatch
    cycle: int
    lanes: Mask
    sources: Mapping[str, tuple[Dispatch, ...]]
    value: int | float | None


@dataclass(frozen=True, eq=False, slots=True)
class Word:
    """A word that is there from the start, and the lanes [lanes] of it that the output needs.

    `input` is the name of the input that lies in it, "" for the image.
    """

    at: Dispatch
    chip: int
    queue: int
    address: int
    input: str
    lanes: Mask


@dataclass(frozen=True, eq=False, slots=True)
class Provenance:
    """All that an element of an output depends on.

    `roots` are the steps or words that hold its bytes in the end. `steps` go back in time; `words`
    are in the order of chips, slices and addresses. `inputs` tells of every input which of its
    elements matter, as a boolean tensor of its shape.
    """

    roots: tuple[Dispatch, ...]
    steps: tuple[Step, ...]
    words: tuple[Word, ...]
    inputs: Mapping[str, Mask]


def provenance(
    program: Program, inputs: Tensors, output: Binding, index: Sequence[int]
) -> Provenance:
    """What made `output[index]` in a run on `inputs`.

    Where operands come from is a matter of the schedule alone; the run is for the values, and for
    lanes that are picked by other values. Raises what `interpret` raises, and
    `ScheduleViolation` if the program may not run.
    """
    sources = Sources(program)
    walk = _Walk(sources, _maps(program, inputs))
    roots = tuple(
        walk.want_output(block, row, lane) for block, row, lane in _places(sources, output, index)
    )
    walk.run()
    values = _Values(walk.needs)
    observe(program, inputs, values)
    steps = sorted(
        (at for at in walk.needs if at.place < sources.instructions),
        key=lambda at: (-sources.samples_at(at), -sources.cycle(at), at),
    )
    words = _words(program, sources, walk.needs)
    return Provenance(
        roots=roots,
        steps=tuple(
            Step(
                at,
                sources.cycle(at),
                walk.needs[at],
                {name: tuple(found) for name, found in walk.edges.get(at, {}).items()},
                values.found.get(at),
            )
            for at in steps
        ),
        words=words,
        inputs=_inputs(program, sources, words),
    )


def _places(sources: Sources, output: Binding, index: Sequence[int]) -> list[tuple[int, int, int]]:
    """(block of outputs, word in it, lane) of every byte of an element of an output."""
    layout = output.layouts[0]
    flat = np.arange(int(np.prod(output.shape, dtype=np.int64))).reshape(output.shape)
    matrix = flat.transpose(layout.axes).reshape(layout.rows, layout.columns)
    row, column = (int(at[0]) for at in np.nonzero(matrix == flat[tuple(index)]))
    found: dict[int, tuple[int, int, int]] = {}
    for number, block in enumerate(sources.outputs):
        binding, which, piece = block.index
        if which or sources.program.outputs[binding] is not output:
            continue
        byte, first, rows, left, columns, *_ = layout.pieces[piece].tolist()
        if first <= row < first + rows and left <= column < left + columns:
            found[byte] = (number, row - first, column - left)
    return [found[byte] for byte in sorted(found)]


# -- the walk -------------------------------------------------------------------------------------


class _Walk:
    """Which lanes are needed of what. Consumers are visited before those that they consume."""

    def __init__(self, sources: Sources, maps: Mapping[Dispatch, NDArray[np.uint8]]) -> None:
        self.needs: dict[Dispatch, Mask] = {}
        self.edges: dict[Dispatch, dict[str, dict[Dispatch, None]]] = {}
        self._sources = sources
        self._maps = maps
        self._lanes = sources.columns.machine.vector
        self._waiting: list[tuple[int, int, Dispatch]] = []

    def want_output(self, block: int, row: int, lane: int) -> Dispatch:
        """Begin at a lane of a word of an output."""
        at = self._sources.output(block, row)
        self._want(at, 0, np.arange(self._lanes) == lane)
        return at

    def run(self) -> None:
        while self._waiting:
            at = heapq.heappop(self._waiting)[2]
            if not self._waiting or self._waiting[0][2] != at:
                self._expand(at)

    def _want(self, at: Dispatch, part: int, lanes: Mask) -> None:
        """Lanes [lanes] of one stream of a result, or of a word, are needed."""
        if at not in self.needs:
            self.needs[at] = np.zeros((self._streams(at.place), self._lanes), np.bool_)
        need = self.needs[at][part]
        if (lanes & ~need).any():
            need |= lanes
            if at.place < self._sources.instructions:
                # Of what happens in one cycle a product is behind whoever takes it.
                late = int(self._sources.row(at.place).name == "abc")
                heapq.heappush(self._waiting, (-self._sources.samples_at(at), late, at))

    def _streams(self, index: int) -> int:
        """Streams of a result; 1 for words, and for an `abc`, whose lanes are columns."""
        if index >= self._sources.instructions:
            return 1
        row, fields = self._sources.row(index), self._sources.fields(index)
        if row.name == "lw":
            return fields["count"]
        width = next((item.width for item in row.fields if item.role == "out"), 1)
        if isinstance(width, int):
            return width
        return Type(fields[width]).bytes if width in ("type", "to") else fields[width]

    def _expand(self, at: Dispatch) -> None:
        row = self._sources.row(at.place)
        if row.name in _BEHIND:
            name, behind = _BEHIND[row.name]
            lanes: Mask = np.logical_or.reduce(self.needs[at])
            self._link(at, name, behind(self._sources, at), 0, lanes)
        elif row.name == "abc":
            self._expand_product(at)
        elif row.name == "scatter":
            self._expand_scatter(at)
        elif row.name == "gather":
            self._expand_gather(at)
        elif row.name == "lw":
            self._expand_operand(at, 0, self.needs[at])
        else:
            fields, machine = self._sources.fields(at.place), self._sources.columns.machine
            found = operand_lanes(row, fields, self.needs[at], self._maps.get(at), machine)
            for number, lanes in enumerate(found.values()):
                self._expand_operand(at, number, lanes)

    def _expand_operand(self, at: Dispatch, number: int, lanes: Mask) -> None:
        name = stream_operands(self._sources.row(at.place))[number].name
        for part in np.flatnonzero(lanes.any(axis=1)).tolist():
            producer, stream = self._sources.stream(at, number, part)
            self._link(at, name, producer, stream, lanes[part])

    def _expand_scatter(self, at: Dispatch) -> None:
        """The vector and the number that brought it there, or what the word held before."""
        once = Dispatch(at.place, 0)
        low, high = (int(part[0]) for part in self._maps[once])
        place = (low + 256 * high - self._sources.fields(at.place)["first"]) & 0xFFFF
        if place != at.step:
            self._link(at, "word", self._sources.word(at), 0, self.needs[at][0])
            return
        producer, stream = self._sources.stream(once, 0, 0)
        self._link(at, "a", producer, stream, self.needs[at][0])
        self._expand_map(at, once, 1)

    def _expand_gather(self, at: Dispatch) -> None:
        """The number that says which word it is, and that word."""
        fields = self._sources.fields(at.place)
        low, high = (int(part[0]) for part in self._maps[at])
        place = (low + 256 * high - fields["first"]) & 0xFFFF
        if place < fields["words"]:
            reached = place + self._sources.steps_up(at) * abs(fields["stride"])
            word = self._sources.word(Dispatch(at.place, reached))
            self._link(at, "word", word, 0, self.needs[at][0])
        self._expand_map(at, at, 0)

    def _expand_map(self, at: Dispatch, sampled: Dispatch, operand: int) -> None:
        """Lane 0 of the map that a dispatch samples."""
        for byte in range(2):
            producer, stream = self._sources.stream(sampled, operand, byte)
            self._link(at, "map", producer, stream, np.arange(self._lanes) == 0)

    def _expand_product(self, at: Dispatch) -> None:
        """The lanes of the activation, and as many of every column that is needed.

        What meets a constant zero does not count: transposing is a product with one-hot rows.
        """
        fields = self._sources.fields(at.place)
        width = Type(fields["type"]).bytes
        terms = np.arange(self._lanes) < fields["rows"]
        self._expand_operand(at, 0, np.repeat(terms[None], width, axis=0))
        if width == 1:
            word = self._sources.constant(self._sources.stream(at, 0, 0)[0])
            terms = terms if word is None else terms & (word != 0)
        array = self._sources.array(at)
        for column in np.flatnonzero(self.needs[at][0]).tolist():
            found = array[column]
            if found is not None:
                for byte in range(width):
                    self._link(at, "weights", found.load, found.number * width + byte, terms)

    def _link(self, at: Dispatch, name: str, behind: Dispatch, part: int, lanes: Mask) -> None:
        self.edges.setdefault(at, {}).setdefault(name, {})[behind] = None
        self._want(behind, part, lanes)


_BEHIND: Mapping[str, tuple[str, Callable[[Sources, Dispatch], Dispatch]]] = {
    "read": ("word", Sources.word),
    "receive": ("link", Sources.sent),
    "acc": ("product", Sources.product),
}
"""Rows whose result comes from no stream: what is behind it, and how it is found."""


# -- what is there from the start ---------------------------------------------------------------


def _words(program: Program, sources: Sources, needs: Mapping[Dispatch, Mask]) -> tuple[Word, ...]:
    found = []
    for at, lanes in needs.items():
        if at.place >= sources.instructions:
            block = sources.initial[at.place - sources.instructions]
            name = program.inputs[block.index[0]].name if block.source == "input" else ""
            word = Word(at, block.chip, block.queue, block.address + at.step, name, lanes[0])
            found.append(word)
    return tuple(sorted(found, key=lambda word: (word.chip, word.queue, word.address)))


def _inputs(program: Program, sources: Sources, words: Sequence[Word]) -> Mapping[str, Mask]:
    """The elements of every input that lie in the words and lanes needed."""
    found = {binding.name: np.zeros(binding.shape, np.bool_) for binding in program.inputs}
    for word in words:
        if word.input:
            number, which, piece = sources.initial[word.at.place - sources.instructions].index
            binding = program.inputs[number]
            layout = binding.layouts[which]
            _, row, _, column, columns, *_ = layout.pieces[piece].tolist()
            numbers = 1 + np.arange(found[binding.name].size).reshape(binding.shape)
            there = layout.matrix(numbers)[row + word.at.step, column : column + columns]
            needed = there[word.lanes[:columns]]
            found[binding.name].ravel()[needed[needed > 0] - 1] = True
    return found


# -- the run ------------------------------------------------------------------------------------


class _Maps(Observer):
    """Keeps the maps that lanes are picked by."""

    def __init__(self) -> None:
        self.found: dict[Dispatch, NDArray[np.uint8]] = {}

    def sampled(
        self, issue: Issue, step: int, cycle: int, operand: str, vectors: NDArray[np.uint8]
    ) -> None:
        if operand == "map":
            self.found[Dispatch(issue.index, step)] = vectors


def _maps(program: Program, inputs: Tensors) -> Mapping[Dispatch, NDArray[np.uint8]]:
    """The operand `map` of every dispatch that has one."""
    picking = [row.opcode for row in TABLE if any(item.name == "map" for item in row.fields)]
    maps = _Maps()
    if np.isin(program.code.opcode, picking).any():
        observe(program, inputs, maps)
    return maps.found


class _Values(Observer):
    """Keeps the values of results of which one lane is needed."""

    def __init__(self, needs: Mapping[Dispatch, Mask]) -> None:
        self.found: dict[Dispatch, int | float] = {}
        self._lane = {
            at: int(np.argmax(lanes.any(axis=0)))
            for at, lanes in needs.items()
            if np.count_nonzero(lanes.any(axis=0)) == 1
        }

    def produced(self, issue: Issue, step: int, cycle: int, vectors: NDArray[np.uint8]) -> None:
        lane = self._lane.get(Dispatch(issue.index, step))
        if lane is not None and issue.queue.unit in (Unit.VXM, Unit.ACC):
            values = elements(vectors, result_type(issue.row, issue.fields))
            self.found[Dispatch(issue.index, step)] = values[0, lane].item()
