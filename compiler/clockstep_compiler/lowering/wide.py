"""Which floats are kept as f32 although fp16 is what floats are kept in."""

from __future__ import annotations

import math

from clockstep_compiler.graph import Graph, Node

__all__ = ["stepped_tensors", "wide_tensors"]

_TRANSPARENT = frozenset(
    [
        *("Add", "Sub", "Mul", "Max", "Min", "Neg", "Abs", "Relu", "LeakyRelu", "Clip", "Cast"),
        *("Sigmoid", "Tanh", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Move"),
        *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Ceil", "Div", "Elu", "Erf", "Exp"),
        *("Floor", "Gelu", "HardSigmoid", "HardSwish", "Log", "Mean", "Mish", "Pow", "PRelu"),
        *("Reciprocal", "Round", "Softplus", "Sqrt", "Sum", "Swish", "Where"),
    ]
)


_POINTWISE = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Max", "Min", "Relu", "LeakyRelu", "PRelu", "Clip", "Elu"),
        *("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu", "Erf", "Exp"),
    )
)

_BYTES = frozenset(("int8", "uint8"))

_MOVING = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Move"))

_CARRYING = _MOVING.union(("Add", "Sub", "Max", "Min", "Neg", "Abs", "Relu", "Where"))
"""Operators whose results are as large as their operands."""

_LONG = ("uint16", "int32", "uint32", "int64", "uint64")


def wide_tensors(graph: Graph) -> frozenset[str]:
    """Floats to keep as f32 where they must be stored.

    Those are the graph's float32 outputs, single numbers, scales, and what is rounded to integers
    without a product in between: fp16 would move one element in some hundred to the neighbouring
    integer. Integers as floats, too, until they are scaled: fp16 ends at 65504. And images that no
    array reads, so that what lies between two products is rounded once.
    """
    wide = _rounded(graph).union(_long(graph), _results(graph), _between(graph))
    floats = ("float32", "float64")
    return frozenset(n for n in wide if n in graph.tensors and graph.tensors[n].dtype in floats)


def stepped_tensors(graph: Graph) -> frozenset[str]:
    """Tensors that are but quantized to a byte: what fp16 rounds away is far below a step."""
    found: set[str] = set()
    others = set(graph.outputs)
    for node in reversed(graph.nodes):
        quantized = node.op == "QuantizeLinear" and {graph.tensors[node.outputs[0]].dtype} <= _BYTES
        if quantized or (node.op in _MOVING and node.outputs[0] in found - others):
            found.add(node.inputs[0])
            others.update(node.inputs[1:])
        else:
            others.update(node.inputs)
    return frozenset(found - others)


def _results(graph: Graph) -> set[str]:
    """The graph's outputs, and what is but moved to them."""
    found = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.op in _MOVING and node.outputs[0] in found:
            found.update(node.inputs)
    return found


def _rounded(graph: Graph) -> set[str]:
    """Tensors that are rounded to integers, and the scales of integers."""
    rounded: set[str] = set()
    for node in reversed(graph.nodes):
        if _rounds(graph, node) or (node.op in _TRANSPARENT and node.outputs[0] in rounded):
            rounded.update(name for name in node.inputs if name)
        elif node.op == "Dequantize":
            rounded.add(node.inputs[1])
    return rounded


def _long(graph: Graph) -> set[str]:
    """Integers of more than a byte as floats, what they are scaled by, and single numbers."""
    large: set[str] = set()
    scaled: set[str] = set()
    size = {name: math.prod(tensor.shape) for name, tensor in graph.tensors.items()}
    for node in graph.nodes:
        cast_up = node.op == "Cast" and graph.tensors[node.inputs[0]].dtype in _LONG
        if cast_up or (node.op in _CARRYING and not large.isdisjoint(node.inputs)):
            large.update(node.outputs)
        elif node.op in ("Mul", "Div") and any(n in large or n in scaled for n in node.inputs):
            scales = [n for n in node.inputs if size[n] < size[node.outputs[0]]]
            large.update(scales)
            scaled.update(node.outputs if scales else ())
    return large.union(name for name, count in size.items() if count == 1)


def _between(graph: Graph) -> set[str]:
    """Images that are but computed with element by element, or channel by channel."""
    found = set(graph.views)
    for node in graph.nodes:
        alone = node.op in _POINTWISE or _is_depthwise(graph, node)
        found.difference_update(node.inputs if not alone else ())
    return found


def _is_depthwise(graph: Graph, node: Node) -> bool:
    if node.op != "Conv" or node.inputs[1] not in graph.constants:
        return False
    groups = int(node.attributes.get("group", 1))
    return groups > 1 and groups == graph.tensors[node.inputs[0]].shape[-1]


def _rounds(graph: Graph, node: Node) -> bool:
    """Whether a node rounds its operand to few values."""
    kind = graph.tensors[node.outputs[0]].dtype if node.outputs[0] else ""
    cast_down = node.op == "Cast" and kind.startswith(("int", "uint"))
    return (
        cast_down
        or node.op in ("BitCast", "Quantize", "QuantizeLinear")
        or kind.startswith(("float4", "float8"))
    )
