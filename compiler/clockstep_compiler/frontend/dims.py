"""Bind symbolic dimensions: after this every graph input has a shape of numbers."""

from __future__ import annotations

import difflib
import math
from collections.abc import Container, Iterable, Mapping
from typing import NoReturn

from onnx import GraphProto, TensorShapeProto, ValueInfoProto

from clockstep_compiler.frontend.messages import shown
from clockstep_compiler.frontend.tensors import TENSOR_BYTES_LIMIT, bytes_needed, dtype_name
from clockstep_compiler.options import Options
from clockstep_isa.diagnostics import Diagnostic, MalformedFile, UsageError

__all__ = ["assume", "bind", "check_request"]

Dimension = TensorShapeProto.Dimension


def check_request(graph: GraphProto, weights: Container[str], options: Options) -> None:
    """Raise `UsageError` for a dimension or input of `options` that the model does not have."""
    named = [dim.dim_param for value in graph.input for dim in _dims(value) if _named(dim)]
    for name, size in options.dims.items():
        if name not in named:
            _unknown("dimension", name, f"--dim {name}={size}", named)
        if size < 0:
            raise UsageError("dim-value", f"--dim {name}={size} is negative")
    inputs = [value.name for value in graph.input if value.name not in weights]
    for name in options.bind:
        if name not in inputs:
            _unknown("input", name, f"--bind {name}=...", inputs)
    for name, shape in options.shapes.items():
        if name not in inputs:
            text = ",".join(map(str, shape))
            _unknown("input", name, f"--shape {name}={text}", inputs)
        if min(shape, default=0) < 0:
            raise UsageError("shape-value", f"--shape {name}: {shape} has a negative size")


def bind(graph: GraphProto, weights: Container[str], options: Options) -> list[Diagnostic]:
    """Write the sizes asked for into the proto; returns what remains unbound or unusable.

    Raises `UsageError` if a request contradicts the model or another request.
    """
    sizes = dict(options.dims)
    values = [value for value in graph.input if value.name not in weights]
    for value in values:
        if value.name in options.shapes and value.type.HasField("tensor_type"):
            _learn(value, options.shapes[value.name], sizes)
        elif value.name in options.bind and value.type.HasField("tensor_type"):
            _learn_bound(value, options.bind[value.name].shape, sizes)
    for value in (*values, *graph.output, *graph.value_info):
        _write(value, sizes)
    return [problem for value in values for problem in _problems(value)]


_ASSUMED = 16
"""The size of a dimension of which nothing is known."""


def assume(graph: GraphProto, weights: Container[str], problems: Iterable[Diagnostic]) -> bool:
    """Give every unbound dimension a size, and say whether the inputs then have shapes."""
    if any(problem.code != "unbound-dimension" for problem in problems):
        return False
    values = [value for value in graph.input if value.name not in weights]
    if any(not value.type.tensor_type.HasField("shape") for value in values):
        return False
    for value in values:
        for dim in _dims(value):
            if not _fixed(dim):
                dim.dim_value = _ASSUMED
    return True


def _learn(value: ValueInfoProto, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Let a requested shape bind the names in the declared one, and write it down."""
    kind = value.type.tensor_type
    where = f"input {value.name!r}"
    if kind.HasField("shape") and len(kind.shape.dim) != len(shape):
        problem = f"the request gives {len(shape)} dimensions, the model has {len(kind.shape.dim)}"
        raise UsageError("shape-conflict", problem, where=where)
    for axis, (dim, size) in enumerate(zip(kind.shape.dim, shape, strict=False)):
        known = dim.dim_value if _fixed(dim) else None
        if _named(dim):
            known = sizes.setdefault(dim.dim_param, size)
        if known is not None and known != size:
            name = f" ({shown(dim.dim_param)})" if dim.dim_param else ""
            problem = f"dimension {axis}{name} is {known}, but {size} is asked for"
            raise UsageError("shape-conflict", problem, where=where)
    _declare(value, shape)


def _learn_bound(value: ValueInfoProto, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """As `_learn`; a single number has whatever rank the model declares."""
    kind = value.type.tensor_type
    if kind.HasField("shape") and math.prod(shape) == 1:
        shape = (1,) * len(kind.shape.dim)
    _learn(value, shape, sizes)


def _declare(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    kind = value.type.tensor_type
    del kind.shape.dim[:]
    kind.shape.SetInParent()
    for size in shape:
        kind.shape.dim.add(dim_value=size)


def _write(value: ValueInfoProto, sizes: Mapping[str, int]) -> None:
    for dim in _dims(value):
        if dim.dim_param in sizes and _named(dim):
            dim.dim_value = sizes[dim.dim_param]


def _problems(value: ValueInfoProto) -> list[Diagnostic]:
    where = f"input {value.name!r}"
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "unknown type"
        kind = kind.removesuffix("_type").replace("_", " ")
        problem = f"is {'an' if kind[0] in 'aeiou' else 'a'} {kind}, not a dense tensor"
        return [Diagnostic("not-a-tensor", problem, where)]
    dtype = dtype_name(value.type.tensor_type.elem_type)
    if dtype is None:
        return [_element_type(value, where)]
    if not value.type.tensor_type.HasField("shape"):
        remedy = f"give it with --shape {value.name}=d0,d1,..."
        return [Diagnostic("unbound-dimension", "has no shape", where, remedy)]
    open_axes = [(axis, dim) for axis, dim in enumerate(_dims(value)) if not _fixed(dim)]
    if open_axes:
        return [_unbound(value, axis, dim) for axis, dim in open_axes]
    shape = tuple(dim.dim_value for dim in _dims(value))
    if bytes_needed(shape, dtype) > TENSOR_BYTES_LIMIT:
        problem = f"shape {shape} of {dtype} needs {bytes_needed(shape, dtype)} bytes"
        return [Diagnostic("model-form", problem, where)]
    return []


def _element_type(value: ValueInfoProto, where: str) -> Diagnostic:
    if not value.type.tensor_type.elem_type:
        raise MalformedFile("element-type", "has no element type", where=where)
    return Diagnostic("element-type", "strings and unknown element types are not numbers", where)


def _unbound(value: ValueInfoProto, axis: int, dim: Dimension) -> Diagnostic:
    problem, remedy = f"dimension {axis} has no size", f"--shape {value.name}=d0,d1,..."
    if _named(dim):
        problem, remedy = (
            f"dimension {axis} ({shown(dim.dim_param)}) has no size",
            f"--dim {shown(dim.dim_param)}=SIZE",
        )
    return Diagnostic(
        "unbound-dimension", problem, f"input {value.name!r}", f"give it with {remedy}"
    )


def _fixed(dim: Dimension) -> bool:
    """Exporters write -1 for a size they do not know."""
    return dim.HasField("dim_value") and dim.dim_value >= 0


def _named(dim: Dimension) -> bool:
    """Whether a dimension has a name; exporters write "?" for any size, each its own."""
    return dim.dim_param not in ("", "?")


def _dims(value: ValueInfoProto) -> list[Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _unknown(kind: str, name: str, request: str, known: list[str]) -> NoReturn:
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    listing = shown(", ".join(dict.fromkeys(known))) or "none"
    hint = f"did you mean {close[0]!r}?" if close else f"{kind}s of the model: {listing}"
    raise UsageError(f"{kind}-unknown", f"{request}: the model has no such {kind}", help=hint)
