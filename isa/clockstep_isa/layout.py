"""Layouts: how a tensor's elements map to chip, slice, word, lane and byte.

A layout views the tensor as a matrix (after an optional permutation of its axes) and says where
each block of that matrix lies. The runtime loads inputs and fetches outputs from this alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from clockstep_isa.diagnostics import UsageError
from clockstep_isa.table import Type

__all__ = [
    "DTYPES",
    "PIECE",
    "Binding",
    "Layout",
    "Window",
    "integer_range",
    "numpy_type",
    "tensor_dtype",
]

PIECE = ("byte", "row", "rows", "column", "columns", "chip", "queue", "address")
"""Columns of `Layout.pieces`. Byte `byte` (little end first) of the elements in rows
`row : row + rows` and columns `column : column + columns` of the matrix lies in the words
`address : address + rows` of the slice whose queue id is `queue`, in lanes 0 to `columns` - 1."""

_NUMPY: dict[Type, np.dtype[Any]] = {
    Type.I8: np.dtype(np.int8),
    Type.I16: np.dtype("<i2"),
    Type.I32: np.dtype("<i4"),
    Type.F16: np.dtype("<f2"),
    Type.F32: np.dtype("<f4"),
}

_FOREIGN = frozenset(
    [
        *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        *("float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"),
    ]
)
"""Types of tensors that ml_dtypes has, and numpy has not."""

DTYPES = _FOREIGN | frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
"""Names of the types that a tensor can have; how its elements are stored is another matter."""


def numpy_type(kind: Type) -> np.dtype[Any]:
    """The little-endian numpy dtype of an element type."""
    return _NUMPY[kind]


def tensor_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a tensor's type name, one of `DTYPES`."""
    return np.dtype(getattr(ml_dtypes, name)) if name in _FOREIGN else np.dtype(name)


