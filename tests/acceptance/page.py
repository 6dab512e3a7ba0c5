"""What is kept of the runs, and the page of the docs that is made of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.acceptance.models import BY_NAME, MODELS, Model

__all__ = ["PAGE", "RESULTS", "page", "read", "write"]

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "models.md"

Row = dict[str, Any]

_HEAD = """# Models

Real trained networks from packages of the Python registry, unmodified, on `lpu-v1`. Written by
`make models`, which downloads the packages, checks the files' hashes, compiles and verifies each,
runs it on two inputs (photographs, token ids, a voice), and compares with onnxruntime;
`tests/acceptance/models.py` has the list.

*off* is the largest error in parts of the output's range. A model matches under `exact` if every
error is within 1e-3 of the value plus 1e-5 of the range, under `fp16` within 2e-2 of the range, and
quantized (`auto`) if it is no further from onnxruntime without optimisations than onnxruntime with
them is, or 1e-2 of the range, with the same arg-max. Seconds are of processor time, on one core;
memory is the compiler's peak. The machine file hashes to `{machine}`.

| model | precision | verdict | off | chips | cycles | instructions | compile s | MB | date |
|---|---|---|--:|--:|--:|--:|--:|--:|---|
"""


def read() -> dict[str, Row]:
    """The rows of earlier runs, by model and precision; none if there are none."""
    if not RESULTS.exists():
        return {"machine": {}, "rows": {}, "operators": {}}
    found: dict[str, Row] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def write(results: dict[str, Row]) -> None:
    """The results and the page, rows of models that are no more left out."""
    known = {f"{m.name} {p}" for m in MODELS for p in m.precisions}
    kept = {
        "machine": results["machine"],
        "operators": {k: v for k, v in sorted(results["operators"].items()) if k in BY_NAME},
        "rows": {k: v for k, v in sorted(results["rows"].items()) if k in known},
    }
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept), encoding="utf-8")


def page(results: dict[str, Row]) -> str:
    """The text of the page."""
    rows, lines, notes = results["rows"], [], []
    for model in MODELS:
        for precision in model.precisions:
            row = rows.get(f"{model.name} {precision}")
            if row is None:
                continue
            lines.append(_line(model, precision, row))
            if "problem" in row:
                notes.append(f"* {model.name}, {precision}: {row['problem']}")
            elif not row.get("depends", True):
                notes.append(f"* {model.name}, {precision}: its output ignores the input")
    text = _HEAD.format(machine=results["machine"].get("sha256", "")) + "\n".join(lines) + "\n"
    if notes:
        text += "\n## Remarks\n\n" + "\n".join(dict.fromkeys(notes)) + "\n"
    return text + _models(results)


def _line(model: Model, precision: str, row: Row) -> str:
    off = f"{row['off']:.1e}" if "off" in row else ""
    figures = [f"{row[k]:,}" if k in row else "" for k in ("chips", "cycles", "instructions")]
    cost = [f"{row[k]:,}" if k in row else "" for k in ("seconds", "megabytes")]
    cells = [model.name, precision, row["verdict"], off, *figures, *cost, row["date"]]
    return "| " + " | ".join(cells) + " |"


def _models(results: dict[str, Row]) -> str:
    lines = ["", "## Where they come from", "", "| model | package | file | operators |"]
    lines.append("|---|---|---|---|")
    for model in MODELS:
        counted: Counter[str] = Counter(results["operators"].get(model.name, {}))
        named = " ".join(f"{op}:{n}" for op, n in counted.most_common(12))
        package = f"{model.package} {model.version}".strip()
        lines.append(f"| {model.name} | {package} | `{model.path}` | {named} |")
    return "\n".join(lines) + "\n"
