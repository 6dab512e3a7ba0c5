"""Classic machine learning (`ai.onnx.ml`), as far as it is arithmetic: scalers, lines, trees.

A tree is evaluated whole: every comparison at once, and a leaf counts if all on its way agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch
from clockstep_compiler.frontend.tensors import to_array

__all__: list[str] = []

_MOST = 1 << 24
"""Nodes times leaves of an ensemble: the matrix of all ways has as many elements."""

_MODES = {0: "LessOrEqual", 1: "Less", 2: "GreaterOrEqual", 3: "Greater", 4: "Equal", 5: "Equal"}
_UNEQUAL, _MEMBER = 5, 6


@composes("ai.onnx.ml.Scaler")
def _scale(body: Body) -> None:
    """(x - offset) * scale, one of each for all features, or one for each."""
    (x,) = body.inputs(1)
    x = body.cast(x, "float32")
    for op, name in (("Sub", "offset"), ("Mul", "scale")):
        values = body.attribute(name)
        if values:
            x = body.op(op, x, body.constant(values, np.float32))
    body.give(0, x)


@composes("ai.onnx.ml.LinearRegressor")
def _line(body: Body) -> None:
    (x,) = body.inputs(1)
    _refuse_transform(body, "NONE")
    targets, weights = int(body.attribute("targets", 1)), body.attribute("coefficients", [])
    if len(body.shape(x)) != 2 or len(weights) != targets * body.shape(x)[1]:
        raise Mismatch(f"{len(weights)} coefficients for {targets} targets of {body.shape(x)}")
    matrix = np.array(weights, np.float32).reshape(targets, -1).T
    y = body.op("MatMul", body.cast(x, "float32"), body.constant(matrix, np.float32))
    shift = body.attribute("intercepts")
    body.give(0, body.op("Add", y, body.constant(shift, np.float32)) if shift else y)


def _refuse_transform(body: Body, usual: int | str) -> None:
    if body.attribute("post_transform", usual) != usual:
        raise Refused("unsupported-form", "a transformation of the result is not supported")


# -- trees -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Ways:
    """The way to each leaf: pairs of a node and whether its comparison must hold."""

    ways: list[list[tuple[int, bool]]] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)


@composes("ai.onnx.ml.TreeEnsemble")
def _trees(body: Body) -> None:
    _refuse_transform(body, 0)
    function, targets = (int(body.attribute(n, 1)) for n in ("aggregate_function", "n_targets"))
    if function > 1:
        raise Refused("unsupported-form", "only sums and averages of trees are supported")
    (x,) = body.inputs(1)
    roots = body.attribute("tree_roots")
    found = _followed(body, roots)
    count = len(body.attribute("nodes_featureids"))
    if count * len(found.leaves) > _MOST:
        problem = f"{count} nodes and {len(found.leaves)} leaves are too many"
        raise Refused("unsupported-form", problem, "use fewer or smaller trees")
    steps = np.zeros((count, len(found.leaves)))
    for leaf, way in enumerate(found.ways):
        for node, holds in way:
            steps[node, leaf] = 1 if holds else -1
    dtype = body.dtype(x)
    wanted = np.maximum(steps, 0).sum(0)
    held, order = _compared(body, x)
    ways = body.cast(body.constant(steps[order], np.float32), dtype)
    met = body.op("MatMul", body.cast(held, dtype), ways)
    reached = body.op("Equal", met, body.cast(body.constant(wanted, np.float32), dtype))
    weights = np.zeros((len(found.leaves), targets))
    which = np.array(body.attribute("leaf_targetids"))[found.leaves]
    given = _tensor(body, "leaf_weights")[found.leaves]
    weights[np.arange(len(which)), which] = given / (len(roots) if function == 0 else 1)
    result = body.op("MatMul", body.cast(reached, dtype), body.constant(weights, dtype))
    body.give(0, result)


def _tensor(body: Body, name: str) -> NDArray[Any]:
    value = body.attribute(name)
    assert isinstance(value, TensorProto), name
    return to_array(value, body.walk.files)


def _followed(body: Body, roots: list[int]) -> _Ways:
    """Every way from a root to a leaf."""
    sides = [
        (holds, body.attribute(f"nodes_{name}nodeids"), body.attribute(f"nodes_{name}leafs"))
        for holds, name in ((True, "true"), (False, "false"))
    ]
    found = _Ways()
    for root in roots:
        (_, yes, is_leaf), (_, no, is_leaf_too) = sides
        if is_leaf[root] and is_leaf_too[root] and yes[root] == no[root]:
            found.ways.append([])
            found.leaves.append(yes[root])
            continue
        pending: list[tuple[int, list[tuple[int, bool]]]] = [(root, [])]
        while pending:
            node, way = pending.pop()
            if len(way) > len(yes):
                raise Mismatch(f"node {node} of a tree is its own child")
            for holds, children, leaf in sides:
                longer = [*way, (node, holds)]
                if leaf[node]:
                    found.ways.append(longer)
                    found.leaves.append(children[node])
                else:
                    pending.append((children[node], longer))
    return found


def _compared(body: Body, x: str) -> tuple[str, NDArray[np.int64]]:
    """What the comparison of every node says of every row, [N, nodes], and the order of nodes."""
    modes, splits = _tensor(body, "nodes_modes"), _tensor(body, "nodes_splits")
    features = np.array(body.attribute("nodes_featureids"))
    missing = np.array(body.attribute("nodes_missing_value_tracks_true") or [0] * len(features))
    columns, order = [], []
    for mode in sorted(_MODES):
        nodes = np.flatnonzero(modes == mode)
        if len(nodes):
            value = body.op("Gather", x, body.constant(features[nodes]), axis=1)
            held = body.op(_MODES[mode], value, body.constant(splits[nodes], body.dtype(x)))
            held = body.op("Not", held) if mode == _UNEQUAL else held
            columns.append(_or_missing(body, held, value, missing[nodes]))
            order += nodes.tolist()
    nodes = np.flatnonzero(modes == _MEMBER)
    for node, members in zip(nodes, _members(body, len(nodes)), strict=True):
        value = body.slice(x, 1, int(features[node]), int(features[node]) + 1)
        same = body.op("Equal", value, body.constant(members, body.dtype(x)))
        held = body.op("ReduceMax", body.cast(same, "int8"), body.constant([1]), keepdims=1)
        held = body.cast(held, "bool")
        columns.append(_or_missing(body, held, value, missing[[node]]))
        order.append(int(node))
    return body.op("Concat", *columns, axis=1), np.array(order)


def _or_missing(body: Body, held: str, value: str, missing: NDArray[Any]) -> str:
    """A node may take a missing value, NaN, for one of which its comparison holds."""
    if not missing.any():
        return held
    absent = body.op("And", body.op("IsNaN", value), body.constant(missing != 0, np.bool_))
    return body.op("Or", held, absent)


def _members(body: Body, count: int) -> list[NDArray[Any]]:
    """The sets of the nodes that ask for membership, each ended by a NaN."""
    if not count:
        return []
    values = _tensor(body, "membership_values")
    ends = np.flatnonzero(np.isnan(values))
    if len(ends) != count:
        raise Mismatch(f"{len(ends)} sets of members for {count} nodes")
    starts = [0, *(ends[:-1] + 1)]
    return [values[a:b] for a, b in zip(starts, ends, strict=True)]
