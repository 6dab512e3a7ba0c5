"""`make mutate`: many mutants, the counts, and what to do about a disagreement.

    python -m tests.mutation [-n MUTANTS] [--seed SEED] [--program NAME]... [--processes N]
    python -m tests.mutation --only PROGRAM:FAMILY:SEED:NUMBER      one mutant, shown

Exits with 1 if there is a disagreement, or if a verifier or engine that is wrong on purpose is not
caught.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from clockstep_isa import ClockstepError
from tests.mutation import report
from tests.mutation.campaign import Key, Result, judged, keys, mutant, run, subject
from tests.mutation.change import explain
from tests.mutation.corpus import PROGRAMS, program
from tests.mutation.judge import ENGINES
from tests.mutation.weaken import catches, weakenings

_SHARES = {"field": 1, "structural": 4, "chain": 16}
"""One mutant of each family for so many field mutants."""

_LEGEND = """\
refused       the interpreter faults, and the verifier reports that fault: code, chip, unit, cycle
equal         accepted, other outputs than the original's, the same bits and cycles everywhere
harmless      accepted, the original's outputs, the same bits and cycles everywhere
disagreement  anything else
"""

_LIMIT = 4000
"""Mutants that a wrong judge has at most to give itself away."""

_SHOWN = 20
"""Disagreements that are shown in full."""


def main(arguments: list[str]) -> int:
    """Run, print, and say how it went as an exit status."""
    options = _parser().parse_args(arguments)
    if options.only:
        return _show(_key(options.only))
    names = options.program or list(PROGRAMS)
    started = time.monotonic()
    wanted = [
        key
        for family, share in _SHARES.items()
        for key in keys(names, family, options.seed, options.n // share)
    ]
    results = list(run(wanted, options.processes))
    _print_tables(names, results)
    missed = [] if options.program else _weaken(options.seed)
    wrong = [result for result in results if result.verdict.outcome == "disagreement"]
    for result in wrong[:_SHOWN]:
        _reproduce(result, Path(options.keep))
    seconds = time.monotonic() - started
    print(
        f"\n{len(results)} mutants, {len(wrong)} disagreements; {len(missed)} wrong judges not "
        f"caught; seed {options.seed}, {seconds:.0f} s"
    )
    return 1 if wrong or missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("-n", type=int, default=30000, help="field mutants, over all programs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--program", action="append", choices=list(PROGRAMS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", default="build/mutants", help="folder for what disagrees")
    parser.add_argument("--only", help="PROGRAM:FAMILY:SEED:NUMBER of one mutant to show")
    return parser


def _print_tables(names: list[str], results: list[Result]) -> None:
    made = {name: program(name) for name in names}
    field = [result for result in results if result.key.family == "field"]
    structural = [result for result in results if result.key.family == "structural"]
    print(
        f"{len(made)} programs, {report.machines(made)} machines; engines: {', '.join(ENGINES)}\n"
    )
    print(_LEGEND)
    print(report.programs(made, results), end="\n\n")
    print(report.counts(field, lambda result: result.what, "field changed"), end="\n\n")
    print(report.counts(structural, lambda result: result.what, "change"), end="\n\n")
    print(report.checks(results), end="\n\n")
    print(report.totals(results))


def _weaken(seed: int) -> list[str]:
    """Print what gives every wrong judge away; the names of those that nothing does."""
    found = catches(weakenings(), seed, _LIMIT)
    rows = [(name, catch.tried, _text(catch.key)) for name, catch in found.items() if catch]
    print("\n" + report.grid(("wrong on purpose", "caught by mutant", "which is"), rows))
    missed = [name for name, catch in found.items() if catch is None]
    for name in missed:
        print(f"{name}: not caught by {_LIMIT} mutants")
    return missed


def _key(text: str) -> Key:
    name, family, seed, number = text.split(":")
    return Key(name, family, int(seed), int(number))


def _show(key: Key) -> int:
    result = judged(key)
    verdict = result.verdict
    print(f"{_text(key)}: {result.what} changed")
    print(explain(program(key.program), mutant(key).program))
    print(f"{verdict.outcome} {verdict.fault} {verdict.detail}".strip())
    return 1 if verdict.outcome == "disagreement" else 0


def _text(key: Key) -> str:
    return f"{key.program}:{key.family}:{key.seed}:{key.number}"


def _reproduce(result: Result, folder: Path) -> None:
    """Print what differs and how to see it again; keep the program, if a file can hold it."""
    changed = mutant(result.key).program
    print(f"\n{_text(result.key)}: {result.what} changed: {result.verdict.detail}")
    print(explain(subject(result.key.program).program, changed))
    print(f"again: python -m tests.mutation --only {_text(result.key)}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_text(result.key).replace(':', '-')}.lpu"
    try:
        changed.save(path)
    except ClockstepError as error:
        print(f"no program file holds it: {error}")
        return
    print(f"program: {path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
