"""Instruction words: the columns of a program as 16-byte words, and back.

A word is, from its lowest bit: opcode, repeat, interval, then the fields of its row in order; all
other bits are zero. A queue dispatches its words one after another: a word that is dispatched in
cycle `t` holds its queue for its span of `(repeat - 1) * interval + 1` cycles, the next word is
dispatched right after, and `nop` words fill the gaps. All of it follows from `TABLE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import MalformedFile, ScheduleViolation, UsageError, Violation
from clockstep_isa.geometry import geometry
from clockstep_isa.machine import Machine
from clockstep_isa.program import ARGS, LAST_CYCLE, Code, queue_name
from clockstep_isa.table import (
    BY_NAME,
    BY_OPCODE,
    INTERVAL_BITS,
    OPCODE_BITS,
    REPEAT_BITS,
    Instruction,
    Kind,
)
from clockstep_isa.values import value_range
from clockstep_isa.words import WORD_BYTES, Words, field_positions, put, take

__all__ = [
    "MAX_WORDS",
    "decode",
    "encode",
    "instruction_bytes",
]

MAX_WORDS = 2**28
"""Most words of one program, so that a hostile cycle number cannot ask for terabytes of `nop`."""

_NOP = BY_NAME["nop"].opcode
_Column = NDArray[np.int64]
_Bits = NDArray[np.uint64]


def encode(machine: Machine, code: Code) -> Words:
    """The words of `code`, which is in format order.

    Raises `UsageError` for a value that its field cannot hold, `ScheduleViolation` if the
    dispatches of two instructions of one queue overlap: no sequence of words says that.
    """
    _check_header(machine, code)
    wait = _waits(machine, code)
    nops = -(-wait // machine.icu.nop_max)
    total = len(code) + int(np.minimum(nops, MAX_WORDS + 1).sum())
    if total > MAX_WORDS:
        raise UsageError("program-words", f"{total} instruction words; at most {MAX_WORDS} work")
    at = np.arange(len(code)) + np.cumsum(nops)
    words = _nop_words(machine, total, wait, nops, at)
    for row, index in _by_row(code.opcode):
        words[at[index]] = _pack(machine, row, code, index)
    queue, first = np.unique(code.queue, return_index=True)
    starts = at[first] - nops[first]
    offsets = np.append(starts, total).astype(np.int64)
    return Words(queue.astype(np.int32), offsets, words, code.note.astype(np.int32))


def instruction_bytes(machine: Machine, code: Code, chips: int | None = None) -> _Column:
    """Bytes of instructions of each chip, `nop` included: int64 [chips].

    Without `chips`, up to the last chip that has instructions. Raises as `encode`.
    """
    wait = _waits(machine, code)
    words = 1 + -(-wait // machine.icu.nop_max)
    chip = code.queue // len(geometry(machine).queues)
    count = int(chip.max(initial=-1)) + 1 if chips is None else chips
    return np.bincount(chip, words, count).astype(np.int64) * WORD_BYTES


def decode(machine: Machine, words: Words) -> Code:
    """The inverse of `encode`; raises `MalformedFile` with the queue and the word."""
    opcode = take(words.words, 0, OPCODE_BITS).astype(np.uint8)
    repeat = take(words.words, OPCODE_BITS, REPEAT_BITS)
    interval = take(words.words, OPCODE_BITS + REPEAT_BITS, INTERVAL_BITS)
    _check_words(machine, words, opcode, repeat, interval)
    args = np.zeros((len(opcode), ARGS), np.int64)
    for row, index in _by_row(opcode):
        _unpack(machine, words, row, index, args)
    cycle = _cycles(machine, words, opcode, repeat, interval, args)
    keep = opcode != _NOP
    if len(words.note) != int(keep.sum()):
        message = f"{len(words.note)} notes for {int(keep.sum())} instructions"
        raise MalformedFile("program-notes", message)
    return Code(
        np.repeat(words.queue, np.diff(words.offsets))[keep].astype(np.int32),
        cycle[keep],
        opcode[keep],
        repeat[keep].astype(np.int32),
        interval[keep].astype(np.int32),
        args[keep],
        words.note.astype(np.int32),
    )


def _by_row(opcode: NDArray[np.uint8]) -> Iterator[tuple[Instruction, NDArray[np.intp]]]:
    """Every row in use, with the positions of its instructions."""
    order = np.argsort(opcode, kind="stable")
    kinds, first = np.unique(opcode[order], return_index=True)
    groups = np.split(order, first)[1:]
    for kind, index in zip(kinds.tolist(), groups, strict=True):
        yield BY_OPCODE[kind], index


def _check_header(machine: Machine, code: Code) -> None:
    known = np.isin(code.opcode, [op for op in BY_OPCODE if op != _NOP])
    checks = (
        ("opcode", code.opcode, known, "is not an instruction"),
        ("cycle", code.cycle, _within(code.cycle, 0, LAST_CYCLE), "is negative or too late"),
        ("repeat", code.repeat, _within(code.repeat, 1, 2**REPEAT_BITS - 1), "is out of range"),
        (
            "interval",
            code.interval,
            _within(code.interval, 1, 2**INTERVAL_BITS - 1),
            "is out of range",
        ),
    )
    for name, column, good, problem in checks:
        if not good.all():
            at = int((~good).argmax())
            raise UsageError(
                "field-range", f"{name} {column[at]} {problem}", where=_at(machine, code, at)
            )


def _within(column: NDArray[np.integer], low: int, high: int) -> NDArray[np.bool_]:
    return (column >= low) & (column <= high)


def _at(machine: Machine, code: Code, index: int) -> str:
    return f"{queue_name(machine, int(code.queue[index]))} cycle {code.cycle[index]}"


def _waits(machine: Machine, code: Code) -> _Column:
    """Cycles that each instruction's queue stands idle before it."""
    if not len(code):
        return np.zeros(0, np.int64)
    end = code.cycle + (code.repeat.astype(np.int64) - 1) * code.interval + 1
    free = np.append(0, np.where(np.diff(code.queue) != 0, 0, end[:-1]))
    assert (np.diff(code.queue) >= 0).all(), "codec: the code is not sorted by queue"
    wait: _Column = code.cycle - free
    if (wait < 0).any():
        _refuse_overlap(machine, code, int((wait < 0).argmax()))
    return wait


