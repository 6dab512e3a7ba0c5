"""Fixtures of all tests: golden files that a person can read and one flag rewrites."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import pytest

Golden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="Rewrite the golden files.")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden(path, text)`: the file must hold exactly this text, or is rewritten by --bless."""
    bless = bool(request.config.getoption("--bless"))

    def check(path: Path, text: str) -> None:
        assert "Traceback" not in text, f"a golden file never holds a traceback:\n{text}"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if bless:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif before != text:
            lines = difflib.unified_diff(
                before.splitlines(), text.splitlines(), "expected", "actual", lineterm=""
            )
            pytest.fail(
                f"{path.name} changed:\n" + "\n".join(lines) + "\n"
                "If this is right: pytest --bless, then read the diff.",
                pytrace=False,
            )

    return check
