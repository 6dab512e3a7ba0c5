"""Every refusal has one of a few documented reasons, and the page of the docs lists them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from clockstep_compiler.refusals import REASONS, markdown
from tests.conftest import Golden

ROOT = Path(__file__).parents[2]
CODES = {reason.code for reason in REASONS}
NOT_REFUSALS = {"shape-mismatch"}
"""Codes of `Diagnostic` that go with a `MalformedFile`."""


def _codes(path: Path) -> Iterator[tuple[str, str]]:
    """The code of each refusal that a source file spells out, and where."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        place = {"UnsupportedModel": 0, "Diagnostic": 0, "refuse": 1}.get(name)
        if place is None or len(node.args) <= place:
            continue
        argument = node.args[place]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield argument.value, f"{path.name}:{node.lineno}"


def test_every_refusal_has_a_documented_reason() -> None:
    sources = sorted((ROOT / "compiler" / "clockstep_compiler").rglob("*.py"))
    found = [pair for path in sources for pair in _codes(path)]
    assert [pair for pair in found if pair[0] not in CODES | NOT_REFUSALS] == []
    assert {code for code, _ in found} - NOT_REFUSALS == CODES


def test_at_most_a_dozen_reasons() -> None:
    assert len(REASONS) == len(CODES) <= 12
    assert [reason.code for reason in REASONS] == sorted(CODES)
    assert all(reason.meaning.endswith(".") and reason.way_round for reason in REASONS)


def test_the_page(golden: Golden) -> None:
    golden(ROOT / "docs" / "refusals.md", markdown())
