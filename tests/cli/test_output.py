"""Tables."""

from __future__ import annotations

from clockstep.output import csv_text, facts_text, table_text

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
