"""A program: the instructions of every queue as columns, the initial SRAM, and how to use it.

Everything is a numpy array; there is no object per instruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.geometry import geometry
from clockstep_isa.layout import Binding
from clockstep_isa.machine import Machine
from clockstep_isa.table import TABLE, figure

__all__ = [
    "ARGS",
    "LAST_CYCLE",
    "Code",
    "Image",
    "Node",
    "Note",
    "Probe",
    "Program",
    "canonical_notes",
    "end_cycle",
    "queue_name",
]

LAST_CYCLE = 2**48
"""No instruction is dispatched later: sums of cycles stay far inside 64 bits."""

ARGS = max(len(row.fields) for row in TABLE)
"""Columns of `Code.args`: field `i` of an instruction's row is in column `i`, the rest are 0."""


@dataclass(frozen=True, slots=True)
class Code:
    """The instructions of all chips, sorted by queue, then cycle. All arrays have one length.

    `queue` is `chip * len(geometry.queues) + queue id`; `note` indexes `Program.notes`, or is -1.
    """

    queue: NDArray[np.int32]
    cycle: NDArray[np.int64]
    opcode: NDArray[np.uint8]
    repeat: NDArray[np.int32]
    interval: NDArray[np.int32]
    args: NDArray[np.int64]  # [n, ARGS]
    note: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.cycle)

    def sorted(self) -> Code:
        """The same instructions in the order of the format."""
        order = np.lexsort((self.cycle, self.queue))
        return self.take(order)

    def take(self, index: NDArray[Any]) -> Code:
        """The instructions at `index` (a mask or positions)."""
        return Code(
            self.queue[index],
            self.cycle[index],
            self.opcode[index],
            self.repeat[index],
            self.interval[index],
            self.args[index],
            self.note[index],
        )


@dataclass(frozen=True, slots=True)
class Image:
    """SRAM before the first cycle. `regions` rows are (chip, queue id, address, words).

    `data` has the words of all regions one after another, uint8 [words, lanes]; None when the
    program was compiled without weights.
    """

    regions: NDArray[np.int64]  # [n, 4]
    data: NDArray[np.uint8] | None

    @property
    def words(self) -> int:
        """Words of all regions."""
        return int(self.regions[:, 3].sum())


@dataclass(frozen=True, slots=True)
class Node:
    """An ONNX node and the cycles [start, end) in which its instructions are at work."""

    name: str
    op: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Note:
    """What an instruction serves: index of its node, and the tensor tile in words."""

    node: int
    tile: str


@dataclass(frozen=True, eq=False, slots=True)
class Probe:
    """A tensor that lies in SRAM somewhere between the inputs and the outputs, for debuggers.

    `binding` has one layout; in cycle `ready[i]` the words of its piece `i` hold the tensor, and
    nothing is said of how long they do. `nodes` are the ONNX nodes, in order, that compute it from
    inputs and other probes; the last one makes it.
    """

    binding: Binding
    ready: NDArray[np.int64]  # [pieces]
    nodes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """One compiled program for `chips` chips of `machine`. `cycles` is the compiler's promise."""

    machine: Machine
    chips: int
    code: Code
    image: Image
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    nodes: tuple[Node, ...]
    notes: Sequence[Note]
    cycles: int
    info: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready facts: tool version, options, source hash, weight bytes, warnings."""
    probes: tuple[Probe, ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    """(input, output) that lie in the same words: a run finds there what the one before it left."""
    copies: int = 1
    """Systems of `chips` chips that each hold the program; runs go to them in turn."""
    name: str = ""
    """What it is called among the entries of a file."""
    others: tuple[Program, ...] = ()
    """Further entries: programs for the same chips, which find the same image and states there."""

    @property
    def entries(self) -> dict[str, Program]:
        """All entries by name, each as a program of its own; this one is the first."""
        return {entry.name: entry for entry in (replace(self, others=()), *self.others)}

    def entry(self, name: str) -> Program:
        """One of the `entries`; raises `UsageError` if there is none of that name."""
        if name not in self.entries:
            known = ", ".join(filter(None, self.entries)) or "the program has one, without a name"
            raise UsageError("entry", f"no entry {name!r}", help=known)
        return self.entries[name]

    @property
    def seconds(self) -> float:
        return self.machine.seconds(self.cycles, self.chips)

    @property
    def timing_only(self) -> bool:
        """Whether the weights are left out: such a program can be timed and checked, not run."""
        return self.image.data is None and self.image.words > 0

    def save(self, path: str | PathLike[str]) -> None:
        """Write the program file, completely or not at all; see `container.save_program`."""
        # The container reads and writes programs, so it cannot be imported before this class.
        from clockstep_isa.container import save_program

        save_program(self, Path(path))


def canonical_notes(
    note: NDArray[np.int32], notes: Sequence[Note]
) -> tuple[NDArray[np.int32], tuple[Note, ...]]:
    """The same notes in their one form: each once, in order of first use, unused ones dropped.

    `note` is the column of the code in format order. The file and the listing hold this form.
    """
    index: dict[Note, int] = {}
    used, first = np.unique(note[note >= 0], return_index=True)
    renumber = np.full(len(notes) + 1, -1, np.int32)
    for old in used[np.argsort(first)].tolist():
        renumber[old] = index.setdefault(notes[old], len(index))
    return renumber[note], tuple(index)


def end_cycle(machine: Machine, code: Code) -> int:
    """One past the last cycle of the program: the latest dispatch plus its latency, at least 1.

    This is the definition of a program's length; the interpreter finds the same by running.
    """
    if not len(code):
        return 0
    latency = np.ones(256, np.int64)
    for row in TABLE:
        latency[row.opcode] = max(1, figure(machine, row.latency))
    last = code.cycle + (code.repeat.astype(np.int64) - 1) * code.interval
    return int((last + latency[code.opcode]).max())


def queue_name(machine: Machine, queue: int) -> str:
    """`c<chip>.<unit>` of a global queue number."""
    queues = geometry(machine).queues
    chip, local = divmod(int(queue), len(queues))
    return f"c{chip}.{queues[local].name}"
