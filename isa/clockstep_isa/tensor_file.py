"""Read and write one safetensors file: named arrays, one JSON text, and a checksum of it all.

Written here because a program's file has to be the same bytes every time, be written without a
second copy in memory, and be memory-mapped when it is read; any safetensors reader opens it. The
checksum is the SHA-256 of the whole file with the checksum's own digits as zeros.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import MalformedFile, UsageError
from clockstep_isa.metadata import dump_json, load_json

__all__ = ["chunks", "read", "write_atomically"]

Array = NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ZEROS = "0" * 64
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_STEP = 2**24
_HEADER_LIMIT = 2**30


def chunks(arrays: Mapping[str, Array], metadata: str) -> Iterator[bytes | memoryview]:
    """The bytes of a file, piece by piece. The arrays lie in it in the order of the mapping."""
    entries: dict[str, Any] = {"__metadata__": {"clockstep": metadata, "sha256": _ZEROS}}
    blocks: list[memoryview] = []
    end = 0
    for name, array in arrays.items():
        block = np.ascontiguousarray(array)
        begin, end = end, end + block.nbytes
        shape = list(array.shape)
        entries[name] = {"dtype": _NAMES[array.dtype], "shape": shape, "data_offsets": [begin, end]}
        blocks.append(block.reshape(-1).view(np.uint8).data)
    text = dump_json(entries).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    for raw in blocks:
        digest.update(raw)
    match = _CHECKSUM.search(head)
    assert match is not None, "tensor file: the header has no checksum"
    yield head[: match.start(1)] + digest.hexdigest().encode() + head[match.end(1) :]
    yield from blocks


def write_atomically(path: str | Path, content: Iterable[bytes | memoryview]) -> None:
    """Write a file so that it is there completely or not at all.

    Raises `UsageError` if it cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            for chunk in content:
                file.write(chunk)
        temporary.replace(target)
    except OSError as error:
        reason = error.strerror or "cannot be written"
        raise UsageError("file-write", reason, where=str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | Path) -> tuple[str, dict[str, Array]]:
    """The metadata and the arrays, memory-mapped, of a file that `chunks` wrote.

    Raises `UsageError` if there is no such file, `MalformedFile` if it is truncated, altered or
    of another kind.
    """
    where = Path(path).name
    data = _map(path)
    head = _head(data, where)
    header = load_json(head, f"{where} header")
    entries = header.pop("__metadata__", None)
    metadata = entries.get("clockstep") if isinstance(entries, dict) else None
    if not isinstance(metadata, str):
        raise MalformedFile("program-header", "a safetensors file, but not a program", where=where)
    arrays = _arrays(header, data[8 + len(head) :], where)
    _check_sum(data, head, where)
    return metadata, arrays


def _map(path: str | Path) -> NDArray[np.uint8]:
    try:
        if Path(path).stat().st_size < 8:
            raise MalformedFile("program-header", "shorter than a header", where=Path(path).name)
        return np.memmap(path, np.uint8, "r").view(np.ndarray)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UsageError("file-missing", reason, where=str(path)) from None


def _head(data: NDArray[np.uint8], where: str) -> bytes:
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > _HEADER_LIMIT or bytes(data[8:9]) != b"{":
        raise MalformedFile("program-header", "not a program file", where=where)
    if length > len(data) - 8:
        message = f"truncated: {len(data)} bytes, and the header alone has {length}"
        raise MalformedFile("program-truncated", message, where=where)
    return data[8 : 8 + length].tobytes()


def _arrays(header: Mapping[str, Any], payload: NDArray[np.uint8], where: str) -> dict[str, Array]:
    found = []
    for name, entry in header.items():
        shape, span, dtype = _entry(entry)
        if dtype is None or math.prod(shape) * dtype.itemsize != span[1] - span[0]:
            message = f"array {name[:40]!r} is not described as it should be"
            raise MalformedFile("program-header", message, where=where)
        found.append((span, name, shape, dtype))
    found.sort(key=lambda row: row[:2])
    ends = [0, *(span[1] for span, _, _, _ in found)]
    if any(span[0] != end for (span, _, _, _), end in zip(found, ends, strict=False)):
        message = "the arrays do not follow one another"
        raise MalformedFile("program-header", message, where=where)
    if ends[-1] != len(payload):
        kind = "truncated" if ends[-1] > len(payload) else "too long"
        message = f"{kind}: {len(payload)} bytes of arrays, the header says {ends[-1]}"
        raise MalformedFile("program-truncated", message, where=where)
    return {
        name: payload[begin:end].view(dtype).reshape(shape)
        for (begin, end), name, shape, dtype in found
    }


def _entry(entry: Any) -> tuple[tuple[int, ...], tuple[int, int], np.dtype[Any] | None]:
    """Shape, byte range and dtype of one header entry; the dtype is None if anything is wrong."""
    if isinstance(entry, dict) and sorted(entry) == ["data_offsets", "dtype", "shape"]:
        shape, span, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
        lists = isinstance(shape, list) and isinstance(span, list) and len(span) == 2
        if lists and all(type(n) is int and 0 <= n < 2**62 for n in (*shape, *span)):
            return tuple(shape), (span[0], span[1]), _DTYPES.get(str(dtype))
    return (), (0, 0), None


def _check_sum(data: NDArray[np.uint8], head: bytes, where: str) -> None:
    found = _CHECKSUM.findall(head)
    blank = _CHECKSUM.sub(b'"sha256":"' + _ZEROS.encode() + b'"', head)
    digest = hashlib.sha256(data[:8].tobytes() + blank)
    for start in range(8 + len(head), len(data), _STEP):
        digest.update(data[start : start + _STEP].data)
    if found != [digest.hexdigest().encode()]:
        message = "the checksum does not match: the file was altered or damaged"
        raise MalformedFile("program-checksum", message, where=where)
