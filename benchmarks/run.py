"""Time the compiler, the verifier and the engine on fixed models; print a Markdown table.

    .venv/bin/python benchmarks/run.py [NAME]...

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

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True, slots=True)
class Mlp:
    """Gemm and Relu layers, float32; `execute` says whether the engine is timed as well."""

    name: str
    batch: int
    widths: tuple[int, ...]
    machine: str = "lpu-v1"
    execute: bool = True


MODELS = (
    Mlp("small", 1, (64, 96, 64, 10)),
    Mlp("square", 64, (320, 320, 320, 320)),
    Mlp("wide", 32, (2000, 2000, 2000)),
    Mlp("deep", 16, (640,) * 17),
    Mlp("two-chips", 1, (8192, 8192, 4096), execute=False),
    Mlp("tiny-chips", 3, (400, 500, 400), machine="tiny"),
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
    unknown = sorted(set(names) - {m.name for m in MODELS})
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        for mlp in MODELS:
            if not names or mlp.name in names:
                row = measure(mlp, Path(folder))
                print("| " + " | ".join(row) + " |", flush=True)


def measure(mlp: Mlp, folder: Path) -> list[str]:
    """One row of the table."""
    model, program = folder / f"{mlp.name}.onnx", folder / f"{mlp.name}.lpu"
    onnx.save(build(mlp), model)
    made = clockstep("compile", str(model), "-o", str(program), "--machine", mlp.machine)
    start = time.perf_counter()
    clockstep("verify", str(program))
    verify_seconds = time.perf_counter() - start
    speed = "-"
    if mlp.execute:
        ran = clockstep("run", str(program))
        speed = f"{ran['cycles'] / max(ran['wall_seconds'], 1e-3):,.0f}"
    bound = made["lower_bound_cycles"]
    return [
        mlp.name,
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


def build(mlp: Mlp) -> onnx.ModelProto:
    """The model, with weights from a fixed seed."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"
    pairs = list(zip(mlp.widths, mlp.widths[1:], strict=False))
    for i, (k, n) in enumerate(pairs):
        weight = rng.standard_normal((k, n), dtype=np.float32) / np.float32(k**0.5)
        bias = rng.standard_normal(n, dtype=np.float32)
        constants += [numpy_helper.from_array(weight, f"w{i}")]
        constants += [numpy_helper.from_array(bias, f"b{i}")]
        out = "y" if i == len(pairs) - 1 else f"h{i}"
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"g{i}"]))
        nodes.append(helper.make_node("Relu", [f"g{i}"], [out]))
        value = out
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [mlp.batch, width])
        for name, width in (("x", mlp.widths[0]), ("y", mlp.widths[-1]))
    ]
    graph = helper.make_graph(nodes, mlp.name, ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


if __name__ == "__main__":
    main(sys.argv[1:])
