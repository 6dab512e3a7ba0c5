"""The page of operators is what the code says."""

from __future__ import annotations

from pathlib import Path

from clockstep_compiler.operators import OPERATORS
from tests.conftest import Golden
from tests.support.command import clockstep

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_the_page(golden: Golden) -> None:
    said = clockstep("ops", "--markdown")
    assert said.status == 0
    golden(PAGE, said.out)
    assert said.out.count("\n| ") == len(OPERATORS) + 1
