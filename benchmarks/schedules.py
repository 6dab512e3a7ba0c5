"""Measure schedules and what it takes to make them; write docs/benchmarks.md.

    python -m benchmarks schedules                       # every row, some ten minutes
    python -m benchmarks schedules lstm resnet50-int8    # rows by name, or by its first words
    python -m benchmarks schedules --check               # compile only; which rows are worse?
    python -m benchmarks schedules resnet50 --set streams.per_direction=16    # another machine

Rows that are measured replace those of the page; on another machine the page is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clockstep_isa
from benchmarks.measure import CACHE, Failed, compiled, digest, made, measure
from benchmarks.page import goal_of, read, write
from benchmarks.rows import Row, chosen

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 1 if an answer is wrong, a model is refused, or a row is worse."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks schedules", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--check", action="store_true", help="compile and compare with the page")
    parser.add_argument("--machine", help="instead of each row's own; the page is left alone")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--effort", help="instead of the standard; the page is left alone")
    options = parser.parse_args(words)
    try:
        rows = chosen(options.names)
    except KeyError as error:
        parser.error(f"no row {error}")
    if options.check:
        return _check(rows)
    return _measure(rows, _extra(options))


def _extra(options: argparse.Namespace) -> list[str]:
    """Flags of `clockstep compile` that make the measurement one of something else."""
    flags = [("--machine", options.machine), ("--effort", options.effort)]
    given = [word for flag, value in flags if value for word in (flag, value)]
    return given + [word for pair in options.set for word in ("--set", pair)]


def _measure(rows: list[Row], extra: list[str]) -> int:
    bad = 0
    for row in rows:
        found = measure(row, extra)
        bad += found["verdict"] != "match"
        print(_told(row, found), flush=True)
        if not extra:
            results = read()
            results["machine"] = _machine()
            results["rows"][row.name] = found
            write(results)
    return int(bad > 0)


def _told(row: Row, found: dict[str, Any]) -> str:
    if "cycles" not in found:
        return f"{row.name}: {found['problem']}"
    cycles, bound = found["cycles"], found["lower_bound_cycles"]
    goal = goal_of(row, bound)
    aim = "" if goal is None else f", goal {goal:,} {'met' if cycles <= goal else 'missed'}"
    return (
        f"{row.name}: {found['verdict']}, off {found['off']:.1e}, {cycles:,} cycles on "
        f"{found['chips']} chips, {cycles / bound:.2f} times the bound{aim}; "
        f"compiled in {found['seconds']:.1f} s, {found['megabytes']:,} MB"
    )


def _check(rows: list[Row]) -> int:
    """Compile, and say which rows have other cycles than on the page."""
    kept, worse = read()["rows"], 0
    folder = CACHE / digest()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for row in rows:
            before = kept.get(row.name, {}).get("cycles")
            try:
                program = Path(place) / "program.lpu"
                now = compiled(row, made(row, folder), program, [])["cycles"]
            except Failed as failure:
                worse += before is not None
                print(f"{row.name}: {failure.problem}", flush=True)
                continue
            if before is not None and now != before:
                worse += now > before
                print(_changed(row, before, now), flush=True)
    print(f"{worse} of {len(rows)} rows are worse")
    return int(worse > 0)


def _changed(row: Row, before: int, now: int) -> str:
    word = "worse" if now > before else "better"
    return f"{row.name}: {word}, {before:,} to {now:,} cycles ({100 * now / before - 100:+.1f}%)"


def _machine() -> str:
    source = Path(clockstep_isa.__file__).parent / "machines" / "lpu-v1.toml"
    return hashlib.sha256(source.read_bytes()).hexdigest()[:16]
