"""How each operator that only moves elements is run on the numbers of the elements.

`MOVES` has one row an operator. onnx's reference evaluator runs them all, but for what it does not
know, or does element by element; `indexing` has those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from clockstep_compiler.frontend.fold import evaluate
from clockstep_compiler.frontend.indexing import (
    gather_elements,
    gather_nd,
    scatter_elements,
    scatter_nd,
    slices,
    tensor_scatter,
)
from clockstep_compiler.frontend.infer import schema_of
from clockstep_compiler.frontend.inline import Step
from clockstep_compiler.frontend.load import attributes_of
from clockstep_compiler.frontend.tensors import Array
from clockstep_compiler.graph import Tensor

__all__ = ["MOVES", "Call", "Mover", "Operands", "attribute"]

Operands = list[Array | None]
Shapes = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One node, the values of its operands (numbers where they are data), and what it makes."""

    step: Step
    operands: Operands
    shapes: Shapes

    def operand(self, position: int) -> Array | None:
        return self.operands[position] if position < len(self.operands) else None

    def given(self, position: int) -> Array:
        value = self.operand(position)
        if value is None:
            raise ValueError(f"operand {position} is missing")
        return value

    def attribute(self, name: str) -> Any:
        """The attribute's value, else its default; None if it has none."""
        return attribute(self.step, name)


_Evaluate = Callable[[Call], list[Array] | None]


@dataclass(frozen=True, slots=True)
class Mover:
    """`data`: positions of the data operands, None for all; the others must be constant.

    `only`: an attribute, and the one value of it with which elements are but moved.
    `fill`: the attribute that has the value of elements that come from nowhere.
    """

    evaluate: _Evaluate
    data: tuple[int, ...] | None = (0,)
    only: tuple[str, str] = ("", "")
    fill: str = ""


def attribute(step: Step, name: str) -> Any:
    found = attributes_of(step.node).get(name)
    schema = schema_of(step.node, step.opset)
    if found is None and schema is not None and name in schema.attributes:
        found = schema.attributes[name].default_value
    if found is None or not found.name:
        return None
    value = onnx.helper.get_attribute_value(found)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _reference(call: Call) -> list[Array] | None:
    """By onnx's reference evaluator; element types play no part in it."""
    node = NodeProto()
    node.CopyFrom(call.step.node)
    values = {str(i): value for i, value in enumerate(call.operands) if value is not None}
    node.input[:] = [str(i) if str(i) in values else "" for i in range(len(node.input))]
    types = {name: Tensor(name, value.shape, value.dtype.name) for name, value in values.items()}
    found = evaluate(replace(call.step, node=node), types, values)
    return None if found is None else list(found.values())


def _reshape(call: Call) -> list[Array] | None:
    shape = call.shapes[0]
    return None if shape is None else [call.given(0).reshape(shape)]


def _slice(call: Call) -> list[Array]:
    data = _numbers(call, 0)
    if call.attribute("starts") is not None:
        starts, ends, axes, steps = call.attribute("starts"), call.attribute("ends"), None, None
        axes = call.attribute("axes") or None
    else:
        starts, ends = call.given(1).tolist(), call.given(2).tolist()
        axes, steps = (v if v is None else v.tolist() for v in map(call.operand, (3, 4)))
    count = len(starts)
    axes = list(range(count)) if axes is None else axes
    return [slices(data, starts, ends, axes, [1] * count if steps is None else steps)]


def _pad(call: Call) -> list[Array] | None:
    """Negative padding removes elements first; onnx's evaluator knows no such padding."""
    data, step = call.given(0), call.step
    name = next((n for n in ("pads", "paddings") if attribute(step, n) is not None), "")
    if name:
        pads, value = np.array(call.attribute(name), np.int64), None
    else:
        pads, value = call.given(1).astype(np.int64), call.operand(2)
    axes = call.operand(3)
    chosen = range(data.ndim) if axes is None else [int(a) % data.ndim for a in axes]
    if pads.shape != (2 * len(chosen),) or len(frozenset(chosen)) != len(chosen):
        raise ValueError("the padding does not fit the axes")
    widths, kept = [(0, 0)] * data.ndim, [slice(None)] * data.ndim
    for axis, before, after in zip(chosen, pads, pads[len(chosen) :], strict=False):
        kept[axis] = slice(max(0, -before), max(0, data.shape[axis] + min(0, after)))
        widths[axis] = (max(0, before), max(0, after))
    mode = call.attribute("mode")
    fill = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
    return [np.pad(data[tuple(kept)], widths, mode=mode, **fill)]


