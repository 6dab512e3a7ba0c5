"""Compile networks with Clockstep and with Arm Vela, by turns; write docs/benchmarks.md.

    python -m benchmarks peers                    # both networks
    python -m benchmarks peers resnet50-int8

Vela lives in an environment of its own, `.cache/benchmarks/vela`, which the first call makes. It
reads TFLite files; `tflite_writer.py` makes these of our models.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import CACHE, compiled, cpu_seconds, digest, made
from benchmarks.rows import Row, chosen

__all__ = ["NETWORKS", "main"]

NETWORKS = ("resnet50-int8", "mobilenetv2-int8")
"""Rows whose models become TFLite files."""

_PACKAGES = ("ethos-u-vela==5.2.0", "tflite==2.18.0", "onnx")
_ACCELERATOR = "ethos-u85-256"
_TURNS = 2


def main(words: Sequence[str] | None = None) -> int:
    from benchmarks.page import read, write

    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    names = parser.parse_args(words).names or NETWORKS
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        parser.error(f"no network {unknown[0]!r}; there is {', '.join(NETWORKS)}")
    tools = _environment(CACHE / "vela")
    for row in chosen(list(names)):
        found = contest(row, tools)
        print(f"{row.name}: {found}", flush=True)
        results = read()
        results["peers"][row.name] = found
        write(results)
    return 0


def contest(row: Row, tools: Path) -> dict[str, Any]:
    """The best of some turns of each, in processor seconds, start-up included, and megabytes."""
    folder = CACHE / digest()
    folder.mkdir(parents=True, exist_ok=True)
    model = made(row, folder)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / f"{row.name}.tflite"
        writer = Path(__file__).with_name("tflite_writer.py")
        cpu_seconds([str(tools / "python"), str(writer), str(model), str(file)])
        for _ in range(_TURNS):
            ours.append(compiled(row, model, Path(place) / "program.lpu", []))
            theirs.append(_vela(tools, file, Path(place) / "out"))
    least = min(ours, key=lambda found: found["seconds"])
    seconds, megabytes = min(theirs)
    return {
        "seconds": least["seconds"],
        "megabytes": least["megabytes"],
        "vela_seconds": seconds,
        "vela_megabytes": megabytes,
        "vela": f"{_PACKAGES[0].partition('==')[2]}, {_ACCELERATOR}",
        "date": datetime.date.today().isoformat(),
    }


_SHELL = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
"""Runs a command from a small process, so that the peak is not that of ours before it starts."""


def _vela(tools: Path, file: Path, out: Path) -> tuple[float, int]:
    command = [str(tools / "vela"), "--accelerator-config", _ACCELERATOR]
    command += ["--output-dir", str(out), str(file)]
    said, seconds = cpu_seconds([str(tools / "python"), "-S", "-c", _SHELL, *command])
    assert "CPU operators = 0 " in said, f"Vela left out some of {file.name}:\n{said}"
    return seconds, round(int(said.split()[-1]) / 1024)


def _environment(folder: Path) -> Path:
    """The folder of the commands of an environment that has Vela."""
    tools = folder / ("Scripts" if sys.platform == "win32" else "bin")
    wanted = "\n".join(_PACKAGES)
    stamp = folder / "packages.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        quiet = ("--quiet", "--disable-pip-version-check")
        cpu_seconds([str(tools / "python"), "-m", "pip", "install", *quiet, *_PACKAGES])
        stamp.write_text(wanted)
    found, _ = cpu_seconds([str(tools / "vela"), "--version"])
    assert re.match(r"\d", found), f"vela says {found!r}"
    return tools
