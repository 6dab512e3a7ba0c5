"""The program file: one safetensors file with the words, the images and everything about them.

Arrays hold what is large (words, images, pieces of layouts), JSON the rest. Queues with the same
words share one sequence. Further entries have arrays of their own, named after their number, and
the image in common. Equal programs give equal bytes; whatever is read is checked first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.codec import decode, encode
from clockstep_isa.diagnostics import MalformedFile, shown
from clockstep_isa.geometry import geometry
from clockstep_isa.layout import PIECE, Binding
from clockstep_isa.machine import Machine
from clockstep_isa.machine_file import machine_from_dict, machine_to_dict
from clockstep_isa.metadata import (
    binding_from_json,
    binding_to_json,
    dump_json,
    load_json,
    member,
    node_from_json,
    node_to_json,
    probe_from_json,
    probe_to_json,
    region_problem,
    states_from_json,
)
from clockstep_isa.part_file import PLACES, SideBySide, parts_from, read_sizes, side_by_side
from clockstep_isa.parts import PLACE, repeated
from clockstep_isa.program import (
    LAST_CYCLE,
    Code,
    Image,
    Note,
    Probe,
    Program,
    canonical_notes,
)
from clockstep_isa.table import BY_NAME, OPCODE_BITS
from clockstep_isa.tensor_file import pack, read, write_atomically
from clockstep_isa.words import Words, take

__all__ = ["FORMAT_VERSION", "load_program", "program_bytes", "program_sha256", "save_program"]

FORMAT_VERSION = 2
_ARRAYS: dict[str, tuple[type, int | None]] = {
    "words": (np.uint64, 2),
    "sequences": (np.int64, None),
    "regions": (np.int64, 4),
    "pieces": (np.int64, len(PIECE)),
    "queue": (np.int32, None),
    "queue_sequence": (np.int32, None),
    "note": (np.int32, None),
}
"""The arrays of an entry: dtype, and columns (None: one axis; -1: the lanes)."""
_PLACES: dict[str, tuple[type, int | None]] = {PLACES: (np.int64, len(PLACE))}
"""Those of an entry with parts, besides."""
_IMAGE: dict[str, tuple[type, int | None]] = {"image": (np.uint8, -1)}
"""What all entries have in common."""
_NONE = np.zeros((0, len(PLACE)), np.int64)

_Arrays = Mapping[str, NDArray[Any]]


def save_program(program: Program, path: str | Path) -> None:
    """Write the program file, completely or not at all.

    Raises `UsageError` if it cannot be written, and as `encode`.
    """
    write_atomically(path, (program_bytes(program),))


def program_bytes(program: Program) -> bytes:
    """The bytes that `save_program` writes."""
    metadata, arrays = _stored(program)
    metadata |= {"format": FORMAT_VERSION, "machine": machine_to_dict(program.machine)}
    metadata |= {"chips": program.chips, "weights": program.image.data is not None}
    data = program.image.data
    held = np.zeros((0, program.machine.vector), np.uint8) if data is None else data
    arrays["image"] = held.astype(np.uint8, copy=False)
    others = [_stored(entry) for entry in program.others]
    if others:
        metadata["entries"] = [about for about, _ in others]
    for number, (_, own) in enumerate(others, 1):
        arrays |= {_named(number, name): array for name, array in own.items()}
    return pack(arrays, dump_json(metadata))


def _named(entry: int, array: str) -> str:
    """The name of an array of an entry: those of the first are as in a file of one."""
    return f"{entry}.{array}" if entry else array


def _stored(program: Program) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Metadata and arrays of one entry, but for what all have in common."""
    held = side_by_side(program)
    words = encode(program.machine, held.code)
    note, notes = canonical_notes(words.note, held.notes)
    sequences, offsets, which = _share(words)
    pieces: list[NDArray[np.int64]] = [np.zeros((0, len(PIECE)), np.int64)]
    metadata = {
        "cycles": program.cycles,
        "inputs": [_binding(b, pieces) for b in program.inputs],
        "outputs": [_binding(b, pieces) for b in program.outputs],
        "probes": [probe_to_json(p, _writer(pieces)) for p in program.probes],
        "nodes": [node_to_json(node) for node in program.nodes],
        "notes": [[n.node, n.tile] for n in notes],
        "info": dict(program.info),
    }
    if program.name:
        metadata["name"] = program.name
    if program.states:
        metadata["states"] = [list(pair) for pair in program.states]
    if program.copies > 1:
        metadata["copies"] = program.copies
    if held.sizes is not None:
        metadata["parts"] = held.sizes
    columns: _Arrays = {
        "words": sequences,
        "sequences": offsets,
        "regions": held.regions,
        "pieces": np.concatenate(pieces),
        "queue": words.queue,
        "queue_sequence": which,
        "note": note,
        PLACES: held.places,
    }
    kinds = _wanted(held.sizes)
    return metadata, {n: columns[n].astype(kind, copy=False) for n, (kind, _) in kinds.items()}


