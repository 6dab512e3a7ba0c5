"""A collective as a program of its own: a message placed, moved and added, and where it ends up.

The reductions add in the element type, in the order that the algorithm's docstring says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.collective_algorithms import ALGORITHMS
from clockstep_compiler.collective_cost import bound, estimates, fabric_of
from clockstep_compiler.collectives import Collective, Held, run
from clockstep_compiler.emit import code_of
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.scheduler import Scheduler
from clockstep_compiler.storage import Copy, NoRoom
from clockstep_isa import instruction_bytes
from clockstep_isa.diagnostics import DoesNotFit, UsageError
from clockstep_isa.layout import PIECE, Binding, Layout, numpy_type
from clockstep_isa.machine import Machine
from clockstep_isa.program import Code, Image, Node, Note, Program, end_cycle
from clockstep_isa.table import Type

__all__ = ["COLLECTIVES", "compile_collective"]

COLLECTIVES = tuple(ALGORITHMS)
"""send (from the first chip to the last), broadcast (from the first to all), all-gather,
reduce-scatter, all-reduce."""

_ROWS = 512
"""Most rows of a part of a message: a part arrives while another is added or sent on."""

_PARTS = 8
"""Parts of a message of few rows."""


@dataclass(frozen=True, slots=True)
class _Message:
    """Rows of `kind`, cut into parts of `blocks` blocks: [part][block] = (first row, rows)."""

    kind: Type
    rows: int
    parts: tuple[tuple[tuple[int, int], ...], ...]


def compile_collective(
    machine: Machine,
    collective: str,
    chips: int,
    size: int,
    element: Type = Type.F16,
    algorithm: str = "auto",
) -> Program:
    """A program that does one of `COLLECTIVES` with a message of `size` bytes.

    The message is what every chip ends up with (all-reduce, all-gather, broadcast), or what every
    chip starts with (reduce-scatter), in whole vectors. Input `x` and output `y` are [rows, lanes],
    with a leading axis of chips where each has a message of its own. Without an `algorithm` it is
    the one whose model says the fewest cycles. Raises `UsageError` if there is no such collective
    or algorithm, `DoesNotFit` if the chips have no room or no links for it.
    """
    _check(machine, collective, chips, size)
    s = Scheduler(Floorplan(machine), chips, "fast")
    s.begin((0,), collective)
    every = range(chips)
    rows = -(-size // (machine.vector * element.bytes))
    try:
        fabric = fabric_of(machine, s.links, every)
        costs = estimates(collective, fabric, rows * element.bytes)
        name = _chosen(collective, algorithm, costs)
        how = ALGORITHMS[collective][name]
        message = _message(machine, element, rows, how.blocks(fabric))
        held = [_placed(s, collective, message, part) for part in range(len(message.parts))]
        group = Collective(s, every, element, _sources(s.plan))
        done = run([how.begin(group, dict(blocks)) for blocks in held])
        code = code_of(s)
        _check_room(s, code)
    except NoRoom as error:
        raise DoesNotFit("sram", str(error), where=machine.name) from None
    info = {
        "tool_version": version("clockstep"),
        "collective": collective,
        "algorithm": name,
        "message_bytes": rows * element.bytes * machine.vector,
        "lower_bound_cycles": bound(collective, fabric, rows * element.bytes),
        "bound_by": "links",
        "estimates": costs,
    }
    return _emitted(s, code, collective, message, held, done, info)


def _check(machine: Machine, collective: str, chips: int, size: int) -> None:
    if collective not in ALGORITHMS:
        known = ", ".join(COLLECTIVES)
        raise UsageError("collective", f"no collective {collective!r}; there is {known}")
    if not 2 <= chips <= machine.max_chips:
        message = f"--chips {chips}: a collective takes 2 to {machine.max_chips}"
        raise UsageError("chips", message)
    if size < 1:
        raise UsageError("collective-bytes", f"--bytes {size}: a message has at least one")


def _chosen(collective: str, algorithm: str, costs: dict[str, int]) -> str:
    if algorithm == "auto":
        return min(costs, key=lambda name: (costs[name], name))
    if algorithm not in costs:
        known = ", ".join(costs)
        message = f"no algorithm {algorithm!r} for {collective} on these chips; there is {known}"
        raise UsageError("collective-algorithm", message)
    return algorithm


def _message(machine: Machine, kind: Type, rows: int, blocks: int) -> _Message:
    """Rows in parts that fit a few times into a slice."""
    share = -(-rows // blocks)
    most = min(_ROWS, machine.icu.repeat_max, machine.words_per_slice // 4)
    size = max(1, min(most, -(-share // _PARTS)))
    parts = []
    for start in range(0, share, size):
        block = []
        for k in range(blocks):
            first = k * share + start
            end = min(first + size, (k + 1) * share, rows)
            block.append((first, max(0, end - first)))
        parts.append(tuple(block))
    return _Message(kind, rows, tuple(parts))


def _holders(collective: str, chips: int, block: int) -> Sequence[int]:
    """The chips that have a block at the start."""
    if collective in ("send", "broadcast"):
        return (0,)
    return (block,) if collective == "all-gather" else range(chips)


def _placed(s: Scheduler, collective: str, message: _Message, part: int) -> Held:
    """The blocks of a part of the message before the first cycle."""
    held: Held = {}
    for k, (_, rows) in enumerate(message.parts[part]):
        for chip in _holders(collective, s.chips, k) if rows else ():
            held[chip, k] = _initial(s, chip, message.kind, rows)
    return held


def _sources(plan: Floorplan) -> frozenset[int]:
    """Every second slice is for the message as it is at the start, the others for what arrives."""
    return frozenset(queue for side in "WE" for queue in plan.slices[side][::2])


def _initial(s: Scheduler, chip: int, kind: Type, rows: int) -> Copy:
    every = frozenset(queue for side in "WE" for queue in s.plan.slices[side])
    others = every - _sources(s.plan)
    try:
        return s.storage.initial(chip, kind.bytes, rows, others, "a message", "WE")
    except NoRoom:
        return s.storage.initial(chip, kind.bytes, rows, frozenset(), "a message", "WE")


def _check_room(s: Scheduler, code: Code) -> None:
    """Instructions take room in SRAM as well."""
    machine = s.plan.machine
    if not machine.icu.instructions_in_sram:
        return
    for chip, taken in enumerate(instruction_bytes(machine, code, s.chips)):
        words, free = -(-int(taken) // machine.vector), s.storage.memories[chip].untouched()
        if words > free:
            raise NoRoom(chip, "instructions", words - free)


def _emitted(
    s: Scheduler,
    code: Code,
    collective: str,
    message: _Message,
    held: list[Held],
    done: list[Held],
    info: dict[str, Any],
) -> Program:
    machine = s.plan.machine
    own_in = collective in ("reduce-scatter", "all-reduce")
    own_out = collective in ("broadcast", "all-gather", "all-reduce")
    cycles = end_cycle(machine, code)
    return Program(
        machine=machine,
        chips=s.chips,
        code=code,
        image=Image(np.zeros((0, 4), np.int64), np.zeros((0, machine.vector), np.uint8)),
        inputs=(_binding("x", s, message, held, each=own_in),),
        outputs=(_binding("y", s, message, done, each=own_out),),
        nodes=(Node(collective, info["algorithm"], *s.spans.get(0, (0, 0))),),
        notes=tuple(Note(node, tile) for node, tile in s.notes),
        cycles=cycles,
        info=info,
    )


def _binding(
    name: str, s: Scheduler, message: _Message, parts: list[Held], *, each: bool
) -> Binding:
    """Where the message lies; `each`: every chip has one of its own."""
    lanes, rows = s.plan.machine.vector, message.rows
    pieces = [
        (byte, first + (chip * rows if each else 0), count, 0, lanes, chip, *place)
        for part, blocks in zip(message.parts, parts, strict=True)
        for (chip, k), copy in blocks.items()
        for first, count in (part[k],)
        for byte, place in enumerate(copy.planes)
    ]
    table: NDArray[np.int64] = np.array(sorted(pieces), np.int64).reshape(-1, len(PIECE))
    shape = (s.chips, rows, lanes) if each else (rows, lanes)
    axes = tuple(range(len(shape)))
    whole = rows * (s.chips if each else 1)
    layout = Layout(message.kind, 0, axes, whole, lanes, table)
    return Binding(name, numpy_type(message.kind).name, shape, (layout,))
