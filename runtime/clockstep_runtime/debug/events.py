"""What happened at some places while a program ran: the events that concern them, with values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.geometry import EAST, Queue, geometry, phase
from clockstep_isa.program import Program
from clockstep_isa.table import Type
from clockstep_runtime.debug.places import Place, Stream, Units, Word, parse_place
from clockstep_runtime.debug.values import elements, operand_type, result_type
from clockstep_runtime.interpreter import Issue, Observer, Operand, observe

__all__ = ["KINDS", "MOST_EVENTS", "Event", "watch"]

MOST_EVENTS = 100_000
"""More are refused: nobody reads them, and they would fill the memory."""

KINDS = ("initial", "dispatch", "pass", "sample", "read", "write", "result")
"""Kinds of events, in their order within a cycle. `initial` is what a word holds before cycle 0,
`pass` a vector that a unit at the position could sample."""


@dataclass(frozen=True, eq=False, slots=True)
class Event:
    """One thing that happened to one instruction, dispatch `step` of `Program.code[instruction]`.

    `values` is [n, lanes], one row an element of the group, of type `type`; None at a dispatch.
    `origin` says where an initial word comes from, and then there is no instruction (-1).
    """

    cycle: int
    chip: int
    unit: str
    kind: str
    place: str
    type: Type | None
    values: NDArray[Any] | None
    instruction: int = -1
    step: int = 0
    origin: str = ""


def watch(
    program: Program,
    inputs: Mapping[str, NDArray[Any]],
    places: Sequence[str],
    until: int | None = None,
) -> list[Event]:
    """Run a program on the reference interpreter, through cycle `until` if given, and tell what
    happened at `places` (texts as `parse_place` takes them), by cycle.

    Raises `UsageError` if a place does not exist or there are more than `MOST_EVENTS` events, and
    what `interpret` raises.
    """
    recorder = _Recorder(program, [parse_place(program, text) for text in places], until)
    recorder.start(inputs)
    observe(program, inputs, recorder, until)
    return recorder.sorted()


class _Recorder(Observer):
    def __init__(self, program: Program, places: Sequence[Place], until: int | None) -> None:
        self._program = program
        self._units = [place for place in places if isinstance(place, Units)]
        self._streams = [place for place in places if isinstance(place, Stream)]
        self._words = [place for place in places if isinstance(place, Word)]
        self._last = program.cycles if until is None else until
        self._events: dict[tuple[object, ...], Event] = {}

    def start(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """What the watched words hold before the first cycle."""
        image, at = self._program.image, 0
        for chip, queue, address, words in image.regions.tolist():
            if image.data is not None:
                self._place("image", chip, queue, address, image.data[at : at + words])
            at += words
        for binding in self._program.inputs:
            if binding.name in inputs:
                name = f"input {binding.name!r}"

                def place(
                    chip: int, queue: int, address: int, words: Any, name: str = name
                ) -> None:
                    self._place(name, chip, queue, address, words)

                binding.encode(inputs[binding.name], place)

    def _place(self, origin: str, chip: int, queue: int, address: int, words: Any) -> None:
        for word in self._words:
            row = word.address - address
            if (word.chip, word.queue) == (chip, queue) and 0 <= row < len(words):
                values = np.zeros(self._program.machine.vector, np.uint8)
                values[: words.shape[1]] = words[row]
                unit = geometry(self._program.machine).queues[queue].name
                place = f"{unit}:{word.address}"
                typed = elements(values[None], Type.I8)
                event = Event(0, chip, unit, "initial", place, Type.I8, typed, origin=origin)
                self._events["initial", word] = event

    def sorted(self) -> list[Event]:
        order = {kind: i for i, kind in enumerate(KINDS)}
        kept = [event for event in self._events.values() if event.cycle <= self._last]
        return sorted(kept, key=lambda event: (event.cycle, order[event.kind]))

    # -- events of the run --------------------------------------------------------------------

    def dispatched(self, issue: Issue, step: int, cycle: int) -> None:
        if self._watched(issue.chip, issue.queue):
            self._add(Event(cycle, *_who(issue), "dispatch", "", None, None, issue.index, step))

    def sampled(
        self, issue: Issue, step: int, cycle: int, operand: str, vectors: NDArray[np.uint8]
    ) -> None:
        group, x = issue.inputs[operand], issue.queue.x
        at = (group.direction, group.base, group.width)
        if self._watched(issue.chip, issue.queue) or any(
            _touches(stream, issue.chip, at) and stream.x in (None, x) for stream in self._streams
        ):
            kind = operand_type(issue.row, issue.fields, operand)
            self._vector("sample", issue, step, cycle, _at(group, x), kind, vectors)

    def produced(self, issue: Issue, step: int, cycle: int, vectors: NDArray[np.uint8]) -> None:
        group, x = issue.output, issue.queue.x
        assert group is not None
        at = (group.direction, group.base, group.width)
        touched = [stream for stream in self._streams if _touches(stream, issue.chip, at)]
        kind = result_type(issue.row, issue.fields)
        if self._watched(issue.chip, issue.queue) or any(s.x in (None, x) for s in touched):
            self._vector("result", issue, step, cycle, _at(group, x), kind, vectors)
        for stream in touched:
            hops = _downstream(stream, x)
            if hops > 0:
                # Whoever writes this slot last before it comes by is who is seen there.
                slot = ("pass", stream, phase(group.direction, cycle, x))
                self._vector(
                    "pass",
                    issue,
                    step,
                    cycle + hops,
                    _at(group, stream.x),
                    kind,
                    vectors,
                    slot,
                )

    def fetched(
        self, issue: Issue, step: int, cycle: int, address: int, word: NDArray[np.uint8]
    ) -> None:
        self._word("read", issue, step, cycle, address, word)

    def stored(
        self, issue: Issue, step: int, cycle: int, address: int, word: NDArray[np.uint8]
    ) -> None:
        self._word("write", issue, step, cycle, address, word)

    def _word(
        self,
        kind: str,
        issue: Issue,
        step: int,
        cycle: int,
        address: int,
        word: NDArray[np.uint8],
    ) -> None:
        watched = Word(issue.chip, issue.queue.id, address) in self._words
        if watched or self._watched(issue.chip, issue.queue):
            place = f"{issue.queue.name}:{address}"
            self._vector(kind, issue, step, cycle, place, Type.I8, word)

    def _watched(self, chip: int, queue: Queue) -> bool:
        return any(units.chip == chip and queue.id in units.queues for units in self._units)

    def _vector(
        self,
        kind: str,
        issue: Issue,
        step: int,
        cycle: int,
        place: str,
        element: Type,
        vectors: NDArray[np.uint8],
        key: tuple[object, ...] | None = None,
    ) -> None:
        values = elements(vectors, element)
        self._add(Event(cycle, *_who(issue), kind, place, element, values, issue.index, step), key)

    def _add(self, event: Event, key: tuple[object, ...] | None = None) -> None:
        """Keep an event; one of the same key takes the place of the one before."""
        default = (event.kind, event.instruction, event.step, event.place, event.cycle)
        self._events[key or default] = event
        if len(self._events) > MOST_EVENTS:
            raise UsageError(
                "watch-many",
                f"more than {MOST_EVENTS:,} events by cycle {event.cycle:,}",
                help="watch less, or until an earlier cycle",
            )


def _at(group: Operand, x: int | None) -> str:
    """A stream group at a position: `E4@10`, `E4@10 x 4`."""
    base, _, width = group.text.partition(" ")
    return f"{base}@{x} {width}".rstrip()


def _who(issue: Issue) -> tuple[int, str]:
    return issue.chip, issue.queue.name


def _touches(stream: Stream, chip: int, group: tuple[int, int, int]) -> bool:
    direction, base, width = group
    same = (stream.chip, stream.direction) == (chip, direction)
    return same and base <= stream.number < base + width


def _downstream(stream: Stream, x: int) -> int:
    """Hops from `x` to the position of a watched stream; not positive if it is not downstream."""
    if stream.x is None:
        return 0
    return stream.x - x if stream.direction == EAST else x - stream.x
