"""All that keeps a model from compiling, at once: what the frontend finds, then what lowering does.

One node of the model may become many: their problems are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NoReturn

from clockstep_compiler.arranged import arranged
from clockstep_compiler.frontend import Model, Survey, survey
from clockstep_compiler.graph import Graph
from clockstep_compiler.heads import heads_together
from clockstep_compiler.lowering import lower
from clockstep_compiler.options import Options
from clockstep_compiler.states import paired
from clockstep_compiler.steps import Lowered
from clockstep_isa.diagnostics import Diagnostic, UnsupportedModel
from clockstep_isa.machine import Machine

__all__ = ["lowered_model", "lowered_survey"]

Nodes = Mapping[str, tuple[str, int]]


def lowered_model(model: Model, options: Options, machine: Machine) -> tuple[Graph, Lowered]:
    """The graph as the array wants it, and its steps on a machine.

    Raises `UnsupportedModel` with every problem of the model; `UsageError` and `MalformedFile` as
    `import_model` does.
    """
    return lowered_survey(survey(model, options), options, machine)[1:]


def lowered_survey(
    found: Survey, options: Options, machine: Machine
) -> tuple[Graph, Graph, Lowered]:
    """`lowered_model` of a model that has been read, after the graph that ranks would share."""
    problems, nodes = found.problems, found.nodes
    states = paired(found.graph, options.states)
    laid = replace(arranged(found.graph, machine), states=states)
    graph = heads_together(laid, machine)
    del found  # and with it weights that now lie in another order
    try:
        lowered = lower(graph, options, machine)
    except UnsupportedModel as error:
        _refuse([*problems, *error.diagnostics], nodes)
    if problems:
        _refuse(problems, nodes)
    return laid, graph, lowered


def _refuse(problems: Iterable[Diagnostic], nodes: Nodes) -> NoReturn:
    """Raise for all problems in the order of the model's nodes, of one node and one kind once."""
    unique: dict[tuple[str, ...], Diagnostic] = {}
    for problem in problems:
        told = _of_the_model(problem, nodes)
        key = (told.node, told.code) if told.node else (told.where, told.code, told.message)
        unique.setdefault(key, told)
    order = {name: place for place, name in enumerate(nodes)}
    found = sorted(unique.values(), key=lambda problem: order.get(problem.node, -1))
    raise UnsupportedModel(
        found[0].code,
        found[0].message,
        where=found[0].where,
        help=found[0].help,
        diagnostics=tuple(found),
    )


def _of_the_model(problem: Diagnostic, nodes: Nodes) -> Diagnostic:
    """The problem of a node that the model does not have is told of the one that it is part of.

    What a node becomes is named after it: `lstm/MatMul`.
    """
    name = problem.node
    while name and name not in nodes:
        name = name.rpartition("/")[0]
    if not name:
        return problem
    op, opset = nodes[name]
    where = problem.where if name == problem.node else f"node {name!r} ({op})"
    return replace(problem, where=where, node=name, op=op, opset=opset)
