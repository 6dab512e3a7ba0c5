"""`python -m tests.conformance`: run the suite, print what came of it, write the tables."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from tests.conformance import table
from tests.conformance.pool import run_cases
from tests.conformance.suite import VERDICTS, Case, Outcome, Suite

_NONE = Outcome("")


def main() -> int:
    """Exit status 1 if an answer was wrong, or a test crashed or took too long."""
    args = _arguments()
    suite = Suite()
    if args.check:
        return _check(suite, args.workers, args.strict)
    chosen = [c for c in suite.cases if re.search(args.filter, f"{c.operator}:{c.name}")]
    found = _run(suite, chosen, args.workers)
    rows = table.rows_of(found)
    for case, outcome in found:
        if outcome.verdict in args.list:
            print(f"{outcome.verdict}: {case.operator}:{case.name}: {outcome.detail}")
    if args.json:
        args.json.write_text(json.dumps([_record(c, o) for c, o in found], indent=1))
    print(table.totals(rows))
    if not args.dry_run:
        names = {case.name for case in suite.cases}
        kept = {name: row for name, row in table.read().items() if name in names}
        table.write({**kept, **{row.test: row for row in rows}})
    return int(any(row.verdict in VERDICTS[3:] for row in rows))


def _check(suite: Suite, workers: int, strict: bool) -> int:
    """Whether the committed results are those of this suite and, as a sample says, of this code.

    What was refused and is so no more, or for another reason, is a problem only if `strict`.
    """
    committed, better = table.read(), list[str]()
    expected = {row.test: row.operator for row in table.rows_of((c, _NONE) for c in suite.cases)}
    problems = [
        f"{name}: not a test of this suite, or of another operator"
        for name, row in committed.items()
        if expected.get(name) != row.operator
    ]
    problems += [f"{name}: not in the table" for name in expected if name not in committed]
    names = {row.test for row in table.sample(committed.values())}
    chosen = [case for case in suite.cases if case.name in names]
    for (case, outcome), row in ((f, table.rows_of([f])[0]) for f in _run(suite, chosen, workers)):
        before = committed[case.name]
        if row == before:
            continue
        was = f"{before.verdict} {before.reason}".strip()
        text = f"{case.name}: {was} in the table, now {row.verdict}: {outcome.detail}"
        worse = before.verdict == "passed" or row.verdict in VERDICTS[3:]
        (problems if worse or strict else better).append(text)
    print(*better, *problems, sep="\n")
    print(f"{len(chosen)} tests run again: {len(problems)} problems, {len(better)} out of date")
    return int(bool(problems))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument(
        "--filter",
        metavar="REGEX",
        default="",
        help="only tests whose OPERATOR:NAME it is found in",
    )
    parser.add_argument(
        "--list",
        metavar="VERDICT",
        action="append",
        default=[],
        choices=VERDICTS,
        help="name the tests that came to this, with the message: " + ", ".join(VERDICTS),
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every result in full")
    parser.add_argument("--workers", metavar="N", type=int, default=2)
    parser.add_argument(
        "--check", action="store_true", help="run a fixed sample, compare it with the tables"
    )
    parser.add_argument("--strict", action="store_true", help="fail where the table understates")
    parser.add_argument("--dry-run", action="store_true", help="leave the committed tables alone")
    return parser.parse_args()


def _run(suite: Suite, chosen: list[Case], workers: int) -> list[tuple[Case, Outcome]]:
    order = {case.name: index for index, case in enumerate(chosen)}
    found = []
    for done in run_cases(suite, chosen, workers):
        found.append(done)
        if sys.stderr.isatty():
            print(f"\r{len(found)}/{len(chosen)}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return sorted(found, key=lambda item: order[item[0].name])


def _record(case: Case, outcome: Outcome) -> dict[str, str]:
    return {
        "test": case.name,
        "kind": case.kind,
        "operator": case.operator,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "detail": outcome.detail,
    }


if __name__ == "__main__":
    sys.exit(main())
