"""Listings: what is printed is parsed to the same bytes, and every error names its line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_isa import (
    BY_NAME,
    Instruction,
    Kind,
    MalformedFile,
    Node,
    Note,
    Program,
    Type,
    UsageError,
    immediate,
    load_machine,
    machine_to_dict,
    parse_listing,
    print_listing,
    program_bytes,
    read_listing,
)
from clockstep_isa.codec import MAX_WORDS
from clockstep_isa.listing_grammar import PARSED_ROWS, grammar, parse_instruction
from clockstep_isa.program import LAST_CYCLE
from clockstep_isa.values import print_immediate, print_value, value_parser
from tests.support.programs import ROWS, TINY, arguments, assert_same_code, programs

HEAD = ".machine tiny\n.chips 2\n"

EXAMPLE = (
    HEAD
    + """\
.node {"name": "fc1", "op": "Gemm", "start": 0, "end": 12}
.word c0.mem.W3 16 = 01 02 0a ff
.image c1.mem.E3 16 1 AAECAwQFBgcICQoLDA0ODw==
# a comment
   120  c0.mem.W3     read 64+1 -> E4  *70           ; fc1 | x[0:70]
   120  c0.mem.W4     read 64-1 -> W4  *70/24        ; free text
    10  c1.vxm.3      addi.f32 E4, #-0.5 -> W8
    11  c1.vxm.4      cast.i32.i8.rne.sat E4 -> W8
    11  c1.mxm.W0.lw  lw.i8 E4 x 4 -> column 3+4 *4  ; | w
