"""Words: none is read before it is written, and image, inputs and outputs lie inside slices.

Who wrote what a read finds is asked of several slices at once. The addresses of a slice are cut
wherever an access begins or ends; in every piece between two cuts an access takes part wholly or
not at all, and the last writer before a reader is the one whose words it finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.layout import PIECE, Binding
from clockstep_isa.program import Program
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.progressions import Segments, expand, first_missing
from clockstep_runtime.verifier.report import Findings
from clockstep_runtime.verifier.tables import Table

__all__ = ["Block", "Words", "check_memory"]

Ints = NDArray[np.int64]
_BEFORE = -(2**62)
"""The cycle in which what is there from the start was written."""

_TOGETHER = 1 << 13
"""Accesses from which on slices are looked at in several groups: pieces take memory."""


@dataclass(frozen=True, slots=True)
class Block:
    """Words placed before the first cycle or fetched after the last.

    `source` is "image", or the direction of a binding; `index` the region, or the binding,
    its layout and the piece.
    """

    source: str
    index: tuple[int, ...]
    chip: int
    queue: int
    address: int
    words: int


@dataclass(frozen=True, slots=True)
class Words:
    """Every word that is read and who wrote it.

    Writers and readers are instructions by their index; after these writers go on with `initial`
    and readers with `outputs`. Elements are dispatches, or words of a block.
    """

    initial: tuple[Block, ...]
    outputs: tuple[Block, ...]
    segments: Segments


@dataclass(frozen=True, slots=True)
class _Accesses(Table):
    """Arrays of one length. Element i is word `address + i * stride` of slice `queue`.

    `order` puts the accesses of a slice in time; elements follow each other in cycles
    `start + i * step`. A stride of 0 touches one word `count` times.
    """

    queue: Ints
    address: Ints
    stride: Ints
    count: Ints
    order: Ints
    start: Ints
    step: Ints
    writes: NDArray[np.bool_]

    @property
    def words(self) -> Ints:
        """Different words of each access."""
        words: Ints = np.where(self.stride == 0, 1, self.count)
        return words

    @property
    def low(self) -> Ints:
        low: Ints = self.address + np.minimum(0, (self.words - 1) * self.stride)
        return low


def check_memory(program: Program, columns: Columns, findings: Findings, end: int) -> Words:
    """Find the writer of every word read, and that it was in time.

    `end` is the cycle at which the outputs are fetched.
    """
    initial, outputs = _place_all(program, findings)
    of_mem, reads = _twice(columns, columns.where("read", "write", "scatter", "gather"))
    mem = columns.take(of_mem)
    accesses = _accesses(mem, reads, initial, outputs, end)
    findings.count("words", int(mem.count.sum()))
    found = _last_writers(accesses)
    _check_times(mem, accesses, found, findings)
    _check_written(mem, accesses, found, outputs, findings, end)
    # Blocks go by numbers past the last instruction, in `initial` and in `outputs` alike.
    total = len(columns)
    ids = np.concatenate([of_mem, total + np.arange(len(initial)), total + np.arange(len(outputs))])
    named = replace(found, consumer=ids[found.consumer], producer=ids[found.producer])
    return Words(tuple(initial), tuple(outputs), Segments.joined([named]))


def _twice(columns: Columns, of_mem: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Instructions by what they access, and whether they read it: a `scatter` reads all of its
    words, and then writes all of them, those that it leaves alone as they were. A `gather` reads
    all that it may reach when it begins: its queue is its own until it ends."""
    scatters = np.isin(of_mem, columns.where("scatter"))
    each = np.repeat(of_mem, scatters + 1)
    first = np.append(True, np.diff(each) != 0)[: len(each)]
    again = np.isin(each, of_mem[scatters])
    return each, np.isin(each, columns.where("read", "gather")) | (again & first)


def _accesses(
    mem: Columns, reads: NDArray[np.bool_], initial: list[Block], outputs: list[Block], end: int
) -> _Accesses:
    """Instructions, then the blocks there from the start, then those fetched at the end."""
    mapped = np.isin(np.arange(len(mem)), mem.where("scatter", "gather"))
    low, reach = mem.reach
    queues = len(mem.geometry.queues)
    table = [(b.chip * queues + b.queue, b.address, b.words) for b in [*initial, *outputs]]
    queue, address, words = np.array(table, np.int64).reshape(-1, 3).T
    ones = np.ones(len(table), np.int64)
    first = np.arange(len(table)) < len(initial)
    order = np.where(first, np.arange(len(table)) - len(table), len(mem))
    start = np.where(first, _BEFORE, end)
    columns = (
        (mem.queue, queue),
        (np.where(mapped, low, mem.field("address")), address),
        (np.where(mapped, 1, mem.field("stride")), ones),
        (np.where(mapped, reach, mem.count), words),
        (np.arange(len(mem)), order),
        (mem.start, start),
        (np.where(mapped, 0, mem.step), 0 * ones),
        (~reads, first),
    )
    return _Accesses(*(np.concatenate(pair) for pair in columns))


