"""One SRAM slice: its words, and from which cycle each can be read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.machine import Machine

__all__ = ["NEVER", "Slice"]

NEVER = 0
"""What `Slice.readable` has for a word that nothing has written."""


class Slice:
    """`words` is uint8 [words, lanes]; word `w` can be read from cycle `readable[w] - 1` on.

    Both are zero until they are used, so that they take no more memory than what is used of them.
    """

    def __init__(self, machine: Machine) -> None:
        self.words = np.zeros((machine.words_per_slice, machine.vector), np.uint8)
        self.readable = np.zeros(machine.words_per_slice, np.int64)
        self._words_per_bank = machine.mem.words_per_bank
        self._accessed = [-1] * machine.mem.banks

    def load(self, address: int, words: NDArray[np.uint8]) -> None:
        """Fill words before the first cycle; lanes beyond those given are 0."""
        rows = slice(address, address + len(words))
        self.words[rows, : words.shape[1]] = words
        self.words[rows, words.shape[1] :] = 0
        self.readable[rows] = 1

    def access(self, address: int, cycle: int) -> bool:
        """Claim the bank of a word for this cycle; False if it is taken."""
        bank = address // self._words_per_bank
        free = self._accessed[bank] != cycle
        self._accessed[bank] = cycle
        return free

    def read(self, address: int, cycle: int) -> NDArray[np.uint8] | None:
        """The word, uint8 [1, lanes]; None if it is not (yet) written."""
        if not NEVER < self.readable[address] <= cycle + 1:
            return None
        return self.words[address : address + 1].copy()

    def unwritten(self, address: int, words: int, cycle: int) -> int | None:
        """The first of some words that is not (yet) written, if any."""
        readable = self.readable[address : address + words]
        missing = np.flatnonzero((readable == NEVER) | (readable > cycle + 1))
        return address + int(missing[0]) if len(missing) else None

    def written(self, address: int, words: int, readable: int) -> None:
        """Let some words, as they are, be read from cycle `readable` on."""
        self.readable[address : address + words] = readable + 1

    def write(self, address: int, vectors: NDArray[np.uint8], readable: int) -> None:
        """Store uint8 [1, lanes], to be read from cycle `readable` on."""
        self.words[address] = vectors[0]
        self.readable[address] = readable + 1
