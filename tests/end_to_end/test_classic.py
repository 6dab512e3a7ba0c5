"""Scalers, lines and trees of `ai.onnx.ml` against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.one_node import node_of, one_node

Array = NDArray[Any]


def check(node: NodeProto, x: Array) -> None:
    model = one_node(node, {"x": x}, opset=21)
    model.opset_import.add(domain="ai.onnx.ml", version=5)
    want = expected(model, {"x": x})
    run = run_checked(model, MACHINES["tiny"], {"x": x}, precision="exact")
    assert_close(run.outputs, want, 3e-6)


@pytest.mark.parametrize(("offset", "scale"), [([0.5], [2.0]), ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])])
def test_scaler(offset: list[float], scale: list[float]) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    check(node_of("Scaler", "x", domain="ai.onnx.ml", offset=offset, scale=scale), x)


def test_line() -> None:
    rng = np.random.default_rng(1)
    weights, shift = rng.standard_normal(6).tolist(), rng.standard_normal(2).tolist()
    given: dict[str, Any] = {"targets": 2, "coefficients": weights, "intercepts": shift}
    x = rng.standard_normal((4, 3)).astype(np.float32)
    check(node_of("LinearRegressor", "x", domain="ai.onnx.ml", **given), x)


@pytest.mark.parametrize("average", [0, 1])
def test_trees(average: int) -> None:
    """Two random trees with every comparison; values meet the splits, and some are missing."""
    rng = np.random.default_rng(2)
    modes: list[int] = []
    features, splits, roots = list[int](), list[float](), list[int]()
    sides: dict[str, list[int]] = {"true": [], "false": [], "truel": [], "falsel": []}
    leaves = 0
    for _ in range(2):
        roots.append(len(modes))
        pending: list[tuple[int, str]] = []
        for _ in range(6):
            node = len(modes)
            if pending:
                parent, side = pending.pop(int(rng.integers(len(pending))))
                sides[side][parent], sides[f"{side}l"][parent] = node, 0
            modes.append(int(rng.integers(6)))
            features.append(int(rng.integers(3)))
            splits.append(float(rng.integers(-2, 3)))
            for side in ("true", "false"):
                sides[side].append(0)
                sides[f"{side}l"].append(1)
                pending.append((node, side))
        for parent, side in pending:
            sides[side][parent] = leaves
            leaves += 1
    given: dict[str, Any] = {
        "tree_roots": roots,
        "n_targets": 2,
        "aggregate_function": average,
        "nodes_modes": numpy_helper.from_array(np.array(modes, np.uint8)),
        "nodes_featureids": features,
        "nodes_splits": numpy_helper.from_array(np.array(splits, np.float32)),
        "nodes_truenodeids": sides["true"],
        "nodes_trueleafs": sides["truel"],
        "nodes_falsenodeids": sides["false"],
        "nodes_falseleafs": sides["falsel"],
        "nodes_missing_value_tracks_true": rng.integers(0, 2, len(modes)).tolist(),
        "leaf_targetids": rng.integers(0, 2, leaves).tolist(),
        "leaf_weights": numpy_helper.from_array(rng.standard_normal(leaves).astype(np.float32)),
    }
    x = rng.integers(-3, 4, (20, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    check(helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **given), x)
