"""The committed results are current, and the page shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

from clockstep_compiler.refusals import REASONS
from tests.conformance import table
from tests.conformance.suite import VERDICTS


def test_the_page_shows_the_results() -> None:
    rows = list(table.read().values())
    text = table.PAGE.read_text(encoding="utf-8")
    assert text == table.page(rows), "the page is not of these results: make conformance"
    assert len(rows) > 2000


def test_the_page_adds_up() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    said = re.search(r"^([\d,]+) tests: (.*)\.$", text, flags=re.M)
    assert said
    count = {name: _number(figure) for figure, name in re.findall(r"([\d,]+) ([a-z -]+)", said[2])}
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.partition("| operator |")[2].splitlines()[2:]
    ]
    tests, passed, refused, bugs = (sum(int(line[i]) for line in lines) for i in (1, 2, 3, 4))
    assert tests == _number(said[1]) == sum(count.values())
    assert passed == count["passed"]
    assert refused == count["refused"] + count["does not fit"]
    assert bugs == sum(count[verdict] for verdict in VERDICTS[3:])


def test_every_refusal_has_a_documented_reason_and_nothing_crashes() -> None:
    rows = list(table.read().values())
    codes = {reason.code for reason in REASONS}
    assert {row.reason for row in rows if row.verdict == "refused"} <= codes
    assert [row.test for row in rows if row.verdict == "crash"] == []


def test_the_sample_is_fixed_and_spread() -> None:
    rows = list(table.read().values())
    chosen = table.sample(rows)
    assert chosen == table.sample(reversed(rows))
    assert len({row.test for row in chosen}) == len(chosen) == 100
    passed = Counter(row.operator for row in chosen if row.verdict == "passed")
    operators = {row.operator for row in rows if row.verdict == "passed"}
    assert len(passed) >= min(60, len(operators) - 1)


def test_no_test_of_a_sample_is_worse_than_the_table_says() -> None:
    """In a process of its own, as it forks: those of pytest-xdist have threads."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--check", "--workers", "1"],
        cwd=table.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}if this is right: make conformance"


def _number(text: str) -> int:
    return int(text.replace(",", ""))
