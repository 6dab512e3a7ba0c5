"""`python -m fuzz`: which kind, how much, from which seed."""

from __future__ import annotations

import argparse
import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

from fuzz import graphs
from fuzz.hostile import every_value
from fuzz.mutators import blind
from fuzz.targets import TARGETS, Target

_SLICE = 60
"""Seconds of one process: what atheris itself keeps of every run would reach the limit in time."""
_FLAGS = ("-rss_limit_mb=1024", "-timeout=5", "-max_len=65536", "-print_final_stats=1")


def main() -> int:
    """Parse the command line and run one kind."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("fuzz-found"), help="for findings")
    kinds = parser.add_subparsers(dest="kind", required=True)
    of_graphs = kinds.add_parser("graphs", help="random ONNX graphs through everything")
    of_graphs.add_argument("-n", type=int, default=500, help="how many")
    of_graphs.add_argument("--seed", type=int, default=0)
    of_bytes = kinds.add_parser("bytes", help="files and listings, guided by coverage")
    of_bytes.add_argument("-t", type=int, default=60, help="seconds for each target")
    of_bytes.add_argument("--target", choices=[target.name for target in TARGETS])
    kinds.add_parser("hostile", help="every hostile value at every place of a program file")
    again = kinds.add_parser("again", help="repeat a finding of `bytes`")
    again.add_argument("file", type=Path)
    chosen = parser.parse_args()
    if chosen.kind == "graphs":
        return graphs.run(chosen.n, chosen.seed, chosen.folder)
    if chosen.kind == "hostile":
        return every_value()
    if chosen.kind == "again":
        _named(chosen.file.name.partition("-")[0]).run(chosen.file.read_bytes())
        return 0
    targets = [t for t in TARGETS if chosen.target in (None, t.name)]
    return max(_guided(target, chosen.t, chosen.folder) for target in targets)


def _named(name: str) -> Target:
    return next(target for target in TARGETS if target.name == name)


def _guided(target: Target, seconds: int, folder: Path) -> int:
    """Atheris if it is installed, else the same mutators without a guide."""
    if importlib.util.find_spec("atheris") is None:
        sys.stdout.write("no atheris here (pip install -e '.[fuzz]'): blind\n")
        return _blindly(target, seconds, folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "fuzz.coverage", target.name, str(folder), *_FLAGS]
    for number, begin in enumerate(range(0, seconds, _SLICE), 1):
        span = min(_SLICE, seconds - begin)
        more = [f"-seed={number}", f"-max_total_time={span}"]
        if subprocess.run([*words, *more], check=False).returncode:
            return 1
    return 0


def _blindly(target: Target, seconds: int, folder: Path) -> int:
    rng, count, end = random.Random(1), 0, time.monotonic() + seconds
    pool = target.seeds()
    while time.monotonic() < end:
        data = target.mutate(rng.choice(pool), rng, blind(rng))
        count += 1
        try:
            target.run(data)
        except Exception:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{target.name}-crash").write_bytes(data)
            raise
    sys.stdout.write(f"{target.name}: {count} files, nothing found\n")
    return 0


sys.exit(main())
