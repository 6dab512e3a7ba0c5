"""The loop over random graphs: counts, and for a failure the smallest case in a folder."""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from clockstep_compiler.operators import OPERATORS
from clockstep_isa import Machine
from fuzz.case import Case, Tally, cases, check
from fuzz.operators import ROWS

__all__ = ["run", "save", "search"]

_CHECKS = list(HealthCheck)


def search(count: int, start: int, tally: Tally, *, shrink: bool = True) -> Case | None:
    """Check `count` cases; the smallest one found that fails (with `shrink`), or None.

    The same count and seed give the same cases.
    """
    failing: list[tuple[Case, BaseException]] = []

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        verbosity=Verbosity.quiet,
        deadline=None,
        derandomize=False,
        suppress_health_check=_CHECKS,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
    )
    @given(cases())
    def every(case: Case) -> None:
        try:
            check(case, tally)
        except Exception as error:
            failing.append((case, error))
            raise

    try:
        every()
    except Exception:
        if not failing:
            raise
        # Hypothesis ends with the smallest one.
        case, error = failing[-1]
        traceback.print_exception(error, limit=-6, chain=False)
        return case
    return None


def run(count: int, start: int, folder: Path) -> int:
    """`make fuzz`: check `count` cases, say what happened; 1 if one of them failed."""
    tally, begin = Tally(), time.perf_counter()
    case = search(count, start, tally)
    _report(tally, time.perf_counter() - begin)
    if case is None:
        return 0
    save(case, folder)
    sys.stdout.write(f"FAILED: {case}\nsmallest case in {folder}; see {folder / 'command'}\n")
    return 1


def _report(tally: Tally, seconds: float) -> None:
    share = tally.unbounded / max(1, tally.elements)
    refused = sum(tally.refused.values())
    lines = [
        f"{tally.cases} cases in {seconds:.0f} s: {tally.agreed} agreed, {refused} refused",
        f"{tally.elements} elements compared, of {share:.1%} any value would do",
        _line("operators", tally.operators),
        _line("machines", tally.machines),
        _line("types", tally.dtypes),
        _line("instructions", tally.instructions),
        _line("refused", tally.refused),
    ]
    rows = {row.op for row in ROWS}
    for what, names in (
        ("never seen", rows - set(tally.operators)),
        ("without a row", {operator.name for operator in OPERATORS} - rows),
    ):
        lines += [f"{what}: {', '.join(sorted(names))}"] if names else []
    sys.stdout.write("\n".join(lines) + "\n")


def _line(title: str, counts: Counter[str]) -> str:
    return f"{title}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))


def save(case: Case, folder: Path) -> None:
    """Model, machine, inputs and the command that runs them."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(case.model, folder / "model.onnx")
    (folder / "machine.toml").write_text(_toml(case.machine), encoding="utf-8")
    np.savez(folder / "inputs.npz", **case.inputs)  # type: ignore[arg-type]
    chips = [] if case.options.chips is None else ["--chips", str(case.options.chips)]
    words = ["clockstep", "compile", "model.onnx", "-o", "program.lpu", *chips]
    words += ["--machine", "machine.toml", "--precision", case.options.precision]
    words += ["--effort", case.options.effort]
    then = ["clockstep", "run", "program.lpu", "--inputs", "inputs.npz", "--compare", "model.onnx"]
    text = f"{shlex.join(words)}\n{shlex.join(then)}\n"
    (folder / "command").write_text(text, encoding="utf-8")


def _toml(machine: Machine) -> str:
    lines = ['name = "fuzz"']
    section = ""
    for key, figure in machine.figures.items():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines.append(f"\n[{section}]")
        lines.append(f"{key.partition('.')[2]} = {figure.value}")
    return "\n".join(lines) + "\n"
