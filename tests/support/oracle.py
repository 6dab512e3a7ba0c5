"""The oracle for quantized graphs: ONNX's definitions in exact arithmetic, no floating point.

Floating tensors are `Exact` values without any intermediate rounding, integer tensors are numpy
arrays. Implementations of QDQ models differ in their roundings; this is what all of them round.
Only Div, Sigmoid, Softmax and Tanh, which no exact arithmetic has, are float64. Operators on images
are in `oracle_images.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tests.support.exact import Exact, matmul_integers, round_half_even, to_exact
from tests.support.oracle_images import (
    MOVES,
    average_pool,
    convolve,
    global_average,
    max_pool,
    mean,
    moved,
)

__all__ = [
    "as_float",
    "compare_steps",
    "end_to_end",
    "evaluate",
    "expose_quantized",
    "layerwise",
    "quantized_names",
]

Array = NDArray[np.generic]
Value = Exact | Array
Arguments = list[Any]
Attributes = dict[str, Any]

_QUANTIZED = ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


def evaluate(model: ModelProto, inputs: Mapping[str, Array]) -> dict[str, Value]:
    """Every tensor of the model by name, initializers and inputs included."""
    values, _ = _run(model, inputs, {}, frozenset(), every=True)
    return values


def end_to_end(
    model: ModelProto, inputs: Mapping[str, Array], names: Iterable[str] = ()
) -> tuple[dict[str, Array], dict[str, Value]]:
    """The quantized tensors, and the graph's outputs and `names`; nothing else is kept."""
    wanted = frozenset(output.name for output in model.graph.output).union(names)
    values, quantized = _run(model, inputs, {}, wanted)
    return quantized, {name: values[name] for name in sorted(wanted)}


def layerwise(
    model: ModelProto, inputs: Mapping[str, Array], actual: Mapping[str, Array]
) -> dict[str, Array]:
    """What each quantized tensor in `actual` should have been, given the actual ones before it.

    An early step of one does not excuse later ones: each layer is judged on the inputs it had.
    """
    _, expected = _run(model, inputs, actual, frozenset())
    return {name: value for name, value in expected.items() if name in actual}


def quantized_names(model: ModelProto) -> tuple[str, ...]:
    """Outputs of the quantizing operators, in the order of the file."""
    return tuple(node.output[0] for node in model.graph.node if node.op_type in _QUANTIZED)


def expose_quantized(model: ModelProto) -> ModelProto:
    """The model with every computed quantized tensor as a further graph output."""
    copy = ModelProto()
    copy.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    known = {value.name: value for value in inferred.graph.value_info}
    have = {value.name for value in copy.graph.output}
    for name in quantized_names(model):
        if name not in have and name in known:
            copy.graph.output.append(known[name])
    onnx.checker.check_model(copy)
    return copy


def compare_steps(expected: Array, actual: Array) -> tuple[int, float]:
    """The largest distance in quantization steps, and the share of elements that are identical."""
    assert expected.shape == actual.shape, f"{actual.shape} is not {expected.shape}"
    distance = np.abs(expected.astype(np.int64) - actual.astype(np.int64))
    return int(distance.max(initial=0)), float(np.mean(distance == 0)) if distance.size else 1.0


def as_float(value: Value) -> NDArray[np.float64]:
    """A tensor of `evaluate` as float64."""
    return value.to_float() if isinstance(value, Exact) else value.astype(np.float64)


def _run(
    model: ModelProto,
    inputs: Mapping[str, Array],
    actual: Mapping[str, Array],
    wanted: frozenset[str],
    every: bool = False,
) -> tuple[dict[str, Value], dict[str, Array]]:
    """Tensors by name, and the quantized ones as computed; from `actual` they are as it says.

    Tensors that are not `wanted` go when nobody needs them any more, unless `every` is.
    """
    values: dict[str, Value] = {"": np.empty(0)}
    for tensor in model.graph.initializer:
        values[tensor.name] = _value(np.asarray(numpy_helper.to_array(tensor)))
    values.update({name: _value(np.asarray(array)) for name, array in inputs.items()})
    uses = Counter(name for node in model.graph.node for name in node.input)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    expected: dict[str, Array] = {}
    for node in model.graph.node:
        arguments = [values[name] if name else None for name in node.input]
        found = _results(node, opset, arguments)
        values.update(zip(node.output, found, strict=False))
        name = node.output[0]
        if node.op_type in _QUANTIZED:
            result = values[name]
            assert not isinstance(result, Exact), f"{name} is quantized, so it is an integer array"
            expected[name] = result
            values[name] = np.asarray(actual.get(name, result))
        uses.subtract(node.input)
        for done in {n for n in node.input if n and not uses[n] and not every}.difference(wanted):
            del values[done]
    del values[""]
    return values, expected


