"""Random weights of sane scale for models whose weights are constant, and so say nothing."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

__all__ = ["with_random_weights"]

_FACTORS = {"BatchNormalization": (1, 4), "Mul": (0, 1)}
"""Operands that multiply or divide, and are near one therefore."""


def with_random_weights(model: ModelProto, seed: int = 0) -> ModelProto:
    """Every ConstantOfShape becomes a drawn initializer: variance kept from layer to layer."""
    rng = np.random.default_rng(seed)
    graph = model.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    factors, branches = _factors(list(graph.node)), _branches(list(graph.node))
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(n) for n in shapes[node.input[0]])
        if len(shape) > 1:
            array = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
        elif node.output[0] in branches:
            array = rng.uniform(0.1, 0.3, shape)
        elif node.output[0] in factors:
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, 0.1, shape)
        tensor = numpy_helper.from_array(array.astype(np.float32), node.output[0])
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _factors(nodes: list[NodeProto]) -> set[str]:
    """Tensors that scale, as they are or with axes added."""
    makers = {name: node for node in nodes for name in node.output}
    found = set()
    for node in nodes:
        for position in _FACTORS.get(node.op_type, ()):
            name = node.input[position]
            maker = makers.get(name)
            if maker is not None and maker.op_type == "Unsqueeze":
                name = maker.input[0]
            found.add(name)
    return found


def _branches(nodes: list[NodeProto]) -> set[str]:
    """Scales of the normalisations that end a residual branch: small, or every sum doubles."""
    added = {name for node in nodes if node.op_type in ("Add", "Sum") for name in node.input}
    ends = [n for n in nodes if n.op_type == "BatchNormalization" and n.output[0] in added]
    return {node.input[1] for node in ends}
