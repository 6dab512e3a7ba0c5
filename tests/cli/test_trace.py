"""`clockstep trace`: a compiled network as a file that Perfetto's trace processor opens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import clockstep as face
from tests.support.command import clockstep
from tests.support.perfetto import TraceProcessor, needs_perfetto

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "samples" / "digits" / "digits.int8.onnx"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits classifier on as many small chips as it takes."""
    path = tmp_path_factory.mktemp("trace") / "digits.lpu"
    flags = ("--machine", "tiny", "--dim", "N=3", "-o", path)
    assert clockstep("compile", DIGITS, *flags).status == 0
    return path


@needs_perfetto
def test_a_network_as_perfetto_sees_it(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "digits.pftrace"
    said = clockstep("trace", program, "-o", path, "--json").json()
    assert said["trace"] == str(path)
    assert said["bytes"] == path.stat().st_size
    loaded = face.load(program)
    opened = TraceProcessor(path.read_bytes())
    assert opened.query("select name from stats where value > 0 and severity != 'info'") == []
    (found,) = opened.query("""
        select (select count(*) from slice) as slices, (select count(*) from counter) as counts,
               (select max(ts + dur) from slice) as last,
               (select count(*) from slice s where extract_arg(arg_set_id, 'debug.instruction')
                is not null) as instructions
    """)
    assert (found["slices"], found["counts"]) == (said["slices"], said["counts"])
    assert found["instructions"] == len(loaded.code)
    assert found["last"] <= loaded.cycles * 10**9 // loaded.machine.clock.hz
    # Nearly all of the program serves a node, and every node that has code of its own is named.
    rows = clockstep("inspect", program, "--section", "layers", "--json").json()["rows"]
    served = {row["layer"] for row in rows if row["instructions"]}
    names = {row["name"] for row in opened.query("select distinct name from slice")}
    assert served <= names
    causes = opened.query("""
        select s.ts, s.dur from slice s join track t on t.id = s.track_id
        where t.name = 'causes' order by s.ts
    """)
    assert len(causes) == len(loaded.info["causes"]) > 1
    assert sum(row["dur"] for row in causes) == loaded.cycles * 10**9 // loaded.machine.clock.hz
    banks = opened.query("select count(*) as n from track where name glob 'bank *'")
    assert banks[0]["n"] > 0


@needs_perfetto
def test_the_questions_of_the_page(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "digits.pftrace"
    assert clockstep("trace", program, "-o", path).status == 0
    opened = TraceProcessor(path.read_bytes())
    page = (ROOT / "docs" / "trace.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sql\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    questions = [question for question in block.split(";") if question.strip()]
    assert len(questions) > 1
    silence, *others = [opened.query(question) for question in questions]
    assert {row["name"] for row in silence} >= {"mxm.W0.abc", "mxm.W0.acc", "mxm.W0.lw"}
    assert others[-1] == [], "this network needs no transcendental function"
    tables = {row["name"] for row in opened.query("select distinct name from track")}
    for named in re.findall(
        r"^\| (?:MXM planes|ALUs|streams in|SRAM) [^|]*(?= \|)", page, re.MULTILINE
    ):
        assert named[2:] in tables


def test_the_same_bytes_twice_and_less_of_a_part(program: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "part")]
    assert clockstep("trace", program, "-o", paths[0]).status == 0
    assert face.trace(face.load(program), paths[1]).slices > 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    part = face.trace(face.load(program), paths[2], cycles=(None, 100))
    assert clockstep("trace", program, "-o", paths[0], "--cycles", ":100").status == 0
    assert paths[0].read_bytes() == paths[2].read_bytes()
    assert 0 < part.bytes < paths[1].stat().st_size


def test_wrong_requests_leave_no_file(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.pftrace"
    for flags, code in (
        (("--chip", 99), "trace-chip"),
        (("--cycles", "7"), "option-cycles"),
        (("-o", tmp_path / "none" / "t"), "file-write"),
    ):
        done = clockstep("trace", program, "-o", path, *flags)
        assert done.status == 2
        assert f"error[{code}]" in done.error()
    assert clockstep("trace", tmp_path / "none.lpu", "-o", path).status == 2
    assert list(tmp_path.iterdir()) == []


def test_a_broken_schedule_is_not_drawn(program: Path, tmp_path: Path) -> None:
    listing, broken = tmp_path / "d.lst", tmp_path / "broken.lpu"
    assert clockstep("disasm", program, "-o", listing).status == 0
    lines = listing.read_text().splitlines(keepends=True)
    read = next(i for i, line in enumerate(lines) if " read " in line)
    listing.write_text("".join(lines[:read] + lines[read + 1 :]))
    assert clockstep("asm", listing, "-o", broken).status == 0
    done = clockstep("trace", broken, "-o", tmp_path / "t")
    assert done.status == 1
    assert "error[slot-empty]" in done.error()
    assert not (tmp_path / "t").exists()