def _wanted(sizes: object) -> dict[str, tuple[type, int | None]]:
    """The arrays of an entry, with parts of some sizes or None."""
    return _ARRAYS if sizes is None else {**_ARRAYS, **_PLACES}


def program_sha256(program: Program) -> str:
    """The SHA-256 of the program file, in hexadecimal."""
    return hashlib.sha256(program_bytes(program)).hexdigest()


def load_program(path: str | Path) -> Program:
    """Read and check a program file; the image stays on disk, memory-mapped.

    Raises `UsageError` if there is no such file, `MalformedFile` with the place of the first
    thing that is wrong with it.
    """
    where = Path(path).name
    text, arrays = read(path)
    data = load_json(text, f"{where} metadata")
    if data.get("format") != FORMAT_VERSION:
        found = shown(data.get("format"))
        message = f"format version {found}; this tool reads version {FORMAT_VERSION}"
        raise MalformedFile("program-version", message, where=where)
    machine = machine_from_dict(member(data, "machine", dict, where), f"{where} machine")
    chips = _bounded(data, "chips", 1, machine.max_chips, where)
    rows = [data, *_rows({"entries": [], **data}, "entries", dict, where)]
    wanted: dict[str, tuple[type, int | None]] = dict(_IMAGE)
    for number, row in enumerate(rows):
        kinds = _wanted(read_sizes(row, machine.max_chips, where))
        wanted |= {_named(number, name): kind for name, kind in kinds.items()}
    _check_arrays(arrays, machine, wanted, where)
    weights = arrays["image"] if member(data, "weights", bool, where) else None
    entries = []
    for number, row in enumerate(rows):
        own = {name: arrays.get(_named(number, name), _NONE) for name in (*_ARRAYS, *_PLACES)}
        entries.append(_loaded(row, own, machine, chips, weights, where))
        _check_image(entries[-1].image, len(arrays["image"]), where)
    _check_entries(entries, where)
    return replace(entries[0], others=tuple(entries[1:]))


