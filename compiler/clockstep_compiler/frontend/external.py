"""External data: files beside the model, mapped once each and never read into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from clockstep_isa.diagnostics import MalformedFile

__all__ = ["ExternalFiles"]

_CODE = "external-data"


class ExternalFiles:
    """The files a model may point to. `folder` is None for a model that is not in a file.

    `needed` False: what these hold does not matter, so they need not be there.
    """

    def __init__(self, folder: Path | None, needed: bool = True) -> None:
        self._folder = folder
        self._needed = needed
        self._mapped: dict[Path, NDArray[np.uint8]] = {}

    def absent(self, tensor: TensorProto) -> bool:
        """Whether an external tensor is in a file that is not there and need not be."""
        if self._needed:
            return False
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        return (
            self._folder is None
            or not self._resolve(location, f"tensor {tensor.name!r}", False).is_file()
        )

    def bytes_of(self, tensor: TensorProto, expected: int) -> NDArray[np.uint8]:
        """The `expected` bytes of an external tensor, as a view of the mapped file.

        Raises `MalformedFile` if the file is missing, too short, or not inside the model's folder.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        where = f"tensor {tensor.name!r}"
        data = self._map(entries.get("location", ""), where)
        offset = _natural(entries.get("offset", "0"), "offset", where)
        length = _natural(entries.get("length", str(expected)), "length", where)
        if length != expected:
            raise MalformedFile(
                _CODE, f"external length is {length} bytes, the shape needs {expected}", where=where
            )
        if offset + length > data.size:
            raise MalformedFile(
                _CODE,
                f"bytes {offset} to {offset + length} lie beyond the end of "
                f"{entries['location']!r} ({data.size} bytes)",
                where=where,
            )
        return data[offset : offset + length]

    def _map(self, location: str, where: str) -> NDArray[np.uint8]:
        path = self._resolve(location, where, True)
        if path not in self._mapped:
            try:
                empty = path.stat().st_size == 0
                data = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
            except OSError as error:
                problem = f"cannot read {location!r}: {error.strerror}"
                raise MalformedFile(_CODE, problem, where=where) from None
            self._mapped[path] = data
        return self._mapped[path]

    def _resolve(self, location: str, where: str, there: bool) -> Path:
        """The path of a file inside the model's folder, which must be `there` if so said."""
        if self._folder is None:
            raise MalformedFile(
                _CODE,
                f"the data is in {location!r}, and a model given as bytes has no folder",
                where=where,
                help="give the path of the model file",
            )
        if not location or "\0" in location:
            raise MalformedFile(_CODE, "external data without a usable location", where=where)
        base = self._folder.resolve()
        try:
            path = (base / location).resolve()
        except (OSError, RuntimeError):
            raise MalformedFile(_CODE, f"cannot resolve {location!r}", where=where) from None
        if Path(location).is_absolute() or not path.is_relative_to(base):
            raise MalformedFile(
                _CODE, f"{location!r} points outside the model's folder", where=where
            )
        if there and not path.is_file():
            raise MalformedFile(
                _CODE,
                f"the file {location!r} is missing",
                where=where,
                help="it belongs beside the model",
            )
        return path


def _natural(text: str, key: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise MalformedFile(_CODE, f"external {key} {text!r} is not a byte count", where=where)
    return int(text)