def _resize(call: Call) -> list[Array] | None:
    """As onnx's evaluator wants it: no negative axes, empty operands absent, fill apart."""
    node = NodeProto()
    node.CopyFrom(call.step.node)
    kept = [a for a in node.attribute if a.name not in ("axes", "extrapolation_value")]
    axes = call.attribute("axes")
    del node.attribute[:]
    node.attribute.extend(kept)
    if axes:
        rank = call.given(0).ndim
        node.attribute.append(onnx.helper.make_attribute("axes", [a % rank for a in axes]))
    rest = [value if value is not None and value.size else None for value in call.operands[1:]]
    step = replace(call.step, node=node)
    return _reference(replace(call, step=step, operands=[call.operands[0], *rest]))


def _gather_elements(call: Call) -> list[Array]:
    return [gather_elements(_numbers(call, 0), call.given(1), call.attribute("axis"))]


def _gather_nd(call: Call) -> list[Array]:
    return [gather_nd(_numbers(call, 0), call.given(1), call.attribute("batch_dims") or 0)]


def _scatter_elements(call: Call) -> list[Array]:
    data, updates = _numbers(call, 0), _numbers(call, 2)
    return [scatter_elements(data, call.given(1), updates, call.attribute("axis"))]


def _scatter_nd(call: Call) -> list[Array]:
    return [scatter_nd(_numbers(call, 0), call.given(1), _numbers(call, 2))]


def _tensor_scatter(call: Call) -> list[Array]:
    cache, update, axis = _numbers(call, 0), _numbers(call, 1), call.attribute("axis")
    circular = call.attribute("mode") == "circular"
    return [tensor_scatter(cache, update, call.operand(2), axis, circular)]


def _numbers(call: Call, position: int) -> NDArray[np.int64]:
    return call.given(position).astype(np.int64, copy=False)


_PLAIN = Mover(_reference)
_RENAMED = Mover(_reshape)
_NEAREST = ("mode", "nearest")
_WRITTEN = ("reduction", "none")

MOVES: Mapping[str, Mover] = {
    "CenterCropPad": _PLAIN,
    "Compress": _PLAIN,
    "Concat": Mover(_reference, None),
    "DepthToSpace": _PLAIN,
    "Expand": _PLAIN,
    "Flatten": _RENAMED,
    "Gather": _PLAIN,
    "GatherElements": Mover(_gather_elements),
    "GatherND": Mover(_gather_nd),
    "Pad": Mover(_pad, (0, 2), fill="value"),
    "Reshape": _RENAMED,
    "Resize": Mover(_resize, only=_NEAREST, fill="extrapolation_value"),
    "ReverseSequence": _PLAIN,
    "Scatter": Mover(_scatter_elements, (0, 2)),
    "ScatterElements": Mover(_scatter_elements, (0, 2), _WRITTEN),
    "ScatterND": Mover(_scatter_nd, (0, 2), _WRITTEN),
    "Slice": Mover(_slice),
    "SpaceToDepth": _PLAIN,
    "Split": _PLAIN,
    "Squeeze": _RENAMED,
    "TensorScatter": Mover(_tensor_scatter, (0, 1)),
    "Tile": _PLAIN,
    "Transpose": _PLAIN,
    "Trilu": _PLAIN,
    "Unsqueeze": _RENAMED,
    "Upsample": Mover(_reference, only=_NEAREST),
    "Where": Mover(_reference, (1, 2)),
}
"""The operators that move elements."""
