"""The graph IR: an ONNX graph made static. Every shape is a number, every constant an array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOCKSTEP", "Graph", "Node", "Tensor"]

CLOCKSTEP = "clockstep"
"""The domain of operators that are our own: `Move`, and what bodies of composed operators use.

Each has the ONNX node that it was, or is a part of, in the attributes `op` and `opset`.
Move: element i of the output is element `index[i]` of the inputs' elements one after another, each
in row-major order; -1 is `fill`. `index` is an int64 array of the output's shape, `fill` a Python
number.
"""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value's static type: `dtype` is a numpy or ml_dtypes name such as "float32" or "int8"."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `name` is the ONNX name, or its first output's where ONNX has none.

    `inputs` has "" where an optional input is absent. Attribute values are ints, floats, strings,
    tuples of those, or arrays; ONNX's defaults are filled in. `chips` are those that its results
    are made on, block after block in turn; () leaves that to the compiler.
    """

    name: str
    op: str
    domain: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    chips: tuple[int, ...] = ()

    @property
    def origin(self) -> tuple[str, str, int]:
        """Domain, operator and opset of the ONNX node that it was."""
        if self.domain == CLOCKSTEP:
            return "", self.attributes["op"], self.attributes["opset"]
        return self.domain, self.op, self.opset


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in a topological order that depends on names and edges alone, never on file order.

    `constants` maps names to arrays (initializers, Constant nodes, folded values), memory-mapped
    where the file is external. A graph output may be an input or a constant. Of a model with
    problems, `assumed` are inputs and outputs that stand for nodes that were refused. `joined`
    names inputs and outputs of the model that are several ones here: equal parts along an axis.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, NDArray[np.generic]]
    nodes: tuple[Node, ...]
    sha256: str
    views: Mapping[str, tuple[Tensor, tuple[int, ...]]] = field(default_factory=dict)
    assumed: frozenset[str] = frozenset()
    joined: Mapping[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    states: tuple[tuple[str, str], ...] = ()
    """(input, output): what the next run finds in the place of the input."""
