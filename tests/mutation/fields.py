"""One field of one instruction changed to another value, legal or not.

Header fields have a proposal each, the others one a kind of field: mostly a small step, else a
value that another instruction has there, or one at the edge of what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from clockstep_isa import (
    BY_OPCODE,
    TABLE,
    Field,
    Kind,
    Machine,
    Program,
    geometry,
    value_range,
)
from tests.mutation.change import Draw, Mutant, patched, with_code

__all__ = ["HEADER", "field_mutant"]

_STEPS = (-4, -2, -1, -1, 1, 1, 2, 4)
_BITS = (0, 0x80000000, 0x7F800000, 0x7FC00001, 0x3F800000, 1, 0xFFFFFFFF)
"""Immediates that are something special in some type."""


def field_mutant(program: Program, draw: Draw) -> Mutant:
    """A copy with one field of one instruction changed; the promise is what the words imply."""
    code = program.code
    row = _instruction(program, draw)
    fields = BY_OPCODE[int(code.opcode[row])].fields
    # Time is what these programs are about: it has two chances.
    names = ["cycle", *HEADER, *(item.name for item in fields)]
    if code.repeat[row] == 1 and not draw.once_in(8):
        # What repeats alone can show: without any there is mostly nothing to see.
        names = [name for name in names if name not in ("interval", "stride")]
    name = draw.one(names)
    args = code.args[row].copy()
    if name in HEADER:
        column = {"unit": "queue"}.get(name, name)
        old = int(getattr(code, column)[row])
        new = _other(old, lambda: HEADER[name](program, row, draw))
        if name == "opcode":
            args[len(BY_OPCODE[new].fields) if new in BY_OPCODE else 0 :] = 0
        changed = patched(code, row, args=args, **{column: new})
        return Mutant(with_code(program, changed), name)
    index = [item.name for item in fields].index(name)
    item, old = fields[index], int(args[index])
    args[index] = _other(old, lambda: _value(program, row, index, item, draw))
    label = "stream" if item.kind is Kind.STREAM else name
    return Mutant(with_code(program, patched(code, row, args=args)), label)


def _instruction(program: Program, draw: Draw) -> int:
    """Any instruction, or any of any opcode, so that what is rare has its turn."""
    opcodes = program.code.opcode
    if draw.once_in(2):
        return draw.below(len(opcodes))
    chosen = draw.one(np.unique(opcodes).tolist())
    return draw.one(np.flatnonzero(opcodes == chosen).tolist())


def _other(old: int, propose: Callable[[], int]) -> int:
    """The first proposal that is not the old value."""
    new = propose()
    while new == old:
        new = propose()
    return new


def _neighbour(program: Program, column: str, draw: Draw) -> int:
    """The value that some instruction has in a column."""
    return int(draw.one(getattr(program.code, column).tolist()))


def _unit(program: Program, row: int, draw: Draw) -> int:
    queues = geometry(program.machine).queues
    total = program.chips * len(queues)
    if draw.once_in(20):
        return draw.one([-1, total, total + draw.below(total)])
    if draw.once_in(5):
        return draw.below(total)
    kind = queues[int(program.code.queue[row]) % len(queues)].unit
    return draw.one([q for q in range(total) if queues[q % len(queues)].unit == kind] + [total])


def _cycle(program: Program, row: int, draw: Draw) -> int:
    if draw.once_in(8):
        return _neighbour(program, "cycle", draw)
    if draw.once_in(20):
        return draw.one([0, 10**6, 2**48, 2**48 + 1])
    # A start before the first cycle is among the results.
    return int(program.code.cycle[row]) + draw.one(_STEPS)


def _opcode(program: Program, row: int, draw: Draw) -> int:
    if draw.once_in(20):
        return draw.below(256)
    old = BY_OPCODE[int(program.code.opcode[row])]
    if draw.once_in(10):
        return draw.one(TABLE).opcode
    of_unit = [row for row in TABLE if row.unit is old.unit]
    alike = [row for row in of_unit if row.fields == old.fields]
    return draw.one(alike if len(alike) > 1 and draw.once_in(2) else of_unit).opcode


def _repeat(program: Program, row: int, draw: Draw) -> int:
    if draw.once_in(10):
        # A legal repeat of thousands would take seconds and show nothing.
        most = program.machine.icu.repeat_max
        return draw.one([0, -1, most + 1, min(most, 64)])
    if draw.once_in(4):
        return _neighbour(program, "repeat", draw)
    return max(1, int(program.code.repeat[row]) + draw.one(_STEPS))


def _interval(program: Program, row: int, draw: Draw) -> int:
    if draw.once_in(10):
        return draw.one([0, -1, 4095, 4096])
    if draw.once_in(4):
        return _neighbour(program, "interval", draw)
    return max(1, int(program.code.interval[row]) + draw.one(_STEPS))


HEADER: Mapping[str, Callable[[Program, int, Draw], int]] = {
    "unit": _unit,
    "cycle": _cycle,
    "opcode": _opcode,
    "repeat": _repeat,
    "interval": _interval,
}
"""Fields that every instruction has. The row is that of the instruction in the code."""


EDGES: Mapping[str, Callable[[Machine], Sequence[int]]] = {
    "address": lambda m: (m.words_per_slice - 1, m.words_per_slice, m.mem.words_per_bank),
    "column": lambda m: (m.vector - 1, m.vector),
    "count": lambda m: (m.mxm.install_streams, m.mxm.install_streams + 1),
    "rows": lambda m: (0, 1, m.vector, m.vector + 1),
    "lane": lambda m: (m.vector - 1, m.vector),
    "high": lambda m: (0, m.vector, m.vector + 1),
    "width": lambda m: (1, 2, 4, m.lanes.per_superlane, m.streams.per_direction),
}
"""Values about which the machine draws a line, by field."""


def _value(program: Program, row: int, index: int, item: Field, draw: Draw) -> int:
    """A proposal for field `index` of an instruction; some at the edges of word and machine."""
    code = program.code
    if item.kind is not Kind.IMMEDIATE and draw.once_in(8):
        low, high = value_range(item)
        edges = EDGES[item.name](program.machine) if item.name in EDGES else ()
        return draw.one([low - 1, low, high, high + 1, *edges, *edges])
    if draw.once_in(5):
        alike = np.flatnonzero(code.opcode == code.opcode[row])
        other = int(code.args[draw.one(alike.tolist()), index])
        # Where all are alike there has to be another way out.
        if other != int(code.args[row, index]):
            return other
    return _KINDS[item.kind](program, int(code.args[row, index]), draw)


def _integer(program: Program, old: int, draw: Draw) -> int:
    del program
    return max(0, old + draw.one(_STEPS))


def _signed(program: Program, old: int, draw: Draw) -> int:
    del program
    return draw.one([-old, 0, 2 * old, *(old + step for step in _STEPS)])


def _stream(program: Program, old: int, draw: Draw) -> int:
    streams = program.machine.streams.per_direction
    if draw.once_in(6):
        # Where the streams of others are, in the other direction.
        return _some_stream(program, draw) ^ 1 << 8
    turned = old ^ 1 << 8
    steps = (old & 1 << 8 | ((old & 255) + step) % 256 for step in (*_STEPS, 8, -8))
    return draw.one([turned, old & 1 << 8 | draw.below(streams), *steps])


def _some_stream(program: Program, draw: Draw) -> int:
    """A stream operand of some instruction."""
    code = program.code
    row = draw.below(len(code))
    fields = BY_OPCODE[int(code.opcode[row])].fields
    columns = [i for i, item in enumerate(fields) if item.kind is Kind.STREAM]
    return int(code.args[row, draw.one(columns)]) if columns else 0


def _type(program: Program, old: int, draw: Draw) -> int:
    del program, old
    return draw.below(8)


def _immediate(program: Program, old: int, draw: Draw) -> int:
    del program
    return draw.one([old ^ 1 << draw.below(32), draw.below(2**32), draw.one(_BITS)])


def _choice(program: Program, old: int, draw: Draw) -> int:
    del program
    return old ^ 1


_KINDS: Mapping[Kind, Callable[[Program, int, Draw], int]] = {
    Kind.INT: _integer,
    Kind.SIGNED: _signed,
    Kind.STREAM: _stream,
    Kind.TYPE: _type,
    Kind.IMMEDIATE: _immediate,
    Kind.ROUND: _choice,
    Kind.OVERFLOW: _choice,
}
