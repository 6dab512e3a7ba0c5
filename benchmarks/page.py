"""What is kept of the measurements, and the page of the docs that is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers import NETWORKS
from benchmarks.rows import ROWS, Row

__all__ = ["PAGE", "RESULTS", "goal_of", "page", "read", "write"]

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

Found = dict[str, Any]

_SECTIONS = (
    ("Networks", ("resnet50", "mobilenetv2", "bert", "large")),
    ("One step of an LSTM", ("lstm",)),
    ("Products of int8 matrices, 4096 x 4096 constant weights", ("matmul",)),
    ("Perceptrons", ("mlp",)),
    ("Other machines", tuple(sorted({r.name.partition("-")[0] for r in ROWS if r.like}))),
)
"""Titles, and the first words of the names of their rows."""

_HEAD = """# Benchmarks

Schedules on `lpu-v1` (`mlp-tiny` on `tiny`), batch 1 unless the name says more, and what it takes
to make them. Written by `make bench`; every figure is from a run on the day of its row.
`python -m benchmarks schedules --check` tells which rows have become worse than this page.
The machine file hashes to `{machine}`.

Each model is compiled, verified, and run on two random inputs; all three give the same cycles.
*off* is the largest difference from onnxruntime in parts of the output's range. A row matches if
that is within 2e-2 for fp16, and within 1e-2 for quantized models, compared with onnxruntime
without its optimisations; and if the output depends on the input. *theirs* is what onnxruntime's
optimisations change. Where that is more, because a rounding that falls otherwise grows over many
quantized layers, the mean square of our errors must be that of theirs, within a twentieth of its
root. *ratio* is cycles over the lower bound. *published* are cycles that the chip's maker gives
for the same work, *goal* is what this project wants to reach: cycles, or times the bound. *causes*
are the two that most cycles went into, of those that `clockstep inspect --section bounds` tells
apart. Compile seconds are of processor time on one core, start-up included; MB are the compiler's
peak.

Models are made by `benchmarks/`: architectures as published, random weights, quantized by
onnxruntime's static quantizer (`clockstep quantize`) where the name says int8. `bert` is as torch
exports it, from token ids; `bert-encoder` begins after the sum of the embeddings; `bert-erf` is in
the words of older exporters; `large-bert` is BERT-Large as torch exports it, a part of it on each
of 4 chips. Spellings of an LSTM's step: `node`, an LSTM node with quantized and
dequantized operands; `qdq`, a MatMul of [x, h] with [W; R] likewise; `integer`, a MatMulInteger;
`dynamic`, onnxruntime's DynamicQuantizeLSTM. Of a product: `integer`, MatMulInteger to int32;
`qlinear` and `qdq`, to int8 by QLinearMatMul or by a MatMul between dequantizing and quantizing.

Other machines are those of `benchmarks/machines/`: vectors of 256 `lanes`, half the `streams`,
every `latency` doubled.

Published: ResNet-50, 49 us (Abts and others, ISCA 2020); BERT-base, 130 us at the 99th percentile
(arXiv 2206.11062; precision unstated); LSTM, cycles in the maker's example notebook; all at 900
MHz.
"""

_COLUMNS = (
    ("model", "---"),
    ("verdict", "---"),
    ("off", "--:"),
    ("theirs", "--:"),
    ("chips", "--:"),
    ("cycles", "--:"),
    ("bound", "--:"),
    ("bound by", "---"),
    ("ratio", "--:"),
    ("published", "--:"),
    ("goal", "---"),
    ("causes", "---"),
    ("instructions", "--:"),
    ("compile s", "--:"),
    ("MB", "--:"),
    ("date", "---"),
)


def read() -> Found:
    """The results of earlier runs; none if there are none."""
    if not RESULTS.exists():
        return {"machine": "", "rows": {}, "peers": {}}
    found: Found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def write(results: Found) -> None:
    """The results and the page, rows that are no more left out."""
    rows = {row.name: results["rows"][row.name] for row in ROWS if row.name in results["rows"]}
    kept = {**results, "rows": rows}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept), encoding="utf-8")


def page(results: Found) -> str:
    """The text of the page."""
    text = _HEAD.format(machine=results["machine"])
    for title, words in _SECTIONS:
        rows = [row for row in ROWS if row.name.partition("-")[0] in words]
        some = [(row, results["rows"][row.name]) for row in rows if row.name in results["rows"]]
        if some:
            text += f"\n## {title}\n\n" + _table(_COLUMNS, [_cells(*pair) for pair in some])
            text += "".join(_remark(*pair) for pair in some)
    return text + _peers(results["peers"])


def goal_of(row: Row, bound: int) -> int | None:
    """The goal in cycles."""
    if row.goal is None:
        return None
    return row.goal if isinstance(row.goal, int) else int(row.goal * bound)


def _table(columns: tuple[tuple[str, str], ...], rows: list[list[str]]) -> str:
    head = [[name for name, _ in columns], [line for _, line in columns]]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in head + rows)


def _cells(row: Row, found: Found) -> list[str]:
    if "cycles" not in found:
        return [row.name, found["verdict"], *[""] * (len(_COLUMNS) - 3), found["date"]]
    bound, cycles = found["lower_bound_cycles"], found["cycles"]
    return [
        row.name,
        found["verdict"],
        _error(found["off"]),
        _error(found["theirs"]) if "theirs" in found else "",
        str(found["chips"]),
        f"{cycles:,}",
        f"{bound:,}",
        found["bound_by"],
        f"{cycles / bound:.2f}",
        f"{row.published:,}" if row.published else "",
        _goal(row, bound, cycles),
        ", ".join(f"{w} {n / cycles:.0%}" for w, n in [*found["causes"].items()][:2]),
        f"{found['instructions']:,}",
        f"{found['seconds']:.1f}",
        f"{found['megabytes']:,}",
        found["date"],
    ]


def _error(off: float) -> str:
    return f"{off:.1e}" if off else "0"


def _goal(row: Row, bound: int, cycles: int) -> str:
    goal = goal_of(row, bound)
    if goal is None:
        return ""
    told = f"{row.goal:,}" if isinstance(row.goal, int) else f"{row.goal} x"
    return f"{told}: {'met' if cycles <= goal else 'missed'}"


def _remark(row: Row, found: Found) -> str:
    return f"\n`{row.name}`: {found['problem']}\n" if "problem" in found else ""


def _peers(peers: Found) -> str:
    """Compile times side by side."""
    rows = []
    for name in NETWORKS:
        if name in peers:
            found = peers[name]
            times = found["seconds"] / found["vela_seconds"]
            ours = [f"{found['seconds']:.1f}", f"{found['megabytes']:,}"]
            theirs = [f"{found['vela_seconds']:.1f}", f"{found['vela_megabytes']:,}"]
            rows.append([name, *ours, *theirs, f"{times:.1f}", found["vela"], found["date"]])
    if not rows:
        return ""
    columns = (
        ("model", "---"),
        ("compile s", "--:"),
        ("MB", "--:"),
        ("Vela s", "--:"),
        ("MB", "--:"),
        ("times", "--:"),
        ("Vela", "---"),
        ("date", "---"),
    )
    about = """
## Compile time against Arm Vela

Vela compiles for another machine of static schedules, the Ethos-U85; here the same networks as
TFLite files, converted from ours, by turns in one run. The goal for `resnet50-int8` is 3 times
Vela's time at most, within 1,024 MB.

"""
    return about + _table(columns, rows)
