"""Why a program takes as long as it does: every cycle of its makespan has one cause.

While bundles are committed, a `Trail` keeps what bound the time of each: a row that an earlier
bundle writes, or a resource that one holds. `attribute` walks back from the bundle that ends last,
from each to the one that it waited for: cycles back to the event that let it start are its own.
To add a cause, name it in `CAUSES`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.bundle import Bundle
from clockstep_compiler.floorplan import Floorplan
from clockstep_isa.table import BY_NAME

__all__ = ["CAUSES", "Cause", "Trail", "attribute"]

CAUSES = ("compute", "layout", "operands", "unit", "stream", "bank", "link", "latency")
"""Rows stream, as many as the bound of their node asks for; more of them, for they fill vectors in
part; rows beyond these stream, and what comes next waits for the results, for a unit, a stream, a
memory slice or a link; no row streams."""

_NEVER = -1
"""Waited for nothing: it starts in the first cycle."""
_OPERAND = -2
_ROOM = -3
_ORDER = -4
"""Waited for nothing known: nobody looked for an earlier time."""


class Cause(NamedTuple):
    """Cycles [first, end) of the makespan, spent by a node; `detail` names what is waited for."""

    first: int
    end: int
    node: int
    cause: str
    detail: str


class _Record(NamedTuple):
    """One bundle: cycles, those that its busiest queue is at work, and what bound its time.

    `why` is a resource or one of the codes above, `before` the number of the bundle that held it or
    -1, `since` the cycle of that event.
    """

    first: int
    end: int
    busy: int
    link: int
    node: int
    why: int
    before: int
    since: int


class Trail:
    """What is kept of every committed bundle; bundles are numbered as they come."""

    def __init__(self) -> None:
        self._columns = array("q")
        self._writers: list[list[int] | None] = []

    @property
    def last(self) -> int:
        """The number of the bundle committed last."""
        return len(self._writers) - 1

    def add(self, bundle: Bundle, time: int, node: int) -> int:
        """Keep a bundle that is committed at `time` for `node`; returns its number."""
        busy: dict[int, int] = {}
        link = 0
        for queue, _, opcode, repeat, interval, *_ in bundle.rows:
            busy[queue] = busy.get(queue, 0) + (repeat - 1) * interval + 1
            link |= opcode == _SEND
        first = time + bundle.first
        why, before, since, source = _NEVER, -1, first, None
        if bundle.blocked is not None:
            why, before = bundle.blocked
        elif first > 0:
            why = _ORDER
            if time == bundle.not_before:
                source = bundle.source
                why, since = _ROOM if source is None else _OPERAND, bundle.due
        end = time + bundle.end
        record = _Record(first, end, max(busy.values()), link, node, why, before, since)
        self._columns.extend(record)
        self._writers.append(None if source is None else source.writers)
        return self.last

    def table(self) -> NDArray[np.int64]:
        """One row a bundle, with the fields of `_Record`."""
        return np.array(self._columns, np.int64).reshape(-1, len(_Record._fields))

    def writers(self, number: int) -> list[int]:
        """The earlier bundles that wrote the copy that a bundle waited for."""
        return [w for w in self._writers[number] or () if w < number]


_SEND = BY_NAME["send"].opcode


def attribute(
    plan: Floorplan,
    trail: Trail,
    cycles: int,
    bounds: Mapping[int, int],
    laid_out: Mapping[int, int],
) -> list[Cause]:
    """One cause for every cycle in [0, cycles), in order, like neighbours joined.

    `bounds` are the cycles that each node needs at the full rate of the machine, `laid_out` those
    with its rows in whole vectors: streaming beyond these is put down to what the next bundle
    waits for.
    """
    found: list[Cause] = []
    left = dict(bounds)
    more = {node: max(0, most - bounds.get(node, 0)) for node, most in laid_out.items()}
    for first, end, record, why in reversed(list(_walk(_Past(trail), cycles))):
        start = full = part = end - min(end - first, record.busy)
        if not record.link:
            full = start + _spend(left, record.node, end - start)
            part = full + _spend(more, record.node, end - full)
        cause, detail = _named(plan, why, record)
        _append(found, Cause(first, start, record.node, "latency", ""))
        _append(found, Cause(start, full, record.node, "compute", ""))
        _append(found, Cause(full, part, record.node, "layout", ""))
        _append(found, Cause(part, end, record.node, cause, detail))
    _check(found, cycles)
    return found


def _spend(left: dict[int, int], node: int, most: int) -> int:
    """Cycles out of what is left of a node's, as many as there are up to `most`."""
    cycles = min(most, left.get(node, 0))
    left[node] = left.get(node, 0) - cycles
    return cycles


