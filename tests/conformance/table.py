"""The committed results: one line a test, and the page of the docs that is made of them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.conformance.suite import OPTIONS, VERDICTS, Case, Outcome

__all__ = ["PAGE", "RESULTS", "Row", "page", "read", "rows_of", "sample", "totals", "write"]

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.csv")
PAGE = ROOT / "docs" / "conformance.md"

_GROUPS = {
    "real": "models of the onnx package",
    "simple": "simple models",
    "pytorch-converted": "models from PyTorch",
    "pytorch-operator": "operators from PyTorch",
    "node": "other nodes",
}
"""What stands in the operator's place where a test is about several."""

_BUGS = VERDICTS[3:]


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of a test's outcome."""

    test: str
    operator: str
    verdict: str
    reason: str


def rows_of(found: Iterable[tuple[Case, Outcome]]) -> list[Row]:
    """Results as rows, in no order yet."""
    return [
        Row(case.name, case.operator or _GROUPS[case.kind], o.verdict, o.reason)
        for case, o in found
    ]


def read() -> dict[str, Row]:
    """The committed rows by test; none if there are none yet."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return {line["test"]: Row(**line) for line in csv.DictReader(file)}


def write(rows: Mapping[str, Row]) -> None:
    """Both files, from the same rows."""
    ordered = sorted(rows.values(), key=lambda row: (row.operator, row.test))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("test", "operator", "verdict", "reason"))
    writer.writerows((r.test, r.operator, r.verdict, r.reason) for r in ordered)
    RESULTS.write_text(text.getvalue(), encoding="utf-8")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(ordered), encoding="utf-8")


def totals(rows: Iterable[Row]) -> str:
    """How many tests came to what, in one line."""
    count = Counter(row.verdict for row in rows)
    parts = [f"{count[verdict]:,} {verdict}" for verdict in VERDICTS]
    return f"{count.total():,} tests: {', '.join(parts)}"


def sample(rows: Iterable[Row], passed: int = 60, others: int = 40) -> list[Row]:
    """A fixed choice of rows: passed ones spread over the operators, and some of all the rest.

    The models of the onnx package are left out: each takes as long as many nodes.
    """
    pool = [row for row in rows if row.operator != _GROUPS["real"]]
    pool.sort(key=lambda row: hashlib.sha256(row.test.encode()).digest())
    turn: Counter[str] = Counter()
    ranked = []
    for place, row in enumerate(pool):
        if row.verdict == "passed":
            turn[row.operator] += 1
            ranked.append((turn[row.operator], place, row))
    chosen = [row for _, _, row in sorted(ranked, key=lambda item: item[:2])[:passed]]
    rest = [row for row in pool if row not in chosen]
    return [*chosen, *rest[:others]]


def page(rows: Iterable[Row]) -> str:
    """The page of the docs: totals, reasons, and a line for each operator."""
    rows = sorted(rows, key=lambda row: (row.operator, row.test))
    reasons = Counter(row.reason for row in rows if row.verdict == "refused")
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    version = ".".join(onnx.__version__.split(".")[:2])
    options = ", ".join(f"{key} {value}" for key, value in OPTIONS.items())
    lines = [
        "# Conformance",
        "",
        f"The onnx package's own tests of backends (onnx {version}) on `clockstep.backend`,",
        f"{options}; written by `make conformance`. [refusals.md](refusals.md) has the reasons.",
        "Operands that decide shapes, indices or scales are inputs of these tests; where a static",
        "program needs them constant, the backend compiles for the values of the run.",
        "",
        f"{totals(rows)}.",
        "",
        "| reason of refusal | tests |",
        "|---|---:|",
        *(f"| `{reason}` | {count:,} |" for reason, count in ranked),
        "",
        "| operator | tests | passed | refused | bugs | refused because |",
        "|---|---:|---:|---:|---:|---|",
    ]
    operators: dict[str, list[Row]] = {}
    for row in rows:
        operators.setdefault(row.operator, []).append(row)
    lines += [_line(name, group) for name, group in operators.items()]
    return "\n".join(lines) + "\n"


def _line(name: str, group: list[Row]) -> str:
    verdicts = Counter(row.verdict for row in group)
    refused = [row for row in group if row.verdict in ("refused", "does not fit")]
    reasons = sorted(Counter(row.reason for row in refused).items())
    bugs = sum(verdicts[verdict] for verdict in _BUGS)
    because = ", ".join(f"`{reason}` {count}" for reason, count in reasons)
    counts = f"{len(group)} | {verdicts['passed']} | {len(refused)} | {bugs}"
    return f"| {name} | {counts} | {because} |"
