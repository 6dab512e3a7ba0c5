"""Changes to files that keep them files: whatever is damaged, the checksum around it is right.

A mutator takes bytes, a random generator and `plain`, which changes bytes without knowing what
they are (libFuzzer's own, or `blind`), and returns other bytes.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa import TABLE, ClockstepError, schema, tensor_file, value_range
from clockstep_isa.words import WORD_BYTES, field_positions
from tests.support.hostile import RAW, paths, replaced

__all__ = ["Mutator", "Plain", "blind", "lines", "numbered_words", "program", "toml", "words"]

Plain = Callable[[bytes], bytes]
Mutator = Callable[[bytes, random.Random, Plain], bytes]
_INTEGERS = (-(2**63), -1, 0, 1, 2, 255, 2**16 - 1, 2**20, 2**31, 2**48, 2**60, 2**63 - 1)
_TEXTS = [text for name, text in RAW.items() if name not in ("huge", "deep", "missing")]


def blind(rng: random.Random) -> Plain:
    """Flip, insert, remove or repeat a few bytes."""

    def mutate(data: bytes) -> bytes:
        copy = bytearray(data or b"\0")
        for _ in range(rng.randint(1, 4)):
            at, size = rng.randrange(len(copy)), rng.choice((1, 1, 2, 4, 8, 16))
            kind = rng.randrange(4)
            if kind == 0:
                copy[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                copy[at:at] = rng.randbytes(size)
            elif kind == 2 and len(copy) > size:
                del copy[at : at + size]
            else:
                copy[at:at] = copy[at : at + size]
        return bytes(copy)

    return mutate


def program(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """A program file: its metadata or one of its arrays changed, seldom the bytes as they are."""
    parts = _parts(data) if rng.randrange(10) else None
    if parts is None:
        return plain(data)
    text, arrays = parts
    if rng.randrange(2):
        text = _json(text, rng, plain)
    else:
        name = rng.choice(sorted(arrays))
        arrays[name] = _array(arrays[name], rng, plain, is_words=name == "words")
    try:
        return tensor_file.pack(arrays, text)
    except ClockstepError:
        return data


def _parts(data: bytes) -> tuple[str, dict[str, NDArray[Any]]] | None:
    with tempfile.NamedTemporaryFile(dir=_fast_folder()) as file:
        file.write(data)
        file.flush()
        try:
            text, arrays = tensor_file.read(file.name)
        except ClockstepError:
            return None
        return text, {name: array.copy() for name, array in arrays.items()}


def _fast_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _json(text: str, rng: random.Random, plain: Plain) -> str:
    try:
        places = list(paths(json.loads(text)))
    except (ValueError, RecursionError, AttributeError):
        places = []
    if not places or not rng.randrange(8):
        return plain(text.encode("utf-8", "replace")).decode("utf-8", "replace")
    value = str(rng.choice(_INTEGERS)) if rng.randrange(2) else rng.choice(_TEXTS)
    return replaced(text, rng.choice(places), value)


def _array(
    array: NDArray[Any], rng: random.Random, plain: Plain, *, is_words: bool
) -> NDArray[Any]:
    kind = rng.randrange(5)
    if kind == 0:
        return array[: rng.randrange(len(array) + 1)] if array.ndim else array
    if kind == 1 and array.ndim and len(array):
        return np.concatenate([array, array[rng.randrange(len(array)) :]])
    if is_words and array.size:
        raw = words(array.tobytes(), rng, plain)
        return np.frombuffer(raw[: len(raw) // WORD_BYTES * WORD_BYTES], np.uint64).reshape(-1, 2)
    if kind == 2 or not array.size:
        row = array.dtype.itemsize * (array.shape[1] if array.ndim > 1 else 1)
        raw = plain(array.tobytes())
        changed = np.frombuffer(raw[: len(raw) // row * row], array.dtype)
        return changed.reshape(-1, *array.shape[1:])
    copy = array.copy()
    limits = np.iinfo(array.dtype)
    value = min(max(rng.choice(_INTEGERS), int(limits.min)), int(limits.max))
    copy.reshape(-1)[rng.randrange(copy.size)] = value
    return copy


def words(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """Instruction words: one field of one word set to something that it may hold, or not."""
    count = len(data) // WORD_BYTES
    if not count or not rng.randrange(4):
        return plain(data)
    at = rng.randrange(count) * WORD_BYTES
    word = int.from_bytes(data[at : at + WORD_BYTES], "little")
    rows = [row for row in TABLE if row.opcode == word & 255]
    if not rows or not rng.randrange(6):
        word = word & ~255 | rng.choice(TABLE).opcode
    else:
        row = rows[0]
        fields = [(8, 16, 65535), (24, 12, 4095)]
        for item, low in zip(row.fields, field_positions(row), strict=False):
            fields.append((low, item.bits, value_range(item)[1]))
        low, bits, most = rng.choice(fields)
        value = rng.choice((0, 1, 2, rng.randrange(most + 1), most, (1 << bits) - 1))
        word = word & ~(((1 << bits) - 1) << low) | value << low
    return data[:at] + word.to_bytes(WORD_BYTES, "little") + data[at + WORD_BYTES :]


def numbered_words(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """A byte that says whose words follow, and those changed as `words` does."""
    number = bytes([rng.randrange(256)]) if not rng.randrange(20) else data[:1]
    return number + words(data[1:], rng, plain)


_WORDS = r"""
.machine .set .chips .copies .cycles .info .node .input .output .image .data .word .no-weights
.probe
tiny lpu-v1 c0.mem.W0 c1.mem.E3 c0.vxm.0 c0.mxm.W0.lw c0.c2c.0.send -> x rows column é
E0 W15 E999 #1.5 #nan #0x7fc00000 #-1 #1e999 +1 -1 0 1 65535 99999999999999999999 * / ; | #0
i8 i16 i32 f16 f32 rne rtz sat wrap { } [ ] , : " \u0000 \ud800
"""
_TOKENS = (*(row.name for row in TABLE), *_WORDS.split())


def lines(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """A listing: a line moved, repeated or removed, or a word of one replaced."""
    text = data.decode("utf-8", "replace").split("\n")
    at, kind = rng.randrange(len(text)), rng.randrange(6)
    if kind == 0:
        return plain(data)
    if kind == 1:
        text.insert(rng.randrange(len(text) + 1), text[at])
    elif kind == 2 and len(text) > 1:
        del text[at]
    else:
        parts = text[at].split(" ")
        parts[rng.randrange(len(parts))] = rng.choice(_TOKENS)
        text[at] = " ".join(parts)
    return "\n".join(text).encode()


def toml(data: bytes, rng: random.Random, plain: Plain) -> bytes:
    """A machine file: a value replaced, or a figure set to an end of its range."""
    if not rng.randrange(4):
        return plain(data)
    text = data.decode("utf-8", "replace").split("\n")
    at = rng.randrange(len(text))
    key, equals, _ = text[at].partition("=")
    row = rng.choice(list(schema().values()))
    known = [row.low, row.high, row.low - 1, row.high + 1, *_INTEGERS, 2**64, "nan", "''", "{}"]
    text[at] = f"{key}{equals or ' = '}{rng.choice(known)}"
    return "\n".join(text).encode()
