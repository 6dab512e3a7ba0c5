"""How the elements of one block are to be moved: rows that are joined, rows that are turned.

A block is rows of lanes, and for each of its elements there is the source element that belongs
there. Rows whose lanes come from few source rows are *joined*: every source row is put through
one map of lanes. Rows whose lanes come each from another source row, but all from one lane, are
*turned*: the source rows are loaded as columns of an array, and the lane picks one row of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Join", "Part", "Source", "Turn", "filled", "patterns"]

Ints = NDArray[np.int64]
_FEW = 2
"""Source rows up to which rows are joined even where they could be turned."""


@dataclass(frozen=True, slots=True)
class Source:
    """A matrix that elements are taken from: its rows and columns, and its first element."""

    rows: int
    columns: int
    first: int


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Lane c of every row of a join is lane `lanes[c]` of row `rows[r]`, or of nothing if -1.

    Rows are those of tile `tile` of source number `source`.
    """

    source: int
    tile: int
    rows: Ints
    lanes: Ints


@dataclass(frozen=True, eq=False, slots=True)
class Join:
    """The rows `into` of a block as the union of parts; none: zero."""

    into: Ints
    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Turn:
    """Lane c of row `into[r]` is lane `lanes[r]` of row `columns[c]` of tile `tile` of a source."""

    into: Ints
    source: int
    tile: int
    columns: Ints
    lanes: Ints


def patterns(index: Ints, sources: tuple[Source, ...], lanes: int) -> list[Join | Turn]:
    """The block `index` [rows, columns] of source elements, -1 for zero, as joins and turns.

    Every row is in exactly one of them. A vector has `lanes` lanes.
    """
    firsts = np.array([source.first for source in sources], np.int64)
    widths = np.array([source.columns for source in sources], np.int64)
    source = np.where(index < 0, -1, np.searchsorted(firsts, index, "right") - 1)
    row, column = np.divmod(index - firsts[source], widths[source])
    tile, lane = np.divmod(column, lanes)
    tiles = int(-(-widths.max(initial=1) // lanes))
    key = np.where(index < 0, -1, (row * len(sources) + source) * tiles + tile)
    turned = _turned(key, source * tiles + tile, lane)
    found: list[Join | Turn] = []
    for rows in _alike(np.where(turned[:, None], key, 0), turned):
        r = int(rows[0])
        if turned[r]:
            found.append(Turn(rows, int(source[r, 0]), int(tile[r, 0]), row[r], lane[rows, 0]))
            continue
        found += _joins(rows, key, lane, (source, tile, row))
    return found


_HOLES = 8
"""Rows of a join for each one that it may take in vain."""


def filled(join: Join, chunk: int) -> Join | None:
    """A join of all rows from its first to its last, if its parts advance regularly over the gaps.

    What is in the gaps is computed in vain, and to be written again. None if there are no gaps, or
    many, or if they want blocks of `chunk` source rows that nothing else does.
    """
    first = int(join.into[0])
    every = np.arange(first, int(join.into[-1]) + 1)
    if not 0 < _HOLES * (len(every) - len(join.into)) <= len(join.into):
        return None
    parts = []
    for part in join.parts:
        step, rest = divmod(int(part.rows[-1] - part.rows[0]), len(every) - 1)
        rows = part.rows[0] + step * (every - first)
        known = np.isin(rows // chunk, part.rows // chunk).all()
        if rest or not known or (rows[join.into - first] != part.rows).any():
            return None
        parts.append(replace(part, rows=rows))
    return Join(every, tuple(parts))


def _turned(key: Ints, place: Ints, lane: Ints) -> NDArray[np.bool_]:
    """Rows all of whose lanes are one lane of many rows of one tile."""
    ordered = np.sort(key, axis=1)
    distinct = 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)
    whole = (key >= 0).all(axis=1)
    same = (lane == lane[:, :1]).all(axis=1) & (place == place[:, :1]).all(axis=1)
    turned: NDArray[np.bool_] = whole & same & (distinct > _FEW)
    return turned


def _alike(key: Ints, turned: NDArray[np.bool_]) -> list[Ints]:
    """Rows that are turned out of the same source rows, and all that are not turned."""
    groups: dict[bytes, list[int]] = {}
    for r in range(len(key)):
        groups.setdefault(key[r].tobytes() if turned[r] else b"", []).append(r)
    return [np.array(rows) for rows in groups.values()]


def _joins(rows: Ints, key: Ints, lane: Ints, where: tuple[Ints, Ints, Ints]) -> list[Join]:
    """Rows that want the same lanes of as many source rows, together."""
    source, tile, row = where
    leads = _leads(key[rows])
    forms = np.concatenate([leads, lane[rows], source[rows], tile[rows]], axis=1)
    groups: dict[bytes, list[int]] = {}
    for position, form in enumerate(forms):
        groups.setdefault(form.tobytes(), []).append(position)
    found = []
    for alike in groups.values():
        lead_of, into = leads[alike[0]], rows[alike]
        r = int(into[0])
        parts = []
        for lead in np.unique(lead_of[lead_of >= 0]).tolist():
            wanted = np.where(lead_of == lead, lane[r], -1)
            parts.append(Part(int(source[r, lead]), int(tile[r, lead]), row[into, lead], wanted))
        found.append(Join(into, tuple(parts)))
    return found


def _leads(key: Ints) -> Ints:
    """For every lane the first of its row that wants the same source row, -1 if it wants none."""
    order = np.argsort(key, axis=1, kind="stable")
    begins = np.zeros(key.shape, np.int64)
    changed = np.diff(np.take_along_axis(key, order, axis=1), axis=1) != 0
    begins[:, 1:] = np.where(changed, np.arange(1, key.shape[1]), 0)
    first = np.take_along_axis(order, np.maximum.accumulate(begins, axis=1), axis=1)
    leads = np.empty_like(key)
    np.put_along_axis(leads, order, first, axis=1)
    return np.where(key < 0, -1, leads)
