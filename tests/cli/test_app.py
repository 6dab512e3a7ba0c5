"""The command line's frame: exit statuses, one line or one object, and our own bugs."""

from __future__ import annotations

from pathlib import Path

import pytest

from clockstep import app, machines
from clockstep_isa import Diagnostic, UnsupportedModel
from tests.support.command import clockstep


def test_version() -> None:
    done = clockstep("--version")
    assert done.status == 0
    assert done.out.startswith("clockstep 0.")


def test_help_names_every_verb() -> None:
    done = clockstep("--help")
    assert done.status == 0
    for verb in (*app.VERBS, "machine"):
        assert f"\n  {verb} " in done.out


@pytest.mark.parametrize(
    "words",
    [
        ["nosuchverb"],
        ["compile", "x.onnx"],
        ["compile", "x.onnx", "-o", "x.lpu", "--nosuchflag"],
        ["run", "x.lpu", "--seed", "many"],
        ["machine", "nosuchverb"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(words: list[str]) -> None:
    done = clockstep(*words)
    assert done.status == 2
    assert done.error().startswith("error[usage]: ")
    told = clockstep(*words, "--json")
    assert told.status == 2
    assert told.json()["error"]["code"] == "usage"
    assert not told.err


@pytest.mark.parametrize("verb", ["verify", "disasm", "inspect", "run"])
def test_a_program_that_is_not_there(verb: str, tmp_path: Path) -> None:
    done = clockstep(verb, tmp_path / "none.lpu")
    assert done.status == 2
    assert "none.lpu" in done.error()


def test_errors_as_json_have_four_keys() -> None:
    done = clockstep("machine", "show", "lpu-v2", "--json")
    assert done.status == 2
    assert done.json() == {
        "error": {
            "code": "machine-unknown",
            "message": "no machine 'lpu-v2'",
            "where": "",
            "help": "did you mean 'lpu-v1'?",
        }
    }


def test_our_bug_leaves_a_reproducer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("scheduled twice")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machines, "load_machine", fail)
    done = clockstep("machine", "show", "tiny")
    assert done.status == 70
    assert "clockstep.crash.txt" in done.error()
    text = (tmp_path / "clockstep.crash.txt").read_text()
    assert text.startswith("$ clockstep machine show tiny\n")
    assert "numpy 2." in text
    assert "AssertionError: scheduled twice" in text
    assert clockstep("machine", "show", "tiny", "--json").json()["error"]["code"] == "bug"


def test_the_reproducer_is_written_beside_the_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("clockstep.api.compile", fail)
    assert clockstep("compile", "x.onnx", "-o", tmp_path / "x.lpu").status == 70
    assert [p.name for p in tmp_path.iterdir()] == ["x.lpu.crash.txt"]


def test_several_problems_are_one_line_and_all_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = tuple(Diagnostic("operator", f"problem {i}\nof three", f"n{i}") for i in range(3))

    def refuse(*_: object) -> None:
        first = problems[0]
        raise UnsupportedModel(first.code, first.message, where=first.where, diagnostics=problems)

    monkeypatch.setattr(machines, "load_machine", refuse)
    done = clockstep("machine", "show", "tiny")
    assert done.status == 3
    assert done.error() == (
        "n0: error[operator]: problem 0 of three (and 2 more: `clockstep check` lists all)"
    )
    told = clockstep("machine", "show", "tiny", "--json").json()["error"]
    assert [d["where"] for d in told["diagnostics"]] == ["n0", "n1", "n2"]


def test_a_folder_where_a_file_is_wanted(tmp_path: Path) -> None:
    done = clockstep("asm", tmp_path, "-o", tmp_path / "x.lpu")
    assert done.status == 2
    done.error()
    assert list(tmp_path.iterdir()) == []
