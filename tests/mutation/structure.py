"""Changes larger than a field: instructions moved, swapped, split; tensors elsewhere; promises.

To add a change, add a function to `CHANGES`; it returns None where a program has nothing to change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from clockstep_isa import (
    BY_OPCODE,
    PIECE,
    Binding,
    Code,
    Kind,
    Program,
    end_cycle,
    geometry,
)
from tests.mutation.change import Draw, Mutant, patched, with_code

__all__ = ["CHANGES", "structural_mutant"]

_Change = Callable[[Program, Draw], Program | None]


def structural_mutant(program: Program, draw: Draw) -> Mutant:
    """A copy with one change of `CHANGES`."""
    while True:
        name = draw.one(list(CHANGES))
        changed = CHANGES[name](program, draw)
        if changed is not None:
            return Mutant(changed, name, name in SAME)


def _swap(program: Program, draw: Draw) -> Program | None:
    """Two instructions exchange their cycles."""
    code = program.code
    one = draw.below(len(code))
    there = code.cycle != code.cycle[one]
    near = there & (code.queue == code.queue[one])
    others = np.flatnonzero(near if near.any() and draw.once_in(2) else there)
    if not len(others):
        return None
    pair = [one, draw.one(others.tolist())]
    return with_code(program, patched(code, pair, cycle=code.cycle[pair[::-1]]))


def _others(program: Program, queue: int) -> list[int]:
    """The other queues of the same kind of unit, on any chip."""
    queues = geometry(program.machine).queues
    unit = queues[queue % len(queues)].unit
    total = range(program.chips * len(queues))
    return [q for q in total if q != queue and queues[q % len(queues)].unit == unit]


def _move(program: Program, draw: Draw) -> Program | None:
    """An instruction goes to another unit of its kind."""
    row = draw.below(len(program.code))
    others = _others(program, int(program.code.queue[row]))
    if not others:
        return None
    return with_code(program, patched(program.code, row, queue=draw.one(others)))


def _move_all(program: Program, draw: Draw) -> Program | None:
    """All instructions of a queue go to another of its kind, which gives its own in exchange."""
    queue = program.code.queue
    one = int(draw.one(queue.tolist()))
    others = _others(program, one)
    if not others:
        return None
    two = draw.one(others)
    swapped = np.where(queue == one, two, np.where(queue == two, one, queue)).astype(np.int32)
    return with_code(program, dataclasses.replace(program.code, queue=swapped))


def _remove(program: Program, draw: Draw) -> Program | None:
    count = len(program.code)
    if count < 2:
        return None
    return with_code(program, program.code.take(np.arange(count) != draw.below(count)))


def _duplicate(program: Program, draw: Draw) -> Program | None:
    """A second one of an instruction, on another unit or some cycles later on its own."""
    code = program.code
    row = draw.below(len(code))
    others = _others(program, int(code.queue[row]))
    doubled = code.take(np.append(np.arange(len(code)), row))
    if others and draw.once_in(2):
        return with_code(program, patched(doubled, -1, queue=draw.one(others)))
    later = int(code.repeat[row]) * int(code.interval[row]) + draw.below(20)
    return with_code(program, patched(doubled, -1, cycle=code.cycle[row] + later))


def _split(program: Program, draw: Draw) -> Program | None:
    """A repeated instruction becomes two that do the same."""
    code = program.code
    rows = np.flatnonzero(code.repeat > 1)
    if not len(rows):
        return None
    row = draw.one(rows.tolist())
    first = 1 + draw.below(int(code.repeat[row]) - 1)
    args = code.args[row].copy()
    fields = BY_OPCODE[int(code.opcode[row])].fields
    strides = [i for i, item in enumerate(fields) if item.kind is Kind.SIGNED]
    for i in strides:
        if fields[i].name == "stride":
            args[i - 1] += first * args[i]
    doubled = code.take(np.append(np.arange(len(code)), row))
    doubled = patched(doubled, row, repeat=first)
    cycle = code.cycle[row] + first * code.interval[row]
    rest = int(code.repeat[row]) - first
    return with_code(program, patched(doubled, -1, args=args, cycle=cycle, repeat=rest))


def _delay(program: Program, draw: Draw) -> Program | None:
    """Everything later by the same time."""
    by = draw.one([1, 7, 1000, 2**40])
    return with_code(program, dataclasses.replace(program.code, cycle=program.code.cycle + by))


def _slip(program: Program, draw: Draw) -> Program | None:
    """The instructions of one queue, from one of them on, a little later."""
    code = program.code
    row = draw.below(len(code))
    late = (code.queue == code.queue[row]) & (code.cycle >= code.cycle[row])
    return with_code(
        program, dataclasses.replace(code, cycle=code.cycle + late * (1 + draw.below(3)))
    )


def _chip_late(program: Program, draw: Draw) -> Program | None:
    """All of one chip, of several, a cycle or some later."""
    if program.chips < 2:
        return None
    chip = program.code.queue // len(geometry(program.machine).queues)
    late = (chip == draw.below(program.chips)) * (1 + draw.below(30))
    return with_code(program, dataclasses.replace(program.code, cycle=program.code.cycle + late))


def _reorder(program: Program, draw: Draw) -> Program | None:
    """Two instructions of one queue exchange all but their cycles."""
    code = program.code
    row = draw.below(len(code))
    others = np.flatnonzero((code.queue == code.queue[row]) & (np.arange(len(code)) != row))
    if not len(others):
        return None
    pair = [row, draw.one(others.tolist())]
    names = [name for name in Code.__slots__ if name not in ("queue", "cycle")]
    columns = {name: getattr(code, name)[pair[::-1]] for name in names}
    return with_code(program, patched(code, pair, **columns))


def _promise(program: Program, draw: Draw) -> Program | None:
    cycles = draw.one([program.cycles - 1, program.cycles + 1, 0, 2 * program.cycles])
    return dataclasses.replace(program, cycles=cycles)


def _chips(program: Program, draw: Draw) -> Program | None:
    """One chip more or fewer, which may change the wiring as well."""
    chips = program.chips + draw.one([-1, 1])
    if not 1 <= chips <= program.machine.max_chips:
        return None
    code = end_cycle(program.machine, program.code)
    return dataclasses.replace(program, chips=chips, cycles=code)


def _region(program: Program, draw: Draw) -> Program | None:
    """A region of the image lies elsewhere, or has another size than its words."""
    regions = program.image.regions.copy()
    if not len(regions):
        return None
    row, column = draw.below(len(regions)), draw.one([0, 1, 2, 2, 2, 3])
    regions[row, column] += draw.one([-2, -1, 1, 1, 2, 5])
    if draw.once_in(4):
        regions[row, :3] = regions[draw.below(len(regions)), :3]
    return dataclasses.replace(program, image=dataclasses.replace(program.image, regions=regions))


def _drop_region(program: Program, draw: Draw) -> Program | None:
    """A region of the image is not there."""
    regions, data = program.image.regions, program.image.data
    if not len(regions) or data is None:
        return None
    gone = draw.below(len(regions))
    ends = np.cumsum(regions[:, 3])
    kept = np.arange(len(data))
    kept = (kept < ends[gone] - regions[gone, 3]) | (kept >= ends[gone])
    image = dataclasses.replace(
        program.image, regions=np.delete(regions, gone, axis=0), data=data[kept]
    )
    return dataclasses.replace(program, image=image)


def _overlay(program: Program, draw: Draw) -> Program | None:
    """Words of a region are stored once more, with other values: the later ones stay."""
    regions, data = program.image.regions, program.image.data
    if not len(regions) or data is None or not len(data):
        return None
    chip, queue, address, words = regions[draw.below(len(regions))].tolist()
    if not words:
        return None
    start = draw.below(words)
    count = 1 + draw.below(words - start)
    other = data[[draw.below(len(data)) for _ in range(count)]] ^ 1
    image = dataclasses.replace(
        program.image,
        regions=np.append(regions, [[chip, queue, address + start, count]], axis=0),
        data=np.concatenate([data, other]),
    )
    return dataclasses.replace(program, image=image)


def _piece(program: Program, draw: Draw) -> Program | None:
    """A piece of an input or output lies elsewhere, or is another part of its tensor."""
    name = draw.one(["inputs", "outputs"])
    bindings: tuple[Binding, ...] = getattr(program, name)
    which = draw.below(len(bindings)) if bindings else 0
    if not bindings or not len(bindings[which].layouts[0].pieces):
        return None
    binding, layout = bindings[which], bindings[which].layouts[0]
    pieces = layout.pieces.copy()
    place = [PIECE.index(column) for column in ("queue", "address", "address")]
    column = draw.one(place) if draw.once_in(2) else draw.below(len(PIECE))
    pieces[draw.below(len(pieces)), column] += draw.one([-2, -1, 1, 1, 2, 5])
    layouts = (dataclasses.replace(layout, pieces=pieces), *binding.layouts[1:])
    moved = dataclasses.replace(binding, layouts=layouts)
    changed = (*bindings[:which], moved, *bindings[which + 1 :])
    if name == "inputs":
        return dataclasses.replace(program, inputs=changed)
    return dataclasses.replace(program, outputs=changed)


CHANGES: Mapping[str, _Change] = {
    "swap": _swap,
    "move": _move,
    "move-all": _move_all,
    "remove": _remove,
    "duplicate": _duplicate,
    "split": _split,
    "delay": _delay,
    "slip": _slip,
    "chip-late": _chip_late,
    "reorder": _reorder,
    "promise": _promise,
    "chips": _chips,
    "region": _region,
    "drop-region": _drop_region,
    "overlay": _overlay,
    "piece": _piece,
}
"""Changes by name."""

SAME = frozenset({"split", "delay"})
"""Those after which a program does what it did."""
