"""Read a model: its bytes become a proto without weights, and the weights arrays beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from clockstep_compiler.frontend.external import ExternalFiles
from clockstep_compiler.frontend.tensors import Array, is_external, to_array
from clockstep_isa.diagnostics import MalformedFile, UnsupportedModel, UsageError

__all__ = ["Loaded", "Model", "attributes_of", "load", "parse"]

Model = str | os.PathLike[str] | bytes | ModelProto
"""A model: the path of a file, its bytes, or the message itself."""

_INLINE_ELEMENTS = 1024
"""Initializers above this leave the proto, so that no later step copies a weight. Those below stay:
shape inference and version conversion look at their values."""

_IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Loaded:
    """`model` has each large initializer as a typed graph input; `weights` has their arrays."""

    model: ModelProto
    weights: Mapping[str, Array]
    files: ExternalFiles


def load(source: Model, overridden: frozenset[str], weights_needed: bool = True) -> Loaded:
    """Parse `source`. An initializer that is also an input is a constant unless `overridden`.

    External data that is not there is refused if `weights_needed`.

    Raises `UsageError` if there is no such file, `MalformedFile` if it is no ONNX model,
    `UnsupportedModel` if it is newer than the installed onnx.
    """
    original, folder = parse(source)
    _check_text(original)
    _check_versions(original)
    files = ExternalFiles(folder, weights_needed)
    model = _without_tensors(original)
    weights: dict[str, Array] = {}
    names = [tensor.name for tensor in original.graph.initializer]
    constants = frozenset(names) - (overridden & {value.name for value in original.graph.input})
    _keep_inputs(original.graph, model.graph, constants)
    for tensor in sorted(original.graph.initializer, key=lambda t: t.name):
        if tensor.name not in constants:
            continue
        array = to_array(tensor, files)
        if array.size <= _INLINE_ELEMENTS and not is_external(tensor):
            model.graph.initializer.append(tensor)
        else:
            weights[tensor.name] = array
            _declare(model.graph, tensor.name, tensor)
    _lift_large_constants(model.graph, weights, files)
    _refuse_nested_external(model)
    if len(names) != len(frozenset(names)):
        twice = sorted(name for name in names if names.count(name) > 1)[0]
        raise MalformedFile("duplicate-name", f"two initializers are named {twice!r}")
    return Loaded(model, weights, files)


def attributes_of(node: NodeProto) -> dict[str, AttributeProto]:
    """The attributes of a node by name."""
    return {attribute.name: attribute for attribute in node.attribute}


def parse(source: Model) -> tuple[ModelProto, Path | None]:
    """The message, and the folder of its file; raises `UsageError` or `MalformedFile`."""
    if isinstance(source, ModelProto):
        return source, None
    folder, where, data = None, "model", source
    if not isinstance(data, bytes):
        path = Path(data)
        folder, where, data = path.parent, path.name, _read(path)
    if not data:
        raise MalformedFile("model-empty", "the file is empty", where=where)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        problem = f"not an ONNX model: its {len(data)} bytes do not parse as a protobuf"
        remedy = "a file cut short while it was copied looks like this"
        raise MalformedFile("model-parse", problem, where=where, help=remedy) from None
    if not model.HasField("graph") or not model.ir_version:
        problem = "not an ONNX model: it has no graph or no IR version"
        raise MalformedFile("model-parse", problem, where=where)
    return model, folder


def _read(path: Path) -> bytes:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError("model-missing", f"the model file {problem}", where=str(path))
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"cannot read the model: {error.strerror}"
        raise UsageError("model-missing", problem, where=str(path)) from None


def _check_text(message: Message) -> None:
    """Text that is not UTF-8 parses, and would come out as bytes somewhere later."""
    if isinstance(message, TensorProto):  # listing its fields would copy the data
        values = [(None, message.name), *((None, e.value) for e in message.external_data)]
    else:
        values = message.ListFields()
    for field, value in values:
        if field is None or field.type == FieldDescriptor.TYPE_STRING:
            texts = [value] if isinstance(value, str | bytes) else value
            if any(isinstance(text, bytes) for text in texts):
                raise MalformedFile("model-text", "a name in the model is not valid UTF-8")
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                _check_text(part)


def _check_versions(model: ModelProto) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise UnsupportedModel(
            "model-form",
            f"the model has IR version {model.ir_version}; {onnx.IR_VERSION} is the newest known",
            help="install a newer onnx",
        )
    for entry in model.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if entry.domain in ("", "ai.onnx") and entry.version > newest:
            raise UnsupportedModel(
                "model-form",
                f"the model has opset {entry.version}; {newest} is the newest known",
                help="install a newer onnx, or export the model at an older opset",
            )


def _without_tensors(original: ModelProto) -> ModelProto:
    model = ModelProto(ir_version=max(original.ir_version, _IR_VERSION))
    model.functions.extend(original.functions)
    for entry in original.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        model.opset_import.add(domain=domain, version=entry.version)
    if not original.opset_import:
        if original.ir_version >= 3:
            raise MalformedFile("model-opset", "the model does not say which opset it uses")
        model.opset_import.add(domain="", version=1)
    graph = model.graph
    graph.name = original.graph.name or "graph"
    graph.node.extend(original.graph.node)
    graph.output.extend(original.graph.output)
    graph.value_info.extend(sorted(original.graph.value_info, key=lambda value: value.name))
    graph.sparse_initializer.extend(original.graph.sparse_initializer)
    return model


def _keep_inputs(original: GraphProto, graph: GraphProto, constants: frozenset[str]) -> None:
    graph.input.extend(value for value in original.input if value.name not in constants)


def _declare(graph: GraphProto, name: str, tensor: TensorProto) -> None:
    graph.input.append(
        onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
    )


def _lift_large_constants(
    graph: GraphProto, weights: dict[str, Array], files: ExternalFiles
) -> None:
    kept = []
    for node in sorted(graph.node, key=lambda n: list(n.output)):
        value = attributes_of(node).get("value") if node.op_type == "Constant" else None
        large = value is not None and (
            is_external(value.t) or value.t.ByteSize() > 8 * _INLINE_ELEMENTS
        )
        if value is None or not large or len(node.output) != 1 or node.domain:
            kept.append(node)
            continue
        weights[node.output[0]] = to_array(value.t, files)
        _declare(graph, node.output[0], value.t)
    del graph.node[:]
    graph.node.extend(kept)


def _refuse_nested_external(model: ModelProto) -> None:
    nodes = [*model.graph.node, *(node for body in model.functions for node in body.node)]
    for tensor in _tensors_in(nodes):
        if is_external(tensor):
            raise UnsupportedModel(
                "model-form",
                "external data is read for initializers of the main graph only",
                where=f"tensor {tensor.name!r}",
                help="load and save the model with onnx, without external data",
            )


def _tensors_in(nodes: list[NodeProto]) -> Iterator[TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for graph in (attribute.g, *attribute.graphs):
            yield from graph.initializer
            yield from _tensors_in(list(graph.node))
