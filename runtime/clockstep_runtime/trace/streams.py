"""What streams carry: for every group of four the cycles in which a node's vectors are on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.trace.sheet import Sheet, Slices
from clockstep_runtime.trace.spans import lanes, merged
from clockstep_runtime.trace.units import Served
from clockstep_runtime.verifier import Resolution

__all__ = ["GROUP", "Carried", "carried", "draw_streams"]

Ints = NDArray[np.int64]
GROUP = 4
"""Streams of a group: those of the widest element."""

_DIRECTION = 256
"""The verifier numbers streams (chip * 2 + direction) * 256 + stream."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Arrays of one length: what an instruction puts on one stream, from entering to the last use.

    `end` is one past the cycle in which the last vector of it is sampled; what nobody samples is
    there in the cycles in which it enters.
    """

    side: Ints  # chip * 2 + direction
    stream: Ints
    owner: Ints  # instruction
    start: Ints
    end: Ints


def carried(found: Resolution) -> Carried:
    """All that is on streams, from what the verifier found."""
    results, samples, segments = found.slots.results, found.slots.samples, found.slots.segments
    produced, sampled = results.phases, samples.phases
    # Phase plus depth is the cycle, in either direction.
    start = produced.start + produced.depth
    end = produced.last + produced.depth + 1
    taker = segments.consumer
    element = segments.first + (segments.count - 1) * segments.step
    cycle = sampled.start[taker] + sampled.depth[taker] + element * sampled.step[taker]
    np.maximum.at(end, segments.producer, cycle + 1)
    side, stream = np.divmod(produced.group, _DIRECTION)
    return Carried(side, stream, produced.owner, start, end)


def draw_streams(sheet: Sheet, held: Carried, serves: Served, tracks: dict[int, int]) -> None:
    """A slice for all cycles in which one node's vectors are on a group, joined where they touch.

    `tracks` has the parent of the groups of each side. What is there at the same time, at other
    places, goes to further tracks of the same name, which viewers show as one.
    """
    group = held.side * _DIRECTION + held.stream // GROUP
    names = int(serves.name.max(initial=0)) + 1
    key, start, end = merged(group * names + serves.name[held.owner], held.start, held.end)
    group, name = np.divmod(key, names)
    drawn = np.isin(group // _DIRECTION, list(tracks))
    group, name, start, end = group[drawn], name[drawn], start[drawn], end[drawn]
    lane = lanes(group, start, end)
    known: dict[tuple[int, int], int] = {}
    for where, number in sorted(set(zip(group.tolist(), lane.tolist(), strict=True))):
        side, quad = divmod(where, _DIRECTION)
        first = f"{'EW'[side % 2]}{quad * GROUP}"
        title = f"{first}-{quad * GROUP + GROUP - 1}"
        known[where, number] = sheet.track(title, tracks[side])
    pairs = zip(group.tolist(), lane.tolist(), strict=True)
    track = np.array([known[pair] for pair in pairs], np.int64)
    category = np.repeat(sheet.texts("category", ["stream"]), len(track))
    sheet.draw(Slices(track, start, end, name, category), {"cycle": start})
