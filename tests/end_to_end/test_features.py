"""Operators that make features, TfIdfVectorizer and Binarizer, and a few that vanish on import."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

from tests.support.endtoend import run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

Array = NDArray[Any]
TINY = MACHINES["tiny"]

WORDS = {
    "min_gram_length": 1,
    "max_gram_length": 3,
    "ngram_counts": [0, 3, 9],
    "ngram_indexes": [1, 0, 4, 3, 2, 5, 3],
    "pool_int64s": [2, 5, 3, 2, 3, 5, 4, 3, 3, 2, 3, 4],
}


def _compare(model: ModelProto, x: Array) -> None:
    found: list[Any] = list(ReferenceEvaluator(model).run(["y"], {"x": x}))
    have = run_checked(model, TINY, {"x": x}).outputs["y"]
    np.testing.assert_allclose(have, np.asarray(found[0]), rtol=2**-10)
    assert have.shape == np.shape(found[0])


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("shape", [(3, 17), (17,), (2, 2)])
def test_sequences_are_counted(mode: str, least: int, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(len(shape)).integers(2, 6, shape)
    weights = [0.5, 1.0, 2.0, 0.25, 1.5, 3.0]
    for skips in (0, 2):
        settings = {**WORDS, "mode": mode, "max_skip_count": skips, "min_gram_length": least}
        if mode != "TF":
            settings["weights"] = weights
        node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], **settings)
        out = (*shape[:-1], 6)
        _compare(build([node], {"x": ("int64", shape)}, {"y": ("float32", out)}), x)


def test_binarizer() -> None:
    for dtype, limit in (("float32", 0.25), ("int64", -0.5)):
        x = np.arange(-6, 6).reshape(3, 4).astype(dtype)
        kinds = {"x": (dtype, x.shape)}, {"y": (dtype, x.shape)}
        model = build([helper.make_node("Abs", ["x"], ["y"])], *kinds)
        node = helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=limit)
        model.graph.node[0].CopyFrom(node)
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
        _compare(model, x)


@pytest.mark.parametrize("diagonal", [0, 2, -1, 9, -9])
@pytest.mark.parametrize("dtype", [None, "int32", "bool"])
def test_ones_along_a_diagonal(diagonal: int, dtype: str | None) -> None:
    more = {} if dtype is None else {"dtype": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}
    nodes = [helper.make_node("EyeLike", ["x"], ["y"], k=diagonal, **more)]
    model = build(nodes, {"x": ("float32", (3, 5))}, {"y": (dtype or "float32", (3, 5))})
    have = run_checked(model, TINY, {"x": np.zeros((3, 5), np.float32)}).outputs["y"]
    np.testing.assert_array_equal(have, np.eye(3, 5, diagonal))
    assert have.dtype == (dtype or "float32")


def test_slopes_of_channels() -> None:
    """As opsets before 7 have them: along the second axis, not the last."""
    node = helper.make_node("PRelu", ["x", "s"], ["y"])
    kinds = {"x": ("float32", (2, 3, 4))}, {"y": ("float32", (2, 3, 4))}
    slopes = np.array([0.5, -1.0, 2.0], np.float32)
    model = build([node], *kinds, {"s": slopes}, opset=6)
    x = np.arange(-12, 12, dtype=np.float32).reshape(2, 3, 4)
    have = run_checked(model, TINY, {"x": x}).outputs["y"]
    np.testing.assert_array_equal(have, np.where(x < 0, x * slopes[:, None], x))
