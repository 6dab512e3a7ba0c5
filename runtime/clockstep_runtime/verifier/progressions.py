"""Arithmetic progressions: which element of one is which element of another.

A bulk instruction touches phases (or cycles) start, start + step, ... `count` of them. Who meets
whom comes down to one question, asked here of whole arrays of progressions: for every element of
every consumer, which producer upstream has it, and as which of its own elements. The verifier
wants to know where there is none, the linker all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.verifier.tables import Table

__all__ = [
    "Progressions",
    "Segments",
    "collisions",
    "expand",
    "first_missing",
    "intersect",
    "match",
]

Ints = NDArray[np.int64]

_KEYS = 2**62
"""Group and start are searched as one number below this."""

_ELEMENTS = 1 << 20
"""Elements that are looked at one by one at a time."""


@dataclass(frozen=True, slots=True)
class Progressions(Table):
    """Arrays of one length. Only members of one `group` can meet.

    `depth` counts hops downstream: a producer is seen only at a greater depth than its own.
    `owner` is the instruction a progression belongs to.
    """

    group: Ints
    depth: Ints
    start: Ints
    step: Ints
    count: Ints
    owner: Ints

    @property
    def last(self) -> Ints:
        return self.start + (self.count - 1) * self.step


@dataclass(frozen=True, slots=True)
class Segments(Table):
    """Arrays of one length: elements of consumers and what they are elements of.

    Element `first + k * step` of `consumer` is element `source + k * source_step` of `producer`,
    for k < `count`. Sorted by consumer; no element of a consumer occurs twice.
    """

    consumer: Ints
    producer: Ints
    first: Ints
    step: Ints
    count: Ints
    source: Ints
    source_step: Ints

    @staticmethod
    def joined(parts: list[Segments]) -> Segments:
        """All segments of several tables, sorted by consumer and first element."""
        whole = Segments.stacked(parts)
        return whole.take(np.lexsort((whole.first, whole.consumer)))


def expand(counts: Ints) -> tuple[Ints, Ints]:
    """(i, 0), (i, 1), ... `counts[i]` times for every i: the two columns."""
    each = np.repeat(np.arange(len(counts)), counts)
    return each, np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)


def match(producers: Progressions, consumers: Progressions) -> Segments:
    """For every element of a consumer the nearest producer upstream that has it, if any has."""
    consumer, producer = _overlapping(producers, consumers)
    upstream = producers.depth[producer] < consumers.depth[consumer]
    pairs = _shared(producers, consumers, consumer[upstream], producer[upstream])
    # The nearest producer comes first; mostly it has all that the consumer wants.
    order = np.lexsort((-producers.depth[pairs.producer], pairs.consumer))
    pairs = pairs.take(order)
    nearest = np.ones(len(pairs), np.bool_)
    nearest[1:] = pairs.consumer[1:] != pairs.consumer[:-1]
    whole = nearest & (pairs.count == consumers.count[pairs.consumer])
    settled = np.zeros(len(consumers), np.bool_)
    settled[pairs.consumer[whole]] = True
    rest = pairs.take(~settled[pairs.consumer])
    return Segments.joined([pairs.take(whole), _nearest(producers, rest)])


def _overlapping(producers: Progressions, consumers: Progressions) -> tuple[Ints, Ints]:
    """All (consumer, producer) of one group whose spans overlap.

    Producers are searched by classes of length: of a class, those near a consumer start at most
    one length before it, and hardly any of these have ended.
    """
    if not len(producers) or not len(consumers):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    length = producers.last - producers.start
    level = np.zeros(len(producers), np.int64)
    np.ceil(np.log2(length + 1), out=level, casting="unsafe")
    level += level & 1
    low = min(int(consumers.start.min()) - (2 << int(level.max())), int(producers.start.min()))
    span = max(int(consumers.last.max()), int(producers.start.max())) - low + 2
    groups = np.unique(producers.group)
    if len(groups) * span >= _KEYS:
        return _halves(producers, consumers, int(groups[len(groups) // 2]))
    wanted = np.flatnonzero(np.isin(consumers.group, groups))
    base = np.searchsorted(groups, consumers.group[wanted]) * span - low
    key = np.searchsorted(groups, producers.group) * span - low + producers.start
    found = []
    for number in np.unique(level).tolist():
        members = np.flatnonzero(level == number)
        members = members[np.argsort(key[members], kind="stable")]
        keys = key[members]
        begin = np.searchsorted(keys, base + consumers.start[wanted] - (1 << number), "left")
        end = np.searchsorted(keys, base + consumers.last[wanted], "right")
        each, offset = expand(end - begin)
        consumer, producer = wanted[each], members[begin[each] + offset]
        alive = producers.last[producer] >= consumers.start[consumer]
        found.append((consumer[alive], producer[alive]))
    return np.concatenate([c for c, _ in found]), np.concatenate([p for _, p in found])


def _halves(producers: Progressions, consumers: Progressions, middle: int) -> tuple[Ints, Ints]:
    """`_overlapping` of the groups below `middle` and of the others."""
    found = []
    for side in (0, 1):
        p, c = (
            np.flatnonzero((part.group >= middle) == bool(side)) for part in (producers, consumers)
        )
        consumer, producer = _overlapping(producers.take(p), consumers.take(c))
        found.append((c[consumer], p[producer]))
    return np.concatenate([c for c, _ in found]), np.concatenate([p for _, p in found])


def _shared(
    producers: Progressions, consumers: Progressions, consumer: Ints, producer: Ints
) -> Segments:
    """The elements that each pair has in common; pairs without any are left out."""
    c = (consumers.start[consumer], consumers.step[consumer], consumers.count[consumer])
    p = (producers.start[producer], producers.step[producer], producers.count[producer])
    found = Segments(consumer, producer, *intersect(c, p))
    return found.take(found.count > 0)


def intersect(
    a: tuple[Ints, Ints, Ints], b: tuple[Ints, Ints, Ints]
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Common elements of progressions (start, step, count) with positive steps, pair by pair.

    Columns `first`, `step`, `count`, `source`, `source_step` of `Segments`, with numbers of
    elements of `a` and of `b`; the count is 0 where nothing is common.
    """
    (a0, da, na), (b0, db, nb) = a, b
    # A single element is in step with anything.
    da = np.where(na == 1, db, da)
    db = np.where(nb == 1, da, db)
    divisor = np.gcd(da, db)
    delta = b0 - a0
    modulus = db // divisor
    residue = np.zeros(len(delta), np.int64)
    far = np.flatnonzero(modulus > 1)
    if len(far):
        inverse = _inverse((da // divisor)[far], modulus[far])
        residue[far] = (delta // divisor)[far] % modulus[far] * inverse % modulus[far]
    least = np.maximum(0, -(-delta // da))
    first = least + (residue - least) % modulus
    most = np.minimum(na - 1, (delta + (nb - 1) * db) // da)
    count = np.where(delta % divisor == 0, np.maximum(0, (most - first) // modulus + 1), 0)
    source = (first * da - delta) // db
    return first, modulus, count, source, modulus * da // db


def _inverse(number: Ints, modulus: Ints) -> Ints:
    """`number ** -1` modulo `modulus`, to which it is coprime: Euclid's algorithm, extended."""
    old, new = number % modulus, modulus.copy()
    old_factor, factor = np.ones_like(old), np.zeros_like(old)
    while new.any():
        quotient = old // np.maximum(new, 1)
        live = new > 0
        old, new = np.where(live, new, old), np.where(live, old - quotient * new, new)
        old_factor, factor = (
            np.where(live, factor, old_factor),
            np.where(live, old_factor - quotient * factor, factor),
        )
    return old_factor % modulus


def _nearest(producers: Progressions, pairs: Segments) -> Segments:
    """Where several producers share a consumer, who has which element: element by element."""
    parts = [pairs.take(np.zeros(0, np.int64))]
    order = np.argsort(pairs.consumer, kind="stable")
    pairs = pairs.take(order)
    begins = np.flatnonzero(np.diff(pairs.consumer, prepend=-1))
    total = np.cumsum(pairs.count)
    while len(begins):
        begin = int(begins[0])
        done = int(total[begin - 1]) if begin else 0
        # As many consumers as stay below the limit, and at least one.
        inside = np.searchsorted(total, done + _ELEMENTS, "right")
        cut = begins[1:][begins[1:] <= inside]
        end = int(cut[-1]) if len(cut) else int(begins[1]) if len(begins) > 1 else len(pairs)
        if inside >= len(pairs):
            end = len(pairs)
        parts.append(_by_element(producers, pairs.take(np.arange(begin, end))))
        begins = begins[begins >= end]
    return Segments.joined(parts)


def _by_element(producers: Progressions, pairs: Segments) -> Segments:
    pair, number = expand(pairs.count)
    consumer = pairs.consumer[pair]
    element = pairs.first[pair] + number * pairs.step[pair]
    depth = producers.depth[pairs.producer[pair]]
    order = np.lexsort((depth, element, consumer))
    last = np.ones(len(order), np.bool_)
    last[:-1] = (np.diff(consumer[order]) != 0) | (np.diff(element[order]) != 0)
    kept = np.sort(order[last])  # by pair and number again
    return _runs(pairs, pair[kept], number[kept])


def _runs(pairs: Segments, pair: Ints, number: Ints) -> Segments:
    """The elements `number` of `pair`, joined where one follows the other."""
    begins = np.ones(len(pair), np.bool_)
    begins[1:] = (np.diff(pair) != 0) | (np.diff(number) != 1)
    at = np.flatnonzero(begins)
    p, n = pair[at], number[at]
    return Segments(
        pairs.consumer[p],
        pairs.producer[p],
        pairs.first[p] + n * pairs.step[p],
        pairs.step[p],
        np.diff(np.append(at, len(pair))),
        pairs.source[p] + n * pairs.source_step[p],
        pairs.source_step[p],
    )


def first_missing(segments: Segments, counts: Ints) -> Ints:
    """Per consumer of `counts` elements the number of the first in no segment, or -1."""
    missing = np.full(len(counts), -1, np.int64)
    covered = np.zeros(len(counts), np.int64)
    np.add.at(covered, segments.consumer, segments.count)
    for consumer in np.flatnonzero(covered < counts).tolist():
        begin, end = np.searchsorted(segments.consumer, [consumer, consumer + 1])
        filled = np.zeros(int(counts[consumer]), np.bool_)
        for row in range(int(begin), int(end)):
            first, step = int(segments.first[row]), int(segments.step[row])
            filled[first : first + int(segments.count[row]) * step : step] = True
        missing[consumer] = int(np.argmin(filled))
    return missing


def collisions(producers: Progressions) -> list[tuple[int, int, int]]:
    """Pairs that meet in one group and depth: (position, later position, least element)."""
    order = np.lexsort((producers.start, producers.depth, producers.group))
    p = producers.take(order)
    same = (p.group[1:] == p.group[:-1]) & (p.depth[1:] == p.depth[:-1])
    place = np.concatenate([[0], np.cumsum(~same)]) if len(p) else np.zeros(0, np.int64)
    # Where nobody starts before the one before it has ended, nobody can meet.
    crowded = np.zeros(len(p) + 1, np.bool_)
    crowded[place[1:][same & (p.start[1:] <= p.last[:-1])]] = True
    near = np.flatnonzero(crowded[place])
    mine = Progressions(
        place[near], p.depth[near], p.start[near], p.step[near], p.count[near], order[near]
    )
    earlier, later = _overlapping(mine, mine)
    once = earlier < later
    pairs = _shared(mine, mine, earlier[once], later[once])
    at = mine.start[pairs.consumer] + pairs.first * mine.step[pairs.consumer]
    first, second = mine.owner[pairs.consumer], mine.owner[pairs.producer]
    return list(zip(first.tolist(), second.tolist(), at.tolist(), strict=True))
