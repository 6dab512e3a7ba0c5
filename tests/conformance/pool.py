"""Tests in processes of their own, with limits of time and memory, a few at once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tests.conformance.suite import Case, Outcome, Suite

__all__ = ["MEMORY_BYTES", "SECONDS", "run_cases"]

SECONDS = 120
"""A test that takes longer is a time-out: what a model of `docs/models.md` may take to compile."""

MEMORY_BYTES = 4 << 30
"""Address space of a test's process; a test that needs more crashes with `MemoryError`."""


@dataclass(frozen=True, slots=True)
class _Running:
    case: Case
    process: BaseProcess
    deadline: float


def run_cases(
    suite: Suite, cases: Sequence[Case], workers: int = 2
) -> Iterator[tuple[Case, Outcome]]:
    """Run tests, `workers` at once; yields each with its outcome, in the order they end."""
    context = multiprocessing.get_context("fork")
    waiting, running = list(reversed(cases)), dict[Connection, _Running]()
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < workers:
                case = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(suite, case, folder, theirs))
                process.start()
                theirs.close()
                running[ours] = _Running(case, process, time.monotonic() + SECONDS)
            yield from _collect(running)


def _collect(running: dict[Connection, _Running]) -> Iterator[tuple[Case, Outcome]]:
    """Wait until a test ends or its time does."""
    first = min(task.deadline for task in running.values())
    ended = wait(list(running), timeout=max(0.0, first - time.monotonic()))
    for pipe in list(running):
        task = running[pipe]
        if pipe in ended:
            outcome = _received(pipe, task.process)
        elif time.monotonic() >= task.deadline:
            task.process.kill()
            outcome = Outcome("time-out", f"{SECONDS} s")
        else:
            continue
        task.process.join()
        pipe.close()
        del running[pipe]
        yield task.case, outcome


def _received(pipe: Connection, process: BaseProcess) -> Outcome:
    try:
        outcome: Outcome = pipe.recv()
        return outcome
    except EOFError:
        process.join()
        return Outcome("crash", f"exit code {process.exitcode}")


def _work(suite: Suite, case: Case, folder: str, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.environ["ONNX_MODELS"] = os.path.join(folder, case.name)
    run: Callable[[Case], Outcome] = suite.run
    pipe.send(run(case))
    pipe.close()
