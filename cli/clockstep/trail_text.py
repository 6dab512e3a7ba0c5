"""`run --provenance` for people.

A line stands for all dispatches of one kind that are equally far from the output and serve one
node. Reads, writes and links only move bytes, and an `acc` emits what its `abc` has computed: the
lines see through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep.output import number, table_text
from clockstep.trail import runs, served, texts_of, unit_of
from clockstep_isa import BY_OPCODE, Program, Unit, geometry
from clockstep_runtime.debug import Dispatch, Provenance, Step, Word

__all__ = ["trail_as_text"]

_MOVING = (Unit.MEM, Unit.SEND, Unit.RECEIVE, Unit.ACC)


@dataclass(slots=True)
class _Line:
    """Steps of one kind; `sources` are lines and words by operand."""

    steps: list[Step] = field(default_factory=list)
    sources: dict[str, dict[Dispatch, None]] = field(default_factory=dict)
    number: int = 0


_COLUMNS = ("#", "cycles", "unit", "instruction", "lanes", "value", "from", "serves")


def trail_as_text(program: Program, text: str, value: Any, trail: Provenance) -> str:
    """The lines, and what of the inputs and of the image they end in."""
    lines, line_of = _lines(program, trail)
    texts = texts_of(program, trail)
    words = {word.at: word for word in trail.words}
    rows = [_row(program, line, line_of, words, texts) for line in lines]
    parts = [f"{text} = {number(value)}"]
    if rows:
        parts.append(table_text(rows, _COLUMNS))
    parts.append("\n".join(_leaves(program, trail)))
    return "\n\n".join(parts)


def _lines(program: Program, trail: Provenance) -> tuple[list[_Line], dict[Dispatch, _Line]]:
    """Lines from the output back, and the line of every step that has one."""
    behind = _behind(program, trail)
    level: dict[Dispatch, int] = {}
    keys: dict[tuple[int, str, int], _Line] = {}
    line_of: dict[Dispatch, _Line] = {}
    for step in trail.steps:
        if step.at in behind:
            continue
        sources = {name: _through(behind, found) for name, found in step.sources.items()}
        depth = level.get(step.at, 0)
        for at in (at for found in sources.values() for at in found):
            level[at] = max(level.get(at, 0), depth + 1)
        line = keys.setdefault((depth, *_kind(program, step)), _Line())
        line.steps.append(step)
        line_of[step.at] = line
        for name, found in sources.items():
            line.sources.setdefault(name, {}).update(found)
    lines = [keys[key] for key in sorted(keys, key=lambda key: (key[0], -keys[key].steps[0].cycle))]
    for position, line in enumerate(lines, 1):
        line.number = position
    return lines, line_of


def _behind(program: Program, trail: Provenance) -> dict[Dispatch, dict[Dispatch, None]]:
    """For every step that only moves bytes, the steps and words that it moves them from.

    Loading weights that are there from the start is no more than that.
    """
    words = {word.at for word in trail.words}
    found: dict[Dispatch, dict[Dispatch, None]] = {}
    for step in reversed(trail.steps):
        every = _through(found, (at for sources in step.sources.values() for at in sources))
        unit = BY_OPCODE[int(program.code.opcode[step.at.place])].unit
        if unit in _MOVING or (unit is Unit.LW and words.issuperset(every)):
            found[step.at] = every
    return found


def _through(
    behind: Mapping[Dispatch, dict[Dispatch, None]], found: Iterable[Dispatch]
) -> dict[Dispatch, None]:
    result: dict[Dispatch, None] = {}
    for at in found:
        result.update(behind.get(at, {at: None}))
    return result


def _kind(program: Program, step: Step) -> tuple[str, int]:
    """What the steps of one line have in common: the instruction's name and type, the node."""
    code = program.code
    row = BY_OPCODE[int(code.opcode[step.at.place])]
    types = [int(code.args[step.at.place, i]) for i, f in enumerate(row.fields) if f.name == "type"]
    note = int(code.note[step.at.place])
    return f"{row.name}.{types}", program.notes[note].node if note >= 0 else -1


