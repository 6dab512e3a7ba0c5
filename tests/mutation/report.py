"""What `make mutate` prints: counts by program, by field or change, by check, and the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from clockstep_isa import Program
from tests.mutation.campaign import FAMILIES, Result

__all__ = ["OUTCOMES", "checks", "counts", "grid", "machines", "programs", "totals"]

OUTCOMES = ("refused", "equal", "harmless", "disagreement")


def grid(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table: the first column to the left, the others to the right."""
    cells = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        return "  ".join([row[0].ljust(widths[0]), *rest]).rstrip()

    rule = ["-" * width for width in widths]
    return "\n".join(line(row) for row in (cells[0], rule, *cells[1:]))


def counts(results: Iterable[Result], label: Callable[[Result], str], head: str) -> str:
    """How many mutants had which outcome, by label, in the order of first appearance."""
    table: dict[str, Counter[str]] = {}
    for result in results:
        table.setdefault(label(result), Counter())[result.verdict.outcome] += 1
    rows = [(name, sum(c.values()), *(c[o] for o in OUTCOMES)) for name, c in table.items()]
    return grid((head, "mutants", *OUTCOMES), rows)


def programs(made: Mapping[str, Program], results: Iterable[Result]) -> str:
    """What was mutated, and how its mutants fared."""
    table = {name: Counter[str]() for name in made}
    for result in results:
        table[result.key.program][result.verdict.outcome] += 1
    rows = [
        (
            name,
            p.machine.vector,
            p.chips,
            len(p.code),
            p.cycles,
            *(table[name][o] for o in OUTCOMES),
        )
        for name, p in made.items()
    ]
    return grid(("program", "lanes", "chips", "instructions", "cycles", *OUTCOMES), rows)


def checks(results: Iterable[Result]) -> str:
    """Per code of a hard error: mutants that stop at it, that it is found in, and that it alone
    gives away."""
    stops: Counter[str] = Counter()
    found: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for result in results:
        codes = result.verdict.codes
        found.update(codes)
        stops[result.verdict.fault] += 1
        if len(codes) == 1:
            alone.update(codes)
    rows = [(code, stops[code], found[code], alone[code]) for code in sorted(found)]
    return grid(("check", "first fault", "reported", "nothing else"), rows)


def totals(results: Iterable[Result]) -> str:
    """The sum of all, by family."""
    table: dict[str, Counter[str]] = {family: Counter() for family in FAMILIES}
    for result in results:
        table[result.key.family][result.verdict.outcome] += 1
    rows = [(name, sum(c.values()), *(c[o] for o in OUTCOMES)) for name, c in table.items()]
    both = sum(table.values(), Counter[str]())
    rows.append(("all", sum(both.values()), *(both[o] for o in OUTCOMES)))
    return grid(("family", "mutants", *OUTCOMES), rows)


def machines(programs: Mapping[str, Program]) -> int:
    """How many different machines the programs are for."""
    figures = {tuple(f.value for f in p.machine.figures.values()) for p in programs.values()}
    return len(figures)
