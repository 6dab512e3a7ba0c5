"""Arrays that a user names by a file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa import MalformedFile, UsageError

__all__ = ["read_npy", "read_npz"]


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy file; raises `UsageError` or `MalformedFile`."""
    value = _load(path)
    if not isinstance(value, np.ndarray):
        raise MalformedFile("input-file", "an .npz archive where .npy is wanted", where=str(path))
    return value


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz archive by name; raises as `read_npy`."""
    archive = _load(path)
    if isinstance(archive, np.ndarray):
        raise MalformedFile("input-file", "an .npy array where .npz is wanted", where=str(path))
    try:
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MalformedFile("input-file", f"not readable: {error}", where=str(path)) from None


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UsageError("input-missing", "no such file", where=str(path))
    try:
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise MalformedFile("input-file", "not a numpy file", where=str(path)) from None