def _row(
    program: Program,
    line: _Line,
    line_of: Mapping[Dispatch, _Line],
    words: Mapping[Dispatch, Word],
    texts: Mapping[int, str],
) -> dict[str, Any]:
    step, count = line.steps[0], len(line.steps)
    cycles = [s.cycle for s in line.steps]
    units = list(dict.fromkeys(unit_of(program, s) for s in line.steps))
    lanes = np.logical_or.reduce([np.logical_or.reduce(s.lanes) for s in line.steps])
    product = "weights" in line.sources
    node, tile = served(program, step)
    more = f" (+{count - 1})" if count > 1 else ""
    return {
        "#": line.number,
        "cycles": _span(min(cycles), max(cycles)),
        "unit": units[0] + (f" (+{len(units) - 1})" if len(units) > 1 else ""),
        "instruction": texts[step.at.place] + more,
        "lanes": ("columns " if product else "") + _ranges(lanes),
        "value": "" if step.value is None or count > 1 else number(step.value),
        "from": "; ".join(
            _source(program, name, found, line_of, words) for name, found in line.sources.items()
        ),
        "serves": " | ".join(part for part in (node, "" if count > 1 else tile) if part),
    }


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _ranges(lanes: NDArray[np.bool_]) -> str:
    texts = [str(a) if b == a + 1 else f"{a}:{b}" for a, b in runs(lanes)]
    return ", ".join(texts[:3]) + (" ..." if len(texts) > 3 else "")


def _source(
    program: Program,
    name: str,
    found: Iterable[Dispatch],
    line_of: Mapping[Dispatch, _Line],
    words: Mapping[Dispatch, Word],
) -> str:
    """`a: #3, #4, c0.mem.W3:17 of input x, 5 words of the image`."""
    targets = list(found)
    numbers = sorted({line_of[at].number for at in targets if at in line_of})
    parts = [f"#{n}" for n in numbers]
    ends = [words[at] for at in targets if at in words]
    for owner in sorted({word.input for word in ends}, reverse=True):
        mine = [word for word in ends if word.input == owner]
        what = f"input {owner}" if owner else "the image"
        parts.append(f"{_addresses(program, mine)} of {what}")
    return f"{name}: {', '.join(parts)}"


def _addresses(program: Program, words: Sequence[Word]) -> str:
    """Up to two words by their addresses, more by their number."""
    if len(words) > 2:
        return f"{len(words)} words"
    queues = geometry(program.machine).queues
    places = (f"c{w.chip}.{queues[w.queue].name}:{w.address}" for w in words)
    return " and ".join(places)


def _leaves(program: Program, trail: Provenance) -> list[str]:
    lines = [
        f"input {name}: {np.count_nonzero(mask):,} of {mask.size:,} elements{_box(name, mask)}"
        for name, mask in trail.inputs.items()
    ]
    image = [word for word in trail.words if not word.input]
    if image:
        total = sum(int(np.count_nonzero(word.lanes)) for word in image)
        lines.append(f"image: {total:,} bytes in {len(image):,} words{_by_node(program, trail)}")
    return lines


def _box(name: str, mask: NDArray[np.bool_]) -> str:
    """`: x[1, 0:64]` if the elements are all of a box."""
    spans = [
        np.flatnonzero(mask.any(axis=tuple(set(range(mask.ndim)) - {i}))) for i in range(mask.ndim)
    ]
    if not mask.ndim or not all(len(span) for span in spans):
        return ""
    bounds = [(int(span[0]), int(span[-1]) + 1) for span in spans]
    if int(np.prod([b - a for a, b in bounds])) != np.count_nonzero(mask):
        return ""
    texts = [str(a) if b == a + 1 else f"{a}:{b}" for a, b in bounds]
    return f": {name}[{', '.join(texts)}]"


def _by_node(program: Program, trail: Provenance) -> str:
    """How many words of the image each node reads, those that come last first."""
    image = {word.at for word in trail.words if not word.input}
    counts: dict[str, set[Dispatch]] = {}
    for step in trail.steps:
        node = served(program, step)[0]
        if node is not None:
            counts.setdefault(node, set()).update(
                at for found in step.sources.values() for at in found if at in image
            )
    texts = [f"{name} {len(found):,}" for name, found in counts.items() if found]
    return f" ({', '.join(texts)})" if texts else ""
