"""Which chip takes which of a row of units, so that each holds its weights and its matrices."""

from __future__ import annotations

__all__ = ["shares"]


def shares(words: list[int], needs: list[int], chips: int, room: int) -> list[int]:
    """The chip of every unit: in their order, each chip to the same level of `words`.

    A chip has `room` for the words of its units and for what one of them `needs` beside them, and
    takes fewer than its level where that is more, such as a network's first layers on large images.
    It takes one unit at least. If no division keeps to that, all chips go to their level.
    """
    even = _even(words, chips)
    ends = [len(words)]
    """One past the units of each chip, at the least: those behind fit on the chips behind."""
    for _ in range(chips):
        rest = slice(0, ends[-1])
        ends.append(ends[-1] - _reach(words[rest][::-1], needs[rest][::-1], room))
    if ends.pop():
        return even
    homes: list[int] = []
    for chip, least in enumerate(reversed(ends)):
        start = len(homes)
        wanted = start + even[start:].count(chip)
        end = min(max(wanted, least), start + _reach(words[start:], needs[start:], room))
        homes += [chip] * (end - start)
        if end != wanted:  # the rest at a level of its own
            even[end:] = [chip + 1 + home for home in _even(words[end:], chips - chip - 1)]
    return homes


def _even(words: list[int], chips: int) -> list[int]:
    total, before = sum(words), 0
    homes = []
    for position, own in enumerate(words):
        middle, whole = (2 * before + own, 2 * total) if total else (position, len(words))
        homes.append(min(chips - 1, middle * chips // whole))
        before += own
    return homes


def _reach(words: list[int], needs: list[int], room: int) -> int:
    """How many of the first units one chip can take."""
    held = need = 0
    for count, (own, other) in enumerate(zip(words, needs, strict=True)):
        held, need = held + own, max(need, other)
        if count and held + need > room:
            return count
    return len(words)
