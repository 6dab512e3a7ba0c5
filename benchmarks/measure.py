"""One row: its model made, compiled, verified, run, and compared with onnxruntime.

Every verb runs in a process of its own, so that time and memory are the compiler's.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import clockstep
from benchmarks.rows import Arrays, Row
from clockstep.quantization import quantize

__all__ = ["Failed", "compiled", "cpu_seconds", "digest", "made", "measure"]

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "benchmarks"
_MAKERS = ("builder", "convnets", "encoder", "models", "products", "recurrent", "rows")
_SEEDS = (0, 1)
_HALF, _QUANTIZED = 2e-2, 1e-2
"""How far from onnxruntime an answer may be, in parts of the output's range."""
_ALIKE = 1.05
"""The root of our mean square error in parts of onnxruntime's own, beyond `_QUANTIZED`."""


@dataclass(frozen=True, slots=True)
class Failed(Exception):
    """A command that ended badly, and its last words."""

    problem: str


def measure(row: Row, extra: list[str], cache: Path = CACHE) -> dict[str, Any]:
    """What is kept of one row; a `problem` instead of figures if the model was refused."""
    today = {"date": datetime.date.today().isoformat()}
    folder = cache / digest()
    folder.mkdir(parents=True, exist_ok=True)
    model, program = made(row, folder), folder / f"{row.name}.lpu"
    try:
        figures = compiled(row, model, program, extra)
        verified, seconds = _clockstep("verify", str(program))
        figures |= {"verify_seconds": seconds, **_ran(row, model, program)}
    except Failed as failure:
        return {"verdict": "failed", "problem": failure.problem, **today}
    finally:
        program.unlink(missing_ok=True)
    assert verified["ok"], f"{row.name}: verified with violations"
    return figures | today


def compiled(row: Row, model: Path, program: Path, extra: list[str]) -> dict[str, Any]:
    """Figures of the schedule, and of what it took to make it."""
    options = ["--machine", row.machine, "--precision", row.precision, *extra]
    if row.chips is not None:
        options += ["--chips", str(row.chips), "--objective", "throughput", "--copies", "1"]
    said, seconds = _clockstep("compile", str(model), "-o", str(program), *options)
    kept = ("chips", "cycles", "lower_bound_cycles", "bound_by", "instructions", "sha256")
    megabytes = round(said["peak_rss_bytes"] / 2**20)
    figures = {key: said[key] for key in kept}
    return {**figures, "seconds": seconds, "megabytes": megabytes, "causes": _causes(program)}


def _causes(program: Path) -> dict[str, int]:
    """Cycles by what they went into; every cycle of the program is in one of them."""
    loaded = clockstep.load(program)
    spent: Counter[str] = Counter()
    start = 0
    for first, end, _, cause, _ in loaded.info["causes"]:
        assert first == start < end, f"{program.name}: causes leave out cycle {start}"
        spent[cause] += end - first
        start = end
    assert start == loaded.cycles, f"{program.name}: causes end in cycle {start}"
    return dict(spent.most_common())


def made(row: Row, folder: Path) -> Path:
    """The model as a file, made if it is not there."""
    path = folder / f"{row.like or row.name}.onnx"
    if path.exists():
        return path
    plain = folder / f"{row.name}.part"
    onnx.save(row.model(), plain)
    if row.quantized:
        samples = [row.feeds(seed) for seed in (2, 3)]
        stacked = {name: np.stack([s[name] for s in samples]) for name in samples[0]}
        plain.write_bytes(quantize(plain, stacked, activations=row.quantized))
    plain.rename(path)
    return path


def cpu_seconds(command: list[str]) -> tuple[str, float]:
    """What a command prints, and the processor time it takes, start-up included.

    Raises `Failed` if it ends with another status than 0.
    """
    before = _children()
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise Failed(_last_words(done))
    return done.stdout, round(_children() - before, 2)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stdout.strip() or done.stderr.strip() or "no message").splitlines()
    try:
        error = json.loads(lines[-1])["error"]
    except (ValueError, KeyError):
        return f"exit {done.returncode}: {lines[-1]}"[:200]
    return f"{error['code']}: {error['message']}"


def _clockstep(*words: str) -> tuple[dict[str, Any], float]:
    """The JSON that a verb prints, and its processor time."""
    said, seconds = cpu_seconds([sys.executable, "-m", "clockstep", *words, "--json"])
    result: dict[str, Any] = json.loads(said)
    return result, seconds


def _ran(row: Row, model: Path, program: Path) -> dict[str, Any]:
    """The engine's cycles, and how far its answers are from onnxruntime's."""
    feeds = [row.feeds(seed) for seed in _SEEDS]
    inputs, outputs = program.with_suffix(".in.npz"), program.with_suffix(".out.npz")
    stacked: dict[str, Any] = {name: np.stack([f[name] for f in feeds]) for name in feeds[0]}
    np.savez(inputs, **stacked)
    try:
        command = ("run", str(program), "--inputs", str(inputs), "-o", str(outputs))
        said, seconds = _clockstep(*command)
        with np.load(outputs) as file:
            ours = {name: file[name] for name in file.files}
    finally:
        inputs.unlink()
        outputs.unlink(missing_ok=True)
    assert said["cycles"] == said["predicted_cycles"], f"{row.name}: ran in {said['cycles']}"
    return {"run_seconds": seconds, **_compared(row, model, feeds, ours)}


def _compared(row: Row, model: Path, feeds: list[Arrays], ours: Arrays) -> dict[str, Any]:
    """`off` is the largest error in parts of the range; `theirs` that of onnxruntime at work.

    The reference of a quantized model is onnxruntime without its optimisations. Where roundings
    that fall otherwise grow from layer to layer, errors are compared by their mean squares.
    """
    exact = _onnxruntime(model, feeds, optimised=row.precision == "fp16")
    off, spread = _errors(ours, exact)
    found, match = {"off": off}, off <= _HALF
    if row.precision != "fp16":
        found["theirs"], allowed = _errors(_onnxruntime(model, feeds, optimised=True), exact)
        match = off <= _QUANTIZED or spread <= _ALIKE * allowed
    depends = all(not np.array_equal(r[0], r[1]) for r in exact.values())
    return {**found, "verdict": "match" if match and depends else "differs"}


def _errors(ours: Arrays, exact: Arrays) -> tuple[float, float]:
    """The largest error, and the root of the mean square of all, in parts of their ranges."""
    parts = []
    for name, reference in exact.items():
        error = ours[name].astype(np.float64) - reference
        parts.append((error / (np.ptp(reference.astype(np.float64)) or 1.0)).ravel())
    every = np.concatenate(parts)
    return float(np.abs(every).max()), float(np.sqrt(np.mean(every**2)))


def _onnxruntime(model: Path, feeds: list[Arrays], optimised: bool) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    runs = [session.run(names, feed) for feed in feeds]
    return {name: np.stack([run[k] for run in runs]) for k, name in enumerate(names)}


def digest() -> str:
    """Of the code that makes models: another code makes other models."""
    code = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in _MAKERS)
    return hashlib.sha256(code + onnxruntime.__version__.encode()).hexdigest()[:12]