def _results(node: NodeProto, opset: int, arguments: Arguments) -> list[Value]:
    if node.op_type in MOVES:
        return moved(node, opset, arguments)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return [_OPERATORS[node.op_type](arguments, attributes)]


def _value(array: Array) -> Value:
    return array if array.dtype.kind in "biu" else to_exact(array)


def _along(value: Any, like: tuple[int, ...], axis: int) -> Any:
    """A vector of per-axis parameters, shaped to broadcast along `axis`; scalars as they are."""
    if len(value.shape) != 1 or value.shape == (1,):
        return value.reshape(())
    shape = [1] * len(like)
    shape[axis] = value.shape[0]
    return value.reshape(tuple(shape))


def _saturate(rounded: NDArray[np.object_], zero: Array, dtype: np.dtype[Any]) -> Array:
    limits = np.iinfo(dtype)
    shifted = rounded + zero.astype(object)
    clipped = np.minimum(np.maximum(shifted, int(limits.min)), int(limits.max))
    return np.asarray(clipped, object).astype(dtype)


def _quantize(arguments: Arguments, attributes: Attributes) -> Value:
    x, scale, zero = [*arguments, None][:3]
    if zero is None:
        elem = attributes.get("output_dtype", 0) or onnx.TensorProto.UINT8
        zero = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(elem))
    axis = attributes.get("axis", 1)
    x = x if isinstance(x, Exact) else to_exact(x)
    rounded = round_half_even(x, _along(scale, x.shape, axis))
    return _saturate(rounded, _along(zero, x.shape, axis), zero.dtype)


def _dequantize(arguments: Arguments, attributes: Attributes) -> Value:
    x, scale, zero = [*arguments, None][:3]
    axis = attributes.get("axis", 1)
    centred = to_exact(x)
    if zero is not None:
        centred = centred - to_exact(_along(zero, x.shape, axis))
    return centred * _along(scale, x.shape, axis)


def _centred(x: Array, zero: Array | None, per_row: bool) -> NDArray[np.object_]:
    """`x - zero` as integers; a vector of zero points has one a row of A, or one a column of B."""
    if zero is None:
        return x.astype(object)
    per_axis = (
        zero.reshape(*zero.shape, 1) if per_row and zero.ndim == 1 and zero.size > 1 else zero
    )
    return np.asarray(x.astype(object) - per_axis.astype(object), object)


def _matmul_integer(arguments: Arguments, attributes: Attributes) -> Value:
    a, b, a_zero, b_zero = [*arguments, None, None][:4]
    product = matmul_integers(_centred(a, a_zero, True), _centred(b, b_zero, False))
    return _wrap(product, np.dtype(np.int32))


def _qlinear_matmul(arguments: Arguments, attributes: Attributes) -> Value:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = arguments
    product = matmul_integers(_centred(a, a_zero, True), _centred(b, b_zero, False))
    rows = a_scale.reshape((*a_scale.shape, 1)) if len(a_scale.shape) == 1 else a_scale
    real = Exact(product, 0) * rows * b_scale
    return _saturate(round_half_even(real, y_scale), y_zero, y_zero.dtype)


def _convolved(arguments: Arguments, attributes: Attributes) -> Value:
    x, w, bias = [*arguments, None][:3]
    exponent, denominator = x.exponent + w.exponent, x.denominator * w.denominator
    result = Exact(convolve(x.numerators, w.numerators, attributes), exponent, denominator)
    return result if bias is None else result + _per_channel(bias, result)


def _per_channel(vector: Any, like: Any) -> Any:
    return vector if not vector.shape else vector.reshape((-1, *[1] * (len(like.shape) - 2)))


