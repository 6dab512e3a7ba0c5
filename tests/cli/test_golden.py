"""Commands whose whole output is kept in a file: `golden/*.txt`, rewritten by `pytest --bless`.

A file begins with the command line; below `----` stand stdout, stderr and the exit status.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.conftest import Golden
from tests.support.command import clockstep

FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_command(path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    head = path.read_text(encoding="utf-8").partition("----\n")[0]
    words = shlex.split(head.removeprefix("$ clockstep "))
    done = clockstep(*words)
    golden(path, f"{head}----\n{done.out}{done.err}exit {done.status}\n")
