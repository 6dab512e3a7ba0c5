"""Inputs bound to values (`--bind`): constants of the model from here on, and folded as such."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ValueInfoProto, numpy_helper

from clockstep_compiler.frontend.tensors import Array, dtype_name, numpy_dtype
from clockstep_isa.diagnostics import UsageError

__all__ = ["bind_values"]


def bind_values(graph: GraphProto, values: Mapping[str, Array]) -> None:
    """Make an initializer of every tensor in `values`; `check_request` and `bind` came before.

    Raises `UsageError` if a value has not the input's shape or does not fit its type.
    """
    for declared in list(graph.input):
        dtype = dtype_name(declared.type.tensor_type.elem_type)
        if declared.name not in values or dtype is None:
            continue
        array = _fitted(declared, dtype, np.asarray(values[declared.name]))
        graph.initializer.append(numpy_helper.from_array(array, declared.name))
        graph.input.remove(declared)


def _fitted(declared: ValueInfoProto, dtype: str, value: Array) -> Array:
    where = f"input {declared.name!r}"
    shape = tuple(dim.dim_value for dim in declared.type.tensor_type.shape.dim)
    if value.size == 1 == np.prod(shape, dtype=int):
        value = value.reshape(shape)
    if value.shape != shape:
        problem = f"--bind gives {list(value.shape)}, the model has {list(shape)}"
        raise UsageError("bind-shape", problem, where=where)
    with np.errstate(invalid="ignore", over="ignore"):
        array = value.astype(numpy_dtype(dtype))
    exact = "float" in dtype or np.array_equal(array.astype(value.dtype), value)
    if not exact:
        problem = f"--bind gives {value.ravel()[:4].tolist()}, which {dtype} does not hold"
        raise UsageError("bind-type", problem, where=where)
    return array
