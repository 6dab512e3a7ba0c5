"""Bodies put in place of a node: an operator's ONNX function body, or the branch of an `If`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TypeProto
from onnx.defs import OpSchema

from clockstep_compiler.frontend.infer import schema_of
from clockstep_compiler.frontend.load import attributes_of
from clockstep_compiler.frontend.order import live
from clockstep_compiler.frontend.structure import edges, node_name
from clockstep_compiler.graph import CLOCKSTEP

__all__ = [
    "Move",
    "Step",
    "branch_steps",
    "function_body",
    "function_steps",
    "has_body",
    "rename",
]


@dataclass(frozen=True, eq=False, slots=True)
class Move:
    """Element i of the output is element `index[i]` of all inputs one after another; -1 is `fill`.

    `op` and `opset` are those of the ONNX node that it was.
    """

    index: NDArray[np.int64]
    fill: bool | int | float
    op: str
    opset: int


@dataclass(frozen=True, slots=True)
class Step:
    """A node of the flat graph, the name it is known by, and the opsets it was written for.

    `move` has what a Move does: an index is too large for the attributes of a proto.
    """

    node: NodeProto
    name: str
    opsets: Mapping[str, int]
    move: Move | None = None

    @property
    def opset(self) -> int:
        """The version of the node's own operator set; 0 if its model imports none."""
        return self.opsets.get(self.node.domain, 0)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Domain, operator and opset of the ONNX node that it was."""
        if self.move is not None:
            return "", self.move.op, self.move.opset
        if self.node.domain == CLOCKSTEP:
            was = attributes_of(self.node)
            return "", was["op"].s.decode(), was["opset"].i
        return self.node.domain, self.node.op_type, self.opset


def has_body(schema: OpSchema) -> bool:
    """Whether ONNX defines the operator by a function of others."""
    source: Any = schema  # onnx's stubs leave out everything about functions
    return bool(source.has_function or source.has_context_dependent_function)


def function_body(step: Step, schema: OpSchema, types: list[TypeProto]) -> FunctionProto | None:
    """The newest body that holds at the step's opset, or None if the operator has none.

    `types` are those of the step's inputs in order: some bodies depend on them.
    """
    source: Any = schema
    if source.has_context_dependent_function:
        version = _newest(source.context_dependent_function_opset_versions, step.opset)
        raw = [kind.SerializeToString() for kind in types]
        node = step.node.SerializeToString()
        data = version and source.get_context_dependent_function_with_opset_version(
            version, node, raw
        )
    elif source.has_function:
        version = _newest(source.function_opset_versions, step.opset)
        data = version and source.get_function_with_opset_version(version)
    else:
        return None
    return FunctionProto.FromString(data) if data else None


def function_steps(
    step: Step, body: FunctionProto, schema: OpSchema, fresh: Callable[[str], str]
) -> tuple[Step, ...]:
    """The steps of a body with the caller's names, without those no used output needs."""
    node = step.node
    formals = dict(zip(body.input, (*node.input, *[""] * len(body.input)), strict=False))
    outputs = {
        inner: outer for inner, outer in zip(body.output, node.output, strict=False) if outer
    }
    names = {**formals, **outputs}
    for inner in (name for n in body.node for name in n.output if name not in names):
        names[inner] = fresh(f"{step.name}/{inner}") if inner else ""
    attributes = {row.name: row for row in body.attribute_proto}
    defaults = {key: row.default_value for key, row in schema.attributes.items()}
    attributes = {**{k: v for k, v in defaults.items() if v.name}, **attributes}
    attributes.update(attributes_of(node))
    own = {entry.domain: entry.version for entry in body.opset_import}
    links = [edges(n) for n in body.node]
    needed = live(links, range(len(links)), outputs)
    return tuple(
        Step(rename(n, names, attributes), f"{step.name}/{node_name(n)}", _opsets(n, own, step))
        for i, n in enumerate(body.node)
        if i in needed
    )


def branch_steps(
    step: Step, branch: GraphProto, fresh: Callable[[str], str], given: Mapping[str, str]
) -> tuple[tuple[Step, ...], dict[str, str]]:
    """The steps of a subgraph, and the new name of everything it defines.

    `given` has the values that take the place of its inputs.
    """
    own = [tensor.name for tensor in branch.initializer]
    own += [name for node in branch.node for name in node.output if name]
    names = {**given, **{name: fresh(f"{step.name}/{name}") for name in own}}
    steps = tuple(
        Step(rename(node, names, {}), f"{step.name}/{node_name(node)}", step.opsets)
        for node in branch.node
    )
    return steps, names


def rename(
    node: NodeProto, names: Mapping[str, str], attributes: Mapping[str, AttributeProto]
) -> NodeProto:
    """A copy with values renamed, also inside subgraphs, and attribute references filled in."""
    copy = NodeProto()
    copy.CopyFrom(node)
    _rename(copy, names, attributes)
    return copy


def _rename(
    node: NodeProto, names: Mapping[str, str], attributes: Mapping[str, AttributeProto]
) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    kept = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            kept.append(attribute)
        elif attribute.ref_attr_name in attributes:
            filled = AttributeProto()
            filled.CopyFrom(attributes[attribute.ref_attr_name])
            filled.name = attribute.name
            kept.append(filled)
    for attribute in kept:
        for graph in (attribute.g, *attribute.graphs):
            _rename_graph(graph, names, attributes)
    del node.attribute[:]
    node.attribute.extend(kept)


def _rename_graph(
    graph: GraphProto, names: Mapping[str, str], attributes: Mapping[str, AttributeProto]
) -> None:
    own = {value.name for value in graph.input}
    visible = {old: new for old, new in names.items() if old not in own}
    for node in graph.node:
        _rename(node, visible, attributes)
    for value in graph.output:
        value.name = visible.get(value.name, value.name)


def _opsets(node: NodeProto, own: Mapping[str, int], step: Step) -> Mapping[str, int]:
    """The caller's opsets where the operator is the same there, else the body's own.

    A body keeps the opset it was written for; nested bodies may need a newer one.
    """
    versions = (own.get(node.domain, 0), step.opsets.get(node.domain, 0))
    schemas = [schema_of(node, version) for version in versions]
    if schemas[0] and schemas[1] and schemas[0].since_version == schemas[1].since_version:
        return step.opsets
    return own


def _newest(versions: list[int], opset: int) -> int:
    return max((version for version in versions if version <= opset), default=0)
