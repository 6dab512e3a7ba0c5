"""Operators that vanish on import: constants, forwarding nodes, shapes.

To rewrite one more operator away, write a function here and add its row to `REWRITES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from clockstep_compiler.frontend.bodies import BODIES
from clockstep_compiler.frontend.body import Body
from clockstep_compiler.frontend.infer import Mismatch
from clockstep_compiler.frontend.inline import Step
from clockstep_compiler.frontend.load import attributes_of
from clockstep_compiler.frontend.tensors import (
    Array,
    bytes_needed,
    dtype_name,
    numpy_dtype,
    to_array,
)
from clockstep_compiler.frontend.walk import Rewrite, Walk

__all__ = ["REWRITES"]


def _identity(walk: Walk, step: Step) -> bool:
    walk.forward(step.node.input[0], step.node.output[0])
    return True


def _dropout(walk: Walk, step: Step) -> bool:
    inputs = (*step.node.input, "", "")
    ratio, training = (walk.constants.get(name) for name in inputs[1:3])
    nothing = ratio is not None and not ratio.any()
    if inputs[2] and not nothing and (training is None or bool(training.any())):
        return walk.refuse(step, "random-values", "Dropout in training mode is random")
    walk.forward(inputs[0], step.node.output[0])
    for mask in filter(None, step.node.output[1:]):
        walk.add_constant(mask, np.ones(walk.types[inputs[0]].shape, np.bool_))
    return True


def _prelu(walk: Walk, step: Step) -> bool:
    """Slopes of channels, as older opsets have them: put along the second axis."""
    x, slope = step.node.input
    shape, slopes = walk.types[x].shape, walk.types[slope].shape
    if len(slopes) != 1 or len(shape) < 2 or slopes[0] in (1, shape[-1]) or slopes[0] != shape[1]:
        return False
    body = Body(walk, step)
    column = body.reshape(slope, [slopes[0], *[1] * (len(shape) - 2)])
    body.give(0, body.op("PRelu", x, column))
    return True


def _constant(walk: Walk, step: Step) -> bool:
    if len(step.node.attribute) != 1:
        raise Mismatch(f"has {len(step.node.attribute)} attributes, a constant has one value")
    attribute = step.node.attribute[0]
    name = step.node.output[0]
    if attribute.name == "value":
        walk.add_constant(name, to_array(attribute.t, walk.files))
        return True
    kinds: dict[str, Callable[[], Array]] = {
        "value_float": lambda: np.array(attribute.f, np.float32),
        "value_floats": lambda: np.array(attribute.floats, np.float32),
        "value_int": lambda: np.array(attribute.i, np.int64),
        "value_ints": lambda: np.array(attribute.ints, np.int64),
    }
    if attribute.name not in kinds:
        return walk.refuse(step, "element-type", f"a constant cannot be a {attribute.name}")
    walk.add_constant(name, kinds[attribute.name]())
    return True


_WEIGHTS_LIMIT = 1 << 30
"""No layer has more bytes of weights; a larger constant is judged as an operator like any other."""


def _constant_of_shape(walk: Walk, step: Step) -> bool:
    """One element seen everywhere: a few bytes of model take a few bytes of ours."""
    shape = walk.constants.get(step.node.input[0])
    if shape is None:
        return False
    value = attributes_of(step.node).get("value")
    one = np.zeros(1, np.float32) if value is None else to_array(value.t, walk.files)
    sizes = tuple(int(size) for size in shape.ravel())
    if one.size != 1 or shape.ndim != 1 or min(sizes, default=0) < 0:
        raise Mismatch(f"a value of {one.size} elements and the shape {sizes}")
    if bytes_needed(sizes, one.dtype.name) > _WEIGHTS_LIMIT:
        return False
    walk.add_constant(step.node.output[0], np.broadcast_to(one.reshape(()), sizes))
    return True


def _eye_like(walk: Walk, step: Step) -> bool:
    """Ones along a diagonal, in the shape of the operand, whatever that is."""
    like, attributes = walk.types[step.node.input[0]], attributes_of(step.node)
    if len(like.shape) != 2:
        raise Mismatch(f"shape {like.shape} is not of a matrix")
    kind = dtype_name(attributes["dtype"].i) if "dtype" in attributes else like.dtype
    if kind is None:
        return walk.refuse(step, "element-type", "there are no ones of strings")
    diagonal = attributes["k"].i if "k" in attributes else 0
    ones = np.eye(*like.shape, min(max(diagonal, -like.shape[0]), like.shape[1]))
    walk.add_constant(step.node.output[0], ones.astype(numpy_dtype(kind)))
    return True


def _has_element(walk: Walk, step: Step) -> bool:
    """What is not optional is there."""
    walk.add_constant(step.node.output[0], np.array(any(step.node.input)))
    return True


def _shape(walk: Walk, step: Step) -> bool:
    shape = walk.types[step.node.input[0]].shape
    attributes = attributes_of(step.node)
    start = attributes["start"].i if "start" in attributes else 0
    end = attributes["end"].i if "end" in attributes else len(shape)
    walk.add_constant(step.node.output[0], np.array(shape[start:end], np.int64))
    return True


def _size(walk: Walk, step: Step) -> bool:
    size = int(np.prod(np.array(walk.types[step.node.input[0]].shape, object), initial=1))
    walk.add_constant(step.node.output[0], np.array(size, np.int64))
    return True


_RANGE_ELEMENTS = 1 << 20
"""A longer range is no index or position: it is judged as an operator like any other."""


def _range(walk: Walk, step: Step) -> bool:
    """Constant bounds, of any shape with one element: exporters, and ONNX's own bodies, use [1]."""
    bounds = [walk.constants.get(name) for name in step.node.input]
    found = [bound.item() for bound in bounds if bound is not None and bound.size == 1]
    if len(found) != 3 or bounds[0] is None:
        return False
    start, limit, delta = found
    if not delta or not all(map(math.isfinite, found)):
        raise Mismatch(f"start {start}, limit {limit}, delta {delta} is no range")
    steps = (limit - start) / delta
    if steps > _RANGE_ELEMENTS:
        return False
    values = start + np.arange(max(0, math.ceil(steps))) * delta
    walk.add_constant(step.node.output[0], values.astype(bounds[0].dtype))
    return True


REWRITES: Mapping[str, Rewrite] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Dropout": _dropout,
    "EyeLike": _eye_like,
    "Identity": _identity,
    "PRelu": _prelu,
    "OptionalGetElement": _identity,
    "OptionalHasElement": _has_element,
    "Range": _range,
    "Shape": _shape,
    "Size": _size,
    **BODIES,
}