def _last_writers(accesses: _Accesses) -> Segments:
    """For every word of every reader the last access before it that wrote the word."""
    parts = []
    for group in _groups(accesses.queue):
        found = _last_in(accesses.take(group))
        parts.append(replace(found, consumer=group[found.consumer], producer=group[found.producer]))
    whole = Segments.stacked(parts)
    return whole.take(np.argsort(whole.consumer, kind="stable"))


def _groups(queue: Ints) -> list[Ints]:
    """Accesses in groups of whole slices: as many slices as have few accesses."""
    order = np.argsort(queue, kind="stable")
    begins = np.flatnonzero(np.diff(queue[order], prepend=-1))
    kept = begins[np.diff(begins // _TOGETHER, prepend=0) > 0]
    return [np.sort(group) for group in np.split(order, kept)]


def _last_in(accesses: _Accesses) -> Segments:
    """As `_last_writers`, of some slices."""
    access, piece, words, number = _pieces_touched(accesses)
    order = np.lexsort((accesses.order[access], piece))
    writers = np.where(accesses.writes[access[order]], np.arange(len(order)), -1)
    last = np.maximum.accumulate(writers) if len(writers) else writers
    fresh = (last >= 0) & (piece[order[last]] == piece[order])
    writer = np.full(len(order), -1, np.int64)
    writer[order] = np.where(fresh, access[order[last]], -1)
    keep = ~accesses.writes[access] & (writer >= 0)
    return _runs(accesses, access[keep], writer[keep], number[keep], words[keep])


def _pieces_touched(accesses: _Accesses) -> tuple[Ints, Ints, Ints, Ints]:
    """(access, piece, words of the piece, distinct words before it) of all accesses, by address."""
    span = int(accesses.low.max(initial=0) + accesses.words.max(initial=0)) + 2
    low = accesses.queue * (span + int(accesses.count.max(initial=0))) + accesses.low
    pitch = np.abs(accesses.stride)
    dense = (pitch <= 1) | (accesses.words == 1)
    each, number = expand(np.where(dense, 0, accesses.words))
    single = low[each] + number * pitch[each]
    cuts = np.unique(
        np.concatenate([low[dense], (low + accesses.words)[dense], single, single + 1])
    )
    whole = np.flatnonzero(dense)
    begin = np.searchsorted(cuts, low[whole])
    found = np.searchsorted(cuts, (low + accesses.words)[whole]) - begin
    of, offset = expand(found)
    piece = begin[of] + offset
    size = np.diff(cuts, append=0)
    access = np.concatenate([whole[of], each])
    pieces = np.concatenate([piece, np.searchsorted(cuts, single)])
    words = np.concatenate([size[piece], np.ones(len(each), np.int64)])
    before = np.concatenate([cuts[piece] - low[whole[of]], number])
    order = np.lexsort((before, access))
    return access[order], pieces[order], words[order], before[order]


def _runs(accesses: _Accesses, reader: Ints, writer: Ints, number: Ints, words: Ints) -> Segments:
    """Neighbouring pieces of one reader and one writer, as segments."""
    begins = np.ones(len(reader), np.bool_)
    begins[1:] = (
        (np.diff(reader) != 0) | (np.diff(writer) != 0) | (number[1:] != number[:-1] + words[:-1])
    )
    at = np.flatnonzero(begins)
    reader, writer, number = reader[at], writer[at], number[at]
    count = np.add.reduceat(words, at) if len(at) else words
    # Distinct words are counted upwards from the lowest; dispatches go the way of the stride.
    pitch = np.maximum(1, np.abs(accesses.stride))
    lowest = accesses.low[reader] + number * pitch[reader]
    upwards = accesses.stride >= 0
    highest = lowest + (count - 1) * pitch[reader]
    begin = np.where(upwards[reader], lowest, highest)
    first = np.where(upwards[reader], number, accesses.words[reader] - number - count)
    stride = accesses.stride
    still = stride[writer] == 0
    divisor = np.where(still, 1, stride[writer])
    source = np.where(
        still, accesses.count[writer] - 1, (begin - accesses.address[writer]) // divisor
    )
    source_step = np.where(still, 0, stride[reader] // divisor)
    # A word read over and over: every dispatch finds the same.
    repeated = stride[reader] == 0
    ones = np.ones(len(reader), np.int64)
    count = np.where(repeated, accesses.count[reader], count)
    return Segments(reader, writer, first, ones, count, source, source_step)


def _check_times(mem: Columns, accesses: _Accesses, found: Segments, findings: Findings) -> None:
    """No word is read before the latency of its last write has passed."""
    latency = np.zeros(len(accesses.queue), np.int64)
    latency[: len(mem)] = mem.latency
    reader, writer, most = found.consumer, found.producer, found.count - 1

    def wait(number: Ints) -> Ints:
        read = accesses.start[reader] + (found.first + number) * accesses.step[reader]
        source = found.source + number * found.source_step
        written = accesses.start[writer] + source * accesses.step[writer] + latency[writer]
        return np.where(reader < len(mem), written - read, 0)

    for row in np.flatnonzero((wait(0 * most) > 0) | (wait(most) > 0)).tolist():
        numbers = np.arange(int(found.count[row]))
        r, w = reader[row], writer[row]
        read = accesses.start[r] + (found.first[row] + numbers) * accesses.step[r]
        source = found.source[row] + numbers * found.source_step[row]
        written = accesses.start[w] + source * accesses.step[w] + latency[w]
        element = int(found.first[row]) + int(np.argmax(written > read))
        _report_read(mem, accesses, int(reader[row]), element, findings)


def _report_read(
    mem: Columns, accesses: _Accesses, reader: int, element: int, findings: Findings
) -> None:
    address = int(accesses.address[reader] + element * accesses.stride[reader])
    cycle = int(accesses.start[reader] + element * accesses.step[reader])
    unit, chip = mem.unit(reader), int(mem.chip[reader])
    message = f"read: word {address} is not written yet"
    findings.add("word-unwritten", chip, unit.name, cycle, message)


def _check_written(
    mem: Columns,
    accesses: _Accesses,
    found: Segments,
    outputs: list[Block],
    findings: Findings,
    end: int,
) -> None:
    """Every word that is read, and every word of an output, is initial or written."""
    missing = first_missing(found, np.where(accesses.writes, 0, accesses.count))
    first = len(accesses.queue) - len(outputs)
    for reader in np.flatnonzero(missing >= 0).tolist():
        if reader < first:
            _report_read(mem, accesses, reader, int(missing[reader]), findings)
            continue
        block = outputs[reader - first]
        unit = mem.geometry.queues[block.queue].name
        word = block.address + int(missing[reader])
        message = f"an output lies in word {word}, which is never written"
        findings.add("word-unwritten", block.chip, unit, end, message)


def _place_all(program: Program, findings: Findings) -> tuple[list[Block], list[Block]]:
    """Image regions and inputs, and outputs; those that lie nowhere are reported."""
    initial: list[Block] = []
    outputs: list[Block] = []

    def put(kind: list[Block], block: Block) -> None:
        problem = _placement_problem(program, block.chip, block.queue, block.address, block.words)
        if problem:
            code, unit, message = problem
            findings.add(code, block.chip, unit, 0, message)
        elif block.words:
            kind.append(block)

    for region, place in enumerate(program.image.regions.tolist()):
        put(initial, Block("image", (region,), *place))
    _check_image_size(program, findings)
    for source, kind, bindings in (
        ("input", initial, program.inputs),
        ("output", outputs, program.outputs),
    ):
        for number, binding in enumerate(bindings):
            for index, place in _pieces(binding, program, findings):
                put(kind, Block(source, (number, *index), *place))
    return initial, outputs


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
) -> Iterable[tuple[tuple[int, int], tuple[int, int, int, int]]]:
    """(layout, piece) and (chip, queue, address, words) of pieces inside their matrix."""
    for number, layout in enumerate(binding.layouts):
        limits = {
            "byte": (layout.stored.bytes, None),
            "row": (layout.rows, "rows"),
            "column": (layout.columns, "columns"),
        }
        for index, row in enumerate(layout.pieces.tolist()):
            piece = dict(zip(PIECE, row, strict=True))
            inside = all(
                piece[low] >= 0
                and (size is None or piece[size] >= 0)
                and piece[low] + (piece[size] if size else 1) <= limit
                for low, (limit, size) in limits.items()
            )
            if inside and piece["columns"] <= program.machine.vector:
                place = (piece["chip"], piece["queue"], piece["address"], piece["rows"])
                yield (number, index), place
                continue
            message = f"a piece of {binding.name!r} is outside its matrix or wider than a word"
            findings.add("binding-range", max(piece["chip"], 0), "binding", 0, message)
