"""What units and banks do: a slice for every bulk instruction, named by the node it serves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clockstep_isa import Program
from clockstep_isa.listing_print import instruction_texts
from clockstep_runtime.trace.sheet import Sheet, Slices
from clockstep_runtime.verifier import Columns, Resolution, expand

__all__ = ["Served", "draw_banks", "draw_units", "node_names", "served"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Served:
    """What each instruction is and serves; texts by the numbers that a sheet gave them.

    `node` is an index or -1; `name` the node's, or the mnemonic where no node is known;
    `category` the mnemonic; `tile` is 0 where there is none.
    """

    node: Ints
    name: Ints
    category: Ints
    text: Ints
    tile: Ints


def node_names(program: Program) -> list[str]:
    """The name of every node; its operator and number where it has none."""
    return [node.name or f"{node.op} #{i}" for i, node in enumerate(program.nodes)]


def served(program: Program, sheet: Sheet) -> Served:
    """What the instructions serve, in the order of queues and cycles."""
    code = program.code.sorted()
    note = code.note.astype(np.int64)
    # The last row stands for -1: no note.
    node = np.array([n.node for n in program.notes] + [-1], np.int64)[note]
    tile = np.append(sheet.texts("text", [n.tile for n in program.notes]), 0)[note]
    texts = instruction_texts(code)
    mnemonics = [text.partition(" ")[0] for text in texts]
    known = np.append(sheet.texts("name", node_names(program)), 0)[node]
    bare = np.flatnonzero(node < 0)
    known[bare] = sheet.texts("name", [mnemonics[i] for i in bare.tolist()])
    category, text = sheet.texts("category", mnemonics), sheet.texts("text", texts)
    return Served(node, known, category, text, tile)


def draw_units(sheet: Sheet, found: Resolution, serves: Served, tracks: Ints) -> None:
    """Every instruction on the track of its queue, from its first dispatch to its last one's end.

    `tracks` has the track of each queue. Arrows go from a `send` to those that receive from it.
    """
    columns = found.columns
    flow = np.zeros(len(columns), np.int64)
    flow[found.links.consumer] = flow[found.links.producer] = found.links.producer + 1
    end = columns.last + columns.busy
    track = tracks[columns.queue]
    slices = Slices(track, columns.start, end, serves.name, serves.category)
    numbers = {"cycle": columns.start, "dispatches": columns.count}
    sheet.draw(slices, numbers, {"instruction": serves.text, "tile": serves.tile}, flow)


def draw_banks(sheet: Sheet, columns: Columns, serves: Served, tracks: Ints) -> None:
    """Every access to memory on the track of its bank; an instruction may go on in the next bank.

    `tracks` [queues, banks] has the track of each bank.
    """
    where = columns.where("read", "write", "scatter", "gather")
    mem = columns.take(where)
    access, first, count = _by_bank(mem)
    address = mem.field("address")[access] + first * mem.field("stride")[access]
    start = mem.start[access] + first * mem.step[access]
    end = start + (count - 1) * mem.step[access] + 1
    bank = address // columns.machine.mem.words_per_bank
    whose = where[access]
    track = tracks[mem.queue[access], bank]
    slices = Slices(track, start, end, serves.name[whose], serves.category[whose])
    sheet.draw(slices, {"cycle": start, "address": address, "dispatches": count})


def _by_bank(mem: Columns) -> tuple[Ints, Ints, Ints]:
    """(access, first dispatch, dispatches) of the parts of accesses that lie in one bank each."""
    size = mem.machine.mem.words_per_bank
    address, stride = mem.field("address"), mem.field("stride")
    begin = address // size
    last = (address + (mem.count - 1) * stride) // size
    access, number = expand(np.abs(last - begin) + 1)
    upwards = stride[access] >= 0
    bank = begin[access] + np.where(upwards, number, -number)
    # The first dispatch at or past the border by which this bank is entered.
    border = np.where(upwards, bank * size, (bank + 1) * size - 1)
    pitch = np.maximum(1, np.abs(stride[access]))
    distance = np.abs(border - address[access])
    first = np.where(number == 0, 0, -(-distance // pitch))
    following = np.append(first[1:], 0)
    ends = np.append(access[1:] != access[:-1], True)
    count = np.where(ends, mem.count[access], following) - first
    # A stride longer than a bank may pass one by.
    some = count > 0
    return access[some], first[some], count[some]
