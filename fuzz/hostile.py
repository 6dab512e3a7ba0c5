"""Every hostile value at every place of the metadata and the header of program files."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clockstep_compiler import Options, compile_model
from clockstep_isa import Program, load_machine, program_bytes
from clockstep_isa.table import Type
from tests.support.handmade import matmul, two_chips
from tests.support.hostile import (
    RAW,
    header_of,
    judge,
    paths,
    program_file,
    raw_file,
    replaced,
    split,
)
from tests.support.models import mlp

__all__ = ["every_value"]


_MEBIBYTES = 1024


def every_value() -> int:
    """Judge all files; an exception is a finding."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for program in (two_chips().program(), matmul(Type.I8, 3)[0].program(), _compiled()):
            for raw in _files(program, Path(folder)):
                found[judge(raw, Path(folder) / "x.lpu")] += 1
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    told = ", ".join(f"{n} {name}" for name, n in sorted(found.items()))
    sys.stdout.write(f"{told}; at most {most} MiB\n")
    return 0 if most < _MEBIBYTES else 1


def _compiled() -> Program:
    """A program with nodes, notes and probes; its facts are free, and left out."""
    model = mlp(np.random.default_rng(0), (3, 2, 2), 1)
    program = compile_model(model, load_machine("tiny"), Options(effort="fast"))
    return dataclasses.replace(program, info={})


def _files(program: Program, folder: Path) -> Iterator[bytes]:
    text, arrays = split(program, folder)
    header, payload = header_of(program_bytes(program))
    for at in paths(json.loads(text)):
        yield from (program_file(replaced(text, at, raw), arrays) for raw in RAW.values())
    for at in paths(json.loads(header)):
        yield from (raw_file(replaced(header, at, raw), payload) for raw in RAW.values())
