"""One SRAM slice: its words, and from which cycle each can be read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.machine import Machine

__all__ = ["NEVER", "Slice"]

NEVER = np.iinfo(np.int64).max
"""A word that nothing has written has this cycle."""


class Slice:
    """`words` is uint8 [words, lanes]; word `w` can be read from cycle `readable[w]` on."""

    def __init__(self, machine: Machine) -> None:
        self.words = np.zeros((machine.words_per_slice, machine.vector), np.uint8)
        self.readable = np.full(machine.words_per_slice, NEVER, np.int64)
        self._words_per_bank = machine.mem.words_per_bank
        self._accessed = [-1] * machine.mem.banks

    def load(self, address: int, words: NDArray[np.uint8]) -> None:
        """Fill words before the first cycle; lanes beyond those given are 0."""
        rows = slice(address, address + len(words))
        self.words[rows, : words.shape[1]] = words
        self.words[rows, words.shape[1] :] = 0
        self.readable[rows] = 0

    def access(self, address: int, cycle: int) -> bool:
        """Claim the bank of a word for this cycle; False if it is taken."""
        bank = address // self._words_per_bank
        free = self._accessed[bank] != cycle
        self._accessed[bank] = cycle
        return free

    def read(self, address: int, cycle: int) -> NDArray[np.uint8] | None:
        """The word, uint8 [1, lanes]; None if it is not (yet) written."""
        if self.readable[address] > cycle:
            return None
        return self.words[address : address + 1].copy()

    def write(self, address: int, vectors: NDArray[np.uint8], readable: int) -> None:
        """Store uint8 [1, lanes], to be read from cycle `readable` on."""
        self.words[address] = vectors[0]
        self.readable[address] = readable
