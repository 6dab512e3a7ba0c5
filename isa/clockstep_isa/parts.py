"""Programs with parts that run at several places: equal layers of a model, on chips of their own.

A part is code, notes and image regions of a few chips, counted from the first of them; cycles count
from its start, nodes from its first. A program of parts is the program that has each of them at
each of its places. Its columns come to be when they are asked for: whoever deals with programs of
hundreds of chips asks `parts_of` instead, which every program has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import geometry
from clockstep_isa.machine import Machine
from clockstep_isa.program import Code, Image, Note, Program, canonical_notes

__all__ = ["PLACE", "Part", "image_of", "one_chip", "parts_of", "repeated"]

PLACE = ("chip", "cycle", "node")
"""Columns of `Part.places`: its first chip, its first cycle and its first node there."""

_COLUMNS = tuple(item.name for item in fields(Code))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What `chips` chips run; `places` rows are `PLACE`. `notes` are those of `code`."""

    chips: int
    code: Code
    notes: Sequence[Note]
    regions: NDArray[np.int64]  # [n, 4], as those of an image
    places: NDArray[np.int64]  # [n, len(PLACE)]


def parts_of(program: Program) -> tuple[Part, ...]:
    """The parts of a program; it is one part at one place if it was not made of others."""
    code, image, notes = program.code, program.image, program.notes
    if isinstance(code, _Code) and isinstance(image, _Image) and code.parts is image.parts:
        return code.parts
    place = np.zeros((1, len(PLACE)), np.int64)
    return (Part(program.chips, code, notes, image.regions, place),)


def one_chip(program: Program, chip: int) -> Program:
    """The program with the instructions of one chip alone, and their notes."""
    queues = len(geometry(program.machine).queues)
    found: list[Code] = []
    notes: list[Note] = []
    for part in parts_of(program):
        at = part.code.queue // queues
        for first, cycle, node in part.places.tolist():
            code = part.code.take(at == chip - first)
            found.append(_shifted(code, first * queues, cycle, len(notes)))
            notes += [_moved(note, node) for note in (part.notes if len(code) else ())]
    code = _joined(found)
    note, used = canonical_notes(code.note, notes)
    return replace(program, code=replace(code, note=note), notes=used)


def repeated(
    machine: Machine, parts: tuple[Part, ...], data: NDArray[np.uint8] | None
) -> tuple[Code, Image, Sequence[Note]]:
    """Code, image and notes of a program that has these parts; `data` is that of `image_of`."""
    return _Code.of(machine, parts), _Image.of(parts, data), _Notes(parts)


def image_of(parts: Sequence[Part]) -> NDArray[np.int64]:
    """The regions of all parts at all places, place by place: the order of an image's words."""
    found = [np.zeros((0, 4), np.int64)]
    for part in parts:
        for chip, _, _ in part.places.tolist():
            found.append(part.regions + np.array([chip, 0, 0, 0]))
    return np.concatenate(found)


class _Code(Code):
    """Code whose columns are made when they are asked for."""

    __slots__ = ("machine", "parts")

    machine: Machine
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, machine: Machine, parts: tuple[Part, ...]) -> _Code:
        """The code of all parts at all places."""
        made = object.__new__(cls)
        object.__setattr__(made, "machine", machine)
        object.__setattr__(made, "parts", parts)
        return made

    def __len__(self) -> int:
        return sum(len(part.code) * len(part.places) for part in self.parts)

    def __getattr__(self, name: str) -> Any:
        """Only called for a column that there is not yet."""
        if name not in _COLUMNS:
            raise AttributeError(name)
        whole = self._whole()
        for column in _COLUMNS:
            object.__setattr__(self, column, getattr(whole, column))
        return getattr(whole, name)

    def _whole(self) -> Code:
        queues, found, notes = len(geometry(self.machine).queues), [], 0
        for part in self.parts:
            for chip, cycle, _ in part.places.tolist():
                found.append(_shifted(part.code, chip * queues, cycle, notes))
                notes += len(part.notes)
        return _joined(found)


def _shifted(code: Code, queue: int, cycle: int, note: int) -> Code:
    return replace(
        code,
        queue=code.queue + np.int32(queue),
        cycle=code.cycle + cycle,
        note=np.where(code.note < 0, -1, code.note + note).astype(np.int32),
    )


def _joined(found: Sequence[Code]) -> Code:
    columns = (np.concatenate([getattr(code, name) for code in found]) for name in _COLUMNS)
    return Code(*columns).sorted()


class _Image(Image):
    """An image whose regions are made when they are asked for."""

    __slots__ = ("parts",)

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: tuple[Part, ...], data: NDArray[np.uint8] | None) -> _Image:
        """The regions of all parts at all places."""
        made = object.__new__(cls)
        object.__setattr__(made, "parts", parts)
        object.__setattr__(made, "data", data)
        return made

    @property
    def words(self) -> int:
        """Words of all regions."""
        return sum(int(p.regions[:, 3].sum()) * len(p.places) for p in self.parts)

    def __getattr__(self, name: str) -> Any:
        if name != "regions":
            raise AttributeError(name)
        object.__setattr__(self, "regions", image_of(self.parts))
        return self.regions


class _Notes(Sequence[Note]):
    """Notes of all parts at all places, each made when it is asked for."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        self._at = [
            (part, node) for part in parts for node in part.places[:, PLACE.index("node")].tolist()
        ]
        self._ends = np.cumsum([len(part.notes) for part, _ in self._at], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __iter__(self) -> Iterator[Note]:
        for part, node in self._at:
            for note in part.notes:
                yield _moved(note, node)

    @overload
    def __getitem__(self, index: int) -> Note: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Note]: ...

    def __getitem__(self, index: int | slice) -> Note | Sequence[Note]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = int(np.searchsorted(self._ends, index, "right"))
        part, node = self._at[at]
        return _moved(part.notes[index - (int(self._ends[at]) - len(part.notes))], node)


def _moved(note: Note, node: int) -> Note:
    return Note(note.node + node, note.tile) if note.node >= 0 else note
