"""What a model's outputs should be, and how far each element may be from that."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from fuzz.bounds import HALF, Known, Node, Storage
from fuzz.builder import Array, evaluate_node
from fuzz.operators import BY_NAME

__all__ = ["differences", "truth"]

_FLOATS = (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.BFLOAT16)


def truth(
    model: ModelProto, inputs: Mapping[str, Array], storage: Storage = HALF
) -> dict[str, Known]:
    """Value and error of every tensor: node by node, floats in float64."""
    known: dict[str, Known] = {}
    for tensor in model.graph.initializer:
        known[tensor.name] = _known(numpy_helper.to_array(tensor), storage)
    known.update({name: _known(value, storage) for name, value in inputs.items()})
    opset = model.opset_import[0].version
    with np.errstate(all="ignore"):
        for node in model.graph.node:
            known.update(_step(node, known, opset, storage))
    return known


def _known(value: Array, storage: Storage) -> Known:
    if value.dtype.kind in "biu":
        return value, np.zeros(value.shape)
    wide = value.astype(np.float64)
    return wide, storage.rounded(wide, np.zeros(value.shape))


def _step(
    node: NodeProto, known: Mapping[str, Known], opset: int, storage: Storage
) -> dict[str, Known]:
    operands = [known[name] if name else None for name in node.input]
    inputs = {name: known[name][0] for name in node.input if name}
    node = _in_float64(node)
    values = evaluate_node(node, inputs, opset)
    row, found = BY_NAME[node.op_type], {}
    rules = (row.error, *row.others)
    for index, (name, value) in enumerate(zip(node.output, values, strict=True)):
        if value.dtype.kind == "f":
            value = value.astype(np.float64)
        error = np.asarray(
            rules[min(index, len(rules) - 1)](Node(node, opset, storage, index), operands, value)
        )
        if value.dtype.kind == "f":
            error = storage.rounded(value, error)
        error = np.where(np.isnan(error), np.inf, error)
        found[name] = value, np.broadcast_to(error, value.shape)
    return found


def _in_float64(node: NodeProto) -> NodeProto:
    """The node with every float type that it names replaced."""
    copy = NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.name == "to" and attribute.i in _FLOATS:
            attribute.i = TensorProto.DOUBLE
    return copy


def differences(actual: Mapping[str, Array], wanted: Mapping[str, Known]) -> list[str]:
    """What is wrong with the outputs, a sentence each."""
    return [
        f"{name}: {problem}"
        for name, have in actual.items()
        if (problem := _difference(have, *wanted[name]))
    ]


def _difference(have: Array, want: Array, error: Array) -> str:
    if have.shape != want.shape:
        return f"shape {list(have.shape)}, should be {list(want.shape)}"
    with np.errstate(invalid="ignore"):
        off = np.abs(have.astype(np.float64) - want.astype(np.float64))
    wrong = np.isfinite(error) & ~(off <= error)
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{int(wrong.sum())} of {wrong.size} elements are wrong, the first is {list(at)}: "
        f"{have[at]!r}, should be {want[at]!r} within {float(error[at]):.3g}"
    )
