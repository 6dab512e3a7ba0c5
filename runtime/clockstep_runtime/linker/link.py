"""From a program to a static dataflow graph of bulk operations, in an order to execute it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import ScheduleViolation
from clockstep_isa.layout import PIECE
from clockstep_isa.program import Program
from clockstep_isa.table import TABLE, Type
from clockstep_runtime.linker.flow import trace
from clockstep_runtime.linker.groups import together
from clockstep_runtime.linker.operands import Operands, Wanted, join, sampled, value_widths
from clockstep_runtime.linker.order import order, tangled
from clockstep_runtime.linker.split import taken_apart
from clockstep_runtime.linker.sums import roots
from clockstep_runtime.verifier import Block, Columns, Resolution, expand, plane_numbers, resolve

__all__ = ["Linked", "Output", "link"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Output:
    """A block of an output's matrix, at `row` and `column`, `columns` wide.

    `byte` is which byte of the elements it has, or -1 for all of them.
    """

    binding: int
    byte: int
    row: int
    column: int
    columns: int


@dataclass(frozen=True, eq=False)
class Linked:
    """A verified program as a dataflow graph. Values are instructions, and then `initial` blocks.

    `steps` are the instructions that compute, in an order in which operands come first. Step i
    has the operands `operands_of[i] : operands_of[i + 1]`, and after all steps come the outputs.
    The operands of `iw` are the columns loaded for it; those of an `add` that ends a sum of int8
    products (`is_sum`) are the activations of all these. `weights` says for `abc` which `iw`.
    The steps `groups[i] : groups[i + 1]` are executed together, vector by vector; nobody else uses
    what they make, but for the last of them. After group i the values
    `dead[dead_after[i] : dead_after[i + 1]]` are not used any more.
    """

    program: Program
    cycles: int
    columns: Columns
    initial: tuple[Block, ...]
    steps: Ints
    groups: Ints
    is_sum: NDArray[np.bool_]
    operands: Operands
    operands_of: Ints
    weights: Ints
    dead: Ints
    dead_after: Ints
    outputs: tuple[Output, ...]


def link(program: Program) -> Linked:
    """Verify a program and resolve every operand; raises `ScheduleViolation`.

    Takes microseconds for each instruction, and no longer for a long run of vectors.
    """
    whole = program
    while True:
        report, found = resolve(program)
        if found is None:
            raise ScheduleViolation(report.violations)
        installed = _installed(found.columns)
        apart = _not_bulk(found.columns, installed)
        if not len(apart):
            linked = _link(whole, found, installed)
            if isinstance(linked, Linked):
                return linked
            apart = linked
        program = taken_apart(program, found.columns, apart)


def _link(program: Program, found: Resolution, installed: Ints) -> Linked | Ints:
    """The graph, or the instructions that have to be taken apart first."""
    columns, total = found.columns, len(found.columns)
    wanted, outputs = _with_outputs(found, _with_words(found, sampled(found)), program)
    flow = trace(found, wanted.key)
    widths = value_widths(columns, len(found.words.initial))
    operands = join(wanted, flow, widths)
    installs = _next_install(columns)
    user = np.append(np.where(installs < 0, np.arange(total), installs), total)
    user = np.append(user[:-1], total + np.arange(len(outputs)))[operands.owner]
    producer, consumer = _edges(total, operands, user, installed)
    sequence = order(columns.start + columns.skew, producer, consumer)
    if sequence is None:
        knot = tangled(total, producer, consumer)
        return knot[columns.count[knot] > 1]
    root = roots(columns, operands)
    ends = root == np.arange(total)
    computes = np.array([row.name not in _SILENT for row in TABLE])[columns.row]
    steps = sequence[(computes & ((root < 0) | ends))[sequence]]
    place = _places(columns, steps, root, len(outputs))[user]
    last = together(columns, operands, place, steps, ends[steps])
    grouped = np.argsort(last, kind="stable")
    steps, last = steps[grouped], last[grouped]
    place = _places(columns, steps, root, len(outputs))[user]
    groups = np.append(np.flatnonzero(np.diff(last, prepend=-1)), len(steps))
    kept = np.flatnonzero(place >= 0)
    kept = kept[np.argsort(place[kept], kind="stable")]
    operands, place = operands.take(kept), place[kept]
    group = np.searchsorted(groups, place, "right") - 1
    dead, dead_after = _deaths(operands, group, installed, len(groups) - 1, len(widths))
    return Linked(
        program=program,
        cycles=found.cycles,
        columns=columns,
        initial=found.words.initial,
        steps=steps,
        groups=groups,
        is_sum=ends[steps],
        operands=operands,
        operands_of=np.searchsorted(place, np.arange(len(steps) + len(outputs) + 1)),
        weights=installed,
        dead=dead,
        dead_after=dead_after,
        outputs=outputs,
    )


_SILENT = ("read", "write", "lw", "send", "receive", "acc", "mov")
"""Rows that compute nothing: what they hand on is found behind them."""


def _installed(columns: Columns) -> Ints:
    """For `abc` the `iw` whose array its first vector meets, or -1; for the rest -1."""
    result = np.full(len(columns), -1, np.int64)
    result[columns.where("abc")] = _install_at(columns, last=False)
    return result


def _install_at(columns: Columns, last: bool) -> Ints:
    """Per `abc` the `iw` of its type on its plane that comes last before its sample."""
    installs, activations = columns.where("iw"), columns.where("abc")
    of, by = columns.take(installs), columns.take(activations)
    cycle = (by.last if last else by.start) + by.skew
    kinds = len(Type)
    group = plane_numbers(of) * kinds + of.field("type")
    wanted = plane_numbers(by) * kinds + by.field("type")
    order_ = np.lexsort((of.start, group))
    result = np.full(len(by), -1, np.int64)
    for number in np.unique(wanted).tolist():
        mine = order_[group[order_] == number]
        asking = np.flatnonzero(wanted == number)
        at = np.searchsorted(of.start[mine], cycle[asking], "right") - 1
        result[asking] = installs[mine[at]]
    return result


def _not_bulk(columns: Columns, installed: Ints) -> Ints:
    """Instructions whose dispatches differ by more than the vectors they handle.

    Repeated `iw`; `abc` whose first and last vectors meet different arrays; repeated `lw` with a
    dispatch that loads columns of the one before anew.
    """
    installs, activations, loads = (columns.where(name) for name in ("iw", "abc", "lw"))
    repeated = installs[columns.count[installs] > 1]
    across = activations[_install_at(columns, last=True) != installed[activations]]
    size = np.array([kind.bytes for kind in sorted(Type)])[columns.field("type")[loads]]
    loaded = columns.field("count")[loads] // size
    stride = np.abs(columns.field("stride")[loads])
    again = loads[(columns.count[loads] > 1) & (stride > 0) & (stride < loaded)]
    return np.concatenate([repeated, across, again])


def _next_install(columns: Columns) -> Ints:
    """For `lw` the next `iw` of its queue, or -1."""
    installs = columns.where("iw")
    result = np.full(len(columns), -1, np.int64)
    if not len(installs):
        return result
    loads = columns.where("lw")
    after = np.searchsorted(installs, loads)
    target = installs[np.minimum(after, len(installs) - 1)]
    good = (after < len(installs)) & (columns.queue[target] == columns.queue[loads])
    result[loads] = np.where(good, target, -1)
    return result


def _edges(total: int, operands: Operands, user: Ints, installed: Ints) -> tuple[Ints, Ints]:
    """(producer, consumer) of all instructions that need each other's values."""
    of = np.repeat(user, np.diff(operands.begin))
    inside = (operands.value < total) & (of < total)
    activations = np.flatnonzero(installed >= 0)
    producer = np.concatenate([operands.value[inside], installed[activations]])
    consumer = np.concatenate([of[inside], activations])
    return producer, consumer


