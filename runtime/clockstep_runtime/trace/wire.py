"""Protobuf's wire format, a column at a time: what a million events need of it, and no more.

`Rows` is one fragment of a message for each of many messages; `number`, `double`, `fixed` and
`message` make fragments of columns. Descriptors and texts, of which there are few, are `bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rows", "blocks", "chunk", "constant", "double", "fixed", "integer", "message", "number"]

Ints = NDArray[np.int64]
_VARINT, _FIXED64, _LENGTH = 0, 1, 2
_BLOCK = 1 << 16
"""Rows that are turned into bytes at a time."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A fragment a row: of the bytes `data` [n, width] those that `used` [n, width] marks."""

    data: NDArray[np.uint8]
    used: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.data)

    @property
    def sizes(self) -> Ints:
        """Bytes of each row."""
        sizes: Ints = self.used.sum(axis=1, dtype=np.int64)
        return sizes

    def only(self, wanted: NDArray[np.bool_]) -> Rows:
        """The same fragments, and nothing at all in the rows that are not wanted."""
        return Rows(self.data, self.used & wanted[:, None])

    def followed_by(self, *others: Rows) -> Rows:
        """Each row's fragment, then those of the others."""
        parts = [self, *others]
        return Rows(np.hstack([p.data for p in parts]), np.hstack([p.used for p in parts]))

    def pack(self) -> bytes:
        """All rows, one after another."""
        return self.data[self.used].tobytes()


def integer(tag: int, value: int) -> bytes:
    """Field `tag` with a number that is not negative."""
    return _varint(tag << 3 | _VARINT) + _varint(value)


def chunk(tag: int, content: bytes | str) -> bytes:
    """Field `tag` with a text or a message."""
    # A name out of a file may hold half a surrogate pair, which no UTF-8 has.
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    return _varint(tag << 3 | _LENGTH) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    digits = []
    while value >> 7:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def constant(count: int, content: bytes) -> Rows:
    """The same bytes in every row."""
    data = np.broadcast_to(np.frombuffer(content, np.uint8), (count, len(content)))
    return Rows(data, np.ones(data.shape, np.bool_))


def number(tag: int, values: Ints) -> Rows:
    """Field `tag` with a number a row; negative ones as 64 bits, as an int64 field has them."""
    return constant(len(values), _varint(tag << 3 | _VARINT)).followed_by(_varints(values))


def double(tag: int, values: NDArray[np.float64]) -> Rows:
    """Field `tag` with a double a row."""
    raw = values.astype("<f8").view(np.uint8).reshape(len(values), 8)
    head = constant(len(values), _varint(tag << 3 | _FIXED64))
    return head.followed_by(Rows(raw, np.ones(raw.shape, np.bool_)))


def fixed(tag: int, values: Ints) -> Rows:
    """Field `tag` with a number of 64 bits a row, in eight bytes."""
    return double(tag, values.view(np.float64))


def message(tag: int, *parts: Rows) -> Rows:
    """Field `tag` with a message a row, whose fields are the parts."""
    body = parts[0].followed_by(*parts[1:])
    head = constant(len(body), _varint(tag << 3 | _LENGTH))
    return head.followed_by(_varints(body.sizes), body)


def blocks(count: int) -> Iterator[slice]:
    """`count` rows, cut where matrices of bytes would get large."""
    for first in range(0, count, _BLOCK):
        yield slice(first, min(first + _BLOCK, count))


def _varints(values: Ints) -> Rows:
    """Seven bits a byte, the low ones first; all but the last byte have their top bit set."""
    rest = values.astype(np.uint64)
    width = max(1, -(-int(rest.max(initial=0)).bit_length() // 7))
    shifts = 7 * np.arange(width, dtype=np.uint64)
    left = rest[:, None] >> shifts
    used = left > 0
    used[:, 0] = True
    data = (left & np.uint64(127)).astype(np.uint8)
    data[:, :-1] |= used[:, 1:].astype(np.uint8) << 7
    return Rows(data, used)
