"""Every verb on programs whose free parts are hostile: a line and an exit status, never a crash."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from clockstep.report import SECTIONS
from clockstep_isa import Binding, Node, Program, save_program
from clockstep_isa.table import Type
from tests.support.command import clockstep
from tests.support.handmade import matmul
from tests.support.hostile import RAW, program_file, replaced, split

VERBS = (
    ("run",),
    ("run", "--json"),
    ("verify",),
    ("verify", "--json"),
    ("disasm",),
    ("disasm", "--json"),
    *(("inspect", "--section", section) for section in SECTIONS),
    ("inspect", "--csv"),
    ("inspect", "--json"),
)


def program() -> Program:
    return matmul(Type.I8, 3)[0].program()


def every_verb(path: Path) -> set[int]:
    """The exit statuses; whatever is printed is text that a terminal can take."""
    statuses = set()
    for verb, *rest in (*VERBS, ("trace", "-o", path.with_suffix(".pftrace"))):
        done = clockstep(verb, path, *rest)
        assert done.status in (0, 1, 5), (verb, rest, done)
        done.out.encode()
        assert "\x1b" not in done.out + done.err or "--csv" in rest, (verb, rest)
        statuses.add(done.status)
    return statuses


KEYS = ("memory", "chip_bytes", "lower_bound_cycles", "bounds", "causes", "tool_version")


@pytest.mark.parametrize("key", KEYS)
def test_info(key: str, tmp_path: Path) -> None:
    text, arrays = split(dataclasses.replace(program(), info={key: 0}), tmp_path)
    for name in list(RAW)[::2]:
        changed = replaced(text, ("info", key), RAW[name])
        (tmp_path / "x.lpu").write_bytes(program_file(changed, arrays))
        every_verb(tmp_path / "x.lpu")


@pytest.mark.parametrize(
    "rows",
    [
        [{"total": 1}],
        [{"total": 1, "weights": 1, "activations": 1, "constants": 1, "instructions": "x"}],
        [{"total": 1, "weights": 1, "activations": 1, "constants": 1, "instructions": 1}] * 2,
    ],
)
def test_chips_that_are_none(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    save_program(dataclasses.replace(program(), info={"chip_bytes": rows}), tmp_path / "x.lpu")
    done = clockstep("inspect", tmp_path / "x.lpu", "--section", "chips")
    assert done.status == 5
    assert "info 'chip_bytes' is not what this section shows" in done.error()


@pytest.mark.parametrize("name", ["\udc80", "\x1b[31m", "a\nb", "\0", "x" * 5000, "../x", ""])
def test_names(name: str, tmp_path: Path) -> None:
    old = program()

    def renamed(bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
        return tuple(dataclasses.replace(binding, name=name) for binding in bindings)

    changed = dataclasses.replace(
        old,
        inputs=renamed(old.inputs),
        outputs=renamed(old.outputs),
        nodes=(Node(name, name, 0, 1),),
    )
    save_program(changed, tmp_path / "x.lpu")
    assert every_verb(tmp_path / "x.lpu") == {0}
    done = clockstep("run", tmp_path / "x.lpu", "-o", tmp_path / "out.npz", "--json")
    assert done.status == 0, done
    assert list(json.loads(done.out)["outputs"]) == [name]
