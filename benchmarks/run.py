"""Time the compiler, the verifier and the engine on fixed models; print a Markdown table.

    .venv/bin/python -m benchmarks.run [NAME]...

Every verb runs in a process of its own, so peak memory is that of one compilation. To add a
model, add a row to `MODELS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.models import Mlp


@dataclass(frozen=True, slots=True)
class Case:
    """A model and its machine; `execute` says whether the engine is timed as well."""

    mlp: Mlp
    machine: str = "lpu-v1"
    execute: bool = True


MODELS = (
    Case(Mlp("small", 1, (64, 96, 64, 10))),
    Case(Mlp("square", 64, (320, 320, 320, 320))),
    Case(Mlp("wide", 32, (2000, 2000, 2000))),
    Case(Mlp("deep", 16, (640,) * 17)),
    Case(Mlp("two-chips", 1, (8192, 8192, 4096)), execute=False),
    Case(Mlp("tiny-chips", 3, (400, 500, 400)), machine="tiny"),
)
COLUMNS = (
    "model",
    "chips",
    "cycles",
    "bound",
    "bound %",
    "instructions",
    "compile s",
    "peak MiB",
    "verify s",
    "engine cycles/s",
    "sha256",
)


def main(names: list[str]) -> None:
    unknown = sorted(set(names) - {case.mlp.name for case in MODELS})
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        for case in MODELS:
            if not names or case.mlp.name in names:
                row = measure(case, Path(folder))
                print("| " + " | ".join(row) + " |", flush=True)


def measure(case: Case, folder: Path) -> list[str]:
    """One row of the table."""
    name = case.mlp.name
    model, program = folder / f"{name}.onnx", folder / f"{name}.lpu"
    onnx.save(case.mlp.model(), model)
    made = clockstep("compile", str(model), "-o", str(program), "--machine", case.machine)
    start = time.perf_counter()
    clockstep("verify", str(program))
    verify_seconds = time.perf_counter() - start
    speed = "-"
    if case.execute:
        ran = clockstep("run", str(program))
        speed = f"{ran['cycles'] / max(ran['wall_seconds'], 1e-3):,.0f}"
    bound = made["lower_bound_cycles"]
    return [
        name,
        str(made["chips"]),
        f"{made['cycles']:,}",
        f"{bound:,} ({made['bound_by']})",
        f"{100 * bound / made['cycles']:.0f}",
        f"{made['instructions']:,}",
        f"{made['compile_seconds']:.2f}",
        f"{made['peak_rss_bytes'] / 2**20:,.0f}",
        f"{verify_seconds:.2f}",
        speed,
        made["sha256"][:12],
    ]


def clockstep(*words: str) -> dict[str, Any]:
    """The JSON that a verb prints; ends the benchmark if the verb fails."""
    command = [sys.executable, "-m", "clockstep", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
