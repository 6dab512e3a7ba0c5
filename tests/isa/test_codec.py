"""Words: every row there and back, gaps as nops, and what neither direction accepts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_isa import (
    BY_NAME,
    Code,
    Instruction,
    Kind,
    MalformedFile,
    ScheduleViolation,
    UsageError,
    Words,
    decode,
    encode,
    instruction_bytes,
    load_machine,
    parse_listing,
    value_range,
)
from clockstep_isa.words import field_positions
from tests.support.programs import ROWS, TINY, assert_same_code, codes


def code_of(*lines: str) -> Code:
    return parse_listing("\n".join((".machine tiny", ".chips 2", *lines))).code


def words_of(*words: int, note: int = 1) -> Words:
    """Words of queue c0.mem.W0, as they stand."""
    halves = [(word & (2**64 - 1), word >> 64) for word in words]
    notes = np.full(note, -1, np.int32)
    offsets = np.array([0, len(words)], np.int64)
    return Words(np.zeros(1, np.int32), offsets, np.array(halves, np.uint64), notes)


READ = 0x10 | 1 << 8 | 1 << 24


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_every_row_round_trips(row: Instruction, data: st.DataObject) -> None:
    code = data.draw(codes(rows=(row,)))
    assert_same_code(decode(TINY, encode(TINY, code)), code)


@settings(deadline=None)
@given(codes())
def test_mixed_code_round_trips(code: Code) -> None:
    words = encode(TINY, code)
    assert_same_code(decode(TINY, words), code)
    assert instruction_bytes(TINY, code).sum() == 16 * len(words.words)


def test_word_is_what_the_manual_says() -> None:
    words = encode(TINY, code_of("0 c0.mem.W0 read 5-1 -> W3 *7/24")).words
    stride, stream = 2**20 - 1, 1 << 8 | 3
    word = 0x10 | 7 << 8 | 24 << 24 | 5 << 36 | stride << 56 | stream << 76
    assert [int(half) for half in words[0]] == [word & (2**64 - 1), word >> 64]


def test_gaps_take_the_fewest_nops() -> None:
    """On `tiny` a nop lasts at most 1000 cycles."""
    code = code_of(
        "0 c0.mem.W0 read 1 -> E0 *3/5",
        "11 c0.mem.W0 read 2 -> E0",
        "2012 c0.mem.W0 read 3 -> E0",
        "1000 c1.mem.W0 read 3 -> E0",
    )
    words = encode(TINY, code)
    opcodes = (words.words[:, 0] & np.uint64(255)).tolist()
    assert opcodes == [16, 16, 0, 0, 16, 0, 16]
    lengths = [int(word) >> 36 for word in words.words[[2, 3, 5], 0]]
    assert lengths == [1000, 1000, 1000]
    assert words.offsets.tolist() == [0, 5, 7]
    assert instruction_bytes(TINY, code).tolist() == [80, 32]
    assert instruction_bytes(TINY, code, 3).tolist() == [80, 32, 0]


def test_no_instructions() -> None:
    code = code_of()
    assert_same_code(decode(TINY, encode(TINY, code)), code)
    assert instruction_bytes(TINY, code, 2).tolist() == [0, 0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_fields_out_of_range(row: Instruction) -> None:
    for column, field in enumerate(row.fields):
        low, high = value_range(field)
        for value in (low - 1, high + 1):
            code = code_of("3 c0.mem.W0 read 0 -> E0")
            args = np.zeros_like(code.args)
            args[0, column] = value
            opcode = np.array([row.opcode], np.uint8)
            with pytest.raises(UsageError, match=f"{row.name}: {field.name} {value} ") as caught:
                encode(TINY, dataclasses.replace(code, opcode=opcode, args=args))
            assert caught.value.diagnostic.where == "c0.mem.W0 cycle 3"


def test_message_of_a_field_out_of_range() -> None:
    code = code_of("3 c0.mem.W0 read 0 -> E0")
    code.args[0, 0] = 1048576
    with pytest.raises(UsageError, match="read: address 1048576 does not fit in 20 bits"):
        encode(TINY, code)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("opcode", 0xFF, "opcode 255 is not an instruction"),
        ("opcode", 0x00, "opcode 0 is not an instruction"),
        ("cycle", -1, "cycle -1 is negative or too late"),
        ("cycle", 2**60, "is negative or too late"),
        ("repeat", 0, "repeat 0 is out of range"),
        ("repeat", 65536, "repeat 65536 is out of range"),
        ("interval", 4096, "interval 4096 is out of range"),
    ],
)
def test_header_out_of_range(column: str, value: int, message: str) -> None:
    code = code_of("3 c0.mem.W0 read 0 -> E0")
    wrong = np.array([value], getattr(code, column).dtype)
    with pytest.raises(UsageError, match=message):
        encode(TINY, dataclasses.replace(code, **{column: wrong}))


def test_unused_columns_must_be_zero() -> None:
    code = code_of("3 c0.mem.W0 read 0 -> E0")
    code.args[0, 3] = 1
    with pytest.raises(UsageError, match="read has only 3 fields"):
        encode(TINY, code)


def test_overlap_is_refused() -> None:
    code = code_of("0 c1.mem.W3 read 1 -> E0 *3/5", "10 c1.mem.W3 read 2 -> E0")
    with pytest.raises(ScheduleViolation, match="dispatched in cycle 10 while") as caught:
        encode(TINY, code)
    (found,) = caught.value.violations
    assert (found.code, found.chip, found.unit, found.cycle) == ("queue-overlap", 1, "mem.W3", 10)


def test_a_wait_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(UsageError, match="instruction words; at most"):
        encode(TINY, code_of("281474976710000 c0.mem.W0 read 1 -> E0"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (0xFF | 1 << 8 | 1 << 24, "unknown opcode"),
        (READ | 1 << 127, "a reserved bit is set"),
        (READ | 1 << 85, "a reserved bit is set"),
        (0x10 | 1 << 24, "repeat is 0"),
        (0x10 | 1 << 8, "interval is 0"),
        (2 << 8 | 1 << 24 | 1 << 36, "nop with a repeat"),
        (1 << 8 | 1 << 24, "nop does not last 1 to 1000 cycles"),
        (1 << 8 | 1 << 24 | 1001 << 36, "nop does not last 1 to 1000 cycles"),
        (0x30 | 1 << 8 | 1 << 24 | 7 << 36, "add: no such type in type"),
    ],
)
def test_words_that_are_refused(word: int, message: str) -> None:
    with pytest.raises(MalformedFile, match=message) as caught:
        decode(TINY, words_of(READ, word, note=2))
    assert caught.value.diagnostic.where == "c0.mem.W0 word 1"


def test_notes_must_match() -> None:
    with pytest.raises(MalformedFile, match="3 notes for 1 instructions"):
        decode(TINY, words_of(READ, note=3))


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=5))
def test_any_words_are_decoded_or_refused(raw: list[int]) -> None:
    words = words_of(*raw, note=len(raw))
    try:
        code = decode(TINY, words)
    except MalformedFile:
        return
    assert_same_code(decode(TINY, encode(TINY, code)), code)


def test_fields_do_not_overlap_and_fit() -> None:
    row = BY_NAME["read"]
    assert field_positions(row) == (36, 56, 76, 85)
    assert {f.kind for r in ROWS for f in r.fields} == set(Kind)
    assert load_machine("lpu-v1").icu.instruction_bytes == 16
