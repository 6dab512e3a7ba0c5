"""The tables of docs/systems.md: one line a row, and the page keeps what stands around them."""

from __future__ import annotations

from benchmarks.collectives import BEGIN, END, ROWS, Row, report, written


def test_every_row_is_measured() -> None:
    rows = (Row("all-reduce", 4, 200), Row("send", 6, 100, "i8"))
    lines = list(report("tiny", rows))
    measured = [line for line in lines if line.startswith(("| all-reduce", "| send"))]
    assert [line.split(" | ")[1:4] for line in measured] == [
        ["4", "200", "f16"],
        ["6", "100", "i8"],
    ]
    assert sum(line.startswith("| 52 |") for line in lines) == 1
    assert len({*ROWS}) == len(ROWS)


def test_the_page_around_the_tables_stays() -> None:
    text = f"# Systems\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    assert written(text, ["| new |"]) == f"# Systems\n\n{BEGIN}\n| new |\n\n{END}\n\nafter\n"
