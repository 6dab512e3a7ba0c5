"""The documents speak of files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clockstep_isa import parse_listing
from clockstep_runtime import verify

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/*.md"), *ROOT.glob("samples/*/*.md"))
    if path.name != "ISA.md"
)
FOLDERS = ("isa", "compiler", "runtime", "cli", "tests", "samples", "benchmarks", ".ci")
PATH = re.compile(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]+)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert text.startswith("# ")
    for link in LINK.findall(text):
        assert (document.parent / link).exists(), link
    for pattern, test in PATH.findall(text):
        found = sorted(ROOT.glob(pattern.rstrip("/")))
        assert found, pattern
        if test:
            assert f"def {test}(" in found[0].read_text(encoding="utf-8"), f"{pattern}::{test}"


def test_the_code_map() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    sections = re.split(
        r"^`([\w/]+)`$", text.partition("## Code map")[2].partition("\n## ")[0], flags=re.M
    )
    assert len(sections) == 9
    for folder, body in zip(sections[1::2], sections[2::2], strict=True):
        for name in re.findall(r"`([\w*/]+(?:\.\w+|/))`", body):
            assert sorted((ROOT / folder).glob(name.rstrip("/"))), f"{folder}/{name}"


def test_the_listing_of_the_readme_holds() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("    .machine tiny")
    listing = "\n".join(line[4:] for line in lines[start : lines.index("", start)]) + "\n"
    program = parse_listing(listing, "README.md")
    assert len(program.code) == 4
    assert verify(program).violations == ()
