"""Every verb on a real program: the digits classifier on `tiny`, compiled once."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clockstep as face
from clockstep_compiler.operators import OPERATORS
from tests.support.command import clockstep

DIGITS = Path(__file__).parents[2] / "samples" / "digits"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The program of three images, and what `compile --json` said."""
    path = tmp_path_factory.mktemp("verbs") / "digits.lpu"
    model = DIGITS / "digits.int8.onnx"
    done = clockstep("compile", model, "-o", path, "--machine", "tiny", "--dim", "N=3", "--json")
    assert done.status == 0, done
    return path, done.json()


def test_compile_says_all_that_tools_rely_on(made: tuple[Path, Any]) -> None:
    path, said = made
    program = face.load(path)
    assert said["program"] == str(path)
    assert said["machine"] == "tiny"
    assert said["chips"] == program.chips
    assert said["cycles"] == program.cycles
    assert said["seconds"] == program.cycles / 1e6
    assert 0 < said["lower_bound_cycles"] <= said["cycles"]
    assert said["bound_by"]
    assert said["instructions"] == len(program.code)
    assert said["weight_bytes"] >= 64 * 96 + 96 * 64 + 64 * 10
    assert said["weight_bytes"] <= said["sram_bytes_used"] <= said["sram_bytes_total"]
    assert said["compile_seconds"] > 0
    assert said["peak_rss_bytes"] > 10**7
    assert len(said["sha256"]) == 64


