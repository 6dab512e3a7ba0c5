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
    """One queue of every kind runs the words; the first byte says how many each has."""
    base = _TINY
    places = [q.id for q in geometry(base.machine).queues]
    count = len(data) // WORD_BYTES
    raw = np.frombuffer(data[: count * WORD_BYTES], np.uint64).reshape(-1, 2).copy()
    each = max(1, -(-count // len(places)))
    offsets = np.array([*range(0, count, each), count], np.int64)
    queue = np.array(places[: len(offsets) - 1], np.int32)
    nops = (raw[:, 0] & np.uint64(255)) == 0
    words = Words(queue, offsets, raw, np.full(int((~nops).sum()), -1, np.int32))
    try:
        code = decode(base.machine, words)
    except ALLOWED:
        return
    try:
        encoded = encode(base.machine, code)
    except ScheduleViolation as error:
        raise AssertionError("words that cannot be written again") from error
    _assert_same(decode(base.machine, encoded), code)
    _judge(replace(base, code=code))


def _assert_same(one: Code, two: Code) -> None:
    for name in Code.__slots__:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


_TINY = matmul(Type.I8, 3)[0].program()


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
    return [encode(p.machine, p.code).words.tobytes() for p in _programs()]


TARGETS = (
    Target("program", _program, mutators.program, lambda: [program_bytes(p) for p in _programs()]),
    Target("words", _words, mutators.words, _word_seeds),
    Target("listing", _listing, mutators.lines, _listings),
    Target("machine", _machine, mutators.toml, _machines),
)
