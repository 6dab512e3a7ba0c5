"""`run --watch` and `--provenance`: whole outputs in `golden/debug/*.txt`, promises of the data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clockstep as face
from clockstep_isa import geometry
from tests.conftest import Golden
from tests.support.command import clockstep

FOLDER = Path(__file__).parent / "golden" / "debug"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `two_words.lpu`."""
    path = tmp_path_factory.mktemp("watch")
    assert clockstep("asm", FOLDER / "two_words.lst", "-o", path / "two_words.lpu").status == 0
    return path


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_command(path: Path, golden: Golden, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    head = path.read_text(encoding="utf-8").partition("----\n")[0]
    done = clockstep(*shlex.split(head.removeprefix("$ clockstep ")))
    golden(path, f"{head}----\n{done.out}{done.err}exit {done.status}\n")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watch") / "digits.lpu"
    model = Path(__file__).parents[2] / "samples" / "digits" / "digits.onnx"
    face.compile(model, machine="tiny", dim={"N": 2}).save(path)
    return path


def events(path: Path, *words: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = clockstep("run", path, *words, "--json").json()["events"]
    return found


def test_a_stream_is_seen_where_it_is_sampled(digits: Path) -> None:
    """Whatever a unit samples from one stream has passed its position in that cycle."""
    program = face.load(digits)
    found, sampled = [], []
    for place in ("E4", "W4", "E8", "W8", "E24", "W24", "E28", "W28"):
        found = events(digits, "--watch", f"{place}@vxm.0")
        samples = [e for e in found if e["event"] == "sample"]
        sampled = [e for e in samples if e["place"].startswith(f"{place}@")]
        if sampled:
            break
    assert sampled
    passed = {(e["cycle"], e["chip"]): e for e in found if e["event"] == "pass"}
    for event in sampled:
        there = passed[event["cycle"], event["chip"]]
        if there["type"] == event["type"]:
            assert there["values"] == event["values"]
    assert {e["node"] for e in found} <= {node.name for node in program.nodes}


def test_what_is_read_was_written(digits: Path) -> None:
    program = face.load(digits)
    probe = program.probes[0].binding
    _, _, _, _, _, chip, queue, address = probe.layouts[0].pieces[0].tolist()
    unit = geometry(program.machine).queues[queue].name
    found = events(digits, "--watch", f"c{chip}.{unit}:{address}")
    kinds = [e["event"] for e in found]
    assert "write" in kinds
    assert "read" in kinds[kinds.index("write") :]
    held = None
    for event in found:
        if event["event"] in ("write", "initial"):
            held = event["values"]
        else:
            assert event["values"] == held


def test_until_cuts_the_same_run_short(digits: Path) -> None:
    whole = events(digits, "--watch", "vxm", "--watch", "E4@vxm.0")
    for last in (0, 20, 77, 10**9):
        part = events(digits, "--watch", "vxm", "--watch", "E4@vxm.0", "--until", last)
        assert part == [e for e in whole if e["cycle"] <= last]


def test_every_dispatch_of_a_unit_is_told(digits: Path) -> None:
    program = face.load(digits)
    found = events(digits, "--watch", "mem.W3")
    queue = geometry(program.machine).by_name["mem.W3"].id
    code = program.code
    want = sum(int(n) for n in code.repeat[code.queue == queue])
    assert sum(e["event"] == "dispatch" for e in found) == want
    assert sum(e["event"] in ("read", "write") for e in found) == want


def test_values_that_json_has_no_number_for(tmp_path: Path) -> None:
    listing = (
        ".machine tiny\n"
        ".word c0.mem.W0 0 = 00 00 00 01\n.word c0.mem.W1 0 = 7e 7c fc 3c\n"
        "0 c0.mem.W0 read 0 -> E4\n0 c0.mem.W1 read 0 -> E5\n"
        "3 c0.vxm.0 mov.f16 E4 -> E4\n"
    )
    path = tmp_path / "nan.lst"
    path.write_text(listing)
    assert clockstep("asm", path, "-o", tmp_path / "nan.lpu").status == 0
    _, sample, result = events(tmp_path / "nan.lpu", "--watch", "vxm.0")
    assert sample["values"][0][:4] == ["nan", "inf", "-inf", 1.0009765625]
    assert result["values"] == sample["values"]
    text = clockstep("run", tmp_path / "nan.lpu", "--watch", "vxm.0").out
    assert "nan inf -inf 1.001 ...  -inf to inf" in text


def test_batches_are_refused(digits: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((3, 2, 64), np.float32))
    done = clockstep("run", digits, "--inputs", tmp_path / "in.npz", "--watch", "vxm.0")
    assert done.status == 2
    assert "--watch follows one run" in done.error()
    flags = ("--inputs", tmp_path / "in.npz", "--provenance", "scores[0,0]")
    assert "--provenance follows one run" in clockstep("run", digits, *flags).error()


def test_too_many_events(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clockstep_runtime.debug.events.MOST_EVENTS", 100)
    done = clockstep("run", digits, "--watch", "mem")
    assert done.status == 2
    assert "more than 100 events by cycle" in done.error()


def test_a_graph_without_loose_ends(digits: Path) -> None:
    """Every source is a step after its user, or a word; the value is the output's."""
    flags = ("--provenance", "scores[1,4]", "--json")
    said = clockstep("run", digits, *flags).json()
    steps, words = said["steps"], said["words"]
    assert [item["id"] for item in steps + words] == list(range(len(steps) + len(words)))
    used = set(said["roots"])
    for step in steps:
        sources = [i for found in step["sources"].values() for i in found]
        assert all(i > step["id"] for i in sources)
        used.update(sources)
    assert used == set(range(len(steps) + len(words)))
    assert said["inputs"] == {"x": {"elements": 64, "runs": [[1, 0, 64]]}}
    add = next(step for step in steps if step["unit"].startswith("c0.vxm"))
    assert add["value"] == said["value"]
    text = clockstep("run", digits, "--provenance", "scores[1,4]").out
    assert "input x: 64 of 128 elements: x[1, 0:64]" in text
    assert len(text.splitlines()) < 60 < len(steps)
