"""Every hard error, provoked by a hand-written listing and found by both, independently.

The first line of a listing says what: `# expect CODE cCHIP.UNIT CYCLE`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from clockstep_isa import listing
from clockstep_isa.diagnostics import Fault
from clockstep_isa.program import Program
from clockstep_runtime import interpret, verify
from tests.support.build import build, east

LISTINGS = sorted((Path(__file__).parent / "listings").glob("*.lst"))
CODES = {
    "acc-nothing",
    "address-range",
    "alu-kind",
    "alu-ports",
    "alu-window",
    "bank-conflict",
    "field-range",
    "link-busy",
    "link-unwired",
    "mxm-busy",
    "mxm-empty",
    "mxm-type",
    "queue-overlap",
    "receive-nothing",
    "slot-empty",
    "slot-two-producers",
    "stream-align",
    "stream-range",
    "type-illegal",
    "unit-busy",
    "unit-row",
    "word-unwritten",
}
"""The hard errors that a listing can hold; the parser refuses unknown queues and opcodes."""

Place = tuple[str, int, str, int]


def found(program: Program) -> tuple[Place, list[Place]]:
    """What the interpreter stops at, and all that the verifier finds."""
    with pytest.raises(Fault) as caught:
        interpret(program, {})
    fault = caught.value
    at = (fault.diagnostic.code, fault.chip, fault.unit, fault.cycle)
    return at, [(v.code, v.chip, v.unit, v.cycle) for v in verify(program).violations]


@pytest.mark.parametrize("path", LISTINGS, ids=lambda p: p.stem)
def test_listing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    match = re.match(r"# expect (\S+) c(\d+)\.(\S+) (\d+)\n", text)
    assert match, "the first line says what to expect"
    expected = (match[1], int(match[2]), match[3], int(match[4]))
    at, violations = found(listing.parse_listing(text, path.name))
    assert at == expected
    assert expected in violations


def test_every_code_has_a_listing() -> None:
    heads = [path.read_text(encoding="utf-8").split()[2] for path in LISTINGS]
    assert set(heads) == CODES


def patched(program: Program, **columns: int) -> Program:
    """The program with columns of its first instruction replaced."""
    code = program.code
    changed = {}
    for name, value in columns.items():
        changed[name] = getattr(code, name).copy()
        changed[name][0] = value
    return dataclasses.replace(program, code=dataclasses.replace(code, **changed))


def mov() -> Program:
    one = np.ones((1, 16), np.uint8)
    builder = build().store("c0.mem.W0", 0, one)
    return builder.at("c0.mem.W0", 0, "read", address=0, out=east(0), repeat=2).program()


def test_the_unpatched_program_is_right() -> None:
    assert verify(mov()).ok
    assert interpret(mov(), {}).cycles == mov().cycles


@pytest.mark.parametrize("queue", [-1, 70, 2**31 - 1])
def test_unknown_queue(queue: int) -> None:
    at, violations = found(patched(mov(), queue=queue))
    assert at == ("unit-missing", queue // 70, f"queue {queue}", 0)
    assert at in violations


def test_unknown_opcode() -> None:
    at, violations = found(patched(mov(), opcode=0xFF))
    assert at == ("opcode-unknown", 0, "mem.W0", 0)
    assert at in violations


def test_nop_is_for_the_codec_only() -> None:
    at, violations = found(patched(mov(), opcode=0))
    assert at == ("unit-row", 0, "mem.W0", 0)
    assert at in violations


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("cycle", -5),
        ("cycle", 2**62),
        ("repeat", 0),
        ("repeat", -1),
        ("repeat", 2**31 - 1),
        ("interval", 0),
        ("interval", -3),
        ("interval", 4096),
    ],
)
def test_timing_out_of_range(column: str, value: int) -> None:
    cycle = value if column == "cycle" else 0
    at, violations = found(patched(mov(), **{column: value}))
    assert at == ("field-range", 0, "mem.W0", cycle)
    assert at in violations
