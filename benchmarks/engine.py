"""Time the engine against its peers, and the toolchain by the instruction; print Markdown tables.

    .venv/bin/python -m benchmarks.engine               # everything: two minutes, if alone
    .venv/bin/python -m benchmarks.engine --quick       # at smaller sizes: half a minute
    .venv/bin/python -m benchmarks.engine --write       # and put the tables into README.md
    .venv/bin/python -m benchmarks.engine int8 batch    # some sections

What is measured stands in `contests.py` and `costs.py`, how in `timing.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contests import CONTESTS, FULL, QUICK, Row, Scale
from benchmarks.costs import Cost, costs
from benchmarks.timing import host

__all__ = ["main", "report", "written"]

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- begin: benchmarks/engine.py --write -->", "<!-- end -->"
SECTIONS = (*CONTESTS, "costs")

_CONTESTS_HEAD = ("what", "takes", "against", "takes", "ratio", "required")
_COSTS_HEAD = ("what", "instructions", "takes", "us each", "peak bytes each", "required")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--write", action="store_true", help=f"rewrite the tables in {README.name}")
    options = parser.parse_args(words)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there is {', '.join(SECTIONS)}")
    lines = []
    for line in report(QUICK if options.quick else FULL, options.sections or SECTIONS):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        text = README.read_text(encoding="utf-8")
        README.write_text(written(text, lines), encoding="utf-8")


def report(scale: Scale, sections: Sequence[str]) -> Iterator[str]:
    """The lines of the report, as they are measured."""
    yield from (f"- {fact}" for fact in host())
    contests = [name for name in CONTESTS if name in sections]
    if contests:
        yield from _head(_CONTESTS_HEAD)
        for name in contests:
            yield from map(_contest, CONTESTS[name](scale))
    if "costs" in sections:
        yield from _head(_COSTS_HEAD)
        yield from map(_cost, costs(scale))


def written(text: str, lines: Sequence[str]) -> str:
    """`text` with `lines` in place of what stands between the marks."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"no marks in {README.name}"
    return "\n".join([before + BEGIN, *lines, END + after])


def _head(names: Sequence[str]) -> Iterator[str]:
    yield ""
    yield _line(*names)
    yield "|" + "---|" * len(names)


def _contest(row: Row) -> str:
    ratio = row.ours / row.theirs
    required = "" if row.limit is None else _judged(f"≤ {row.limit:.3g}", ratio <= row.limit)
    text = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
    return _line(row.what, _time(row.ours), row.against, _time(row.theirs), text, required)


def _cost(cost: Cost) -> str:
    each, bytes_ = cost.seconds * 1e6 / cost.instructions, cost.bytes / cost.instructions
    required = ""
    if cost.limits is not None:
        most, most_bytes = cost.limits
        met = each <= most and bytes_ <= most_bytes
        required = _judged(f"≤ {most:g} us, ≤ {most_bytes:g} bytes", met)
    return _line(
        cost.what,
        f"{cost.instructions:,}",
        _time(cost.seconds),
        f"{each:.2f}",
        f"{bytes_:,.0f}",
        required,
    )


def _judged(required: str, met: bool) -> str:
    return f"{required}: {'met' if met else 'missed'}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
