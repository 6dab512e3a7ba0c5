"""One opset and no local functions: what onnx's inliner and version converter are for."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import ModelProto, NodeProto

from clockstep_compiler.frontend.messages import place, sentence, shown
from clockstep_compiler.frontend.structure import exists, node_name, opset_of, subgraphs
from clockstep_isa.diagnostics import Diagnostic, UnsupportedModel

__all__ = ["OLD_NEAREST", "TARGET_OPSET", "convert", "unknown_operator", "unknown_operators"]

TARGET_OPSET = 21
"""Older models are lifted to this opset; newer ones keep theirs, as no operator of ours changed."""

_RESIZE_OPSET = 11
"""From here on Resize says how coordinates are mapped; before, there was one way."""

OLD_NEAREST = "simple"
"""The `nearest_mode` that Resize had then, which ONNX has no name for: rounded down, or up where
the image shrinks."""


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
    if opset < 9 and _has_scan(list(model.graph.node)):
        # The converter takes the batch axis off a Scan of opset 8, and leaves its neighbours alone.
        problem = f"Scan of opset {opset} has another form than later ones"
        raise UnsupportedModel("model-form", problem, help="export the model at opset 9 or newer")
    try:
        lifted = onnx.version_converter.convert_version(model, TARGET_OPSET)
        return _as_it_was(lifted) if opset < _RESIZE_OPSET else lifted
    except Exception as error:  # the converter's binding raises several undocumented classes
        if opset >= 13:
            return model
        raise UnsupportedModel(
            "model-form",
            f"cannot lift opset {opset} to {TARGET_OPSET}: {sentence(error)}",
            help=f"export the model at opset {TARGET_OPSET}",
        ) from None


def _as_it_was(model: ModelProto) -> ModelProto:
    """Images resized as before opset 11; the converter takes the defaults of today's Resize."""
    for node in model.graph.node:
        if node.op_type == "Resize" and not node.domain:
            old = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": OLD_NEAREST}
            node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in old.items())
    return model


def _has_scan(nodes: list[NodeProto]) -> bool:
    return any(
        (node.op_type == "Scan" and not node.domain)
        or any(_has_scan(list(graph.node)) for graph in subgraphs(node))
        for node in nodes
    )


def _inlined(model: ModelProto) -> ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the inliner's binding raises several undocumented classes
        raise UnsupportedModel(
            "model-form",
            f"cannot inline the model's functions: {sentence(error)}",
        ) from None
