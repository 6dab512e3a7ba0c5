"""BatchNormalization: a factor and a term for each channel, constant where they can be."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.expr import add, binary, mul, unary
from clockstep_compiler.graph import Node
from clockstep_compiler.lowering.elementwise import attribute
from clockstep_compiler.lowering.lower import Lowering, lowers
from clockstep_compiler.lowering.normalize import deviations, square, wide
from clockstep_compiler.lowering.reduce_rows import (
    Stored,
    hold,
    over,
    reduced,
    reshaped,
    source,
)
from clockstep_isa.diagnostics import UnsupportedModel

__all__: list[str] = []


@lowers("BatchNormalization")
def _batch(state: Lowering, node: Node) -> None:
    """x * scale / sqrt(variance + epsilon) + (shift - mean * that), folded where constant."""
    out, names = node.outputs[0], node.inputs[1:5]
    shape, epsilon = state.shape(out), attribute(node, "epsilon", 1e-5)
    if node.attributes.get("training_mode", 0):
        _training(state, node, epsilon)
        return
    arrays = [state.constant(name) for name in names]
    known = [array.astype(np.float64) for array in arrays if array is not None]
    if len(known) == len(names):
        factor, term = _folded(known, epsilon)
        ones = (1,) * (len(shape) - 2)
        a = mul(state.operand(node.inputs[0], shape), factor.reshape(-1, *ones))
        state.define(out, add(a, term.reshape(-1, *ones)))
        return
    own = state.shape(names[0])
    mean, variance = (over(state, source(state, name), own) for name in names[2:])
    inverse = hold(state, unary("rsqrt", add(wide(variance), epsilon)), own)
    _apply(state, node, hold(state, wide(mean), own), inverse)


def _apply(state: Lowering, node: Node, mean: Stored, inverse: Stored) -> None:
    """(x - mean) * inverse * scale + shift, with mean and inverse known for each channel."""
    out, own = node.outputs[0], inverse.shape
    scale, shift = (wide(over(state, source(state, n), own)) for n in node.inputs[1:3])
    factors = hold(state, binary("mul", scale, over(state, inverse, own)), own)
    taken = binary("mul", over(state, mean, own), over(state, factors, own))
    terms = hold(state, binary("sub", shift, taken), own)
    shape = state.shape(out)
    column = (own[0], *(1,) * (len(shape) - 2))
    a = wide(over(state, source(state, node.inputs[0]), shape))
    scaled = binary("mul", a, over(state, reshaped(state, factors, column), shape))
    state.define(out, binary("add", scaled, over(state, reshaped(state, terms, column), shape)))


def _training(state: Lowering, node: Node, epsilon: float) -> None:
    """With the batch's own statistics, which the running ones then take in."""
    x, own = source(state, node.inputs[0]), state.shape(node.inputs[1])
    if 0 in x.shape:
        raise UnsupportedModel("unsupported-form", "statistics of no elements")
    axes = [i for i in range(len(x.shape)) if i != 1]
    count = math.prod(x.shape[axis] for axis in axes)
    centred, mean = deviations(state, x, axes)
    found = reduced(state, centred, axes, "add", before=square, after=lambda a: mul(a, 1 / count))
    variance = reshaped(state, hold(state, found, mean.shape), own)
    mean = reshaped(state, mean, own)
    inverse = hold(state, unary("rsqrt", add(over(state, variance, own), epsilon)), own)
    _apply(state, node, mean, inverse)
    momentum = attribute(node, "momentum", 0.9)
    for out, known, name in zip(node.outputs[1:], (mean, variance), node.inputs[3:5], strict=False):
        if out:
            before = mul(wide(over(state, source(state, name), own)), momentum)
            state.define(out, binary("add", before, mul(over(state, known, own), 1 - momentum)))


def _folded(
    arrays: list[NDArray[np.float64]], epsilon: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and term of every channel from scale, shift, mean and variance."""
    scale, shift, mean, variance = arrays
    factor = scale / np.sqrt(variance + epsilon)
    return factor, shift - mean * factor
