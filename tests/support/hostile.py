"""Hostile files: every value of a JSON document replaced by what nobody should write there.

`replaced` makes the documents, `program_file` and `raw_file` the files, and `judge` says what
became of one: refused as malformed, or a program that every verb can deal with.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clockstep_isa import (
    MalformedFile,
    Program,
    load_program,
    parse_listing,
    print_listing,
    program_bytes,
    tensor_file,
)
from clockstep_runtime import Session, interpret, random_inputs, verify
from tests.support.endtoend import assert_same_bits

__all__ = ["RAW", "header_of", "judge", "paths", "program_file", "raw_file", "replaced", "split"]

DEEP = 100_000

RAW: dict[str, str | None] = {
    "missing": None,
    "twice": "twice",
    "null": "null",
    "true": "true",
    "zero": "0",
    "one": "1",
    "minus": "-1",
    "float": "1.5",
    "1e308": "1e308",
    "1e999": "1e999",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "2**31": str(2**31),
    "2**47": str(2**47),
    "2**60": str(2**60),
    "2**63": str(2**63),
    "2**64": str(2**64),
    "-2**60": str(-(2**60)),
    "googol": "9" * 4000,
    "endless": "9" * 5000,
    "empty": '""',
    "huge": '"' + "x" * 100_000 + '"',
    "lines": '"a\\nb\\u001b[31m"',
    "surrogate": '"\\ud800"',
    "nul": '"\\u0000"',
    "list": "[]",
    "lists": "[[], [0], [[2]]]",
    "ones": "[1, 1, 1]",
    "zeros": "[0, 0]",
    "far": f"[{2**47}, {2**47}, 0]",
    "many": "[" + ",".join(["1"] * 1000) + "]",
    "dict": "{}",
    "dicts": '[{"a": {}}]',
    "deep": "[" * DEEP + "]" * DEEP,
    "nested": "[" * 900 + "]" * 900,
    "objects": '{"a":' * 900 + "1" + "}" * 900,
}
"""JSON texts by name; None leaves the member out, "twice" repeats its key."""

_MARK = "@hostile@"
_SECONDS = 1.0


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a document, containers included, the document itself not."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield (*at, key)
        if isinstance(item, dict | list):
            yield from paths(item, (*at, key))


def replaced(text: str, at: tuple[Any, ...], raw: str | None) -> str:
    """The document with the value at `at` replaced by the JSON text `raw`."""
    document = json.loads(text)
    parent = document
    for key in at[:-1]:
        parent = parent[key]
    old = json.dumps(parent[at[-1]])
    if raw is None:
        del parent[at[-1]]
        return json.dumps(document)
    parent[at[-1]] = _MARK
    if raw == "twice":
        key = json.dumps(at[-1])
        raw = f"{old}, {key}: {old}" if isinstance(parent, dict) else f"{old}, {old}"
    return json.dumps(document).replace(f'"{_MARK}"', raw)


def split(program: Program, folder: Path) -> tuple[str, dict[str, np.ndarray[Any, Any]]]:
    """The metadata text and copies of the arrays of a program's file."""
    path = folder / "split.lpu"
    path.write_bytes(program_bytes(program))
    text, arrays = tensor_file.read(path)
    return text, {name: array.copy() for name, array in arrays.items()}


def program_file(text: str, arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """A file whose checksum is right."""
    return tensor_file.pack(arrays, text)


def header_of(raw: bytes) -> tuple[str, bytes]:
    """The safetensors header, and what follows it."""
    (length,) = struct.unpack("<Q", raw[:8])
    return raw[8 : 8 + length].decode(), raw[8 + length :]


def raw_file(header: str, payload: bytes, length: int | None = None) -> bytes:
    """A file with any header, padded to eight bytes; `length` is what its first bytes say."""
    data = header.encode("utf-8", "surrogatepass")
    data += b" " * (-len(data) % 8)
    return struct.pack("<Q", len(data) if length is None else length) + data + payload


def judge(raw: bytes, path: Path) -> str:
    """What became of a file: "refused", or "verified" or "faulty" for a program.

    Anything else that it could come to, or a second of time, is an AssertionError.
    """
    path.write_bytes(raw)
    start = time.perf_counter()
    try:
        program = load_program(path)
    except MalformedFile as error:
        text = str(error)
        assert text.isprintable(), f"does not print: {text[:200]!r}"
        assert len(text) < 700, f"a message of {len(text)} characters: {text[:200]}"
        verdict = "refused"
    else:
        verdict = "verified" if verify(program).ok else "faulty"
    spent = time.perf_counter() - start
    assert spent < _SECONDS, f"{verdict} after {spent:.1f} seconds"
    if verdict != "refused":
        use(program, path, run=verdict == "verified")
    return verdict


def use(program: Program, path: Path, *, run: bool) -> None:
    """What every verb does with a program: write it in both forms, and run it if it may."""
    data = program_bytes(program)
    again = path.with_suffix(".again")  # not `path`, which the image is mapped from
    again.write_bytes(data)
    assert program_bytes(load_program(again)) == data, "the file read back is another program"
    if run or _in_range(program):
        assert program_bytes(parse_listing(print_listing(program))) == data, (
            "asm(disasm(p)) is not p"
        )
    if run and program.image.data is not None:
        inputs = random_inputs(program, 0)
        fast, reference = Session(program).execute(inputs), interpret(program, inputs)
        assert_same_bits(fast, reference)
        assert reference.cycles == program.cycles


def _in_range(program: Program) -> bool:
    """Whether a listing can name all streams; words can name more than the machine has."""
    try:
        parse_listing(print_listing(program))
    except MalformedFile as error:
        return error.diagnostic.code != "stream-range"
    return True
