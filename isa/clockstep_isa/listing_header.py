"""The directives of a listing: the lines that begin with a dot, and say all but the instructions.

To add one, add its reader to `_READERS` and print it in `listing_print`.
"""

from __future__ import annotations

import base64
import binascii
import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import ClockstepError, MalformedFile, shown
from clockstep_isa.geometry import geometry
from clockstep_isa.layout import PIECE, Binding
from clockstep_isa.machine import Machine
from clockstep_isa.machine_file import load_machine, machine_from_dict, preset_names
from clockstep_isa.metadata import (
    binding_from_json,
    load_json,
    node_from_json,
    probe_from_json,
    region_problem,
)
from clockstep_isa.program import LAST_CYCLE, Image, Node, Probe

__all__ = ["LISTING_VERSION", "Directive", "Header", "queue_number", "read_header"]

LISTING_VERSION = 1
_FIRST = ("clockstep", "machine", "set", "chips")
"""Read before all others wherever they stand, because the others need a machine."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One line `.name rest`; `where` names the file and the line."""

    where: str
    name: str
    rest: str


@dataclass(slots=True)
class Header:
    """What the directives say. `regions`, each queue, address and words, become the `Image`."""

    machine: Machine
    chips: int = 1
    copies: int = 1
    cycles: int | None = None
    info: dict[str, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[Binding] = field(default_factory=list)
    outputs: list[Binding] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    """Pairs of names as they are read; `states_from_json` checks them."""
    weights: bool = True
    regions: list[tuple[int, int, int]] = field(default_factory=list)
    blocks: list[bytearray] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    _queues: dict[str, int] = field(default_factory=dict)

    def queue(self, name: str, where: str) -> int:
        """As `queue_number`; every name is looked up once."""
        if name not in self._queues:
            self._queues[name] = queue_number(self.machine, self.chips, name, where)
        return self._queues[name]

    def image(self) -> Image:
        """The regions with their words; raises `MalformedFile` if any lacks or overlaps words."""
        rows = np.array(self.regions, np.int64).reshape(-1, 3)
        chip, queue = np.divmod(rows[:, 0], len(geometry(self.machine).queues))
        regions = np.column_stack([chip, queue, rows[:, 1:]])
        problem = region_problem(regions, self.machine, self.chips)
        if problem:
            raise MalformedFile("listing-image", problem[1], where=self.places[problem[0]])
        lanes = self.machine.vector
        for region, block, place in zip(self.regions, self.blocks, self.places, strict=True):
            want = region[2] * lanes if self.weights else 0
            if len(block) != want:
                message = f"image has {len(block)} of {want} bytes"
                raise MalformedFile("listing-image", message, where=place)
        data = np.frombuffer(b"".join(self.blocks), np.uint8).reshape(-1, lanes)
        return Image(regions, data if self.weights else None)


def queue_number(machine: Machine, chips: int, name: str, where: str) -> int:
    """The global number of a queue such as `c0.mem.W3`; raises `MalformedFile` if there is none."""
    chip, _, local = name.partition(".")
    digits = chip.removeprefix("c")
    if not (chip.startswith("c") and _is_integer(digits) and local):
        message = f"{shown(name)} is not a queue such as c0.mem.W3"
        raise MalformedFile("listing-queue", message, where=where)
    if int(digits) >= chips:
        message = f"chip {chip[:40]} does not exist; the program has {_span('c', chips)}"
        raise MalformedFile("listing-queue", message, where=where)
    place = geometry(machine)
    if local not in place.by_name:
        close = difflib.get_close_matches(local, list(place.by_name), 1)
        hint = f"did you mean {close[0]}?" if close else ""
        message = f"queue {local[:40]} does not exist on {machine.name}"
        raise MalformedFile("listing-queue", message, where=where, help=hint)
    return int(digits) * len(place.queues) + place.by_name[local].id


def read_header(directives: list[Directive], where: str) -> Header:
    """Carry out all directives, the ones that give the machine first."""
    _check_names(directives)
    single = {d.name: d for d in directives}
    if "machine" not in single:
        message = "no .machine directive"
        raise MalformedFile(
            "listing-machine", message, where=where, help="begin with .machine tiny"
        )
    _check_version(single.get("clockstep"))
    header = Header(_machine(single["machine"], [d for d in directives if d.name == "set"]))
    if "chips" in single:
        header.chips = _integer(single["chips"], 1, header.machine.max_chips)
    for directive in directives:
        if directive.name not in _FIRST:
            _READERS[directive.name](header, directive)
    return header


def _check_names(directives: list[Directive]) -> None:
    known = (*_FIRST, *_READERS)
    seen: set[str] = set()
    for d in directives:
        if d.name not in known:
            close = difflib.get_close_matches(d.name, known, 1)
            hint = f"did you mean .{close[0]}?" if close else f"one of .{', .'.join(known)}"
            raise _error(d, f"no directive .{d.name[:40]}", hint)
        if d.name in _ONCE and d.name in seen:
            raise _error(d, f".{d.name} stands twice")
        seen.add(d.name)


def _check_version(directive: Directive | None) -> None:
    if directive and directive.rest != str(LISTING_VERSION):
        raise _error(directive, f"listing version {shown(directive.rest)}, want {LISTING_VERSION}")


def _machine(directive: Directive, settings: list[Directive]) -> Machine:
    if directive.rest.startswith("{"):
        data = load_json(directive.rest, directive.where)
        machine = machine_from_dict(data, directive.where)
        if settings:
            raise _error(settings[0], ".set needs a machine given by its name")
        return machine
    if directive.rest not in preset_names():
        known = ", ".join(preset_names())
        raise _error(directive, f"no machine {shown(directive.rest)}", f"presets: {known}")
    try:
        return load_machine(directive.rest, [setting.rest for setting in settings])
    except ClockstepError as error:
        found, last = error.diagnostic, settings[-1]
        guilty = next((s for s in settings if s.rest.partition("=")[0] in found.message), last)
        raise _error(guilty, found.message, found.help) from None


def _cycles(header: Header, directive: Directive) -> None:
    header.cycles = _integer(directive, 0, 2 * LAST_CYCLE)


def _copies(header: Header, directive: Directive) -> None:
    header.copies = _integer(directive, 1, header.machine.max_chips // header.chips)


def _info(header: Header, directive: Directive) -> None:
    header.info = load_json(directive.rest, directive.where)


def _node(header: Header, directive: Directive) -> None:
    data = load_json(directive.rest, directive.where)
    header.nodes.append(node_from_json(data, directive.where))


def _binding(bindings: str) -> Callable[[Header, Directive], None]:
    def read(header: Header, directive: Directive) -> None:
        where, machine = directive.where, header.machine
        data = load_json(directive.rest, where)
        pieces, loaded = partial(_pieces, machine), bindings == "inputs"
        binding = binding_from_json(data, pieces, machine, header.chips, where, loaded=loaded)
        getattr(header, bindings).append(binding)

    return read


def _probe(header: Header, directive: Directive) -> None:
    where, machine, nodes = directive.where, header.machine, len(header.nodes)
    data, pieces = load_json(directive.rest, where), partial(_pieces, machine)
    header.probes.append(probe_from_json(data, pieces, machine, header.chips, nodes, where))


def _state(header: Header, directive: Directive) -> None:
    pairs = load_json(directive.rest, directive.where)
    header.states += [list(pair) for pair in pairs.items()]


def _pieces(machine: Machine, value: Any, where: str) -> NDArray[np.int64]:
    names = geometry(machine).by_name
    at = PIECE.index("queue")
    rows = []
    for row in value if isinstance(value, list) else [None]:
        if not isinstance(row, list) or len(row) != len(PIECE) or row[at] not in names:
            message = f"'pieces' is wrong: want rows of {', '.join(PIECE)} (such as mem.W3)"
            raise MalformedFile("json", message, where=where)
        numbers = [*row[:at], names[row[at]].id, *row[at + 1 :]]
        if not all(type(n) is int and abs(n) <= LAST_CYCLE for n in numbers):
            raise MalformedFile("json", "'pieces' is wrong: want integers", where=where)
        rows.append(numbers)
    return np.array(rows, np.int64).reshape(-1, len(PIECE))


def _no_weights(header: Header, directive: Directive) -> None:
    if directive.rest:
        raise _error(directive, f"found {shown(directive.rest)}, expected the end")
    header.weights = False


def _word(header: Header, directive: Directive) -> None:
    place, equals, text = directive.rest.partition("=")
    try:
        block = bytearray.fromhex(text)
    except ValueError:
        raise _error(directive, f"{shown(text.strip())} is not bytes in hexadecimal") from None
    lanes = header.machine.vector
    if not equals or len(block) > lanes:
        raise _error(directive, f"found {len(block)} bytes, expected = and at most {lanes}")
    _region(header, directive, [*place.split(), "1"])
    header.blocks[-1] += block.ljust(lanes, b"\0")


def _image(header: Header, directive: Directive) -> None:
    parts = directive.rest.split()
    _region(header, directive, parts[:3])
    for part in parts[3:]:
        header.blocks[-1] += _base64(directive, part)


def _data(header: Header, directive: Directive) -> None:
    if not header.blocks:
        raise _error(directive, ".data without an .image before it")
    header.blocks[-1] += _base64(directive, directive.rest)


def _region(header: Header, directive: Directive, parts: list[str]) -> None:
    if len(parts) != 3 or not all(_is_integer(part) for part in parts[1:]):
        raise _error(directive, "expected a queue, an address and a number of words")
    queue = header.queue(parts[0], directive.where)
    header.regions.append((queue, int(parts[1]), int(parts[2])))
    header.blocks.append(bytearray())
    header.places.append(directive.where)


def _base64(directive: Directive, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _error(directive, "not base64") from None


def _integer(directive: Directive, low: int, high: int) -> int:
    if not _is_integer(directive.rest) or not low <= int(directive.rest) <= high:
        raise _error(directive, f"{shown(directive.rest)} is not an integer from {low} to {high}")
    return int(directive.rest)


def _is_integer(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _span(prefix: str, count: int) -> str:
    return f"{prefix}0" if count == 1 else f"{prefix}0 to {prefix}{count - 1}"


def _error(directive: Directive, message: str, hint: str = "") -> MalformedFile:
    return MalformedFile("listing-directive", message, where=directive.where, help=hint)


_ONCE = ("clockstep", "machine", "chips", "copies", "cycles", "info", "no-weights")

_READERS: dict[str, Callable[[Header, Directive], None]] = {
    "copies": _copies,
    "cycles": _cycles,
    "info": _info,
    "node": _node,
    "input": _binding("inputs"),
    "output": _binding("outputs"),
    "probe": _probe,
    "state": _state,
    "no-weights": _no_weights,
    "word": _word,
    "image": _image,
    "data": _data,
}