def _refuse_overlap(machine: Machine, code: Code, index: int) -> None:
    queue, cycle = int(code.queue[index]), int(code.cycle[index])
    before = int(code.cycle[index - 1])
    unit = queue_name(machine, queue).partition(".")[2]
    message = f"dispatched in cycle {cycle} while the instruction of cycle {before} holds the queue"
    chip = queue // len(geometry(machine).queues)
    raise ScheduleViolation((Violation("queue-overlap", chip, unit, cycle, message),))


def _nop_words(machine: Machine, total: int, wait: _Column, nops: _Column, at: _Column) -> _Bits:
    """All words as if they were `nop`: of each gap the longest possible first, then the rest."""
    cycles = np.full(total, machine.icu.nop_max, np.int64)
    gap = nops > 0
    cycles[at[gap] - 1] = wait[gap] - (nops[gap] - 1) * machine.icu.nop_max
    words = np.zeros((total, 2), np.uint64)
    one = np.ones(total, np.int64)
    put(words, _NOP * one, 0, OPCODE_BITS)
    put(words, one, OPCODE_BITS, REPEAT_BITS)
    put(words, one, OPCODE_BITS + REPEAT_BITS, INTERVAL_BITS)
    put(words, cycles, field_positions(BY_NAME["nop"])[0], BY_NAME["nop"].fields[0].bits)
    return words


