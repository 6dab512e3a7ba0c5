"""`inspect --section bounds`: how far a program is from its bounds, and what its cycles are."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import clockstep as face
from clockstep.limits import COLUMNS, EACH
from clockstep_compiler.causes import CAUSES
from clockstep_isa import Program, save_program
from clockstep_isa.table import Type
from tests.support.command import clockstep
from tests.support.handmade import matmul
from tests.support.models import mlp


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Program, dict[str, Any]]:
    """A program of three layers, and what `compile --json` says of it."""
    folder = tmp_path_factory.mktemp("limits")
    onnx.save(mlp(np.random.default_rng(2), (20, 24, 18, 10), 5, ("Relu",)), folder / "m.onnx")
    path = folder / "m.lpu"
    done = clockstep("compile", folder / "m.onnx", "-o", path, "--machine", "tiny", "--json")
    return path, face.load(path), json.loads(done.out)


def test_rows(made: tuple[Path, Program, dict[str, Any]]) -> None:
    path, program, said = made
    done = clockstep("inspect", path, "--section", "bounds", "--json")
    whole, *nodes = json.loads(done.out)["rows"]
    assert whole["cycles"] == whole["path"] == program.cycles
    assert (whole["bound"], whole["bound_by"]) == (said["lower_bound_cycles"], said["bound_by"])
    assert said["bound_ratio"] == pytest.approx(whole["cycles"] / whole["bound"], abs=1e-3)
    assert len(nodes) > 2
    waits = json.loads(done.out)["waits"]
    assert [row["cycles"] for row in waits] == sorted((r["cycles"] for r in waits), reverse=True)
    for cause in ("unit", "stream", "bank"):
        named = sum(row["cycles"] for row in waits if row["cause"] == cause)
        assert named == whole[cause]
    for row in (whole, *nodes):
        assert row["path"] == sum(row[cause] for cause in CAUSES)
        assert row["bound"] == max(row[name] for name in EACH) <= row["cycles"]
    for cause in CAUSES:
        assert whole[cause] == sum(row[cause] for row in nodes)


def test_text_and_csv(made: tuple[Path, Program, dict[str, Any]]) -> None:
    path, program, _ = made
    text = clockstep("inspect", path, "--section", "bounds").out
    _, must, _, spent, *_ = (part.splitlines() for part in text.split("\n\n"))
    assert " ".join(must[0].split()).endswith("large alus links latency laid_out")
    assert spent[0].split() == ["layer", "op", "path", *CAUSES]
    for table in (must, spent):
        assert table[2].split()[:2] == ["(program)", f"{program.cycles:,}"]
    rows = csv.DictReader(
        io.StringIO(clockstep("inspect", path, "--section", "bounds", "--csv").out)
    )
    assert rows.fieldnames == list(COLUMNS)
    assert len(list(rows)) == len(must) - 2


def test_compile_says_it(made: tuple[Path, Program, dict[str, Any]], tmp_path: Path) -> None:
    path, _, said = made
    model = path.with_suffix(".onnx")
    done = clockstep("compile", model, "-o", tmp_path / "m.lpu", "--machine", "tiny")
    (line,) = (line for line in done.out.splitlines() if line.startswith("lower bound"))
    assert f"{said['lower_bound_cycles']:,} cycles ({said['bound_by']})" in line


def test_a_program_of_another_origin_says_nothing(tmp_path: Path) -> None:
    save_program(matmul(Type.I8, 3)[0].program(), tmp_path / "x.lpu")
    done = clockstep("inspect", tmp_path / "x.lpu", "--section", "bounds")
    assert done.status == 0
    assert "was not compiled from a model" in done.out
    done = clockstep("inspect", tmp_path / "x.lpu", "--section", "bounds", "--json")
    assert json.loads(done.out) == {"section": "bounds", "rows": [], "waits": []}


def test_a_listing_keeps_them(made: tuple[Path, Program, dict[str, Any]], tmp_path: Path) -> None:
    path, _, _ = made
    clockstep("disasm", path, "-o", tmp_path / "m.txt")
    assert clockstep("asm", tmp_path / "m.txt", "-o", tmp_path / "m.lpu").status == 0
    again = clockstep("inspect", tmp_path / "m.lpu", "--section", "bounds")
    assert again.out == clockstep("inspect", path, "--section", "bounds").out


@pytest.mark.parametrize("key", ["bounds", "causes"])
@pytest.mark.parametrize("change", ["gone", "short", "negative", "text", "node"])
def test_malformed(
    key: str, change: str, made: tuple[Path, Program, dict[str, Any]], tmp_path: Path
) -> None:
    _, program, _ = made
    info = json.loads(json.dumps(dict(program.info)))
    rows = info[key]["nodes"] if key == "bounds" else info[key]
    if change == "gone":
        del info[key]
    elif change == "short":
        del rows[0][-1]
    else:
        at = {"negative": 1, "text": 1, "node": 0 if key == "bounds" else 2}[change]
        rows[0][at] = {"negative": -1, "text": "1", "node": 99}[change]
    save_program(dataclasses.replace(program, info=info), tmp_path / "x.lpu")
    done = clockstep("inspect", tmp_path / "x.lpu", "--section", "bounds")
    assert done.status == 5
    assert f"info {key!r} is not what this section shows" in done.error()
