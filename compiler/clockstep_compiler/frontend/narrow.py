"""Moves of dequantized elements become moves of integers, dequantized afterwards.

Quantizers put a DequantizeLinear before a Transpose or a Reshape and a QuantizeLinear after it; all
three are a move of integers. Weights stay as narrow as they are, and products find both operands
dequantized. For another operator that moves elements of any type, add its name to `_MOVING`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from clockstep_compiler.frontend.inline import Step
from clockstep_compiler.frontend.tensors import Array
from clockstep_compiler.graph import Tensor

__all__ = ["Integers"]

_RENAMING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_MOVING = ("Concat", "Expand", "Gather", "Slice", "Split", "Tile", "Transpose", *_RENAMING)
_TYPES = ("int8", "uint8", "int16", "uint16")
_LEAST, _MOST = 2.0**-100, 2.0**100
"""Scales within which quantizing takes back what dequantizing did."""


class Integers:
    """Where values came from that were dequantized with one scale, and a zero point if any."""

    def __init__(self, types: Mapping[str, Tensor], constants: Mapping[str, Array]) -> None:
        self._types, self._constants = types, constants
        self._makers: dict[str, Step] = {}

    def note(self, step: Step) -> None:
        """A DequantizeLinear that was visited."""
        if self._scale(step.node) is not None and self._types[step.node.input[0]].dtype in _TYPES:
            self._makers[step.node.output[0]] = step

    def source(self, step: Step) -> str | None:
        """The integers that a QuantizeLinear of the same scale gives back, if there are any."""
        maker = self._makers.get(step.node.input[0])
        if maker is None or self._scale(step.node) is None:
            return None
        integers = maker.node.input[0]
        same = self._step(step.node, _of_zero(step.node, self._constants)) == self._step(
            maker.node, self._types[integers].dtype
        )
        return integers if same else None

    def moved(self, step: Step, fresh: Mapping[str, str]) -> tuple[Step, ...]:
        """The same move of integers, and what dequantizes its results; nothing if that cannot be.

        `fresh` has a new name for each output.
        """
        makers = self._sources(step)
        if not makers:
            return ()
        node = NodeProto()
        node.CopyFrom(step.node)
        for i, maker in enumerate(makers):
            node.input[i] = maker.node.input[0]
        for i, name in enumerate(node.output):
            node.output[i] = fresh.get(name, "")
        return Step(node, step.name, step.opsets), *(
            self._dequantizing(makers[0], step, fresh[name], name)
            for name in step.node.output
            if name
        )

    def moves(self, step: Step) -> bool:
        """Whether `moved` has something to offer."""
        return bool(self._sources(step))

    def _sources(self, step: Step) -> list[Step]:
        """What dequantizes the data that the step moves, all by the same scale."""
        node = step.node
        if node.op_type not in _MOVING or node.domain:
            return []
        data = node.input if node.op_type == "Concat" else node.input[:1]
        makers = [self._makers[name] for name in data if name in self._makers]
        steps = [self._step(m.node, self._types[m.node.input[0]].dtype) for m in makers]
        alike = len(makers) == len(data) and all(s == steps[0] for s in steps)
        return makers if alike else []

    def _dequantizing(self, maker: Step, step: Step, source: str, target: str) -> Step:
        node = NodeProto()
        node.CopyFrom(maker.node)
        node.name = step.node.name
        node.input[0], node.output[0] = source, target
        return Step(node, step.name, maker.opsets)

    def _scale(self, node: NodeProto) -> float | None:
        """The one scale for all elements; None if there are others, or it is computed."""
        known = [self._constants.get(name) for name in node.input[1:] if name]
        if not known or not all(value is not None and value.size == 1 for value in known):
            return None
        scale = float(np.asarray(known[0]).astype(np.float64).item())
        return scale if _LEAST < scale < _MOST else None

    def _step(self, node: NodeProto, dtype: str) -> tuple[float | None, int, str]:
        """What makes integers of reals: scale, zero point and type."""
        zero = self._constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
        return self._scale(node), 0 if zero is None else int(zero.item()), dtype


def _of_zero(node: NodeProto, constants: Mapping[str, Array]) -> str:
    """The type that a QuantizeLinear makes, if its zero point says so."""
    named = len(node.input) > 2 and node.input[2]
    return str(constants[node.input[2]].dtype.name) if named else ""