def _pack(machine: Machine, row: Instruction, code: Code, index: NDArray[np.intp]) -> _Bits:
    words = np.zeros((len(index), 2), np.uint64)
    args = code.args[index]
    put(words, code.opcode[index].astype(np.int64), 0, OPCODE_BITS)
    put(words, code.repeat[index].astype(np.int64), OPCODE_BITS, REPEAT_BITS)
    put(words, code.interval[index].astype(np.int64), OPCODE_BITS + REPEAT_BITS, INTERVAL_BITS)
    if args[:, len(row.fields) :].any():
        raise UsageError("field-range", f"{row.name} has only {len(row.fields)} fields")
    for column, (item, at) in enumerate(zip(row.fields, field_positions(row), strict=False)):
        good = _within(args[:, column], *value_range(item))
        if not good.all():
            bad = int((~good).argmax())
            limits = f"does not fit in {item.bits} bits"
            if item.kind not in (Kind.INT, Kind.SIGNED, Kind.STREAM, Kind.IMMEDIATE):
                limits = f"is not a {item.kind.value}"
            message = f"{row.name}: {item.name} {args[bad, column]} {limits}"
            raise UsageError("field-range", message, where=_at(machine, code, int(index[bad])))
        put(words, args[:, column], at, item.bits)
    return words


def _check_words(
    machine: Machine,
    words: Words,
    opcode: NDArray[np.uint8],
    repeat: _Column,
    interval: _Column,
) -> None:
    used = np.zeros((256, 2), np.uint64)
    for row in BY_OPCODE.values():
        mask = (1 << field_positions(row)[-1]) - 1
        used[row.opcode] = mask & (2**64 - 1), mask >> 64
    known = used[:, 0] != 0
    nop = opcode == _NOP
    checks = (
        (~known[opcode], "unknown opcode"),
        (np.any(words.words & ~used[opcode], axis=1), "a reserved bit is set"),
        (repeat == 0, "repeat is 0"),
        (interval == 0, "interval is 0"),
        (nop & ((repeat != 1) | (interval != 1)), "nop with a repeat"),
    )
    for wrong, problem in checks:
        _refuse(machine, words, wrong, problem)


def _refuse(machine: Machine, words: Words, wrong: Any, problem: str) -> None:
    if wrong.any():
        at = int(wrong.argmax())
        queue = int(np.searchsorted(words.offsets, at, "right")) - 1
        name = queue_name(machine, int(words.queue[queue]))
        where = f"{name} word {at - int(words.offsets[queue])}"
        raise MalformedFile("program-word", problem, where=where)


def _unpack(
    machine: Machine,
    words: Words,
    row: Instruction,
    index: NDArray[np.intp],
    args: NDArray[np.int64],
) -> None:
    packed = words.words[index]
    for column, (item, at) in enumerate(zip(row.fields, field_positions(row), strict=False)):
        values = take(packed, at, item.bits)
        least, most = value_range(item)
        if least < 0:
            values -= (values > most) * (1 << item.bits)
        if (values > most).any():
            wrong = np.isin(np.arange(len(args)), index[values > most])
            _refuse(machine, words, wrong, f"{row.name}: no such {item.kind.value} in {item.name}")
        args[index, column] = values


def _cycles(
    machine: Machine,
    words: Words,
    opcode: NDArray[np.uint8],
    repeat: _Column,
    interval: _Column,
    args: NDArray[np.int64],
) -> _Column:
    """The cycle in which each word is dispatched."""
    nop = opcode == _NOP
    wrong = nop & ~_within(args[:, 0], 1, machine.icu.nop_max)
    _refuse(machine, words, wrong, f"nop does not last 1 to {machine.icu.nop_max} cycles")
    span = np.where(nop, args[:, 0], (repeat - 1) * interval + 1)
    before = np.cumsum(span) - span
    counts = np.diff(words.offsets)
    cycle: _Column = before - np.repeat(before[words.offsets[:-1][counts > 0]], counts[counts > 0])
    _refuse(machine, words, cycle > LAST_CYCLE, f"dispatched after cycle {LAST_CYCLE}")
    return cycle
