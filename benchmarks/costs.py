"""What the toolchain takes for each instruction of a long program: seconds, and bytes at the peak.

To time one more thing that is done to a program, add a row to `jobs`.
"""

from __future__ import annotations

import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import clockstep
from benchmarks.contests import Scale
from benchmarks.models import Mlp
from clockstep_isa import Program, load_program, parse_listing, print_listing
from clockstep_isa.codec import decode, encode
from clockstep_runtime.linker import link
from clockstep_runtime.verifier import verify

__all__ = ["Cost", "costs"]

Call = Callable[[], object]

MACHINE = {"lanes.superlanes": 4}
"""Figures of lpu-v1 that are set: with few lanes a model of a moderate size is a long program."""

LIMITS = (20.0, 1024.0)
"""Microseconds and bytes that an instruction may cost the verifier and the linker together."""


@dataclass(frozen=True, slots=True)
class Cost:
    """`limits` are the microseconds and bytes that each instruction may take."""

    what: str
    instructions: int
    seconds: float
    bytes: int
    limits: tuple[float, float] | None = None


def costs(scale: Scale) -> Iterator[Cost]:
    """All jobs, one after the other; memory is measured in a run of its own, which it slows."""
    with tempfile.TemporaryDirectory() as folder:
        for mlp, jobs in ((scale.long, _binary_jobs), (scale.listed, _text_jobs)):
            program = _compiled(mlp)
            for name, job in jobs(program, Path(folder) / "program").items():
                seconds = min(_seconds(job) for _ in range(scale.turns))
                limits = LIMITS if name == "verify and link" else None
                yield Cost(name, len(program.code), seconds, _peak(job), limits)


def _compiled(mlp: Mlp) -> Program:
    return clockstep.compile(mlp.model(), set=MACHINE, effort="fast")


def _binary_jobs(program: Program, file: Path) -> dict[str, Call]:
    machine, code = program.machine, program.code
    words = encode(machine, code)
    program.save(file)
    return {
        "verify": lambda: verify(program),
        "verify and link": lambda: link(program),
        "encode": lambda: encode(machine, code),
        "decode": lambda: decode(machine, words),
        "save": lambda: program.save(file),
        "load": lambda: load_program(file),
    }


def _text_jobs(program: Program, _file: Path) -> dict[str, Call]:
    text = print_listing(program)
    return {
        "print a listing": lambda: print_listing(program),
        "parse a listing": lambda: parse_listing(text),
    }


def _seconds(job: Call) -> float:
    gc.collect()
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _peak(job: Call) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
