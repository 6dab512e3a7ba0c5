"""What the interpreter tells of a run while it is under way.

A debugger overrides the events that it wants; to add an event, add a method here and a call where
it happens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_runtime.interpreter.decode import Issue

__all__ = ["Observer"]

Vectors = NDArray[np.uint8]


class Observer:
    """Listens to nothing. Events come in the order in which they happen.

    `step` is the number of the dispatch, from 0; vectors are uint8 [streams, lanes].
    """

    def dispatched(self, issue: Issue, step: int, cycle: int) -> None:
        """A queue handed an instruction to its unit."""

    def sampled(self, issue: Issue, step: int, cycle: int, operand: str, vectors: Vectors) -> None:
        """A unit read the operand of that name from the stream registers at its position."""

    def produced(self, issue: Issue, step: int, cycle: int, vectors: Vectors) -> None:
        """A result was written into the stream registers at its unit's position."""

    def fetched(self, issue: Issue, step: int, cycle: int, address: int, word: Vectors) -> None:
        """A slice read a word [1, lanes]."""

    def stored(self, issue: Issue, step: int, cycle: int, address: int, word: Vectors) -> None:
        """A slice wrote a word [1, lanes]."""