"""
)


def same_program(one: Program, two: Program) -> None:
    """Equal in everything, not only in what the file keeps."""
    assert_same_code(one.code, two.code)
    np.testing.assert_array_equal(one.image.regions, two.image.regions)
    if one.image.data is None or two.image.data is None:
        assert one.image.data is two.image.data
    else:
        np.testing.assert_array_equal(one.image.data, two.image.data)
    for name in ("machine", "chips", "nodes", "notes", "cycles", "info"):
        assert getattr(one, name) == getattr(two, name), name
    assert machine_to_dict(one.machine) == machine_to_dict(two.machine)
    assert program_bytes(one) == program_bytes(two)


@settings(max_examples=60, deadline=None)
@given(programs())
def test_print_and_parse_are_inverse(program: Program) -> None:
    same_program(program, parse_listing(print_listing(program)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_row_prints_and_parses(row: Instruction, data: st.DataObject) -> None:
    """The text of a row goes through the grammar alone, without the memory of shapes."""
    args = data.draw(arguments(row, TINY))
    kind = args[row.field("type")] if any(f.name == "type" for f in row.fields) else 0
    texts = {f.name: print_value(f, args[i], kind) for i, f in enumerate(row.fields)}
    found, operands = parse_instruction(row.syntax.format(**texts))
    assert found is row
    for operand in operands:
        field = row.fields[operand.field]
        assert value_parser(field, TINY, kind)(operand.text) == args[operand.field]
    assert len(operands) == len(row.fields)


def test_grammar_has_every_row() -> None:
    assert {row.name for row in PARSED_ROWS} == set(BY_NAME) - {"nop"}
    for row in PARSED_ROWS:
        assert f"row_{row.opcode}: " in grammar()


def test_example() -> None:
    program = parse_listing(EXAMPLE, "example.lst")
    assert program.chips == 2
    assert program.cycles == 120 + 69 * 24 + 1
    assert program.nodes == (Node("fc1", "Gemm", 0, 12),)
    assert program.notes == (Note(0, "x[0:70]"), Note(-1, "free text"), Note(-1, "w"))
    assert program.image.regions.tolist() == [[0, 3, 16, 1], [1, 24, 16, 1]]
    data = program.image.data
    assert data is not None
    assert data[0].tolist() == [1, 2, 10, 255] + [0] * 12
    assert data[1].tolist() == list(range(16))
    code = program.code
    assert code.cycle.tolist() == [120, 120, 11, 10, 11]
    assert code.repeat.tolist() == [70, 70, 4, 1, 1]
    assert code.interval.tolist() == [1, 24, 1, 1, 1]
    assert code.args[0].tolist() == [64, 1, 4, 0, 0, 0]
    assert code.args[1].tolist() == [64, -1, 256 + 4, 0, 0, 0]


def test_printed_form() -> None:
    lines = print_listing(parse_listing(EXAMPLE), data=False).splitlines()
    assert lines == [
        " 10  c1.vxm.3      addi.f32 E4, #-0.5 -> W8",
        " 11  c1.mxm.W0.lw  lw.i8 E4 x 4 -> column 3+4  *4            ; | w",
        " 11  c1.vxm.4      cast.i32.i8.rne.sat E4 -> W8",
        "120  c0.mem.W3     read 64+1 -> E4  *70                      ; fc1 | x[0:70]",
        "120  c0.mem.W4     read 64-1 -> W4  *70/24                   ; | free text",
    ]


def test_selections() -> None:
    program = parse_listing(EXAMPLE)

    def cycles(**selection: object) -> list[int]:
        text = print_listing(program, data=False, **selection)  # type: ignore[arg-type]
        return [int(line.split()[0]) for line in text.splitlines()]

    assert cycles(chip=1) == [10, 11, 11]
    assert cycles(unit="mem") == [120, 120]
    assert cycles(unit="mem.W4") == [120]
    assert cycles(unit="lw") == cycles(unit="mxm") == cycles(unit="mxm.W0") == [11]
    assert cycles(cycles=(11, 120)) == [11, 11]
    assert cycles(cycles=(200, None)) == [120]
    assert cycles(cycles=(None, 11)) == [10]
    with pytest.raises(UsageError, match="no chip 2; the program has 2"):
        cycles(chip=2)
    with pytest.raises(UsageError, match=r"no unit 'mem.W99' on tiny .*did you mean 'mem.W9'"):
        cycles(unit="mem.W99")


def test_machine_directive() -> None:
    text = ".machine tiny\n.set mem.words_per_bank=600\n"
    program = parse_listing(text)
    assert program.machine.mem.words_per_bank == 600
    assert print_listing(program).splitlines()[1:3] == text.splitlines()
    odd = load_machine("tiny", ["c2c.margin=3"])
    renamed = Program(
        **{n: getattr(program, n) for n in Program.__dataclass_fields__} | {"machine": odd}
    )
    same_program(renamed, parse_listing(print_listing(renamed)))


BAD_LINES = [
    ("120 c0.mem.W3 read 64+1 -> E40", "stream E40 does not exist; this machine has E0 to E15"),
    ("120 c0.mem.W3 read 64+1 -> W16", "stream W16 does not exist; this machine has W0 to W15"),
    ("12 c3.mem.W0 read 1 -> E4", "chip c3 does not exist; the program has c0 to c1"),
    ("12 c0.mem.W99 read 1 -> E4", "queue mem.W99 does not exist on tiny"),
    ("12 mem.W9 read 1 -> E4", "'mem.W9' is not a queue such as c0.mem.W3"),
    ("x c0.mem.W9 read 1 -> E4", "found 'x', expected a cycle, a directive or a # comment"),
    ("12 c0.mem.W1", "found the end, expected a queue such as c0.mem.W3 and an instruction"),
    ("12 c0.mem.W1 raed 1 -> E4", r"no instruction 'raed' .*did you mean 'read'"),
    ("12 c0.mem.W1 nop 4", "nop has no place in a listing"),
    ("12 c0.mem.W1 read 1 -> E4 *x", r"found '\*x', expected \*REPEAT or \*REPEAT/INTERVAL"),
    ("12 c0.mem.W1 read 1 -> E4 *0", "repeat 0 is not in 1 to 65535"),
    ("12 c0.mem.W1 read 1 -> E4 *1/4096", "interval 4096 is not in 1 to 4095"),
    ("12 c0.mem.W1 read 1048576 -> E4", "address 1048576 is not in 0 to 1048575"),
    ("12 c0.mem.W1 read 1-524289 -> E4", "stride -524289 is not in -524288 to 524287"),
    ("12 c0.mem.W1 read 1 2 -> E4", "found '2', expected '->' or a signed integer"),
    ("12 c0.mem.W1 read E1 -> E4", "found 'E1', expected an integer"),
    ("12 c0.mem.W1 read 1 -> 4", "found '4', expected a stream such as E4 or W17"),
    ("12 c0.mem.W1 read 1 ->", "found the end, expected a stream"),
    ("12 c0.mem.W1 read 1 -> E4 E5", "found 'E5', expected the end"),
    ("12 c0.vxm.0 add.i9 E1, E2 -> E4", "found 'i9', expected a type"),
    ("12 c0.vxm.0 addi.i8 E1, 3 -> E4", "found '3', expected an immediate such as #1.5"),
    ("12 c0.vxm.0 addi.i8 E1, #300 -> E4", "300 is not an integer of i8"),
    ("12 c0.vxm.0 addi.i8 E1, #1.5 -> E4", "#1.5 is not an integer such as #-3"),
    ("12 c0.vxm.0 addi.f16 E1, #1e9 -> E4", "is too large for f16"),
    ("12 c0.vxm.0 addi.f32 E1, #0x1ffffffff -> E4", "has more than 32 bits"),
    ("12 c0.vxm.0 cast.i8.f32.up.sat E1 -> E4", "found 'up', expected rne or rtz"),
    ("12 c0.mem.W1 read 1 -> E4 ; a | b", "no .node named 'a'"),
    ('12 c0.mem.W1 read 1 -> E4 ; | "b', "is not a quoted text"),
    ("9999999999999999999999 c0.mem.W1 read 1 -> E4", "cycle 9999999999999999999999 is not in 0"),
    (".wrod c0.mem.W0 1 = 00", r"no directive .wrod .*did you mean .word"),
    (".machine tiny", ".machine stands twice"),
    (".clockstep 2", "listing version '2', want 1"),
    (".set foo=1", "unknown key 'foo'"),
    (".set mem.banks=99", "mem.banks = 99 is outside 1 to 16"),
    (".cycles many", "'many' is not an integer from 0"),
    (".word c0.vxm.0 1 = 00", "does not lie in a MEM slice"),
    (".word c0.mem.W0 1 = 0g", "'0g' is not bytes in hexadecimal"),
    (".word c0.mem.W0 1 = " + "00" * 17, "found 17 bytes, expected = and at most 16"),
    (".word c0.mem.W0 1024 = 00", "begins outside the 1024 words of its slice"),
    (".image c0.mem.W0 1023 2", "ends beyond the 1024 words of its slice"),
    (".image c0.mem.W0 1 99999999999999", "has no words or more than the 1024"),
    (".image c0.mem.W0 1", "expected a queue, an address and a number of words"),
    (".image c0.mem.W0 1 1", "image has 0 of 16 bytes"),
    (".image c0.mem.W0 1 1 ====", "not base64"),
    (".data AAAA", ".data without an .image before it"),
    (".no-weights 1", "found '1', expected the end"),
    (".info [1]", "not a JSON object"),
    (".info {", "not valid JSON"),
    ('.info {"a": NaN}', "not valid JSON: NaN is not a finite number"),
    ('.info {"a": 1e999}', "not valid JSON: 1e999 is not a finite number"),
    (".info " + '{"a":' * 100000, "not valid JSON"),
    (".node {}", "'name' is missing: want str"),
    (".input {}", "'name' is missing: want str"),
    (".probe {}", "'name' is missing: want str"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[line[:40] for line, _ in BAD_LINES])
def test_errors_name_the_line(line: str, message: str) -> None:
    with pytest.raises(MalformedFile, match=message) as caught:
        parse_listing(f"{HEAD}{line}\n", "bad.lst")
    assert caught.value.diagnostic.where == "bad.lst: line 3"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "string"}, "no tensor type 'string'"),
        ({"shape": [2, -1]}, "want integers from 0"),
        ({"shape": [2, 4]}, r"2 x 3 is not the size of shape \[2, 4\]"),
        ({"shape": [2**40, 1]}, "is not the size"),
        ({"axes": [0, 0]}, "do not permute 2 axes"),
        ({"stored": "u8"}, "no stored type 'u8'"),
        ({"rows": True}, "'rows' is wrong: want int"),
        ({"rows": 2**40, "columns": 2**30, "shape": [2**40, 2**30]}, "more than the SRAM"),
        ({"pieces": [[0, 0, 2, 0, 3, 0, "vxm.0", 5]]}, "does not lie in a MEM slice"),
        ({"pieces": [[0, 0, 2, 0, 3, 0, "mem.Q0", 5]]}, "'pieces' is wrong"),
        ({"pieces": [[1, 0, 2, 0, 3, 0, "mem.W0", 5]]}, "piece 0: byte 1 is not in 0 to 0"),
        ({"pieces": [[0, 0, 2, 0, 3, 2, "mem.W0", 5]]}, "piece 0: chip 2 is not in 0 to 1"),
        ({"pieces": [[0, 1, 2, 0, 3, 0, "mem.W0", 5]]}, "piece 0 ends beyond the last row"),
        ({"pieces": [[0, 0, 2, 1, 3, 0, "mem.W0", 5]]}, "piece 0 ends beyond the last column"),
        ({"pieces": [[0, 0, 2, 0, 3, 0, "mem.W0", 1023]]}, "piece 0 ends beyond its slice"),
        ({"pieces": [[0, 0, 2, 0, 3, 0, "mem.W0", 1e3]]}, "want integers"),
        ({"pieces": 3}, "'pieces' is wrong"),
    ],
    ids=str,
)
def test_bindings_that_are_refused(change: dict[str, object], message: str) -> None:
    layout: dict[str, object] = {
        "stored": "i8",
        "offset": 0,
        "axes": [0, 1],
        "rows": 2,
        "columns": 3,
    }
    layout["pieces"] = [[0, 0, 2, 0, 3, 0, "mem.W0", 5]]
    binding: dict[str, object] = {"name": "x", "dtype": "int8", "shape": [2, 3]}
    parse_listing(f"{HEAD}.input {json.dumps(binding | {'layouts': [layout]})}")
    layout |= {k: v for k, v in change.items() if k not in binding}
    binding |= {k: v for k, v in change.items() if k in binding}
    with pytest.raises(MalformedFile, match=message) as caught:
        parse_listing(f"{HEAD}.input {json.dumps(binding | {'layouts': [layout]})}")
    assert "line 3" in caught.value.diagnostic.where


def test_overlapping_regions_are_refused() -> None:
    words = ".word c0.mem.W0 7 = 01\n.word c0.mem.W0 7 = 02\n"
    with pytest.raises(MalformedFile, match="image regions 0 and 1 overlap") as caught:
        parse_listing(HEAD + words)
    assert "line 4" in caught.value.diagnostic.where


def test_errors_do_not_depend_on_earlier_lines() -> None:
    """The plan of a shape never accepts what the grammar would refuse."""
    first = "1 c0.mem.W1 read 1 +2 -> E4\n1 c0.vxm.0 addi.i8 E1, #3 -> E4\n"
    for line in ("2 c0.mem.W1 read 1 2 -> E4", "2 c0.vxm.0 addi.i8 E1, 3 -> E4"):
        with pytest.raises(MalformedFile, match="expected"):
            parse_listing(HEAD + first + line)


@pytest.mark.parametrize("text", ["", "hello\n", "\x00\x01", "12 c0.mem.W0 read 1 -> E0\n"])
def test_not_a_listing(text: str) -> None:
    with pytest.raises(MalformedFile):
        parse_listing(text)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "x.lst"
    with pytest.raises(UsageError, match="No such file"):
        read_listing(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MalformedFile, match="not a text file"):
        read_listing(path)
    path.write_text(EXAMPLE, encoding="utf-8")
    same_program(read_listing(path), parse_listing(EXAMPLE))


@pytest.mark.parametrize(
    ("kind", "value", "bits", "text"),
    [
        (Type.F32, 1.5, 0x3FC00000, "#1.5"),
        (Type.F32, 0.1, 0x3DCCCCCD, "#0.1"),
        (Type.F32, -0.0, 0x80000000, "#-0.0"),
        (Type.F32, 1e-45, 1, "#1e-45"),
        (Type.F32, float("nan"), 0x7FC00000, "#0x7fc00000"),
        (Type.F32, float("inf"), 0x7F800000, "#0x7f800000"),
        (Type.F32, 3.4028234663852886e38, 0x7F7FFFFF, "#3.4028235e+38"),
        (Type.F16, 65504.0, 0x7BFF, "#65504.0"),
        (Type.F16, 0.1, 0x2E66, "#0.1"),
        (Type.I8, -3, 0xFD, "#-3"),
        (Type.I16, -32768, 0x8000, "#-32768"),
        (Type.I32, 2**31 - 1, 2**31 - 1, "#2147483647"),
    ],
)
def test_immediates(kind: Type, value: float, bits: int, text: str) -> None:
    assert immediate(kind, value) == bits
    assert print_immediate(kind, bits) == text
    field = BY_NAME["addi"].fields[2]
    assert field.kind is Kind.IMMEDIATE
    assert value_parser(field, TINY, kind)(text) == bits


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Type.I8, 128),
        (Type.I8, 0.5),
        (Type.I32, float("inf")),
        (Type.I32, float("nan")),
        (Type.F16, 65520),
    ],
)
def test_immediates_that_do_not_fit(kind: Type, value: float) -> None:
    with pytest.raises(UsageError, match="immediate-range"):
        immediate(kind, value)


@settings(deadline=None)
@given(st.sampled_from(list(Type)), st.integers(0, 2**32 - 1))
def test_every_immediate_round_trips(kind: Type, bits: int) -> None:
    field = BY_NAME["addi"].fields[2]
    assert value_parser(field, TINY, kind)(print_immediate(kind, bits)) == bits


def test_speed() -> None:
    """Twenty thousand lines a second, both ways; about a fifth of what a desktop does."""
    lines = [f"{3 * i} c0.mem.W{i % 12} read {i % 1000}+1 -> E{i % 16} *3" for i in range(20000)]
    start = time.process_time()
    program = parse_listing(HEAD + "\n".join(lines))
    print_listing(program)
    assert time.process_time() - start < 2
    assert program.cycles < LAST_CYCLE
    assert len(program.code) < MAX_WORDS
