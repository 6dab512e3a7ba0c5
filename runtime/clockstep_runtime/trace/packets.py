"""The packets of Perfetto's format that a trace of ours has, field by field.

A trace is a sequence of packets: descriptors of tracks, one packet with every text, then events
that name tracks and texts by number. The numbers below are those of `perfetto_trace.proto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.trace.wire import (
    Rows,
    chunk,
    constant,
    double,
    fixed,
    integer,
    message,
    number,
)

__all__ = ["TEXTS", "begins", "counts", "ends", "texts", "track"]

Ints = NDArray[np.int64]

_PACKET = 1
_TIMESTAMP, _SEQUENCE, _TRACK_EVENT, _INTERNED, _FLAGS, _DESCRIPTOR = 8, 10, 11, 12, 13, 60
_CLEARED, _NEEDS_TEXTS = 1, 2
_UUID, _NAME, _PARENT, _COUNTER, _ORDERING, _RANK, _DESCRIPTION = 1, 2, 5, 8, 11, 12, 14
_UNIT_NAME, _EXPLICIT = 6, 3
_CATEGORY, _ANNOTATION, _KIND, _EVENT_NAME, _TRACK, _COUNT, _FLOW = 3, 4, 9, 10, 11, 44, 47
_BEGIN, _END, _VALUE = 1, 2, 4
_ANNOTATION_NAME, _INT, _TEXT = 1, 4, 17
_ONE_SEQUENCE = integer(_SEQUENCE, 1)

TEXTS = {"category": 1, "name": 2, "argument": 3, "text": 29}
"""Kinds of texts that events name by number, and their fields in the packet of texts."""


def track(uuid: int, name: str, parent: int, unit: str | None, description: str) -> bytes:
    """A track under `parent` (0: under none), in the order of their numbers.

    With a `unit` it is a counter of that unit.
    """
    fields = integer(_UUID, uuid) + chunk(_NAME, name)
    if parent:
        fields += integer(_PARENT, parent)
    if unit is not None:
        fields += chunk(_COUNTER, chunk(_UNIT_NAME, unit))
    fields += integer(_ORDERING, _EXPLICIT) + integer(_RANK, uuid)
    if description:
        fields += chunk(_DESCRIPTION, description)
    return chunk(_PACKET, _ONE_SEQUENCE + chunk(_DESCRIPTOR, fields))


def texts(known: Mapping[str, Sequence[str]]) -> bytes:
    """All texts by kind, numbered from 1. Comes before every event."""
    parts = [
        chunk(TEXTS[kind], integer(1, index) + chunk(2, text))
        for kind, table in known.items()
        for index, text in enumerate(table, 1)
    ]
    head = _ONE_SEQUENCE + integer(_FLAGS, _CLEARED)
    return chunk(_PACKET, head + chunk(_INTERNED, b"".join(parts)))


def begins(
    time: Ints,
    track: Ints,
    name: Ints,
    category: Ints,
    flow: Ints | None,
    numbers: Mapping[int, Ints],
    texts: Mapping[int, Ints],
) -> Rows:
    """Beginnings of slices. Arguments by the number of their name; a text of 0 is left out.

    Slices of one `flow`, unless it is 0, are joined by arrows in the order of time.
    """
    arguments = [
        message(_ANNOTATION, number(_ANNOTATION_NAME, np.full(len(time), key)), number(_INT, value))
        for key, value in numbers.items()
    ]
    for key, value in texts.items():
        naming = number(_ANNOTATION_NAME, np.full(len(time), key))
        arguments.append(message(_ANNOTATION, naming, number(_TEXT, value)).only(value > 0))
    fields = [
        constant(len(time), integer(_KIND, _BEGIN)),
        number(_TRACK, track),
        number(_EVENT_NAME, name),
        number(_CATEGORY, category),
    ]
    if flow is not None:
        fields.append(fixed(_FLOW, flow).only(flow > 0))
    return _events(time, *fields, *arguments)


def ends(time: Ints, track: Ints) -> Rows:
    """Ends of the slices that were begun last on their tracks."""
    return _events(time, constant(len(time), integer(_KIND, _END)), number(_TRACK, track))


def counts(time: Ints, track: Ints, values: NDArray[np.float64]) -> Rows:
    """New values of counters."""
    kind = constant(len(time), integer(_KIND, _VALUE))
    return _events(time, kind, number(_TRACK, track), double(_COUNT, values))


def _events(time: Ints, *fields: Rows) -> Rows:
    head = constant(len(time), _ONE_SEQUENCE + integer(_FLAGS, _NEEDS_TEXTS))
    return message(_PACKET, number(_TIMESTAMP, time), head, message(_TRACK_EVENT, *fields))