def _conv_integer(arguments: Arguments, attributes: Attributes) -> Value:
    x, w, x_zero, w_zero = [*arguments, None, None][:4]
    result = convolve(_centred(x, x_zero, False), _centred_weights(w, w_zero), attributes)
    return _wrap(result, np.dtype(np.int32))


def _centred_weights(w: Array, zero: Array | None) -> NDArray[np.object_]:
    if zero is not None and zero.size > 1:
        zero = zero.reshape(-1, *[1] * (w.ndim - 1))
    return _centred(w, None if zero is None else zero.reshape(zero.shape or ()), False)


def _qlinear_conv(arguments: Arguments, attributes: Attributes) -> Value:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = [*arguments, None][:9]
    product = convolve(_centred(x, x_zero, False), _centred_weights(w, w_zero), attributes)
    if bias is not None:
        product = product + _per_channel(bias.astype(object), product)
    real = Exact(product, 0) * x_scale.reshape(()) * _per_channel(w_scale, product)
    return _saturate(round_half_even(real, y_scale.reshape(())), y_zero, y_zero.dtype)


def _max_pool(arguments: Arguments, attributes: Attributes) -> Value:
    (x,) = arguments
    if isinstance(x, Exact):
        return replace(x, numerators=max_pool(x.numerators, attributes))
    return max_pool(x, attributes)


def _reduce_mean(arguments: Arguments, attributes: Attributes) -> Value:
    x, axes = [*arguments, None][:2]
    chosen = attributes.get("axes", ()) if axes is None else [int(axis) for axis in axes]
    return mean(x, chosen, bool(attributes.get("keepdims", 1)))


def _softmax(arguments: Arguments, attributes: Attributes) -> Value:
    x = as_float(arguments[0])
    axis = attributes.get("axis", -1)
    power = np.exp(x - x.max(axis=axis, keepdims=True))
    return to_exact(np.asarray(power / power.sum(axis=axis, keepdims=True)))


def _wrap(value: NDArray[np.object_], dtype: np.dtype[Any]) -> Array:
    """Integer arithmetic is modulo two to the number of bits."""
    limits = np.iinfo(dtype)
    span, low = 1 << limits.bits, int(limits.min)
    return np.asarray((value - low) % span + low, object).astype(dtype)


def _exactly(f: Callable[..., Exact]) -> Callable[[Arguments, Attributes], Value]:
    """Lift a function of exact values to integer tensors, whose results wrap around."""

    def apply(arguments: Arguments, attributes: Attributes) -> Value:
        given = [a for a in arguments if a is not None]
        result = f(*(a if isinstance(a, Exact) else to_exact(a) for a in given))
        if isinstance(given[0], Exact):
            return result
        return _wrap(result.at(0), given[0].dtype)

    return apply


def _reduce(f: Callable[[Exact, Exact], Exact]) -> Callable[..., Exact]:
    def apply(first: Exact, *rest: Exact) -> Exact:
        for other in rest:
            first = f(first, other)
        return first

    return apply


_ZERO = to_exact(np.zeros((), np.int64))


def _clip(arguments: Arguments, attributes: Attributes) -> Value:
    x, low, high = [*arguments, None, None][:3]
    if low is not None:
        x = _exactly(Exact.maximum)([x, low], {})
    return x if high is None else _exactly(Exact.minimum)([x, high], {})


def _leaky(arguments: Arguments, attributes: Attributes) -> Value:
    (x,) = arguments
    alpha = to_exact(np.float64(attributes.get("alpha", np.float32(0.01))))
    return x.maximum(_ZERO) + x.minimum(_ZERO) * alpha


def _clamped(x: Exact, high: int) -> Exact:
    return x.maximum(_ZERO).minimum(to_exact(np.asarray(high)))


def _hard_sigmoid(arguments: Arguments, attributes: Attributes) -> Value:
    alpha, beta = (
        to_exact(np.float64(np.float32(attributes.get(key, default))))
        for key, default in (("alpha", 0.2), ("beta", 0.5))
    )
    return _clamped(arguments[0] * alpha + beta, 1)


def _hard_swish(arguments: Arguments, attributes: Attributes) -> Value:
    (x,) = arguments
    return (x * _clamped(x + to_exact(np.asarray(3)), 6)).over(6)


