"""The walked steps become a frozen `Graph`: dead parts dropped, order and hash canonical."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto

from clockstep_compiler.frontend.external import ExternalFiles
from clockstep_compiler.frontend.infer import schema_of
from clockstep_compiler.frontend.inline import Step, rename
from clockstep_compiler.frontend.order import live, topological
from clockstep_compiler.frontend.structure import edges
from clockstep_compiler.frontend.tensors import Array, to_array
from clockstep_compiler.frontend.walk import Walk
from clockstep_compiler.graph import Graph, Node, Tensor
from clockstep_compiler.uniform import different

__all__ = ["assemble"]

_PIECE = 1 << 20
"""Elements hashed at once."""


def assemble(walk: Walk, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Graph:
    """The graph of what `outputs` need; raises what reading an attribute's tensor raises."""
    steps = _name_outputs(walk, outputs, frozenset(inputs))
    links = [edges(step.node) for step in steps]
    order = topological(links)
    needed = live(links, order, outputs)
    steps = [steps[i] for i in order if i in needed]
    titles = _titles(steps)
    nodes = tuple(_node(step, titles[i], walk.files) for i, step in enumerate(steps))
    used = dict.fromkeys((*inputs, *outputs))
    for node in nodes:
        used.update(dict.fromkeys(filter(None, (*node.inputs, *node.outputs))))
    tensors = {key: walk.types[key] for key in sorted(used)}
    constants = {key: walk.constants[key] for key in sorted(used) if key in walk.constants}
    digest = _hash(name, inputs, outputs, tensors, constants, nodes)
    return Graph(name, inputs, outputs, tensors, constants, nodes, digest)


def _name_outputs(walk: Walk, outputs: tuple[str, ...], inputs: frozenset[str]) -> list[Step]:
    """Undo forwarding at the graph's outputs: the value takes the output's name where it can.

    `x -> Relu -> t -> Identity -> y` becomes `x -> Relu -> y`; an output that is a graph input, or
    a second name of one value, keeps an Identity.
    """
    produced = {name for step in walk.steps for name in step.node.output if name}
    names: dict[str, str] = {}
    copies: list[Step] = []
    for output in outputs:
        source = walk.resolve(output)
        if source == output:
            continue
        if source in walk.constants:
            walk.add_constant(output, walk.constants[source])
        elif source in produced and source not in outputs and source not in names:
            names[source] = output
        else:
            node = onnx.helper.make_node("Identity", [names.get(source, source)], [output])
            copies.append(Step(node, output, walk.opsets))
    steps = [replace(s, node=rename(s.node, names, {})) for s in walk.steps]
    return [*steps, *copies] if names or copies else list(walk.steps)


def _titles(steps: list[Step]) -> list[str]:
    """Names made unique: a name several nodes share gives way to the first output's."""
    shared = Counter(step.name for step in steps)
    titles: list[str] = []
    taken = {step.name for step in steps if shared[step.name] == 1}
    for step in steps:
        title = step.name
        if shared[title] > 1:
            title = edges(step.node).key
            while title in taken:
                title += "_"
            taken.add(title)
        titles.append(title)
    return titles


def _node(step: Step, title: str, files: ExternalFiles) -> Node:
    node = step.node
    attributes = {**_defaults(step), **{a.name: _value(a, files) for a in node.attribute}}
    if step.move is not None:
        row = step.move
        attributes = {"fill": row.fill, "index": row.index, "op": row.op, "opset": row.opset}
    return Node(
        title,
        node.op_type,
        node.domain,
        step.opset,
        tuple(node.input),
        tuple(node.output),
        dict(sorted(attributes.items())),
    )


def _defaults(step: Step) -> dict[str, Any]:
    schema = schema_of(step.node, step.opset)
    if schema is None:
        return {}
    rows = {key: row.default_value for key, row in schema.attributes.items()}
    return {key: _value(row, ExternalFiles(None)) for key, row in rows.items() if row.name}


def _value(attribute: AttributeProto, files: ExternalFiles) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return to_array(attribute.t, files)
    if attribute.type == AttributeProto.TENSORS:
        return tuple(to_array(tensor, files) for tensor in attribute.tensors)
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | float):
        return value
    if attribute.type == AttributeProto.STRINGS:
        return tuple(item.decode("utf-8", "replace") for item in value)
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return tuple(value)
    return str(value)


def _hash(
    name: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, Array],
    nodes: tuple[Node, ...],
) -> str:
    digest = hashlib.sha256()
    rows: list[Any] = [name, inputs, outputs]
    rows += [[t.name, t.shape, t.dtype] for t in tensors.values()]
    known: dict[int, Any] = {}
    for n in nodes:
        attributes = [[key, _plain(value, known)] for key, value in n.attributes.items()]
        rows.append([n.name, n.op, n.domain, n.opset, n.inputs, n.outputs, attributes])
    rows.append(list(constants))
    digest.update(json.dumps(rows, ensure_ascii=True, separators=(",", ":")).encode("ascii"))
    for array in constants.values():
        for part in _parts(different(array) if array.size > _PIECE else array):
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _parts(array: Array) -> Iterator[Array]:
    """The array in order; in pieces, so that not all of it is copied, if it does not lie in order.

    Such is one number in the place of many.
    """
    if array.ndim == 0 or array.size == 0 or array.flags.c_contiguous:
        yield array
        return
    rows = max(1, len(array) * _PIECE // array.size)
    yield from (array[i : i + rows] for i in range(0, len(array), rows))


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """A value as JSON has it; `known` are arrays by their identity, which moves have in common."""
    if isinstance(value, np.ndarray):
        if id(value) not in known:
            data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
            found = [value.dtype.name, value.shape, hashlib.sha256(data).hexdigest()]
            known[id(value)] = found
        return known[id(value)]
    if isinstance(value, tuple):
        return [_plain(item, known) for item in value]
    return value.hex() if isinstance(value, float) else value
