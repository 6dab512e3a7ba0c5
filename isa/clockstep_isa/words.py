"""Instruction words as bits: where each field lies in a word, and columns in and out of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.table import HEADER_BITS, Instruction

__all__ = ["WORD_BYTES", "Words", "field_positions", "put", "take"]

WORD_BYTES = 16
_U64 = np.uint64


@dataclass(frozen=True, slots=True)
class Words:
    """The words of every queue that has any; queues ascend.

    Queue `queue[i]` has the words `offsets[i] : offsets[i + 1]`. A word is two uint64, the low
    half first. `note` has one entry for each word that is not a `nop`.
    """

    queue: NDArray[np.int32]
    offsets: NDArray[np.int64]
    words: NDArray[np.uint64]  # [n, 2]
    note: NDArray[np.int32]


def field_positions(row: Instruction) -> tuple[int, ...]:
    """The lowest bit of each field of a row, and one past the highest bit in use."""
    return tuple(accumulate((f.bits for f in row.fields), initial=HEADER_BITS))


def put(words: NDArray[np.uint64], values: NDArray[np.int64], at: int, bits: int) -> None:
    """Write the low `bits` of `values` at bit `at` of every word; a field may cross the halves."""
    raw = values.astype(np.uint64) & _U64((1 << bits) - 1)
    if at < 64:
        words[:, 0] |= raw << _U64(at)
    if at + bits > 64:
        words[:, 1] |= raw >> _U64(64 - at) if at < 64 else raw << _U64(at - 64)


def take(words: NDArray[np.uint64], at: int, bits: int) -> NDArray[np.int64]:
    """The unsigned `bits` at bit `at` of every word."""
    low, high = words[:, 0], words[:, 1]
    raw = low >> _U64(at) if at < 64 else high >> _U64(at - 64)
    if at < 64 < at + bits:
        raw = raw | high << _U64(64 - at)
    return (raw & _U64((1 << bits) - 1)).astype(np.int64)