def integer_range(name: str) -> tuple[int, int]:
    """The least and the greatest value of a type of integers, by the tensor's type name."""
    sign, _, bits = name.partition("int")
    values = 1 << int(bits)
    return (0, values - 1) if sign else (-(values // 2), values // 2 - 1)


class Window(NamedTuple):
    """Windows along an axis: `size` elements from `stride * i - before` on, for each i < `number`.

    What is beyond the tensor is zero.
    """

    axis: int
    size: int
    stride: int
    before: int
    number: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tensor lies. Several pieces may hold the same elements: copies for several readers.

    The matrix is `tensor.transpose(axes).reshape(rows, columns)`; its elements are stored as
    `stored`, after adding `offset` (uint8 is kept as int8 with an offset of -128). Of an input it
    may be windows, on axes as they are after `axes`: an axis then counts windows, and what they
    hold are further axes at the end, in the order of `windows`.
    """

    stored: Type
    offset: int
    axes: tuple[int, ...]
    rows: int
    columns: int
    pieces: NDArray[np.int64]  # [n, len(PIECE)]
    windows: tuple[Window, ...] = ()

    def matrix(self, tensor: NDArray[Any], leading: int = 0) -> NDArray[Any]:
        """The matrix of a tensor, or of as many as there are along a `leading` axis."""
        axes = [*range(leading), *(leading + axis for axis in self.axes)]
        found = tensor.transpose(axes)
        for window in self.windows:
            found = _windows(found, leading + window.axis, window)
        return found.reshape(*tensor.shape[:leading], self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Binding:
    """One input or output of the program: its ONNX name, type and shape, and where it lies.

    A tensor with several layouts (an input that is read in two arrangements) is stored in all.
    `limits` are the least and the greatest integer that the program takes, if it says so.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layouts: tuple[Layout, ...]
    limits: tuple[int, int] | None = None

    def encode(self, value: NDArray[np.generic], place: Callable[..., None]) -> None:
        """Call `place(chip, queue, address, words)` for every piece, in their order.

        `value` has the tensor's shape, or one leading axis more: independent values, and then
        words have that axis as well. Words are uint8 [..., rows, columns]. Raises `UsageError` if
        `value` has another shape or dtype, or an integer that the program does not take.
        """
        leading = value.shape[: value.ndim - len(self.shape)]
        if (
            len(leading) > 1
            or value.shape != leading + self.shape
            or value.dtype != tensor_dtype(self.dtype)
        ):
            raise UsageError(
                "input-type",
                f"is {value.dtype}{list(value.shape)}, the program wants "
                f"{self.dtype}{list(self.shape)}",
                where=f"input {self.name!r}",
            )
        for layout in self.layouts:
            data = _to_stored(layout.matrix(value, len(leading)), layout, self)
            raw = data.view(np.uint8).reshape(*data.shape, layout.stored.bytes)
            for byte, row, rows, column, columns, chip, queue, address in layout.pieces.tolist():
                block = raw[..., row : row + rows, column : column + columns, byte]
                place(chip, queue, address, block)

    def decode(
        self, fetch: Callable[[int, int, int, int], NDArray[np.uint8]]
    ) -> NDArray[np.generic]:
        """The tensor, from `fetch(chip, queue, address, rows)` -> uint8 [rows, lanes]."""
        layout = self.layouts[0]
        raw = np.zeros((layout.rows, layout.columns, layout.stored.bytes), np.uint8)
        for byte, row, rows, column, columns, chip, queue, address in layout.pieces.tolist():
            words = fetch(chip, queue, address, rows)
            raw[row : row + rows, column : column + columns, byte] = words[:, :columns]
        return self.tensor(raw.view(numpy_type(layout.stored))[..., 0])

    def tensor(self, matrix: NDArray[np.generic]) -> NDArray[np.generic]:
        """The tensor that the first layout stores as `matrix`.

        `matrix` is [..., rows, columns] of the stored type; the leading axis, if any, is kept.
        """
        layout = self.layouts[0]
        leading = matrix.shape[:-2]
        dtype = tensor_dtype(self.dtype)
        values = matrix
        if layout.offset:
            values = values.astype(np.int64) - layout.offset
        values = _converted(values, dtype)
        permuted = tuple(self.shape[axis] for axis in layout.axes)
        back = [len(leading) + int(axis) for axis in np.argsort(layout.axes)]
        return values.reshape((*leading, *permuted)).transpose([*range(len(leading)), *back])


def _windows(tensor: NDArray[Any], axis: int, window: Window) -> NDArray[Any]:
    """The tensor with windows along an axis, and what they hold as a last axis."""
    end = window.stride * (window.number - 1) + window.size - window.before
    border = [(0, 0)] * tensor.ndim
    border[axis] = (window.before, max(0, end - tensor.shape[axis]))
    padded = np.pad(tensor, border) if any(border[axis]) else tensor
    every = np.lib.stride_tricks.sliding_window_view(padded, window.size, axis)
    chosen = slice(0, window.stride * (window.number - 1) + 1, window.stride)
    return every[(*[slice(None)] * axis, chosen)]


def _to_stored(
    matrix: NDArray[np.generic], layout: Layout, binding: Binding
) -> NDArray[np.generic]:
    target = numpy_type(layout.stored)
    if target.kind == "f" or (matrix.dtype == target and not layout.offset and not binding.limits):
        return np.ascontiguousarray(_converted(matrix, target))
    if "int" in binding.dtype and binding.dtype in _FOREIGN:
        matrix = matrix.astype(np.int8)
    info = np.iinfo(target)
    low, high = info.min - layout.offset, info.max - layout.offset
    if binding.limits is not None:
        low, high = max(low, binding.limits[0]), min(high, binding.limits[1])
    if matrix.size and not low <= int(matrix.min()) <= int(matrix.max()) <= high:
        raise UsageError(
            "input-range",
            f"holds an integer outside {low} to {high}, which are all that the program takes",
            where=f"input {binding.name!r}",
        )
    return np.ascontiguousarray((matrix.astype(np.int64) + layout.offset).astype(target))


def _converted(values: NDArray[np.generic], dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """Values in another type; a NaN whose type changes becomes the canonical one.

    Left to itself the host's conversion decides what becomes of a NaN's payload.
    """
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(dtype)
    if "float" in dtype.name:
        converted[np.isnan(converted)] = np.nan
    return converted
