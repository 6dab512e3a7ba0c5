"""Reductions, places of extremes, running sums and normalisations."""

from __future__ import annotations

import numpy as np

from fuzz import bounds_reduce as bounds
from fuzz.builder import Array, Graph, Skip
from fuzz.rows.row import FLOATS, Row

__all__ = ["ROWS"]

_SUMMED = ("float16", "float32", "float64", "int32")
_SMALL = 150
"""Most elements of a tensor each of which is moved to see what becomes of it."""


def _small(value: Array) -> bool:
    return 0 < value.size <= _SMALL


def _reduce(g: Graph, op: str) -> None:
    kinds = (*_SUMMED, "int8", "uint8") if op in ("ReduceMax", "ReduceMin") else _SUMMED
    if "Log" in op or op == "ReduceL2":
        kinds = FLOATS
    x = g.tensor(kinds, (1, 5), _small if op == "ReduceProd" else lambda v: v.size > 0)
    value = g.like(x)
    axes = [i - value.ndim * g.integer(0, 1) for i in range(value.ndim) if g.flag()]
    keep = {"keepdims": g.integer(0, 1)}
    if not axes:
        g.node(op, [x], **keep)
    elif g.opset >= 18 or op == "ReduceSum":
        g.node(op, [x, g.constant(np.array(axes, np.int64))], **keep)
    else:
        g.node(op, [x], axes=axes, **keep)


def _axis(g: Graph, value: Array) -> int:
    return g.integer(-value.ndim, value.ndim - 1)


def _arg(g: Graph, op: str) -> None:
    x = g.tensor((*FLOATS, "int32", "int8", "uint8"), (1, 4), lambda v: v.size > 0)
    axis = _axis(g, g.like(x))
    g.node(op, [x], axis=axis, keepdims=g.integer(0, 1), select_last_index=g.integer(0, 1))


def _along(g: Graph, op: str) -> None:
    x = g.tensor(FLOATS, (1, 4), lambda v: v.size > 0)
    g.node(op, [x], axis=_axis(g, g.like(x)))


def _cumulate(g: Graph, op: str) -> None:
    x = g.tensor(_SUMMED, (1, 4))
    axis = g.constant(np.asarray(_axis(g, g.like(x)), np.int64))
    g.node(op, [x, axis], exclusive=g.integer(0, 1), reverse=g.integer(0, 1))


def _top(g: Graph, op: str) -> None:
    x = g.tensor((*FLOATS, "int32"), (1, 3), lambda v: v.size > 0)
    axis = _axis(g, g.like(x))
    k = g.constant(np.array([g.integer(1, min(6, g.like(x).shape[axis]))], np.int64))
    g.node_of(op, [x, k], 2, axis=axis, largest=g.integer(0, 1), sorted=1)


def _image(g: Graph) -> str:
    """A small tensor with at least one axis behind batch and channels."""
    return g.tensor(("float32", "float16"), (3, 4), _small)


def _parameters(g: Graph, count: int, dtype: np.dtype[np.generic]) -> list[str]:
    return [g.operand((count,), dtype), g.operand((count,), dtype)]


def _layer_norm(g: Graph, op: str) -> None:
    x = g.tensor(("float32", "float16"), (1, 4), _small)
    value = g.like(x)
    axis = _axis(g, value)
    shape = value.shape[axis:]
    bias = [g.operand(shape, value.dtype)] if op == "LayerNormalization" and g.flag() else []
    g.node(op, [x, g.operand(shape, value.dtype), *bias], axis=axis, epsilon=g.choose(1e-5, 1e-2))


def _instance_norm(g: Graph, op: str) -> None:
    x = _image(g)
    value = g.like(x)
    g.node(op, [x, *_parameters(g, value.shape[1], value.dtype)], epsilon=g.choose(1e-5, 1e-2))


def _group_norm(g: Graph, op: str) -> None:
    if g.opset < 21:
        raise Skip
    x = _image(g)
    value = g.like(x)
    groups = int(g.choose(*(d for d in range(1, value.shape[1] + 1) if value.shape[1] % d == 0)))
    g.node(op, [x, *_parameters(g, value.shape[1], value.dtype)], num_groups=groups)


def _batch_norm(g: Graph, op: str) -> None:
    x = g.tensor(("float32", "float16"), (2, 4), _small)
    value = g.like(x)
    count = (value.shape[1],)
    variance = g.constant(np.full(count, g.choose(0.5, 1.0, 3.0), value.dtype))
    scale, shift, mean = (g.operand(count, value.dtype) for _ in range(3))
    g.node(op, [x, scale, shift, mean, variance])


def _lrn(g: Graph, op: str) -> None:
    g.node(
        op, [_image(g)], size=g.choose(1, 3, 5), alpha=g.choose(1e-4, 0.1), bias=g.choose(1.0, 2.0)
    )


def _lp_norm(g: Graph, op: str) -> None:
    """With p = 2: onnx's evaluator adds up elements with their signs for p = 1."""
    x = g.tensor(FLOATS, (1, 4), _small)
    g.node(op, [x], axis=_axis(g, g.like(x)), p=2)


def _mvn(g: Graph, op: str) -> None:
    x = g.tensor(("float32",), (4, 4), _small)
    g.node(op, [x], axes=g.choose([0, 2, 3], [2, 3], [1]))


# fmt: off
ROWS: tuple[Row, ...] = (
    *(Row(op, _arg, bounds.arg) for op in ("ArgMax", "ArgMin")),
    *(Row(op, _reduce, bounds.extreme) for op in ("ReduceMax", "ReduceMin")),
    *(Row(op, _reduce, bounds.linear) for op in ("ReduceMean", "ReduceSum")),
    *(Row(op, _reduce, bounds.log_sum) for op in ("ReduceLogSum", "ReduceLogSumExp")),
    *(Row(op, _reduce, bounds.norm) for op in ("ReduceL1", "ReduceL2")),
    *(Row(op, _along, bounds.softmax) for op in ("LogSoftmax", "Softmax")),
    *(Row(op, _layer_norm, bounds.perturbed) for op in ("LayerNormalization", "RMSNormalization")),
    Row("BatchNormalization", _batch_norm, bounds.perturbed),
    Row("CumSum", _cumulate, bounds.linear),
    Row("GroupNormalization", _group_norm, bounds.perturbed),
    Row("Hardmax", _along, bounds.arg),
    Row("InstanceNormalization", _instance_norm, bounds.perturbed),
    Row("LRN", _lrn, bounds.perturbed),
    Row("LpNormalization", _lp_norm, bounds.perturbed),
    Row("MeanVarianceNormalization", _mvn, bounds.perturbed),
    Row("ReduceProd", _reduce, bounds.perturbed),
    Row("ReduceSumSquare", _reduce, bounds.squares),
    Row("TopK", _top, bounds.top_values, (bounds.top_places,)),
)
# fmt: on
