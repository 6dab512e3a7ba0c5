"""What reads files of others: each a function of bytes that may only accept or refuse.

A target raises nothing but what `ALLOWED` names, whatever the bytes are; anything else is a
finding, and so is more than a second or a GiB. To add a target, add a row to `TARGETS`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clockstep_isa import (
    Code,
    MalformedFile,
    Program,
    ScheduleViolation,
    UsageError,
    Words,
    decode,
    encode,
    end_cycle,
    geometry,
    load_machine,
    load_program,
    machine_from_dict,
    machine_to_dict,
    parse_listing,
    print_listing,
    program_bytes,
    wiring,
)
from clockstep_isa.table import Type
from clockstep_isa.words import WORD_BYTES
from clockstep_runtime import Session, random_inputs, verify
from fuzz import mutators
from fuzz.mutators import Mutator
from tests.support.endtoend import assert_same_bits
from tests.support.handmade import adder, matmul, two_chips

__all__ = ["ALLOWED", "TARGETS", "Target"]

ALLOWED = (MalformedFile, UsageError)
_ROOT = Path(__file__).parent.parent
_CYCLES = 3000
"""Programs that take no longer are run, on both engines."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader. `run` raises if it finds something; `seeds` are right files to start from."""

    name: str
    run: Callable[[bytes], None]
    mutate: Mutator
    seeds: Callable[[], list[bytes]]


def _programs() -> list[Program]:
    builders = [
        adder(3, 1),
        adder(2, 4),
        matmul(Type.I8, 3)[0],
        matmul(Type.F16, 2)[0],
        two_chips(),
    ]
    return [builder.program() for builder in builders]


def _file(data: bytes) -> Path:
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    path = folder / f"clockstep-fuzz-{os.getpid()}"
    path.unlink(missing_ok=True)  # what is mapped from the last one stays as it is
    path.write_bytes(data)
    return path


def _judge(program: Program) -> None:
    """Verify; and what the verifier accepts runs alike on both engines."""
    if not verify(program).ok or program.cycles > _CYCLES:
        return
    if program.image.data is None and len(program.image.regions):
        return
    inputs = random_inputs(program, 0)
    runs = [Session(program, engine=engine).execute(inputs) for engine in ("fast", "reference")]
    assert_same_bits(*runs)
    assert runs[0].cycles == program.cycles


def _program(data: bytes) -> None:
    path = _file(data)
    try:
        program = load_program(path)
    except ALLOWED:
        return
    finally:
        path.unlink()
    _judge(program)
    again = program_bytes(program)
    path = _file(again)
    assert program_bytes(load_program(path)) == again, "decode and encode are not inverse"
    path.unlink()


def _words(data: bytes) -> None:
    """Words for the queues of a program that the first byte names, as many as it has.

    Words that are missing are those of the program; words more than it has run at the end.
    """
    base = _PROGRAMS[data[0] % len(_PROGRAMS)] if data else _PROGRAMS[0]
    own = encode(base.machine, base.code)
    count = (len(data) - 1) // WORD_BYTES
    given = np.frombuffer(data[1 : 1 + max(0, count) * WORD_BYTES], np.uint64).reshape(-1, 2)
    raw = np.concatenate([given, own.words[len(given) :]])
    offsets = np.append(own.offsets[:-1], len(raw))
    works = int(((raw[:, 0] & np.uint64(255)) != 0).sum())
    words = Words(own.queue, offsets, raw, np.full(works, -1, np.int32))
    try:
        code = decode(base.machine, words)
    except ALLOWED:
        return
    _assert_same(decode(base.machine, encode(base.machine, code)), code)
    _judge(replace(base, code=code, cycles=end_cycle(base.machine, code)))


def _assert_same(one: Code, two: Code) -> None:
    for name in Code.__slots__:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


_PROGRAMS = _programs()


def _listing(data: bytes) -> None:
    try:
        program = parse_listing(data.decode("utf-8", "replace"))
        written = program_bytes(program)
    except (*ALLOWED, ScheduleViolation):
        return
    assert program_bytes(parse_listing(print_listing(program))) == written, (
        "asm(disasm(p)) is not p"
    )
    _judge(program)


def _machine(data: bytes) -> None:
    path = _file(data)
    try:
        machine = load_machine(path)
    except ALLOWED:
        return
    finally:
        path.unlink()
    assert machine_from_dict(machine_to_dict(machine), "again") == machine
    assert len(geometry(machine).queues) < 2**13
    wiring(machine, machine.max_chips)


def _listings() -> list[bytes]:
    files = sorted((_ROOT / "tests/runtime/listings").glob("*.lst"))
    texts = [print_listing(program).encode() for program in _programs()]
    return [*texts, *(file.read_bytes() for file in files)]


def _machines() -> list[bytes]:
    folder = _ROOT / "isa/clockstep_isa/machines"
    return [file.read_bytes() for file in sorted(folder.glob("*.toml"))] + [
        b'inherit = "tiny"\n[mem]\nbanks = { value = 4, from = "paper", source = "x" }\n'
    ]


def _word_seeds() -> list[bytes]:
    return [
        bytes([number]) + encode(program.machine, program.code).words.tobytes()
        for number, program in enumerate(_PROGRAMS)
    ]


TARGETS = (
    Target("program", _program, mutators.program, lambda: [program_bytes(p) for p in _programs()]),
    Target("words", _words, mutators.numbered_words, _word_seeds),
    Target("listing", _listing, mutators.lines, _listings),
    Target("machine", _machine, mutators.toml, _machines),
)