def _places(columns: Columns, steps: Ints, root: Ints, outputs: int) -> Ints:
    """Per instruction, and then per output, the step that uses its operands; -1 for none."""
    total = len(columns)
    place = np.full(total, -1, np.int64)
    place[steps] = np.arange(len(steps))
    member = np.flatnonzero(root >= 0)
    # A sum has the activations of its products; what its additions add needs no place.
    product = np.isin(member, columns.where("abc"))
    place[member] = np.where(product, place[root[member]], -1)
    return np.concatenate([place, len(steps) + np.arange(outputs)])


def _deaths(
    operands: Operands, group: Ints, installed: Ints, groups: int, values: int
) -> tuple[Ints, Ints]:
    """Values by the group that uses them last. Those of outputs live to the end."""
    last = np.full(values, -1, np.int64)
    np.maximum.at(last, operands.value, np.repeat(group, np.diff(operands.begin)))
    inside = operands.owner < len(installed)
    weights = installed[operands.owner[inside]]
    np.maximum.at(last, weights[weights >= 0], group[inside][weights >= 0])
    used = np.flatnonzero((last >= 0) & (last < groups))
    used = used[np.argsort(last[used], kind="stable")]
    return used, np.searchsorted(last[used], np.arange(groups + 1))


def _with_words(found: Resolution, wanted: Wanted) -> Wanted:
    """The operands of all instructions; that of a `scatter` after all others is what its words
    held before, that of a `gather` all that it may reach."""
    columns = found.columns
    mapped = columns.where("scatter", "gather")
    operands = len(wanted.owner) + np.arange(len(mapped))
    none = np.zeros(len(mapped), np.int64)
    key = len(found.slots.samples) + mapped
    words = columns.reach[1][mapped]
    return _both(wanted, Wanted(key, operands, none, mapped, none, none, words))


