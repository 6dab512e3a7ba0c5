"""A trace while it is drawn: tracks, texts, slices and counters, and in the end its bytes.

What is drawn is given in cycles, as columns; the sheet keeps the part inside its window, numbers
the texts and turns cycles into nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.tensor_file import write_atomically
from clockstep_runtime.trace import packets
from clockstep_runtime.trace.wire import blocks
from clockstep_runtime.verifier import Table

__all__ = ["Drawn", "Sheet", "Slices"]

Ints = NDArray[np.int64]
_NANOSECONDS = 10**9


@dataclass(frozen=True, slots=True)
class Slices(Table):
    """Arrays of one length: cycles [start, end) on a track; 0 is no track, and not drawn.

    Slices of one track do not overlap. `name` and `category` are numbers that the sheet gave to
    texts.
    """

    track: Ints
    start: Ints
    end: Ints
    name: Ints
    category: Ints


@dataclass(slots=True)
class Drawn:
    """How much there is in a trace; `counts` are new values of counters."""

    tracks: int = 0
    slices: int = 0
    counts: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Sheet:
    """One trace of a machine of `hz` cycles a second. Only cycles [first, last) are kept."""

    hz: int
    first: int
    last: int
    drawn: Drawn = field(default_factory=Drawn)
    _descriptors: list[bytes] = field(default_factory=list)
    _texts: dict[str, dict[str, int]] = field(
        default_factory=lambda: {kind: {} for kind in packets.TEXTS}
    )
    _events: list[bytes] = field(default_factory=list)

    def track(
        self, name: str, parent: int = 0, *, unit: str | None = None, description: str = ""
    ) -> int:
        """A new track below all its siblings so far; with a `unit`, a counter."""
        self.drawn.tracks += 1
        number = self.drawn.tracks
        self._descriptors.append(packets.track(number, name, parent, unit, description))
        return number

    def texts(self, kind: str, values: Sequence[str]) -> Ints:
        """The number of each text. A `kind` is one of `packets.TEXTS`."""
        known = self._texts[kind]
        return np.array([known.setdefault(value, len(known) + 1) for value in values], np.int64)

    def draw(
        self,
        slices: Slices,
        numbers: Mapping[str, Ints] | None = None,
        texts: Mapping[str, Ints] | None = None,
        flow: Ints | None = None,
    ) -> None:
        """Add slices with arguments: numbers, and texts by the numbers of kind "text" (0: none).

        Slices with the same `flow` are joined by arrows, unless it is 0.
        """
        seen = (slices.track > 0) & (slices.start < self.last) & (slices.end > self.first)
        order = np.flatnonzero(seen)
        order = order[np.lexsort((slices.start[order], slices.track[order]))]
        for part in blocks(len(order)):
            at = order[part]
            drawn = slices.take(at)
            start = self._time(np.maximum(drawn.start, self.first))
            end = self._time(np.minimum(drawn.end, self.last))
            opened = packets.begins(
                start,
                drawn.track,
                drawn.name,
                drawn.category,
                None if flow is None else flow[at],
                {self._argument(name): value[at] for name, value in (numbers or {}).items()},
                {self._argument(name): value[at] for name, value in (texts or {}).items()},
            )
            # An end comes right after its beginning, before what begins in the same nanosecond.
            self._events.append(opened.followed_by(packets.ends(end, drawn.track)).pack())
            self.drawn.slices += len(at)

    def count(self, track: int, cycles: Ints, changes: NDArray[np.float64]) -> None:
        """Add a counter that starts at 0 and changes in some cycles."""
        if not len(cycles) or not track:
            return
        order = np.argsort(cycles, kind="stable")
        # Sums of fractions come back to whole numbers only so far.
        sums = np.round(np.cumsum(changes[order]), 6)
        times = np.maximum(cycles[order], self.first)
        settled = np.append(np.diff(times) > 0, True) & (times < self.last)
        times, sums = times[settled], sums[settled]
        fresh = np.diff(sums, prepend=0.0) != 0
        times, sums = times[fresh], sums[fresh] + 0.0
        which = np.full(len(times), track, np.int64)
        for part in blocks(len(times)):
            values = packets.counts(self._time(times[part]), which[part], sums[part])
            self._events.append(values.pack())
            self.drawn.counts += len(values)

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the trace: descriptors, texts, events."""
        yield from self._descriptors
        yield packets.texts({kind: list(known) for kind, known in self._texts.items()})
        yield from self._events

    def save(self, path: str | PathLike[str]) -> Drawn:
        """Write the trace, completely or not at all, and say what is in it."""
        chunks = list(self.chunks())
        write_atomically(Path(path), chunks)
        self.drawn.bytes = sum(map(len, chunks))
        return self.drawn

    def _argument(self, name: str) -> int:
        return int(self.texts("argument", [name])[0])

    def _time(self, cycles: Ints) -> Ints:
        """Nanoseconds of cycles, rounded down."""
        times = [cycle * _NANOSECONDS // self.hz for cycle in cycles.tolist()]
        if times and max(times) >= 2**63:
            message = f"cycle {int(cycles.max())} at {self.hz} Hz is later than a trace can say"
            raise UsageError("trace-time", message, help="a part of it: --cycles A:B")
        return np.array(times, np.int64)
