"""One safetensors file: named arrays, one JSON text, and a checksum of them all.

The `safetensors` library writes the bytes and checks the header. Here are the two things that it
does not do: to map arrays into memory, and to notice that their content was altered. The checksum
is an array among the others: the SHA-256 of the text and of each array's description and bytes.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from clockstep_isa.diagnostics import MalformedFile, UsageError

__all__ = ["pack", "read", "write_atomically"]

Array = NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_TEXT = "clockstep"
_CHECKSUM = "sha256"
_HEADER_LIMIT = 100_000_000
"""Longest header that safetensors readers accept."""


def pack(arrays: Mapping[str, Array], metadata: str) -> bytes:
    """The bytes of a file: equal content, equal bytes.

    There is one metadata key only, for the library keeps several in no certain order. Raises
    `UsageError` if the text is longer than readers accept.
    """
    content = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    checksum = np.frombuffer(_digest(content, metadata), np.uint8)
    raw = safetensors.numpy.save(content | {_CHECKSUM: checksum}, {_TEXT: metadata})
    length = _header_length(raw)
    if length > _HEADER_LIMIT:
        message = f"nodes, notes and bindings take {length} bytes; at most {_HEADER_LIMIT} work"
        raise UsageError("program-header", message)
    return raw


def write_atomically(path: str | Path, content: Iterable[bytes | memoryview]) -> None:
    """Write a file so that it is there completely or not at all.

    A device or a pipe is written to, not replaced. Raises `UsageError` if that cannot be done.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            _write(target, "wb", content)
        else:
            _replace(target, content)
    except OSError as error:
        reason = error.strerror or "cannot be written"
        raise UsageError("file-write", reason, where=str(path)) from None


def _replace(target: Path, content: Iterable[bytes | memoryview]) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, "xb", content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write(target: Path, mode: str, content: Iterable[bytes | memoryview]) -> None:
    with target.open(mode) as file:
        file.writelines(content)


def read(path: str | Path) -> tuple[str, dict[str, Array]]:
    """The metadata and the arrays, memory-mapped, of a file that holds what `pack` gave.

    Raises `UsageError` if there is no such file, `MalformedFile` if it is truncated, altered or
    of another kind.
    """
    where = Path(path).name
    data = _map(path)
    begin = 8 + _checked_length(data, where)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = (file.metadata() or {}).get(_TEXT)
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            kinds = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except safetensors.SafetensorError as error:
        reason = "".join(c if c.isprintable() else " " for c in str(error)[:150])
        message = f"damaged or truncated: {reason}"
        raise MalformedFile("program-header", message, where=where) from None
    if metadata is None:
        raise MalformedFile("program-header", "a safetensors file, but not a program", where=where)
    arrays = _arrays(kinds, data[begin:], where)
    checksum = arrays.pop(_CHECKSUM, np.zeros(0, np.uint8))
    if checksum.tobytes() != _digest(arrays, metadata):
        message = "the checksum does not match: the file was altered or damaged"
        raise MalformedFile("program-checksum", message, where=where)
    return metadata, arrays


def _digest(arrays: Mapping[str, Array], metadata: str) -> bytes:
    digest = hashlib.sha256(f"{len(metadata)} {metadata}".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f" {name} {array.dtype.str} {list(array.shape)} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.digest()


def _map(path: str | Path) -> NDArray[np.uint8]:
    try:
        if Path(path).stat().st_size < 8:
            raise MalformedFile("program-header", "shorter than a header", where=Path(path).name)
        return np.memmap(path, np.uint8, "r").view(np.ndarray)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UsageError("file-missing", reason, where=str(path)) from None


def _header_length(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "little")


def _checked_length(data: NDArray[np.uint8], where: str) -> int:
    """The length of the header, checked here for the sake of the messages."""
    length = _header_length(data[:8].tobytes())
    if length > _HEADER_LIMIT or bytes(data[8:9]) != b"{":
        raise MalformedFile("program-header", "not a program file", where=where)
    if length > len(data) - 8:
        message = f"truncated: {len(data)} bytes, and the header alone has {length}"
        raise MalformedFile("program-truncated", message, where=where)
    return length


def _arrays(
    kinds: Mapping[str, tuple[str, list[int]]], payload: NDArray[np.uint8], where: str
) -> dict[str, Array]:
    """The arrays of a checked header, which lie one after another in its order."""
    arrays: dict[str, Array] = {}
    end = 0
    for name, (kind, shape) in kinds.items():
        if kind not in _DTYPES or len(shape) > 2 or max(shape, default=0) >= 2**48:
            message = f"array {name[:40]!r} is {kind}{str(shape)[:40]}"
            raise MalformedFile("program-header", message, where=where)
        begin, end = end, end + math.prod(shape) * _DTYPES[kind].itemsize
        arrays[name] = payload[begin:end].view(_DTYPES[kind]).reshape(shape)
    assert end == len(payload), "tensor file: the arrays do not cover the file"
    return arrays
