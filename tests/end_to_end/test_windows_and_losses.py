"""MaxPool with indices, MaxUnpool, Col2Im, CumProd and losses, against onnx and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import assert_close, assert_equal, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.one_node import assert_like_onnxruntime, node_of, one_node

TINY = MACHINES["tiny"]
Array = NDArray[Any]


def real(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(draw=st.data())
def test_places_of_maxima(draw: st.DataObject) -> None:
    """Few distinct elements: the first of equal ones counts."""
    rank = draw.draw(st.integers(1, 2))
    kernel = [draw.draw(st.integers(1, 3)) for _ in range(rank)]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [draw.draw(st.integers(1, 2)) for _ in range(rank)],
        "ceil_mode": draw.draw(st.integers(0, 1)),
        "storage_order": draw.draw(st.integers(0, 1)) if rank == 2 else 0,
    }
    if draw.draw(st.booleans()):
        attributes["pads"] = [draw.draw(st.integers(0, (k - 1) // 2)) for k in kernel * 2]
    elif draw.draw(st.booleans()):
        attributes["auto_pad"] = draw.draw(st.sampled_from(("SAME_UPPER", "SAME_LOWER")))
        attributes["ceil_mode"] = 0
    sizes = [draw.draw(st.integers(4, 7)) for _ in range(rank)]
    x = np.random.default_rng(0).integers(0, 3, (2, 3, *sizes)).astype(np.float32)
    node = node_of("MaxPool", "x", "y i", **attributes)
    model = one_node(node, {"x": x}, kinds={"i": "int64"}, opset=18)
    assert_equal(
        run_checked(model, TINY, {"x": x}, precision="exact").outputs, expected(model, {"x": x})
    )


@pytest.mark.parametrize("wanted", [None, (1, 2, 6, 7)])
def test_unpooling(wanted: tuple[int, ...] | None) -> None:
    x, i = real((1, 2, 2, 3)), np.random.default_rng(0).permutation(48)[:12].reshape(1, 2, 2, 3)
    node = node_of("MaxUnpool", "x i s" if wanted else "x i", kernel_shape=[2, 2], strides=[2, 2])
    model = one_node(node, {"x": x, "i": i}, {"s": np.array(wanted)} if wanted else {}, opset=18)
    want = np.zeros(48, np.float32)
    want[i.ravel()] = x.ravel()
    padding = [(0, n - m) for n, m in zip(wanted or (1, 2, 4, 6), (1, 2, 4, 6), strict=True)]
    have = run_checked(model, TINY, {"x": x, "i": i}, precision="exact").outputs["y"]
    np.testing.assert_array_equal(have, np.pad(want.reshape(1, 2, 4, 6), padding))


@pytest.mark.parametrize(
    "attributes", [{}, {"strides": [2, 1]}, {"pads": [1, 0, 1, 2]}, {"dilations": [1, 2]}]
)
def test_columns_to_images(attributes: dict[str, Any]) -> None:
    image, block = np.array([5, 6]), np.array([2, 3])
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads = np.array(attributes.get("pads", [0] * 4))
    outputs = (image + pads[:2] + pads[2:] - dilations * (block - 1) - 1) // strides + 1
    x = np.random.default_rng(0).integers(-3, 4, (2, 12, int(np.prod(outputs)))).astype(np.float32)
    node = node_of("Col2Im", "x image block", **attributes)
    model = one_node(node, {"x": x}, {"image": image, "block": block}, opset=18)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    have = run_checked(model, TINY, {"x": x}, precision="exact").outputs["y"]
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_products_so_far(axis: int, exclusive: int, reverse: int) -> None:
    x = np.random.default_rng(0).integers(-3, 4, (5, 6)).astype(np.int32)
    node = node_of("CumProd", "x axis", exclusive=exclusive, reverse=reverse)
    model = one_node(node, {"x": x}, {"axis": np.array(axis)}, {"y": "int32"}, opset=26)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    have = run_checked(model, TINY, {"x": x}, precision="exact").outputs["y"]
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [None, 2, -5])
def test_losses(op: str, reduction: str, weighted: bool, ignored: int | None) -> None:
    target = np.random.default_rng(1).integers(0, 4, (3, 5))
    if ignored is not None:
        target[0, :2] = ignored
    inputs = {"x": real((3, 4, 5)), "t": target}
    names = "x t"
    if weighted:
        inputs["w"], names = np.abs(real((4,), 2)), "x t w"
    given_: dict[str, Any] = {} if ignored is None else {"ignore_index": ignored}
    node = node_of(op, names, reduction=reduction, **given_)
    assert_like_onnxruntime(node, inputs, opset=13, rtol=1e-5)


def test_logarithms_beside_the_loss() -> None:
    inputs = {"x": real((3, 4)), "t": np.array([0, 3, 1], np.int32)}
    model = one_node(node_of("SoftmaxCrossEntropyLoss", "x t", "y l"), inputs, opset=13)
    have = run_checked(model, TINY, inputs, precision="exact").outputs
    assert_close(have, expected(model, inputs), 1e-5)


def test_computed_output_shape() -> None:
    inputs = {
        "x": real((1, 1, 2, 2)),
        "i": np.arange(4).reshape(1, 1, 2, 2),
        "s": np.array([1, 1, 4, 4]),
    }
    node = node_of("MaxUnpool", "x i s", kernel_shape=[2, 2], strides=[2, 2])
    model = one_node(node, inputs, opset=18)
    with pytest.raises(UnsupportedModel, match="output_shape"):
        compile_model(model.SerializeToString(), TINY, Options())