def test_compile_again_gives_the_same_bytes(made: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = made
    again = tmp_path / "again.lpu"
    flags = ("--machine", "tiny", "--shape", "x=3,64", "--listing", tmp_path / "again.lst")
    assert clockstep("compile", DIGITS / "digits.int8.onnx", "-o", again, *flags).status == 0
    ours, theirs = face.load(path), face.load(again)
    assert ours.cycles == theirs.cycles
    assert np.array_equal(ours.code.args, theirs.code.args)
    assert (tmp_path / "again.lst").read_text().count("\n") > len(ours.code)


def test_compile_for_people(tmp_path: Path) -> None:
    path = tmp_path / "d.lpu"
    model = DIGITS / "digits.onnx"
    done = clockstep(
        "compile", model, "-o", path, "--machine", "tiny", "--dim", "N=1", "--no-weights"
    )
    assert done.status == 0
    assert " cycles (" in done.out
    for engine in ("fast", "reference"):
        timed = clockstep("run", path, "--engine", engine)
        assert timed.status == 0
        assert "timed only" in timed.out
        told = clockstep("run", path, "--engine", engine, "--json").json()
        assert told["cycles"] == told["predicted_cycles"] > 0
        assert told["timing_only"]
        assert told["outputs"] == {}
    ran = clockstep("run", path, "--compare", model)
    assert ran.status == 2
    assert "weights" in ran.error()
    assert ["weights", "left out"] in [
        line.split(maxsplit=1) for line in clockstep("inspect", path).out.splitlines()
    ]


def test_check(tmp_path: Path) -> None:
    flags = (DIGITS / "digits.onnx", "--machine", "tiny", "--dim", "N=2")
    said = clockstep("check", *flags, "--json").json()
    assert said["supported"] is True
    assert said["unsupported"] == []
    assert said["chips_needed"] >= 1
    assert "supported" in clockstep("check", *flags).out


def test_ops_are_the_compilers_table() -> None:
    said = clockstep("ops", "--json").json()["operators"]
    assert [row["operator"] for row in said] == [op.name for op in OPERATORS]
    plain, marked = clockstep("ops").out, clockstep("ops", "--markdown").out
    for op in OPERATORS:
        assert f"\n{op.name} " in plain
        assert f"\n| {op.name} | {op.types} | {op.limits} |\n" in marked


def test_run_predicts_its_cycles(made: tuple[Path, Any]) -> None:
    path, said = made
    ran = clockstep("run", path, "--json").json()
    assert ran["cycles"] == ran["predicted_cycles"] == said["cycles"]
    assert ran["engine"] == "fast"
    slow = clockstep("run", path, "--engine", "reference", "--json").json()
    assert slow["engine"] == "reference"
    assert (slow["cycles"], slow["outputs"]) == (ran["cycles"], ran["outputs"])
    assert ran["wall_seconds"] >= 0
    assert ran["outputs"]["scores"]["shape"] == [3, 10]
    assert ran["outputs"]["scores"]["dtype"] == "float32"
    assert f"executed {said['cycles']:,} cycles" in clockstep("run", path).out


def test_run_with_inputs_from_files(made: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = made
    images = np.load(DIGITS / "digits_test.npz")["x"][:6].reshape(2, 3, 64)
    np.savez(tmp_path / "in.npz", x=images)
    np.save(tmp_path / "x=0.npy", images[0])
    both = clockstep("run", path, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "both.npz")
    one = clockstep("run", path, "--input", f"x={tmp_path}/x=0.npy", "-o", tmp_path / "one.npz")
    assert (both.status, one.status) == (0, 0)
    batch = np.load(tmp_path / "both.npz")["scores"]
    assert batch.shape == (2, 3, 10)
    assert np.array_equal(batch[0], np.load(tmp_path / "one.npz")["scores"])
    drawn = clockstep("run", path, "--json").json()
    seeded = clockstep("run", path, "--seed", "1", "--json").json()
    assert drawn["outputs"] != seeded["outputs"]
    assert drawn["cycles"] == seeded["cycles"]


def test_run_compares_with_onnxruntime(made: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = made
    images = np.load(DIGITS / "digits_test.npz")["x"][:6].reshape(2, 3, 64)
    np.savez(tmp_path / "in.npz", x=images)
    flags = ("run", path, "--inputs", tmp_path / "in.npz", "--compare")
    done = clockstep(*flags, DIGITS / "digits.int8.onnx", "--atol", "0.4", "--json")
    said = done.json()
    assert done.status == 0, said
    assert said["match"] is True
    assert (said["mismatched"], said["total"]) == (0, 60)
    assert said["reference"] == "onnxruntime"
    assert said["by_output"]["scores"]["max_abs"] == said["max_abs"]
    other = clockstep(*flags, DIGITS / "digits.onnx", "--atol", "0", "--rtol", "1e-6")
    assert other.status == 1
    assert "do not match" in other.out


def test_verify(made: tuple[Path, Any]) -> None:
    path, said = made
    told = clockstep("verify", path, "--json").json()
    assert told["ok"] is True
    assert told["violations"] == []
    assert told["instructions"] == said["instructions"]
    assert sum(told["checks"].values()) > said["instructions"]
    assert clockstep("verify", path).status == 0


def test_verify_a_program_with_one_cycle_changed(made: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = made
    listing, broken = tmp_path / "d.lst", tmp_path / "broken.lpu"
    assert clockstep("disasm", path, "-o", listing).status == 0
    lines = listing.read_text().splitlines()
    reads = [i for i, line in enumerate(lines) if " read " in line]
    last = {lines[i].split()[1]: i for i in reads}  # of its queue, so that it meets no other
    moved = next(
        i for queue, i in last.items() if not any(f" {queue} " in x for x in lines[i + 1 :])
    )
    cycle = lines[moved].split()[0]
    lines[moved] = lines[moved].replace(cycle, str(int(cycle) + 1), 1)
    listing.write_text("\n".join(lines) + "\n")
    assert clockstep("asm", listing, "-o", broken).status == 0
    done = clockstep("verify", broken, "--json")
    said = done.json()
    assert done.status == 1
    assert said["ok"] is False
    assert set(said["violations"][0]) == {"code", "chip", "unit", "cycle", "message"}
    ran = clockstep("run", broken)
    assert ran.status == 1
    assert said["violations"][0]["code"] in ran.error()


def test_disasm_and_asm_give_the_same_bytes(made: tuple[Path, Any], tmp_path: Path) -> None:
    path, said = made
    listing, again = tmp_path / "d.lst", tmp_path / "again.lpu"
    assert clockstep("disasm", path, "-o", listing, "--json").json()["output"] == str(listing)
    assert clockstep("disasm", path).out == listing.read_text()
    told = clockstep("asm", listing, "-o", again, "--json").json()
    assert told["sha256"] == said["sha256"]
    assert again.read_bytes() == path.read_bytes()


def test_disasm_excerpts(made: tuple[Path, Any]) -> None:
    path, _ = made
    program = face.load(path)
    last = clockstep("disasm", path, "--cycles", f"{program.cycles - 5}:").out
    assert len(last) < len(clockstep("disasm", path).out) / 10
    unit = clockstep("disasm", path, "--chip", "0", "--unit", "vxm").out
    body = [line.split() for line in unit.splitlines() if line and line[0] not in ".#"]
    assert body
    assert all(words[1].startswith("c0.vxm.") for words in body)
    assert "listing" in clockstep("disasm", path, "--chip", "0", "--json").json()


@pytest.mark.parametrize("section", ["summary", "layers", "memory", "chips"])
def test_inspect(made: tuple[Path, Any], section: str) -> None:
    path, _ = made
    said = clockstep("inspect", path, "--section", section, "--json").json()
    assert said["section"] == section
    assert said["rows"]
    text = clockstep("inspect", path, "--section", section, "--csv").out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(said["rows"])
    assert None not in rows[0]
    assert set(rows[0]) <= set(said["rows"][0])
    plain = clockstep("inspect", path, "--section", section).out
    if section != "memory":  # people get a map: test_memory_map.py
        assert plain.count("\n") == len(rows) + 2


def test_layers_share_out_the_instructions(made: tuple[Path, Any]) -> None:
    path, said = made
    rows = clockstep("inspect", path, "--section", "layers", "--json").json()["rows"]
    assert 0 < sum(row["instructions"] for row in rows) <= said["instructions"]
    assert all(0 <= row["start"] <= row["end"] <= said["cycles"] for row in rows)
    assert max(row["end"] for row in rows) > 0.9 * said["cycles"]


def test_chips_add_up(made: tuple[Path, Any]) -> None:
    path, said = made
    rows = clockstep("inspect", path, "--section", "chips", "--json").json()["rows"]
    assert len(rows) == said["chips"]
    assert sum(row["total_bytes"] for row in rows) == said["sram_bytes_used"]
    assert sum(row["instructions"] for row in rows) == said["instructions"]
    charged = face.load(path).machine.icu.instructions_in_sram
    parts = ("weights", "activations", "constants") + ("instructions",) * charged
    for row in rows:
        assert row["total_bytes"] == sum(row[f"{part}_bytes"] for part in parts)
        assert row["total_bytes"] + row["free_bytes"] == said["sram_bytes_total"] / said["chips"]


def test_a_model_larger_than_one_chip(tmp_path: Path) -> None:
    path = tmp_path / "d.lpu"
    flags = (DIGITS / "digits.onnx", "-o", path, "--dim", "N=45", "--machine")
    small = DIGITS / "small.toml"
    said = clockstep("compile", *flags, small, "--json").json()
    assert said["chips"] > 1
    rows = clockstep("inspect", path, "--section", "chips", "--json").json()["rows"]
    assert all(row["weights_bytes"] > 0 for row in rows)
    path.unlink()
    forced = clockstep("compile", *flags, small, "--chips", said["chips"] - 1)
    assert forced.status == 4
    assert f"{said['chips']} chips" in forced.error()
    assert list(tmp_path.iterdir()) == []
