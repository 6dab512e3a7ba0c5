"""Which operators want channels last, and which follow their input into that order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.channels import RENAMING, Layout, Rule, order
from clockstep_compiler.graph import Node

__all__ = ["ALONG", "POINTWISE", "PULLED", "RULES"]

_IMAGES = (
    *("Conv", "ConvInteger", "QLinearConv", "ConvTranspose"),
    *("AveragePool", "LpPool", "MaxPool"),
)

_GLOBAL = {
    "GlobalAveragePool": "AveragePool",
    "GlobalLpPool": "LpPool",
    "GlobalMaxPool": "MaxPool",
}

POINTWISE = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift"),
    *("BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip"),
    *("Cos", "Cosh", "Dequantize", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu"),
    *("Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu"),
    *("Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or"),
    *("PRelu", "Pow", "Quantize", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid"),
    *("Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan"),
    *("Tanh", "ThresholdedRelu", "Where", "Xor"),
)

ALONG = ("DequantizeLinear", "QuantizeLinear")

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


def _image(state: Layout, node: Node) -> bool:
    """Operators on images: their first input and output have channels last."""
    if len(state.shape(node.inputs[0])) < 3:
        return False
    rest = tuple(state.plain(name) for name in node.inputs[1:])
    inputs = (state.twin(node.inputs[0]), *rest)
    made = state.new_twin(node.outputs[0]).name
    state.emit(replace(node, inputs=inputs, outputs=(made, *node.outputs[1:])))
    return True


def _global(state: Layout, node: Node) -> bool:
    """Pooling of everything, with a kernel as large as the image."""
    spatial = state.shape(node.inputs[0])[2:]
    if not spatial:
        return False
    attributes = {**node.attributes, "kernel_shape": spatial}
    return _image(state, replace(node, op=_GLOBAL[node.op], attributes=attributes))


def _following(rule: Rule) -> Rule:
    """Apply a rule to nodes that have an image as an operand."""

    def apply(state: Layout, node: Node) -> bool:
        return any(state.is_image(name) for name in node.inputs) and rule(state, node)

    return apply


def _pointwise(state: Layout, node: Node) -> bool:
    """Element by element, operands broadcast: none computed may have fewer axes."""
    rank = len(state.shape(node.outputs[0]))
    computed = [name for name in node.inputs if name and name not in state.constants]
    if len(node.outputs) != 1 or any(len(state.shape(name)) != rank for name in computed):
        return False
    inputs = tuple(_broadcast(state, name, rank) if name else "" for name in node.inputs)
    state.emit(replace(node, inputs=inputs, outputs=(state.new_twin(node.outputs[0]).name,)))
    return True


def _broadcast(state: Layout, name: str, rank: int) -> str:
    """An operand with channels last; a constant of fewer axes gets those that broadcasting adds."""
    shape = state.shape(name)
    if name not in state.constants or len(shape) == rank:
        return state.twin(name)
    if not shape:
        return name
    full = state.constants[name].reshape((1,) * (rank - len(shape)) + shape)
    array = np.ascontiguousarray(full.transpose(order(rank)))
    return state.new_constant(f"{name}.last", array, state.tensors[name].dtype)


def _along(state: Layout, node: Node) -> bool:
    """Element by element, with a vector of parameters along an axis."""
    rank = len(state.shape(node.outputs[0]))
    if node.inputs[0] in state.constants or node.attributes.get("block_size", 0):
        return False
    axis = int(node.attributes.get("axis", 1)) % rank
    attributes = {**node.attributes, "axis": order(rank).index(axis)}
    inputs = (state.twin(node.inputs[0]), *(state.plain(name) for name in node.inputs[1:]))
    outputs = (state.new_twin(node.outputs[0]).name,)
    state.emit(replace(node, inputs=inputs, outputs=outputs, attributes=attributes))
    return True


def _normalization(state: Layout, node: Node) -> bool:
    """BatchNormalization with constant parameters: a factor and a term for each channel."""
    x, out = node.inputs[0], node.outputs[0]
    found = [state.constants.get(name) for name in node.inputs[1:5]]
    parameters = [p.astype(np.float64) for p in found if p is not None]
    training = node.attributes.get("training_mode", 0) or not node.attributes.get("spatial", 1)
    if not state.is_image(x) or training or len(parameters) != 4 or len(node.outputs) != 1:
        return False
    scale, bias, mean, var = parameters
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + float(node.attributes.get("epsilon", 1e-5)))
        term = bias - mean * factor
    tensor = state.tensors[out]
    dtype = tensor.dtype
    names = [
        state.new_constant(f"{out}.{what}", array.astype(np.float32), dtype)
        for what, array in (("factor", factor), ("term", term))
    ]
    source = state.twin(x)
    scaled = state.new_tensor(f"{out}.scaled", state.shape(source), dtype).name
    made = state.new_twin(out).name
    title = state.title(f"{node.name}.factor")
    state.emit(Node(title, "Mul", "", node.opset, (source, names[0]), (scaled,), {}))
    state.emit(Node(node.name, "Add", "", node.opset, (scaled, names[1]), (made,), {}))
    return True


def _reduction(state: Layout, node: Node) -> bool:
    """Over axes that are known; what is left keeps its order, or is an image."""
    x = node.inputs[0]
    given = node.inputs[1] if len(node.inputs) > 1 else ""
    if not state.is_image(x) or (given and given not in state.constants):
        return False
    rank = len(state.shape(x))
    axes = state.constants[given] if given else node.attributes.get("axes", ())
    chosen = [int(a) % rank for a in np.asarray(axes, np.int64).ravel()] or list(range(rank))
    if not len(np.ravel(axes)) and node.attributes.get("noop_with_empty_axes", 0):
        return False
    places = order(rank)
    kept = [a for a in places if a not in chosen]
    out = node.outputs[0]
    if node.attributes.get("keepdims", 1):
        target = state.new_twin(out).name
    elif kept == sorted(kept):
        target = out
    else:
        return False
    mapped = sorted(places.index(a) for a in chosen)
    inputs: tuple[str, ...] = (state.twin(x),)
    attributes = dict(node.attributes)
    if given:
        name = state.new_constant(f"{out}.axes", np.array(mapped, np.int64), "int64")
        inputs = (*inputs, name)
    else:
        attributes["axes"] = tuple(mapped)
    state.emit(replace(node, inputs=inputs, outputs=(target,), attributes=attributes))
    return True


def _move(state: Layout, node: Node) -> bool:
    """Elements moved, straight from where they are."""
    if not any(state.is_image(name) for name in node.inputs):
        return False
    state.take_in(node, node.attributes["index"], node.attributes["fill"])
    return True


def _renamed(state: Layout, node: Node) -> bool:
    """The same elements under another shape."""
    if not state.is_image(node.inputs[0]):
        return False
    shape = state.shape(node.outputs[0])
    index = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    state.take_in(replace(node, inputs=node.inputs[:1]), index, 0)
    return True


_FLATTENED_PIXELS = 256
"""A larger image is put in order rather than multiplied pixel by pixel."""


def _flattened(state: Layout, node: Node) -> bool:
    """A product of a whole image, flattened, with constant weights: a convolution of one pixel.

    However the image was flattened, it is the weights that are put in order.
    """
    origin, weights = state.origin(node.inputs[0]), state.constants.get(node.inputs[1])
    if origin is None or weights is None or weights.ndim != 2:
        return False
    source, index = origin
    if source not in state.views or index.ndim != 2:
        return False
    tensor, axes = state.views[source]
    bias = _bias(state, node)
    if bias is None or not _whole(index, tensor.shape):
        return False
    order = np.argsort(index[0])
    ordered = weights[:, order].T if node.attributes.get("transB", 0) else weights[order]
    pixels = ordered.reshape(*(tensor.shape[a] for a in axes[1:]), -1)
    kernel = pixels.transpose(-1, -2, *range(pixels.ndim - 2))
    out, rank = state.tensors[node.outputs[0]], len(tensor.shape)
    shape = (out.shape[0], *[1] * (rank - 2), out.shape[1])
    made = state.new_tensor(f"{out.name}.pixel", shape, out.dtype)
    names = [state.new_constant(f"{node.inputs[1]}.kernel", kernel, out.dtype), *bias]
    title = state.title(f"{node.name}.convolution")
    attributes = {"group": 1, "kernel_shape": kernel.shape[2:], "auto_pad": "NOTSET"}
    state.emit(Node(title, "Conv", "", node.opset, (source, *names), (made.name,), attributes))
    state.emit(Node(node.name, "Reshape", "", node.opset, (made.name,), (out.name,), {}))
    return True


def _whole(index: NDArray[np.int64], shape: tuple[int, ...]) -> bool:
    """Whether every row is all of one image, and in the same order, and the images are small."""
    size, pixels = math.prod(shape[1:]), math.prod(shape[2:])
    if len(shape) < 3 or index.shape != (shape[0], size) or not 1 < pixels <= _FLATTENED_PIXELS:
        return False
    rows = index - size * np.arange(shape[0])[:, None]
    return bool((rows == rows[0]).all() and (np.sort(rows[0]) == np.arange(size)).all())


def _bias(state: Layout, node: Node) -> tuple[str, ...] | None:
    """The names of a constant vector that is added to the product, if any; None if it is more."""
    factors = [float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta")]
    if node.attributes.get("transA", 0) or factors != [1.0, 1.0]:
        return None
    if len(node.inputs) < 3 or not node.inputs[2]:
        return ()
    columns = state.shape(node.outputs[0])[-1]
    constant = state.constants.get(node.inputs[2])
    if constant is None or constant.shape not in ((columns,), (1, columns)):
        return None
    name = f"{node.inputs[2]}.bias"
    return (state.new_constant(name, constant.ravel(), state.tensors[node.inputs[2]].dtype),)


PULLED: Mapping[str, Rule] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(ALONG, _along),
}
"""Operators whose result may as well be computed channels last, whatever their operands are."""

RULES: Mapping[str, Rule] = {
    **{op: _following(rule) for op, rule in PULLED.items()},
    **dict.fromkeys(_IMAGES, _image),
    **dict.fromkeys(_GLOBAL, _global),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(RENAMING, _renamed),
    **dict.fromkeys(("Gemm", "MatMul"), _flattened),
    "BatchNormalization": _normalization,
    "Move": _move,
}
"""By operator; everything else has its operands in ONNX's order."""
