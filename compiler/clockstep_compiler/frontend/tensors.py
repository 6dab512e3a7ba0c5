"""TensorProto to numpy: sizes are checked before anything is read or allocated."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from clockstep_compiler.frontend.external import ExternalFiles
from clockstep_isa.diagnostics import MalformedFile, UnsupportedModel

__all__ = [
    "TENSOR_BYTES_LIMIT",
    "Array",
    "bytes_needed",
    "dtype_name",
    "is_external",
    "numpy_dtype",
    "to_array",
]

Array = NDArray[np.generic]

TENSOR_BYTES_LIMIT = 1 << 40
"""No machine we can describe holds a tensor of more bytes; beyond it sizes are mistakes."""

_SUB_BYTE_BITS = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}


_ABSENT = b"\x3b"
"""What every byte of an absent tensor is."""


def dtype_name(elem_type: int) -> str | None:
    """The numpy or ml_dtypes name of an ONNX element type; None for strings and unknown ones."""
    known = elem_type in TensorProto.DataType.values()
    if not known or elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type).name)


def bytes_needed(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a packed tensor; elements under a byte share one."""
    bits = _SUB_BYTE_BITS.get(dtype) or 8 * numpy_dtype(dtype).itemsize
    return -(-math.prod(shape) * bits // 8)


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The numpy dtype of a `Tensor.dtype`, from ml_dtypes where numpy has none."""
    return np.dtype(getattr(ml_dtypes, name, name))


def is_external(tensor: TensorProto) -> bool:
    """Whether the data lies in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def to_array(tensor: TensorProto, files: ExternalFiles) -> Array:
    """The array of a tensor, a view of the mapped file where the data is external.

    What is absent is `_unknown`. Raises `MalformedFile` if the data does not have the size the
    shape needs, `UnsupportedModel` for strings and element types we do not know.
    """
    where = f"tensor {tensor.name!r}"
    dtype = dtype_name(tensor.data_type)
    if dtype is None:
        problem = "strings cannot be computed on"
        if tensor.data_type != TensorProto.STRING:
            problem = f"element type {tensor.data_type} is unknown"
        raise UnsupportedModel("element-type", problem, where=where)
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise MalformedFile("tensor-shape", f"negative size in shape {shape}", where=where)
    needed = bytes_needed(shape, dtype)
    if is_external(tensor):
        if files.absent(tensor):
            return _unknown(shape, dtype)
        return _view(files.bytes_of(tensor, needed), tensor, shape, dtype)
    if tensor.HasField("raw_data"):
        data = tensor.raw_data
        if len(data) != needed:
            problem = f"has {len(data)} bytes of data, shape {shape} of {dtype} needs {needed}"
            raise MalformedFile("tensor-data", problem, where=where)
        return _view(np.frombuffer(data, np.uint8), tensor, shape, dtype)
    return _typed_fields(tensor, shape, where)


def _unknown(shape: tuple[int, ...], dtype: str) -> Array:
    """One value that takes no memory, none of its bytes zero: products would leave these out."""
    kind = numpy_dtype(dtype)
    if dtype in _SUB_BYTE_BITS:
        return np.broadcast_to(np.ones((), kind), shape)
    return np.broadcast_to(np.frombuffer(_ABSENT * kind.itemsize, kind)[0], shape)


def _view(
    data: NDArray[np.uint8], tensor: TensorProto, shape: tuple[int, ...], dtype: str
) -> Array:
    if dtype not in _SUB_BYTE_BITS:
        return data.view(numpy_dtype(dtype)).reshape(shape)
    packed = TensorProto(data_type=tensor.data_type, dims=shape, raw_data=data.tobytes())
    return np.asarray(numpy_helper.to_array(packed))


def _typed_fields(tensor: TensorProto, shape: tuple[int, ...], where: str) -> Array:
    count, found = math.prod(shape), _field_count(tensor)
    per_value = 4 if dtype_name(tensor.data_type) in _SUB_BYTE_BITS else 1
    if not -(-count // (2 * per_value)) <= found <= 2 * count:
        problem = f"has {found} values, shape {shape} needs {count}"
        raise MalformedFile("tensor-data", problem, where=where)
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # numpy_helper documents no error classes
        raise MalformedFile("tensor-data", f"unreadable data: {error}", where=where) from None


def _field_count(tensor: TensorProto) -> int:
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data)
    return sum(map(len, (*fields, tensor.double_data, tensor.uint64_data)))
