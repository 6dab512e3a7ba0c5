"""Words: none is read before it is written, and image, inputs and outputs lie inside slices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.layout import PIECE, Binding
from clockstep_isa.program import Program
from clockstep_isa.table import BY_NAME, figure
from clockstep_runtime.verifier.columns import Columns, row_number
from clockstep_runtime.verifier.report import Findings

__all__ = ["check_memory"]

NEVER = np.iinfo(np.int64).max
Ints = NDArray[np.int64]
_ROWS = ("read", "write")
_READ = row_number("read")
Block = tuple[int, int]
"""Words of a slice: (address, number)."""


@dataclass(slots=True)
class _Placed:
    """What lies in one slice before the first cycle, and what is fetched after the last."""

    initial: list[Block] = field(default_factory=list)
    outputs: list[Block] = field(default_factory=list)


def check_memory(program: Program, columns: Columns, findings: Findings, end: int) -> None:
    """Follow every slice's accesses in time, one bulk instruction after the other.

    `end` is the cycle at which the outputs are fetched.
    """
    placed = _place_all(program, findings)
    accesses = columns.only(Unit.MEM)
    first, stride = _field(accesses, "address"), _field(accesses, "stride")
    findings.count("words", int(accesses.count.sum()))
    queues = len(columns.geometry.queues)
    numbers = sorted({*np.unique(accesses.queue).tolist(), *placed})
    for number in numbers:
        begin, stop = np.searchsorted(accesses.queue, [number, number + 1])
        contents = placed.get(number, _Placed())
        readable = np.full(program.machine.words_per_slice, NEVER, np.int64)
        for address, words in contents.initial:
            readable[address : address + words] = 0
        slice_ = _Slice(divmod(number, queues), accesses, first, stride, readable, findings)
        slice_.follow(range(int(begin), int(stop)))
        slice_.check_outputs(contents.outputs, end)


def _field(accesses: Columns, name: str) -> Ints:
    """A field that `read` and `write` share, though not in one column."""
    column = np.where(accesses.row == _READ, *(BY_NAME[row].field(name) for row in _ROWS))
    return accesses.args[np.arange(len(accesses)), column]


@dataclass(slots=True)
class _Slice:
    """One slice of (chip, queue id). Word w can be read from cycle `readable[w]` on.

    `first` and `stride` are the addresses of all `accesses`.
    """

    place: tuple[int, int]
    accesses: Columns
    first: Ints
    stride: Ints
    readable: Ints
    findings: Findings

    def follow(self, instructions: Iterable[int]) -> None:
        """The accesses of one queue do not overlap in time: each is done before the next."""
        latency = figure(self.accesses.machine, BY_NAME["write"].latency)
        for index in instructions:
            cycle, step, count = (
                int(column[index])
                for column in (self.accesses.start, self.accesses.step, self.accesses.count)
            )
            words, stride = self._words(index, count)
            if self.accesses.row[index] == _READ:
                self._read(words, stride, cycle, step)
            elif stride:
                done = cycle + latency
                self.readable[words] = np.arange(done, done + count * step, step)
            else:
                self.readable[words] = cycle + (count - 1) * step + latency

    def _words(self, index: int, count: int) -> tuple[slice, int]:
        first, stride = int(self.first[index]), int(self.stride[index])
        if count == 1 or stride == 0:
            return slice(first, first + 1), 0
        stop = first + count * stride
        return slice(first, stop if stop >= 0 else None, stride), stride

    def _read(self, words: slice, stride: int, cycle: int, step: int) -> None:
        ready = self.readable[words]
        if int(ready.max()) <= cycle:
            return
        late = np.flatnonzero(ready > np.arange(cycle, cycle + len(ready) * step, step))
        if len(late):
            first = int(late[0])
            address = words.start + first * stride
            self._add(cycle + first * step, f"read: word {address} is not written yet")

    def check_outputs(self, blocks: list[Block], end: int) -> None:
        """Every word of an output is initial or written."""
        for address, words in blocks:
            missing = np.flatnonzero(self.readable[address : address + words] == NEVER)
            if len(missing):
                first = address + int(missing[0])
                self._add(end, f"an output lies in word {first}, which is never written")

    def _add(self, cycle: int, message: str) -> None:
        chip, queue = self.place
        unit = self.accesses.geometry.queues[queue].name
        self.findings.add("word-unwritten", chip, unit, cycle, message)


def _place_all(program: Program, findings: Findings) -> dict[int, _Placed]:
    """Image regions, inputs and outputs by slice; those that lie nowhere are reported."""
    queues = len(geometry(program.machine).queues)
    placed: dict[int, _Placed] = {}

    def put(kind: str, chip: int, queue: int, address: int, words: int) -> None:
        problem = _placement_problem(program, chip, queue, address, words)
        if problem:
            code, unit, message = problem
            findings.add(code, chip, unit, 0, message)
            return
        contents = placed.setdefault(chip * queues + queue, _Placed())
        getattr(contents, kind).append((address, words))

    for chip, queue, address, words in program.image.regions.tolist():
        put("initial", chip, queue, address, words)
    _check_image_size(program, findings)
    for kind, bindings in (("initial", program.inputs), ("outputs", program.outputs)):
        for binding in bindings:
            for piece in _pieces(binding, program, findings):
                put(kind, *piece)
    return placed


def _placement_problem(
    program: Program, chip: int, queue: int, address: int, words: int
) -> tuple[str, str, str] | None:
    """(code, unit, message) if words do not lie in a slice of the program's chips."""
    queues = geometry(program.machine).queues
    if not 0 <= chip < program.chips or not 0 <= queue < len(queues):
        return "unit-missing", f"queue {queue}", "a tensor lies in a queue that does not exist"
    unit = queues[queue]
    if unit.unit is not Unit.MEM:
        return "unit-row", unit.name, "a tensor lies in a unit that is not a MEM slice"
    if address < 0 or words < 0 or address + words > program.machine.words_per_slice:
        text = f"words {address} to {address + words - 1} of a tensor are outside the slice"
        return "address-range", unit.name, text
    return None


def _check_image_size(program: Program, findings: Findings) -> None:
    image = program.image
    want = (int(image.regions[:, 3].sum()), program.machine.vector)
    if image.data is not None and image.data.shape != want:
        message = f"the image is {list(image.data.shape)} bytes, its regions say {list(want)}"
        findings.add("image-size", 0, "image", 0, message)


def _pieces(
    binding: Binding, program: Program, findings: Findings
) -> Iterable[tuple[int, int, int, int]]:
    """(chip, queue, address, words) of the pieces that lie inside their layout's matrix."""
    for layout in binding.layouts:
        limits = {
            "byte": (layout.stored.bytes, None),
            "row": (layout.rows, "rows"),
            "column": (layout.columns, "columns"),
        }
        for row in layout.pieces.tolist():
            piece = dict(zip(PIECE, row, strict=True))
            inside = all(
                piece[low] >= 0
                and (size is None or piece[size] >= 0)
                and piece[low] + (piece[size] if size else 1) <= limit
                for low, (limit, size) in limits.items()
            )
            if inside and piece["columns"] <= program.machine.vector:
                yield piece["chip"], piece["queue"], piece["address"], piece["rows"]
                continue
            message = f"a piece of {binding.name!r} is outside its matrix or wider than a word"
            findings.add("binding-range", max(piece["chip"], 0), "binding", 0, message)
