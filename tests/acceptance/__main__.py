"""`python -m tests.acceptance [NAME...]`: run the models, print what came out, write the page."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

import clockstep_isa
from tests.acceptance.fetch import bring
from tests.acceptance.models import BY_NAME, MODELS, Model
from tests.acceptance.page import ROOT, read, write


def main() -> int:
    """Exit status 1 if an answer differed or a run broke off."""
    args = _arguments()
    results = read()
    source = Path(clockstep_isa.__file__).parent / "machines" / f"{args.machine}.toml"
    results["machine"] = {"sha256": hashlib.sha256(source.read_bytes()).hexdigest()[:16]}
    bad = 0
    for model in [BY_NAME[name] for name in args.names] or list(MODELS):
        with tempfile.TemporaryDirectory() as folder:
            path = bring(model, args.cache, Path(folder))
            proto = onnx.load(path, load_external_data=False)
            results["operators"][model.name] = Counter(n.op_type for n in proto.graph.node)
            del proto
            for precision in args.precision or model.precisions:
                row = _run(model, precision, path, args)
                bad += row["verdict"] not in ("match", "refused")
                results["rows"][f"{model.name} {precision}"] = row
                print(model.name, precision, json.dumps(row), flush=True)
                if not args.dry_run:
                    write(results)
    return int(bad > 0)


def _run(model: Model, precision: str, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.acceptance.judge", model.name, precision]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    date = datetime.date.today().isoformat()
    try:
        done = subprocess.run(
            [*command, str(path), args.machine],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=args.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"verdict": "too long", "problem": f"over {args.timeout} s", "date": date}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"verdict": "broke off", "problem": last[:200], "date": date}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**row, "date": date}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "models")
    parser.add_argument("--machine", default="lpu-v1")
    parser.add_argument("--precision", action="append", help="instead of those of the table")
    parser.add_argument("--timeout", type=int, default=1200, metavar="SECONDS")
    parser.add_argument("--dry-run", action="store_true", help="leave the page alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
