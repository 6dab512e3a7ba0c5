"""One opset and no local functions: what onnx's inliner and version converter are for."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import ModelProto, NodeProto

from clockstep_compiler.frontend.messages import place, sentence, shown
from clockstep_compiler.frontend.structure import exists, node_name, opset_of, subgraphs
from clockstep_isa.diagnostics import Diagnostic, UnsupportedModel

__all__ = ["TARGET_OPSET", "convert", "unknown_operator", "unknown_operators"]

TARGET_OPSET = 21
"""Older models are lifted to this opset; newer ones keep theirs, as no operator of ours changed."""


def unknown_operators(model: ModelProto) -> list[Diagnostic]:
    """Nodes anywhere in the model that claim to be standard operators and are not."""
    local = {(function.domain, function.name) for function in model.functions}
    problems = _unknown_in(list(model.graph.node), opset_of(model), local)
    for function in model.functions:
        problems += _unknown_in(list(function.node), opset_of(function), local)
    return problems


def unknown_operator(node: NodeProto, name: str, opset: int) -> Diagnostic | None:
    """Why a node of the standard domain has no schema at `opset`; None if it has one."""
    op = node.op_type
    if exists(op, opset):
        return None
    versions = sorted(
        s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == op
    )
    if not versions:
        problem, remedy = f"there is no ONNX operator {shown(op)}", "see `clockstep ops`"
    elif versions[0] <= opset:
        problem, remedy = f"operator {op} was removed by opset {opset}", "export the model anew"
    else:
        problem = f"operator {op} exists from opset {versions[0]}, the model declares {opset}"
        remedy = f"export the model at opset {versions[0]} or newer"
    where = place(name, op)
    return Diagnostic("unknown-operator", problem, where, remedy, name, op, opset)


def _unknown_in(
    nodes: list[NodeProto], opset: int, local: set[tuple[str, str]]
) -> list[Diagnostic]:
    problems = []
    for node in nodes:
        problem = None
        if not node.domain and ("", node.op_type) not in local:
            problem = unknown_operator(node, node_name(node), opset)
        problems += [problem] if problem else []
        for graph in subgraphs(node):
            problems += _unknown_in(list(graph.node), opset, local)
    return problems


def convert(model: ModelProto) -> ModelProto:
    """Inline local functions and lift the standard operators to `TARGET_OPSET`.

    There is nothing to lift in a model that imports other operator sets alone. A model the
    converter cannot lift keeps its opset if that is at least 13, from where on our
    operators take their parameters as they do now; else `UnsupportedModel`.
    """
    if model.functions:
        model = _inlined(model)
    opset = opset_of(model)
    standard = any(not entry.domain for entry in model.opset_import)
    if opset >= TARGET_OPSET or not standard:
        return model
    try:
        return onnx.version_converter.convert_version(model, TARGET_OPSET)
    except Exception as error:  # the converter's binding raises several undocumented classes
        if opset >= 13:
            return model
        raise UnsupportedModel(
            "model-form",
            f"cannot lift opset {opset} to {TARGET_OPSET}: {sentence(error)}",
            help=f"export the model at opset {TARGET_OPSET}",
        ) from None


def _inlined(model: ModelProto) -> ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the inliner's binding raises several undocumented classes
        raise UnsupportedModel(
            "model-form",
            f"cannot inline the model's functions: {sentence(error)}",
        ) from None
