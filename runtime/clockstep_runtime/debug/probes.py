"""The tensors between inputs and outputs, as one run leaves them in SRAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.program import Program
from clockstep_runtime.interpreter import Issue, Observer, observe

__all__ = ["probe_values"]

Tensor = NDArray[Any]


def probe_values(program: Program, inputs: Mapping[str, Tensor]) -> list[Tensor | None]:
    """The tensor of every probe of a program, in their order, from one run on `inputs`.

    None stands for a tensor of which some word was not written by the cycle that the probe names.
    Steps the reference interpreter; raises what `interpret` raises.
    """
    recorder = _Recorder(program)
    observe(program, inputs, recorder)
    return [
        probe.binding.decode(_Fetch(pieces)) if all(p.complete for p in pieces) else None
        for probe, pieces in zip(program.probes, recorder.pieces, strict=True)
    ]


@dataclass(frozen=True, eq=False, slots=True)
class _Piece:
    """The words of one piece: uint8 [rows, lanes], and which of them have been written."""

    ready: int
    words: NDArray[np.uint8]
    written: NDArray[np.bool_]

    @property
    def complete(self) -> bool:
        return bool(self.written.all())


class _Fetch:
    """Hands out the words of a layout's pieces in their order, which is how they are asked for."""

    def __init__(self, pieces: list[_Piece]) -> None:
        self._pieces = iter(pieces)

    def __call__(self, chip: int, queue: int, address: int, rows: int) -> NDArray[np.uint8]:
        return next(self._pieces).words


class _Recorder(Observer):
    """Keeps the last word stored at each place of a probe that can be read in its cycle."""

    def __init__(self, program: Program) -> None:
        self.pieces: list[list[_Piece]] = []
        self._places: dict[tuple[int, int, int], list[tuple[_Piece, int]]] = {}
        for probe in program.probes:
            rows = probe.binding.layouts[0].pieces
            self.pieces.append([])
            for piece, ready in zip(rows.tolist(), probe.ready.tolist(), strict=True):
                self._expect(piece, ready, program.machine.vector)

    def _expect(self, piece: list[int], ready: int, lanes: int) -> None:
        _, _, count, _, _, chip, queue, address = piece
        kept = _Piece(ready, np.zeros((count, lanes), np.uint8), np.zeros(count, np.bool_))
        self.pieces[-1].append(kept)
        for row in range(count):
            self._places.setdefault((chip, queue, address + row), []).append((kept, row))

    def stored(
        self, issue: Issue, step: int, cycle: int, address: int, word: NDArray[np.uint8]
    ) -> None:
        for piece, row in self._places.get((issue.chip, issue.queue.id, address), ()):
            if cycle + issue.latency <= piece.ready:
                piece.words[row] = word[0]
                piece.written[row] = True
