"""One model at one precision: compiled, verified, run, and compared with onnxruntime.

`python -m tests.acceptance.judge NAME PRECISION FILE MACHINE` prints one JSON object; a process of
its own, so that the peak of its memory is the compiler's.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clockstep
from clockstep import report
from clockstep_isa.diagnostics import DoesNotFit, UnsupportedModel
from tests.acceptance.inputs import GENERATORS
from tests.acceptance.models import BY_NAME, Model

__all__ = ["Distance", "distance", "inputs_of", "verdict_of"]

Array = NDArray[Any]
Distance = dict[str, Any]

_INPUTS = 2
_RTOL, _ATOL = 1e-3, 1e-5
_HALF = 2e-2
"""Tolerances: under `exact` relative and of the range, under `fp16` of the range."""


def inputs_of(model: Model, seed: int) -> dict[str, Array]:
    """The model's inputs from its generators."""
    return {
        name: GENERATORS[feed.kind](feed.shape, seed, **feed.options)
        for name, feed in model.feeds.items()
    }


def distance(ours: list[Array], reference: list[Array]) -> Distance:
    """How far results are from their reference, over all inputs of one output.

    `range` is that of the reference, or its magnitude if it is one number; `off` the largest error
    in parts of it, `excess` the largest in parts of what `exact` allows.
    """
    a = np.stack([np.asarray(x, np.float64) for x in ours])
    r = np.stack([np.asarray(x, np.float64) for x in reference])
    finite = np.isfinite(r)
    same = np.where(finite, np.isfinite(a), (a == r) | (np.isnan(a) & np.isnan(r)))
    kept = r[finite]
    spread = float(np.ptp(kept)) if kept.size else 0.0
    spread = spread or float(np.abs(kept).max(initial=0.0)) or 1.0
    error = np.abs(np.where(finite & same, a - np.where(finite, r, 0.0), 0.0))
    allowed = _RTOL * np.abs(np.where(finite, r, 0.0)) + _ATOL * spread
    infinite = np.inf if not same.all() else 0.0
    return {
        "range": spread,
        "off": max(float((error / spread).max(initial=0.0)), infinite),
        "excess": max(float((error / allowed).max(initial=0.0)), infinite),
        "best": bool((a.reshape(len(a), -1).argmax(1) == r.reshape(len(r), -1).argmax(1)).all()),
    }


def verdict_of(precision: str, off: float, excess: float, plain_off: float, best: bool) -> str:
    """ "match" or "differs".

    Of quantized models the exact evaluation is onnxruntime's without its optimisations; we may be
    as far from it as onnxruntime with them is, or a hundredth of the range, with the same arg-max.
    """
    if precision == "exact":
        return "match" if excess <= 1 else "differs"
    if precision == "fp16":
        return "match" if off <= _HALF else "differs"
    return "match" if off <= max(plain_off, 1e-2) and best else "differs"


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _references(
    path: Path, model: Model, feeds: list[dict[str, Array]], optimised: bool
) -> dict[str, list[Array]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {item.name: item.type for item in session.get_inputs()}
    bound = {name: np.asarray(v, np.int64) for name, v in model.bind.items() if name in kinds}
    names = [item.name for item in session.get_outputs()]
    runs = []
    for feed in feeds:
        given = {name: _typed(value, kinds[name]) for name, value in feed.items()}
        runs.append(session.run(names, {**given, **bound}))
    return {name: [run[k] for run in runs] for k, name in enumerate(names)}


def _typed(value: Array, kind: str) -> Array:
    return value.astype(np.float16) if kind == "tensor(float16)" else value


def judge(name: str, precision: str, path: Path, machine: str) -> dict[str, Any]:
    """What is kept of one run; a refusal has a `problem` instead of figures."""
    model = BY_NAME[name]
    start = time.process_time()
    try:
        program = clockstep.compile(
            path,
            machine=machine,
            precision=precision,
            shape={key: feed.shape for key, feed in model.feeds.items()},
            bind=model.bind,
        )
    except (UnsupportedModel, DoesNotFit) as error:
        found = getattr(error, "diagnostics", ()) or (error.diagnostic,)
        problem = f"{found[0].code}: {found[0].message}"
        return {"verdict": "refused", "problem": problem, "problems": len(found)}
    seconds, peak = time.process_time() - start, _peak()
    info = program.info
    figures = {
        "chips": program.chips,
        "instructions": report.summary(program)["instructions"],
        "cycles": program.cycles,
        "bound": info["lower_bound_cycles"],
        "seconds": round(seconds, 1),
        "megabytes": round(peak / 2**20),
    }
    if not clockstep.verify(program).ok:
        return {**figures, "verdict": "not verified"}
    feeds = [inputs_of(model, seed) for seed in range(_INPUTS)]
    session = clockstep.Session(program)
    ours = [session.run(_declared(program, feed)) for feed in feeds]
    compared = _compared(path, model, precision, ours, feeds)
    return {**figures, **compared}


def _declared(program: clockstep.Program, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs that the program has, in their types."""
    return {b.name: feed[b.name].astype(b.dtype) for b in program.inputs}


def _compared(
    path: Path,
    model: Model,
    precision: str,
    ours: list[dict[str, Array]],
    feeds: list[dict[str, Array]],
) -> dict[str, Any]:
    reference = _references(path, model, feeds, optimised=precision != "auto" and not model.plain)
    parts = [distance([run[name] for run in ours], wanted) for name, wanted in reference.items()]
    off, excess = (max(part[key] for part in parts) for key in ("off", "excess"))
    best = all(part["best"] for part in parts)
    theirs = 0.0
    if precision == "auto":
        other = _references(path, model, feeds, optimised=True)
        theirs = max(distance(other[name], reference[name])["off"] for name in reference)
    depends = any(not np.array_equal(r[0], r[1]) for r in reference.values())
    found = {
        "verdict": verdict_of(precision, off, excess, theirs, best),
        "off": off,
        "excess": excess,
        "best": best,
        "depends": depends,
    }
    return {**found, "theirs": theirs} if precision == "auto" else found


if __name__ == "__main__":
    print(json.dumps(judge(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])))
