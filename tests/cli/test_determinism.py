"""The same model gives the same bytes: under any hash seed, and in any order of the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.support.models import permuted

DIGITS = Path(__file__).parents[2] / "samples" / "digits"


def compiled(model: Path, output: Path, seed: str) -> str:
    """The hash of the program that a process with this hash seed makes of the model."""
    words = ["compile", str(model), "-o", str(output), "--machine", "tiny", "--dim", "N=3"]
    done = subprocess.run(
        [sys.executable, "-m", "clockstep", *words, "--json"],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: str = json.loads(done.stdout)["sha256"]
    return told


@pytest.mark.parametrize("name", ["digits.onnx", "digits.int8.onnx"])
def test_hash_seeds_and_permutations(name: str, tmp_path: Path) -> None:
    shuffled = tmp_path / "shuffled.onnx"
    onnx.save(permuted(onnx.load(DIGITS / name), seed=1), shuffled)
    assert shuffled.read_bytes() != (DIGITS / name).read_bytes()
    first, second = tmp_path / "first.lpu", tmp_path / "second.lpu"
    assert compiled(DIGITS / name, first, "0") == compiled(shuffled, second, "1")
    assert first.read_bytes() == second.read_bytes()
