"""Which nodes of a graph no lowering exists for."""

from __future__ import annotations

import difflib

from clockstep_compiler.frontend.messages import place, shown
from clockstep_compiler.graph import Graph
from clockstep_compiler.operators import BY_NAME, full_name
from clockstep_isa.diagnostics import Diagnostic

__all__ = ["RANDOM", "is_supported", "unsupported_nodes", "unsupported_operator"]

RANDOM = frozenset(
    [
        *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"),
        "RandomUniformLike",
    ]
)
"""Operators whose results are random."""


def is_supported(domain: str, op: str, moved: bool) -> bool:
    """Whether a node of the ONNX operator has a lowering; `moved` if it has become a Move."""
    row = BY_NAME.get(full_name(domain, op))
    return row is not None and (moved or not row.moved)


def unsupported_operator(name: str, op: str, domain: str, opset: int) -> Diagnostic:
    """The diagnostic for a node whose operator has no lowering."""
    where = place(name, op)
    full = full_name(domain, op)
    if full in BY_NAME and BY_NAME[full].moved:
        return Diagnostic("unsupported-form", BY_NAME[full].problem, where, "", name, op, opset)
    if full in RANDOM:
        problem, remedy = f"{op} is random", "make the random values an input"
        return Diagnostic("random-values", problem, where, remedy, name, op, opset)
    close = difflib.get_close_matches(op, list(BY_NAME), 1, cutoff=0.8)
    also = f"; the nearest is {close[0]}" if close else ""
    return Diagnostic(
        "unsupported-operator",
        f"operator {shown(full)} (opset {opset}) is not supported",
        where,
        f"see `clockstep ops` for those that are{also}",
        node=name,
        op=op,
        opset=opset,
    )


def unsupported_nodes(graph: Graph) -> tuple[Diagnostic, ...]:
    """One diagnostic for each node without a lowering, in the order of the graph."""
    rows = ((node.name, node.op == "Move", *node.origin) for node in graph.nodes)
    return tuple(
        unsupported_operator(name, op, domain, opset)
        for name, moved, domain, op, opset in rows
        if not is_supported(domain, op, moved)
    )
