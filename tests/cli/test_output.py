"""Tables, and files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from clockstep import UsageError
from clockstep.output import csv_text, facts_text, replacing, table_text

ROWS = [{"layer": "gemm", "cycles": 1234}, {"layer": "a, b", "cycles": None}]


def test_table() -> None:
    assert table_text(ROWS, ("layer", "cycles")) == (
        "layer  cycles\n-----  ------\ngemm    1,234\na, b        -"
    )


def test_table_without_rows() -> None:
    assert table_text([], ("layer",)) == "layer\n-----"


def test_csv() -> None:
    assert csv_text(ROWS, ("layer", "cycles")) == 'layer,cycles\ngemm,1234\n"a, b",\n'


def test_facts() -> None:
    assert facts_text({"a": "1", "long": "2"}) == "a     1\nlong  2"


def test_replacing_puts_the_whole_file_in_place(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with replacing(path) as file:
        file.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_replacing_leaves_nothing_behind_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def fail_half_way() -> None:
        with replacing(path) as file:
            file.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_replacing_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"), replacing(tmp_path / "no" / "out"):
        pass
