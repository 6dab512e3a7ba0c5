"""Compute what depends on constants alone, with onnx's reference evaluator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import onnx
from onnx.defs import OpSchema
from onnx.reference import ReferenceEvaluator

from clockstep_compiler.frontend.infer import Inferred, type_proto
from clockstep_compiler.frontend.inline import Step
from clockstep_compiler.frontend.tensors import Array, bytes_needed
from clockstep_compiler.frontend.unsupported import RANDOM
from clockstep_compiler.graph import Tensor

__all__ = ["evaluate", "may_fold"]

_LARGE = 64 << 20
_GROWTH = 8
_BOUNDED = frozenset(("Compress", "NonZero", "Unique", "NonMaxSuppression"))
"""Operators whose output sizes depend on values, but never exceed what their inputs allow."""


def may_fold(schema: OpSchema, outputs: tuple[Inferred, ...], input_bytes: int) -> bool:
    """Whether a node of constants should be computed now.

    Not if its result is random, or so much larger than its inputs that it is better made where it
    is needed: a few bytes of model must not become gigabytes of ours.
    """
    if schema.name in RANDOM:
        return False
    size = 0
    for output in outputs:
        if output.dtype is None:
            return False
        if output.shape is None:
            return schema.name in _BOUNDED
        size += bytes_needed(output.shape, output.dtype)
    return size <= _LARGE or size <= _GROWTH * input_bytes


def evaluate(
    step: Step, types: Mapping[str, Tensor], values: Mapping[str, Array]
) -> dict[str, Array] | None:
    """The outputs of one node by name; None if the reference evaluator has no answer.

    `types` and `values` hold each input of the node.
    """
    node = step.node
    names = list(dict.fromkeys(filter(None, node.input)))
    inputs = [onnx.helper.make_value_info(name, type_proto(types[name])) for name in names]
    outputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "fold", inputs, outputs)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in step.opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = ReferenceEvaluator(model).run(None, {name: values[name] for name in names})
    except Exception:  # any failure means the same: the node stays, and is judged as it stands
        return None
    arrays = [np.asarray(value) for value in found]
    if any(array.dtype == object for array in arrays):
        return None
    return dict(zip(filter(None, node.output), arrays, strict=True))