def _walk(past: _Past, cycles: int) -> Iterator[tuple[int, int, _Record, int]]:
    """(first, end, bundle, what the next one waited for) from the end of the program to its start.

    A bundle that waited for an earlier one counts from that event on; for a resource that is its
    first dispatch, since both are rigid. Where the event lies later than what is accounted for
    already, the bundle adds nothing.
    """
    if not cycles:
        return
    number, until, why = past.last, cycles, _OPERAND
    while until:
        record = past.record(number)
        before, since = past.before(number, record, until)
        begin = max(0, min(until, since)) if before >= 0 else 0
        if begin < until:
            yield begin, until, record, why
        number, until, why = before, begin, record.why


class _Past:
    """All bundles, and which one each waited for."""

    def __init__(self, trail: Trail) -> None:
        self._trail, self._table = trail, trail.table()
        self._order = np.argsort(self._table[:, 1], kind="stable")
        self._ends = self._table[self._order, 1]

    @property
    def last(self) -> int:
        """The bundle that ends last."""
        return int(self._table[:, 1].argmax())

    def record(self, number: int) -> _Record:
        return _Record(*self._table[number].tolist())

    def before(self, number: int, record: _Record, until: int) -> tuple[int, int]:
        """The bundle that one waited for, -1 if none, and the cycle of the event."""
        if record.before >= 0:
            return record.before, record.since
        if record.why == _NEVER:
            return -1, 0
        if record.why == _OPERAND:
            return self._writer(number, record.since), record.since
        return self._ended(number, min(until, record.since))

    def _writer(self, number: int, cycle: int) -> int:
        """The bundle that wrote a row that was there in `cycle`: the first to end then or later."""
        writers = self._trail.writers(number)
        if not writers:
            return -1
        ends = self._table[writers, 1]
        return writers[int(np.where(ends >= cycle, ends, ends.max()).argmin())]

    def _ended(self, number: int, cycle: int) -> tuple[int, int]:
        """The last to end by `cycle` of the bundles that were committed before one."""
        at = int(np.searchsorted(self._ends, cycle, side="right")) - 1
        while at >= 0 and self._order[at] >= number:
            at -= 1
        return (int(self._order[at]), int(self._ends[at])) if at >= 0 else (-1, 0)


def _named(plan: Floorplan, why: int, record: _Record) -> tuple[str, str]:
    """The cause of streaming beyond the bound, and what was waited for."""
    kind, name = plan.resource_name(why) if why >= 0 else ("", "")
    if record.link:
        return "link", name if kind == "link" else ""
    if kind:
        return kind, name
    named = {_ROOM: ("bank", "room"), _ORDER: ("unit", "order")}
    return named.get(why, ("operands", ""))


def _append(found: list[Cause], new: Cause) -> None:
    if new.first == new.end:
        return
    if found and found[-1].end == new.first and found[-1][2:] == new[2:]:
        found[-1] = found[-1]._replace(end=new.end)
    else:
        found.append(new)


def _check(found: list[Cause], cycles: int) -> None:
    """Every cycle once: the promise of this file."""
    ends = [0, *(cause.end for cause in found)]
    assert [cause.first for cause in found] == ends[:-1], "causes: a cycle has none or several"
    assert ends[-1] == cycles, f"causes: {ends[-1]} cycles of {cycles}"
