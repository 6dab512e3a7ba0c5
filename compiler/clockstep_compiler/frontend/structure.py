"""Is the model well formed? Names, cycles and scopes here; the rest is onnx's own checker.

The nodes come out in canonical order, so that no later step can depend on the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from clockstep_compiler.frontend.order import Cycle, Edges, live, topological
from clockstep_compiler.frontend.unsupported import place
from clockstep_isa.diagnostics import MalformedFile

__all__ = ["arrange", "captures", "check", "edges", "node_name", "subgraphs"]


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
    """Run onnx's checker; raises `MalformedFile` with what it says."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _give_shapes(copy.graph)
    try:
        onnx.checker.check_model(copy)
    except Exception as error:  # the checker's binding raises several undocumented classes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        problem = lines[0] if lines else type(error).__name__
        raise MalformedFile("model-check", f"not a valid ONNX model: {problem}") from None


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
            raise MalformedFile("undefined-tensor", problem, where=f"graph {title_of_graph}")
    links = [edges(node) for node in nodes]
    try:
        order = topological(links)
    except Cycle as cycle:
        loop = " -> ".join((*cycle.keys, cycle.keys[0]))
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
        raise MalformedFile("graph-cycle", f"{cycle.keys[0]} calls itself") from None


def _calls(nodes: list[NodeProto]) -> frozenset[tuple[str, str]]:
    calls = {(node.domain, node.op_type) for node in nodes}
    for graph in (graph for node in nodes for graph in subgraphs(node)):
        calls |= _calls(list(graph.node))
    return frozenset(calls)


def _give_shapes(graph: GraphProto) -> None:
    """The checker wants a shape on every input and output; we do not: inference finds them."""
    for value in (*graph.input, *graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    for node in graph.node:
        for subgraph in subgraphs(node):
            _give_shapes(subgraph)
