"""Is the model well formed? Names, cycles and scopes here; the rest is onnx's own checker.

The nodes come out in canonical order, so that no later step can depend on the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from clockstep_compiler.frontend.messages import place, sentence, shown
from clockstep_compiler.frontend.order import Cycle, Edges, live, topological
from clockstep_isa.diagnostics import MalformedFile

__all__ = ["arrange", "captures", "check", "edges", "exists", "node_name", "opset_of", "subgraphs"]

_CUSTOM = "clockstep.unknown"


def node_name(node: NodeProto) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or next((name for name in node.output if name), "unnamed")


def arrange(model: ModelProto) -> None:
    """Put nodes in canonical order and drop those that no output needs, in place.

    Raises `MalformedFile` for an undefined or twice defined tensor, and for a cycle.
    """
    _arrange_graph(model.graph, frozenset())
    for function in sorted(model.functions, key=lambda f: (f.domain, f.name, f.overload)):
        _arrange_function(function)
    _refuse_recursion(model)


def check(model: ModelProto) -> None:
    """Run onnx's checker; raises `MalformedFile` with what it says.

    Standard operators that do not exist are another's finding: the checker is told they are custom.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    _relax(list(copy.graph.node), opset_of(copy))
    _give_shapes(copy.graph)
    copy.opset_import.add(domain=_CUSTOM, version=1)
    for function in copy.functions:
        _relax(list(function.node), opset_of(function))
        function.opset_import.add(domain=_CUSTOM, version=1)
    try:
        onnx.checker.check_model(copy)
    except Exception as error:  # the checker's binding raises several undocumented classes
        problem = f"not a valid ONNX model: {sentence(error)}"
        raise MalformedFile("model-check", problem) from None


def opset_of(scope: ModelProto | FunctionProto) -> int:
    """The version of the standard operator set it imports; 1 if it imports none."""
    versions = [entry.version for entry in scope.opset_import if not entry.domain]
    return max(versions, default=1)


def exists(op: str, opset: int) -> bool:
    """Whether the standard operator set has `op`, and has not removed it, at `opset`."""
    return onnx.defs.has(op, opset, "") and not onnx.defs.get_schema(op, opset, "").deprecated


def captures(node: NodeProto) -> tuple[str, ...]:
    """Names the subgraphs of a node take from around it, sorted."""
    free: dict[str, None] = {}
    for graph in subgraphs(node):
        known = {value.name for value in graph.input} | {t.name for t in graph.initializer}
        known |= {name for inner in graph.node for name in inner.output}
        used = [name for inner in graph.node for name in (*inner.input, *captures(inner))]
        used += [value.name for value in graph.output]
        free.update(dict.fromkeys(name for name in used if name and name not in known))
    return tuple(sorted(free))


def edges(node: NodeProto) -> Edges:
    """What the node reads, captures included, and writes."""
    return Edges((*node.input, *captures(node)), tuple(node.output))


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The graphs among the attributes of a node."""
    return [
        graph
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]


def _arrange_graph(graph: GraphProto, outer: frozenset[str]) -> None:
    given = [value.name for value in graph.input]
    given += [tensor.name for tensor in graph.initializer if tensor.name not in given]
    given += [tensor.values.name for tensor in graph.sparse_initializer]
    known = outer | frozenset(_unique(given))
    outputs = [value.name for value in graph.output]
    nodes = _ordered(list(graph.node), known, outputs, title_of_graph=graph.name)
    inner = known | frozenset(name for node in nodes for name in node.output)
    for node in nodes:
        for subgraph in subgraphs(node):
            _arrange_graph(subgraph, inner)
    del graph.node[:]
    graph.node.extend(nodes)


def _arrange_function(function: FunctionProto) -> None:
    for entry in function.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    nodes = _ordered(
        list(function.node),
        frozenset(_unique(function.input)),
        list(function.output),
        title_of_graph=function.name,
    )
    inner = frozenset(function.input) | frozenset(name for node in nodes for name in node.output)
    for node in nodes:
        for subgraph in subgraphs(node):
            _arrange_graph(subgraph, inner)
    del function.node[:]
    function.node.extend(nodes)


def _ordered(
    nodes: list[NodeProto], known: frozenset[str], outputs: list[str], title_of_graph: str
) -> list[NodeProto]:
    produced = frozenset(
        _unique([*sorted(known), *(name for node in nodes for name in node.output)])
    )
    for node in nodes:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
        missing = [name for name in edges(node).inputs if name and name not in produced]
        if missing:
            problem = f"input {missing[0]!r} is defined nowhere"
            raise MalformedFile(
                "undefined-tensor", problem, where=place(node_name(node), node.op_type)
            )
    for name in outputs:
        if name not in produced:
            problem = f"output {name!r} is defined nowhere"
            raise MalformedFile("undefined-tensor", problem, where=f"graph {title_of_graph!r}")
    links = [edges(node) for node in nodes]
    try:
        order = topological(links)
    except Cycle as cycle:
        loop = shown(" -> ".join((*cycle.keys, cycle.keys[0])))
        raise MalformedFile("graph-cycle", f"the graph has a cycle: {loop}") from None
    needed = live(links, order, outputs)
    return [nodes[i] for i in order if i in needed]


def _unique(names: Iterable[str]) -> list[str]:
    seen: dict[str, None] = {}
    for name in filter(None, names):
        if name in seen:
            raise MalformedFile("duplicate-name", f"tensor {name!r} is defined twice")
        seen[name] = None
    return list(seen)


def _refuse_recursion(model: ModelProto) -> None:
    names = {(f.domain, f.name): f"function {f.domain}::{f.name}" for f in model.functions}
    links = [
        Edges(
            tuple(sorted(names[key] for key in _calls(list(f.node)) if key in names)),
            (names[f.domain, f.name],),
        )
        for f in model.functions
    ]
    try:
        topological(links)
    except Cycle as cycle:
        raise MalformedFile("graph-cycle", f"{shown(cycle.keys[0])} calls itself") from None


def _calls(nodes: list[NodeProto]) -> frozenset[tuple[str, str]]:
    calls = {(node.domain, node.op_type) for node in nodes}
    for graph in (graph for node in nodes for graph in subgraphs(node)):
        calls |= _calls(list(graph.node))
    return frozenset(calls)


def _relax(nodes: list[NodeProto], opset: int) -> None:
    for node in nodes:
        if not node.domain and not exists(node.op_type, opset):
            node.domain = _CUSTOM
        for subgraph in subgraphs(node):
            _relax(list(subgraph.node), opset)
            _give_shapes(subgraph)


def _give_shapes(graph: GraphProto) -> None:
    """The checker wants a shape on every input and output; we do not: inference finds them."""
    for value in (*graph.input, *graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
