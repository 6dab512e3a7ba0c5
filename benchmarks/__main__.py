"""`python -m benchmarks WHAT ...`: schedules, peers, engine or collectives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks import collectives, engine, peers, schedules

TOOLS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "schedules": schedules.main,
    "peers": peers.main,
    "engine": engine.main,
    "collectives": collectives.main,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TOOLS:
        sys.exit(f"usage: python -m benchmarks {{{','.join(TOOLS)}}} [--help] ...")
    sys.exit(TOOLS[sys.argv[1]](sys.argv[2:]))
