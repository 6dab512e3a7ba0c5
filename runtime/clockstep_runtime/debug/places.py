"""What a debugger can be asked to watch: a unit, a stream, a word of memory.

`c1.vxm.3`, `mxm.W0` (its three queues), `lw` (every one); `E4` (wherever it is written or read),
`E4@12` or `c1.E4@mem.W3` (what passes a position); `mem.W3:17` (an address). Without `cN.` it is on
chip 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.listing import units_named
from clockstep_isa.machine import Machine
from clockstep_isa.program import Program

__all__ = ["Place", "Stream", "Units", "Word", "parse_place"]


@dataclass(frozen=True, slots=True)
class Units:
    """Queues of one chip, by their ids."""

    chip: int
    queues: frozenset[int]


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of one chip, at position `x` or, if that is None, wherever a unit touches it."""

    chip: int
    direction: int
    number: int
    x: int | None


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the slice whose queue id is `queue`."""

    chip: int
    queue: int
    address: int


Place = Units | Stream | Word

_CHIP = re.compile(r"c([0-9]{1,9})\.(.*)")
_STREAM = re.compile(r"([EW])([0-9]{1,9})(?:@(.*))?")
_HELP = "a unit such as vxm.3 or c1.mem.W3, a stream such as E4 or E4@mem.W3, a word mem.W3:17"


def parse_place(program: Program, text: str) -> Place:
    """The place that `text` names; raises `UsageError` if the program's machine has none such."""
    found = _CHIP.fullmatch(text)
    chip, rest = (int(found[1]), found[2]) if found else (0, text)
    if chip >= program.chips:
        message = f"{text!r}: no chip {chip}; the program has {program.chips}"
        raise UsageError("watch-chip", message)
    machine = program.machine
    if not rest:
        raise UsageError("watch-place", f"{text!r} names nothing", help=_HELP)
    stream = _STREAM.fullmatch(rest)
    if stream:
        return _stream(machine, chip, *stream.groups())
    unit, colon, address = rest.partition(":")
    if colon:
        return _word(machine, chip, unit, address)
    try:
        return Units(chip, _queues(machine, rest))
    except UsageError as error:
        d = error.diagnostic
        close = d.help.startswith("did you mean")
        raise UsageError("watch-place", d.message, help=d.help if close else _HELP) from None


def _queues(machine: Machine, name: str) -> frozenset[int]:
    return frozenset(np.flatnonzero(units_named(machine, name)).tolist())


def _stream(machine: Machine, chip: int, side: str, number: str, where: str | None) -> Stream:
    count = machine.streams.per_direction
    if int(number) >= count:
        message = f"stream {side}{number} does not exist; this machine has {side}0 to "
        raise UsageError("watch-stream", f"{message}{side}{count - 1}")
    x = None if where is None else _position(machine, where)
    return Stream(chip, "EW".index(side), int(number), x)


def _position(machine: Machine, text: str) -> int:
    place = geometry(machine)
    if _is_natural(text):
        if int(text) < place.positions:
            return int(text)
        message = f"no position {text}; this machine has 0 to {place.positions - 1}"
        raise UsageError("watch-position", message)
    positions = {place.queues[queue].x for queue in _queues(machine, text)}
    if len(positions) > 1:
        message = f"{text} stands at several positions, {min(positions)} to {max(positions)}"
        raise UsageError("watch-position", message, help="name one unit, or a number of hops")
    return positions.pop()


def _word(machine: Machine, chip: int, unit: str, address: str) -> Word:
    queue = geometry(machine).by_name.get(unit)
    if queue is None or queue.unit is not Unit.MEM:
        _queues(machine, unit)
        raise UsageError("watch-word", f"{unit} is not a slice of memory", help="such as mem.W3:17")
    if not _is_natural(address) or int(address) >= machine.words_per_slice:
        message = f"{address!r} is no address: a slice has words 0 to {machine.words_per_slice - 1}"
        raise UsageError("watch-word", message)
    return Word(chip, queue.id, int(address))


def _is_natural(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
