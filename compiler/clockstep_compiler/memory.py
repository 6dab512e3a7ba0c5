"""SRAM as free intervals in space, each with the cycle from which it may be written.

Activations are taken from the low end and given back with the cycle of their last read; what
must be there before the first cycle (weights, constants, inputs) is taken from the high end of
space that no instruction has written. Some of that may be kept for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["ChipMemory", "Span"]

_SCARCE = 2
"""Untouched words are scarce where they are less than this part of a slice: what must be there at
the start, such as the constants of later steps, fits nowhere else."""


@dataclass(slots=True)
class Span:
    """Free words [start, end) of a slice; a write may reach them from cycle `since` on."""

    start: int
    end: int
    since: int


class ChipMemory:
    """The free words of one chip, slice by slice (slices are named by queue id)."""

    def __init__(self, slices: list[int], words: int) -> None:
        self.free: dict[int, list[Span]] = {s: [Span(0, words, 0)] for s in slices}
        self.words = words
        self.kept: dict[int, Span] = {}
        """Words of each slice that nothing may write to."""
        self.held: dict[int, Span] = {}
        """Words of each slice that are for instructions."""
        self._longest: dict[int, int] = {}
        """What `_unused` says of a slice, until words are taken: it is asked often."""
        self._sums = dict.fromkeys(slices, words)

    def keep(self, words: int) -> None:
        """Let so many words of every slice only have what is there before the first cycle."""
        for queue in self.free:
            room = min(words, self._unused(queue))
            if room:
                address = self.take_virgin(queue, room)
                self.kept[queue] = Span(address, address + room, 0)

    def hold(self, words: int) -> None:
        """Take so many words of every slice for instructions."""
        for queue in self.free:
            address = self.take_virgin(queue, words)
            self.held[queue] = Span(address, address + words, 0)

    def after(self, taken: Mapping[int, Iterable[tuple[int, int]]]) -> ChipMemory:
        """The memory as the next program finds it, in which words (address, count) stay `taken`.

        All others are free; nothing has used those that nothing has used so far.
        """
        found = ChipMemory(list(self.free), self.words)
        for queue in self.free:
            untouched = [span for span in self.free[queue] if not span.since]
            untouched += [self.kept[queue]] if queue in self.kept else []
            marks = [(span.start, span.end, True) for span in untouched]
            marks += [(start, start + count, False) for start, count in taken.get(queue, ())]
            marks += [(h.start, h.end, False) for h in [self.held.get(queue)] if h]
            found._lay_out(queue, sorted(marks))
        return found

    def _lay_out(self, queue: int, marks: list[tuple[int, int, bool]]) -> None:
        """Let a slice have words untouched or taken, as `marks` (start, end, untouched) say, and
        the rest free."""
        spans: list[Span] = []
        at = 0
        for start, end, untouched in [*marks, (self.words, self.words, False)]:
            if start > at:
                spans.append(Span(at, start, 1))
            if untouched and end > start:
                spans.append(Span(start, end, 0))
            at = max(at, end)
        self.free[queue] = spans
        self._sums[queue] = sum(span.end - span.start for span in spans)

    def free_words(self, queue: int) -> int:
        """Free words of a slice, wherever they lie."""
        return self._sums[queue]

    def untouched(self) -> int:
        """Words of the chip that nothing has used."""
        spans = [s for spans in self.free.values() for s in spans if not s.since]
        return sum(s.end - s.start for s in (*spans, *self.kept.values()))

    def virgin_room(self, queue: int) -> int:
        """Longest run of words of a slice that nothing has used, those kept included."""
        kept = self.kept.get(queue)
        return max(self._unused(queue), kept.end - kept.start if kept else 0)

    def _unused(self, queue: int) -> int:
        if queue not in self._longest:
            runs = (s.end - s.start for s in self.free[queue] if not s.since)
            self._longest[queue] = max(runs, default=0)
        return self._longest[queue]

    def _taken(self, queue: int, words: int) -> None:
        self._longest.pop(queue, None)
        self._sums[queue] -= words

    def offer(self, queue: int, words: int, now: int) -> tuple[bool, int] | None:
        """Whether only scarce words would do, and the cycle from which `words` adjacent words of
        the slice could be written, if any."""
        span = self._best(queue, words, now)
        return None if span is None else (self._scarce(queue) and not span.since, span.since)

    def _scarce(self, queue: int) -> bool:
        """Whether few untouched words of a slice are left."""
        return _SCARCE * self._unused(queue) < self.words

    def take(self, queue: int, words: int, now: int) -> int:
        """Take `words` adjacent words, the earliest usable; the address."""
        span = self._best(queue, words, now)
        assert span is not None, "no offer was made"
        self._taken(queue, words)
        address = span.start
        span.start += words
        if span.start == span.end:
            self.free[queue].remove(span)
        return address

    def _best(self, queue: int, words: int, now: int) -> Span | None:
        """The span to write next: the first to be writable, but none of scarce untouched words as
        long as there is one given back."""
        scarce, best, least = self._scarce(queue), None, (True, 0, 0)
        for span in self.free[queue]:
            start, since = span.start, span.since
            if span.end - start < words:
                continue
            key = (scarce and not since, since if since > now else now, start)
            if best is None or key < least:
                best, least = span, key
        return best

    def take_virgin(self, queue: int, words: int) -> int:
        """Take `words` adjacent words that nothing has used, from the high end; the address.

        Those that are kept are the last to go.
        """
        if self._unused(queue) < words:
            self.kept[queue].end -= words
            return self.kept[queue].end
        self._taken(queue, words)
        spans = self.free[queue]
        span = max(
            (s for s in spans if not s.since and s.end - s.start >= words), key=lambda s: s.end
        )
        span.end -= words
        if span.start == span.end:
            spans.remove(span)
        return span.end

    def give(self, queue: int, address: int, words: int, since: int) -> None:
        """Give words back; they may be written from cycle `since` on."""
        self._sums[queue] += words
        spans = self.free[queue]
        new = Span(address, address + words, max(since, 1))
        at = sum(s.start < address for s in spans)
        spans.insert(at, new)
        for left, right in ((at, at + 1), (at - 1, at)):
            if left < 0 or right >= len(spans) or spans[left].end != spans[right].start:
                continue
            if not spans[left].since or not spans[right].since:
                continue  # keep virgin space apart: only it can hold an initial image
            spans[left].end = spans[right].end
            spans[left].since = max(spans[left].since, spans[right].since)
            del spans[right]
