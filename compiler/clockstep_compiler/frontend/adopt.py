"""Operators that onnxruntime has in ONNX's own domain, though ONNX does not, or not yet.

They move to onnxruntime's domain, where each has a body, before anything else is asked of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto

from clockstep_compiler.frontend.structure import exists, opset_of, subgraphs

__all__ = ["adopt"]

_ADOPTED = frozenset(("LayerNormalization", "SimplifiedLayerNormalization"))
_DOMAIN = "com.microsoft"


def adopt(model: ModelProto) -> None:
    """Move nodes of such operators to their domain, in place, and import that."""
    if not _adopted(list(model.graph.node), opset_of(model)):
        return
    if all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=_DOMAIN, version=1)


def _adopted(nodes: Sequence[NodeProto], opset: int) -> bool:
    """Whether there was any."""
    found = False
    for node in nodes:
        own = node.domain in ("", "ai.onnx") and node.op_type in _ADOPTED
        if own and not exists(node.op_type, opset):
            node.domain, found = _DOMAIN, True
        for graph in subgraphs(node):
            found |= _adopted(list(graph.node), opset)
    return found