def _gemm(arguments: Arguments, attributes: Attributes) -> Value:
    a, b, c = [*arguments, None][:3]
    a = a.transpose() if attributes.get("transA", 0) else a
    b = b.transpose() if attributes.get("transB", 0) else b
    result = (a @ b) * to_exact(np.float64(attributes.get("alpha", 1.0)))
    return result if c is None else result + c * to_exact(np.float64(attributes.get("beta", 1.0)))


def _rounded(f: Callable[[NDArray[np.float64]], Any]) -> Callable[[Arguments, Attributes], Value]:
    return lambda arguments, attributes: to_exact(np.asarray(f(as_float(arguments[0]))))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _cast(arguments: Arguments, attributes: Attributes) -> Value:
    (x,) = arguments
    dtype = helper.tensor_dtype_to_np_dtype(attributes["to"])
    if dtype.kind in "biu":
        assert not isinstance(x, Exact), "a cast from float to integer is not exact"
        return _wrap(x.astype(object), dtype)
    return x if isinstance(x, Exact) else to_exact(x)


def _reshape(arguments: Arguments, attributes: Attributes) -> Value:
    x, shape = arguments
    wanted = [int(size) for size in shape]
    if not attributes.get("allowzero", 0):
        wanted = [size or x.shape[i] for i, size in enumerate(wanted)]
    return x.reshape(tuple(wanted))


def _flatten(arguments: Arguments, attributes: Attributes) -> Value:
    (x,) = arguments
    axis = attributes.get("axis", 1)
    rows = int(np.prod(x.shape[:axis])) if axis else 1
    return x.reshape((rows, int(np.prod(x.shape)) // rows if rows else 0))


def _squeeze(arguments: Arguments, attributes: Attributes) -> Value:
    x, axes = [*arguments, None][:2]
    drop = _axes(attributes.get("axes", axes), len(x.shape))
    sizes = enumerate(x.shape)
    return x.reshape(tuple(n for i, n in sizes if (n != 1 if drop is None else i not in drop)))


def _unsqueeze(arguments: Arguments, attributes: Attributes) -> Value:
    x, axes = [*arguments, None][:2]
    axes = attributes.get("axes", axes)
    added = _axes(axes, len(x.shape) + len(axes)) or []
    sizes = list(x.shape)
    for axis in sorted(added):
        sizes.insert(axis, 1)
    return x.reshape(tuple(sizes))


def _axes(axes: Sequence[int] | Array | None, rank: int) -> list[int] | None:
    return None if axes is None else [int(axis) % rank for axis in axes]


def _constant(arguments: Arguments, attributes: Attributes) -> Value:
    return _value(np.asarray(numpy_helper.to_array(attributes["value"])))


_OPERATORS: Mapping[str, Callable[[Arguments, Attributes], Value]] = {
    "Abs": _exactly(lambda x: x.maximum(_ZERO - x)),
    "Add": _exactly(Exact.__add__),
    "AveragePool": lambda arguments, attributes: average_pool(arguments[0], attributes),
    "Cast": _cast,
    "Clip": _clip,
    "Constant": _constant,
    "Conv": _convolved,
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize,
    "Div": lambda arguments, _: to_exact(as_float(arguments[0]) / as_float(arguments[1])),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda arguments, attributes: global_average(arguments[0]),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": lambda arguments, attributes: arguments[0],
    "LeakyRelu": _leaky,
    "MatMul": _exactly(Exact.__matmul__),
    "MatMulInteger": _matmul_integer,
    "Max": _exactly(_reduce(Exact.maximum)),
    "MaxPool": _max_pool,
    "Min": _exactly(_reduce(Exact.minimum)),
    "Mul": _exactly(Exact.__mul__),
    "Neg": _exactly(lambda x: _ZERO - x),
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": _quantize,
    "ReduceMean": _reduce_mean,
    "Relu": _exactly(lambda x: x.maximum(_ZERO)),
    "Reshape": _reshape,
    "Sigmoid": _rounded(_sigmoid),
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _exactly(Exact.__sub__),
    "Tanh": _rounded(np.tanh),
    "Transpose": lambda arguments, attributes: arguments[0].transpose(attributes.get("perm")),
    "Unsqueeze": _unsqueeze,
}
