"""Hand-made programs from tuples: (queue, cycle, mnemonic, fields by name, repeat, interval)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import geometry
from clockstep_isa.layout import Binding, Layout
from clockstep_isa.machine import Machine
from clockstep_isa.machine_file import load_machine
from clockstep_isa.program import ARGS, Code, Image, Program, end_cycle
from clockstep_isa.table import BY_NAME, TYPES, Kind, Type


def east(stream: int) -> int:
    """The STREAM field of an eastward stream."""
    return stream


def west(stream: int) -> int:
    """The STREAM field of a westward stream."""
    return 1 << 8 | stream


@dataclass
class Builder:
    """Collects instructions, words and bindings, then gives the program."""

    machine: Machine
    chips: int = 1
    rows: list[tuple[int, int, int, int, int, list[int]]] = field(default_factory=list)
    regions: list[tuple[int, int, int, int]] = field(default_factory=list)
    words: list[NDArray[np.uint8]] = field(default_factory=list)
    inputs: list[Binding] = field(default_factory=list)
    outputs: list[Binding] = field(default_factory=list)

    def at(
        self,
        queue: str,
        cycle: int,
        mnemonic: str,
        *,
        repeat: int = 1,
        interval: int = 1,
        **fields: int | str,
    ) -> Builder:
        """Dispatch `mnemonic` (such as "add.f32") in `cycle` on `queue` (such as "c0.mem.W3")."""
        name, _, kind = mnemonic.partition(".")
        row = BY_NAME[name]
        values = {**({"type": kind} if kind else {}), **fields}
        args = [0] * ARGS
        for index, item in enumerate(row.fields):
            value = values.pop(item.name, 0)
            args[index] = TYPES[value] if isinstance(value, str) else value
            assert item.kind is Kind.TYPE or isinstance(value, int)
        assert not values, f"{name} has no field {sorted(values)}"
        self.rows.append((self.queue(queue), cycle, row.opcode, repeat, interval, args))
        return self

    def queue(self, name: str) -> int:
        """The global number of a queue."""
        chip, _, local = name.partition(".")
        place = geometry(self.machine)
        return int(chip[1:]) * len(place.queues) + place.by_name[local].id

    def store(self, queue: str, address: int, words: NDArray[np.uint8]) -> Builder:
        """Words [n, at most lanes] in a slice before the first cycle."""
        full = np.zeros((len(words), self.machine.vector), np.uint8)
        full[:, : words.shape[1]] = words
        self.regions.append((*self._place(queue), address, len(words)))
        self.words.append(full)
        return self

    def bind(
        self,
        kind: str,
        name: str,
        dtype: str,
        stored: Type,
        shape: tuple[int, int],
        slices: Iterable[str],
        address: int = 0,
    ) -> Builder:
        """An input or output of `shape` whose row i lies in word `address` + i, a slice a byte."""
        rows, columns = shape
        pieces = [
            (byte, 0, rows, 0, columns, *self._place(queue), address)
            for byte, queue in enumerate(slices)
        ]
        layout = Layout(stored, 0, (0, 1), rows, columns, np.array(pieces, np.int64))
        target = {"input": self.inputs, "output": self.outputs}[kind]
        target.append(Binding(name, dtype, shape, (layout,)))
        return self

    def _place(self, queue: str) -> tuple[int, int]:
        chip, local = divmod(self.queue(queue), len(geometry(self.machine).queues))
        return chip, local

    def program(self, cycles: int | None = None) -> Program:
        """The program, promising `cycles` or, without, what `end_cycle` says."""
        columns = list(zip(*[row[:5] for row in self.rows], strict=True)) or [()] * 5
        queue, cycle, opcode, repeat, interval = columns
        code = Code(
            np.array(queue, np.int32),
            np.array(cycle, np.int64),
            np.array(opcode, np.uint8),
            np.array(repeat, np.int32),
            np.array(interval, np.int32),
            np.array([row[5] for row in self.rows], np.int64).reshape(-1, ARGS),
            np.full(len(self.rows), -1, np.int32),
        ).sorted()
        lanes = self.machine.vector
        data = np.concatenate(self.words) if self.words else np.zeros((0, lanes), np.uint8)
        image = Image(np.array(self.regions, np.int64).reshape(-1, 4), data)
        promise = end_cycle(self.machine, code) if cycles is None else cycles
        return Program(
            machine=self.machine,
            chips=self.chips,
            code=code,
            image=image,
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            nodes=(),
            notes=(),
            cycles=promise,
        )


def build(machine: str = "tiny", chips: int = 1, settings: Mapping[str, int] = {}) -> Builder:
    """An empty builder for a preset with some figures changed."""
    return Builder(load_machine(machine, [f"{k}={v}" for k, v in settings.items()]), chips)