def _both(one: Wanted, two: Wanted) -> Wanted:
    pairs = ((getattr(one, item.name), getattr(two, item.name)) for item in fields(Wanted))
    return Wanted(*(np.concatenate(pair) for pair in pairs))


def _with_outputs(
    found: Resolution, wanted: Wanted, program: Program
) -> tuple[Wanted, tuple[Output, ...]]:
    """The operands of all instructions, and after them those that are blocks of outputs."""
    total = len(found.columns)
    base = len(found.slots.samples) + total
    blocks = [
        (number, block)
        for number, block in enumerate(found.words.outputs)
        if block.index[1] == 0  # only the first layout is read
    ]
    groups: dict[tuple[int, ...], dict[int, int]] = {}
    for number, block in blocks:
        binding, layout, index = block.index
        row = program.outputs[binding].layouts[layout].pieces[index].tolist()
        piece = dict(zip(PIECE, row, strict=True))
        place = (binding, piece["row"], piece["rows"], piece["column"], piece["columns"])
        groups.setdefault(place, {})[piece["byte"]] = number
    keys: list[list[int]] = []
    counts: list[int] = []
    outputs: list[Output] = []
    for (binding, first_row, rows, column, width), by_byte in groups.items():
        size = program.outputs[binding].layouts[0].stored.bytes
        whole = sorted(by_byte) == list(range(size))
        for byte in [-1] if whole else sorted(by_byte):
            members = [by_byte[b] for b in range(size)] if whole else [by_byte[byte]]
            outputs.append(Output(binding, byte, first_row, column, width))
            keys.append([base + member for member in members])
            counts.append(rows)
    operand, slot = expand(np.array([len(members) for members in keys], np.int64))
    flat = np.array([key for members in keys for key in members], np.int64)
    none = np.zeros(len(keys), np.int64)
    more = Wanted(
        flat,
        len(wanted.owner) + operand,
        slot,
        total + np.arange(len(keys)),
        none,
        none,
        np.array(counts, np.int64),
    )
    return _both(wanted, more), tuple(outputs)