def _loaded(
    data: Mapping[str, Any],
    arrays: _Arrays,
    machine: Machine,
    chips: int,
    weights: NDArray[Any] | None,
    where: str,
) -> Program:
    """The inverse of `_stored`."""
    sizes = read_sizes(data, machine.max_chips, where)
    stored = chips if sizes is None else sum(size for size, _ in sizes)
    nodes = tuple(node_from_json(row, where) for row in _rows(data, "nodes", dict, where))
    notes = tuple(_note(row, len(nodes), where) for row in _rows(data, "notes", list, where))
    inputs, outputs = (
        _bindings(data, key, arrays, machine, chips, where) for key in ("inputs", "outputs")
    )
    code = _code(arrays, machine, stored, len(notes), where)
    regions = _regions(arrays, machine, stored, where)
    image = Image(regions, weights)
    whole: Sequence[Note] = notes
    if sizes is not None:
        held = SideBySide(code, notes, regions, sizes, arrays[PLACES])
        parts = parts_from(held, machine, chips, len(nodes), where)
        code, image, whole = repeated(machine, parts, weights)
    return Program(
        machine=machine,
        chips=chips,
        code=code,
        image=image,
        inputs=inputs,
        outputs=outputs,
        nodes=nodes,
        notes=whole,
        cycles=_bounded(data, "cycles", 0, 2 * LAST_CYCLE, where),
        info=member(data, "info", dict, where),
        probes=_probes(data, arrays, machine, chips, len(nodes), where),
        states=states_from_json(data.get("states", []), inputs, outputs, where),
        copies=_bounded({"copies": 1, **data}, "copies", 1, machine.max_chips // chips, where),
        name=member({"name": "", **data}, "name", str, where),
    )


def _check_entries(found: Sequence[Program], where: str) -> None:
    """Entries have names of their own, and the words of the image in the same places."""
    names = [entry.name for entry in found]
    if len(found) > 1 and ("" in names or len(set(names)) < len(names)):
        problem = f"entries have no name or that of another: {shown(names)}"
        raise MalformedFile("program-entries", problem, where=where)
    regions = found[0].image.regions
    for entry in found[1:]:
        if not np.array_equal(entry.image.regions, regions):
            problem = f"entry {shown(entry.name)} has the image elsewhere"
            raise MalformedFile("program-entries", problem, where=where)


def _share(words: Words) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]:
    """Each different sequence of words once, their offsets, and which one each queue runs."""
    index: dict[bytes, int] = {}
    which, kept = [], []
    for begin, end in zip(words.offsets[:-1].tolist(), words.offsets[1:].tolist(), strict=True):
        block = words.words[begin:end]
        key = hashlib.sha256(block.tobytes()).digest()
        if key not in index:
            kept.append(block)
        which.append(index.setdefault(key, len(index)))
    offsets = np.cumsum([0, *(len(block) for block in kept)], dtype=np.int64)
    empty = np.zeros((0, 2), np.uint64)
    return np.concatenate([empty, *kept]), offsets, np.array(which, np.int32)


def _binding(binding: Binding, pieces: list[NDArray[np.int64]]) -> dict[str, Any]:
    return binding_to_json(binding, _writer(pieces))


def _writer(pieces: list[NDArray[np.int64]]) -> Callable[[NDArray[np.int64]], list[int]]:
    """Appends the pieces of one layout to those of the file and gives their range."""

    def write(rows: NDArray[np.int64]) -> list[int]:
        begin = sum(len(block) for block in pieces)
        pieces.append(rows)
        return [begin, begin + len(rows)]

    return write


def _bounded(data: Mapping[str, Any], key: str, low: int, high: int, where: str) -> int:
    value = member(data, key, int, where)
    if not low <= value <= high:
        raise MalformedFile(
            "program-range", f"{key} {value} is not in {low} to {high}", where=where
        )
    return value


def _rows(data: Mapping[str, Any], key: str, kind: type, where: str) -> list[Any]:
    rows = member(data, key, list, where)
    if not all(type(row) is kind for row in rows):
        raise MalformedFile("json", f"{key!r} is wrong: want {kind.__name__}s", where=where)
    return rows


def _note(row: list[Any], nodes: int, where: str) -> Note:
    good = len(row) == 2 and type(row[0]) is int and type(row[1]) is str
    if not good or not -1 <= row[0] < nodes:
        raise MalformedFile("program-notes", "a note is not a node and a tile", where=where)
    return Note(row[0], row[1])


def _check_arrays(
    arrays: _Arrays,
    machine: Machine,
    wanted: Mapping[str, tuple[type, int | None]],
    where: str,
) -> None:
    if set(arrays) != set(wanted):
        names = ", ".join(sorted(set(arrays) ^ set(wanted)))[:100]
        raise MalformedFile("program-arrays", f"missing or unknown arrays: {names}", where=where)
    for name, (dtype, columns) in wanted.items():
        shape = arrays[name].shape
        tail = () if columns is None else (machine.vector if columns < 0 else columns,)
        if arrays[name].dtype != dtype or shape[1:] != tail or len(shape) != 1 + len(tail):
            message = f"array {name!r} is {arrays[name].dtype}{list(shape)}"
            raise MalformedFile("program-arrays", message, where=where)


