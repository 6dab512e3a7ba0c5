"""Time contestants side by side, and say on what machine.

Other work may share the processors: contestants take turns, and of each the best turn counts.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

__all__ = ["host", "race"]

PAUSE = 0.02
"""Seconds of rest before a turn: thread pools of the one before stop to spin."""

FLAGS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16")
"""Processor flags that decide how fast products are."""

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "CLOCKSTEP_INT8_PROVIDER")


def race(
    contestants: Mapping[str, Callable[[], object]], turns: int, least: float
) -> dict[str, float]:
    """Seconds that one call of each takes: the best of `turns` alternating turns.

    A turn is as many calls as take `least` seconds; one call before all turns is not counted.
    """
    calls = {name: _calls(call, least) for name, call in contestants.items()}
    best = dict.fromkeys(contestants, math.inf)
    for _ in range(turns):
        for name, call in contestants.items():
            time.sleep(PAUSE)
            best[name] = min(best[name], _turn(call, calls[name]))
    return best


def _calls(call: Callable[[], object], least: float) -> int:
    """How many calls take `least` seconds."""
    call()
    count = 1
    while _turn(call, count) * count < least:
        count *= 2
    return count


def _turn(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def host() -> list[str]:
    """What the figures depend on, a line each."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    packages = [f"{name} {version(name)}" for name in ("numpy", "onnx", "onnxruntime")]
    settings = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    model, flags = _processor()
    # As many threads as processors is the default of OpenBLAS and onnxruntime alike.
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {model}",
        f"flags: {' '.join(f for f in FLAGS if f in flags) or 'none of ' + ' '.join(FLAGS)}",
        f"{_processors()} processors, load {os.getloadavg()[0]:.1f} at the start; threads: "
        f"{', '.join(settings) or 'as many as processors'}",
        f"Python {platform.python_version()}, {', '.join(packages)}, "
        f"{blas.get('name')} {blas.get('version')}",
    ]


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _processor() -> tuple[str, set[str]]:
    """Its name and flags; no flags where the system does not say."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (s.partition(":") for s in lines)}
    name = facts.get("model name") or platform.processor() or "unknown processor"
    return name, set(facts.get("flags", "").split())