def _code(arrays: _Arrays, machine: Machine, chips: int, notes: int, where: str) -> Code:
    """The instructions of every queue.

    A sequence is decoded once, however many queues share it, and without its `nop`s; what is left
    has a note for each queue that runs it. So a small file never becomes a large program.
    """
    _check_queues(arrays, machine, chips, notes, where)
    offsets, queue, which = (arrays[n] for n in ("sequences", "queue", "queue_sequence"))
    words, note = arrays["words"], arrays["note"]
    works = take(words, 0, OPCODE_BITS) != BY_NAME["nop"].opcode
    starts = np.concatenate([[0], np.cumsum(works)])[offsets]
    runner = np.full(len(offsets) - 1, -1, np.int32)
    runner[which[::-1]] = queue[::-1]
    if (runner < 0).any():
        raise MalformedFile("program-queues", "a sequence that no queue runs", where=where)
    once = decode(machine, Words(runner, offsets, words, np.zeros(int(works.sum()), np.int32)))
    lengths = np.diff(starts)[which]
    ends = np.cumsum(lengths)
    total = int(lengths.sum())
    if total != len(note):
        message = f"{len(note)} notes for {total} instructions"
        raise MalformedFile("program-notes", message, where=where)
    source = np.arange(total) + np.repeat(starts[:-1][which] - (ends - lengths), lengths)
    return replace(once.take(source), queue=np.repeat(queue, lengths), note=note.astype(np.int32))


def _check_queues(arrays: _Arrays, machine: Machine, chips: int, notes: int, where: str) -> None:
    offsets, queue, which = (arrays[n] for n in ("sequences", "queue", "queue_sequence"))
    note = arrays["note"]
    total = len(arrays["words"])
    count = chips * len(geometry(machine).queues)
    checks = (
        (len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != total, "sequences do not add up"),
        (bool((np.diff(offsets) <= 0).any()), "sequences do not ascend"),
        (len(queue) != len(which), "queues without a sequence"),
        (bool(((queue < 0) | (queue >= count)).any()), "a queue that does not exist"),
        (bool((np.diff(queue) <= 0).any()), "queues do not ascend"),
        (bool(((which < 0) | (which >= len(offsets) - 1)).any()), "a sequence that does not exist"),
        (bool(((note < -1) | (note >= notes)).any()), "a note that does not exist"),
    )
    for wrong, problem in checks:
        if wrong:
            raise MalformedFile("program-queues", problem, where=where)


def _regions(arrays: _Arrays, machine: Machine, chips: int, where: str) -> NDArray[np.int64]:
    found = region_problem(arrays["regions"], machine, chips)
    if found:
        raise MalformedFile("program-image", found[1], where=where)
    return arrays["regions"].astype(np.int64)


def _check_image(image: Image, words: int, where: str) -> None:
    if words != (0 if image.data is None else image.words):
        problem = "image regions do not add up to the words of the image"
        raise MalformedFile("program-image", problem, where=where)


def _bindings(
    data: Mapping[str, Any],
    key: str,
    arrays: _Arrays,
    machine: Machine,
    chips: int,
    where: str,
) -> tuple[Binding, ...]:
    rows, pieces = _rows(data, key, dict, where), _reader(arrays["pieces"])
    loaded = key == "inputs"
    found = tuple(
        binding_from_json(row, pieces, machine, chips, where, loaded=loaded) for row in rows
    )
    if len({b.name for b in found}) != len(found):
        raise MalformedFile("binding", f"two {key} of one name", where=where)
    return found


def _probes(
    data: Mapping[str, Any], arrays: _Arrays, machine: Machine, chips: int, nodes: int, where: str
) -> tuple[Probe, ...]:
    rows, pieces = _rows(data, "probes", dict, where), _reader(arrays["pieces"])
    return tuple(probe_from_json(row, pieces, machine, chips, nodes, where) for row in rows)


def _reader(pieces: NDArray[np.int64]) -> Callable[[Any, str], NDArray[np.int64]]:
    """The inverse of `_writer`."""

    def read_pieces(value: Any, place: str) -> NDArray[np.int64]:
        span = value if isinstance(value, list) and len(value) == 2 else [0, -1]
        if not all(type(n) is int for n in span) or not 0 <= span[0] <= span[1] <= len(pieces):
            raise MalformedFile("json", "'pieces' is wrong: want a range", where=place)
        return pieces[span[0] : span[1]].astype(np.int64)

    return read_pieces
