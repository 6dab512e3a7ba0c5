"""GridSample, RoiAlign and DeformConv, against onnxruntime and onnx's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import assert_close, run_checked
from tests.support.machines import MACHINES
from tests.support.one_node import assert_like_onnxruntime, node_of, one_node

TINY = MACHINES["tiny"]
Array = NDArray[Any]


def real(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def grid(shape: tuple[int, ...]) -> Array:
    """From well outside on one side to well outside on the other."""
    return (np.random.default_rng(1).random(shape) * 4 - 2).astype(np.float32)


def assert_like_the_reference(model: ModelProto, inputs: dict[str, Array]) -> None:
    (want,) = ReferenceEvaluator(model).run(None, inputs)
    assert_close(
        run_checked(model, TINY, inputs, precision="exact").outputs, {"y": np.asarray(want)}, 1e-5
    )


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_images(mode: str, padding: str, align: int) -> None:
    node = node_of("GridSample", "x g", mode=mode, padding_mode=padding, align_corners=align)
    inputs = {"x": real((2, 3, 3, 4)), "g": grid((2, 3, 1, 2))}
    assert_like_onnxruntime(node, inputs, opset=16, rtol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "reflection"])
def test_volumes(mode: str, padding: str) -> None:
    node = node_of("GridSample", "x g", mode=mode, padding_mode=padding)
    inputs = {"x": real((1, 2, 2, 3, 4)), "g": grid((1, 2, 1, 2, 3))}
    assert_like_onnxruntime(node, inputs, opset=20, rtol=1e-5)


def test_an_image_of_one_pixel() -> None:
    """Reflected between borders that are one."""
    node = node_of("GridSample", "x g", padding_mode="reflection", align_corners=1)
    inputs = {"x": real((1, 2, 1, 3)), "g": grid((1, 2, 2, 2))}
    model = one_node(node, inputs, opset=20)
    have = run_checked(model, TINY, inputs, precision="exact").outputs["y"]
    across = np.abs((inputs["g"][..., 0] + 1) % 4 - 2)
    place = 2 - across
    low = np.minimum(np.floor(place), 1).astype(int)
    row = inputs["x"][0, :, 0]
    want = row[:, low] * (1 - (place - low)) + row[:, low + 1] * (place - low)
    np.testing.assert_allclose(have, want.transpose(1, 0, 2, 3), atol=1e-5)


ROIS = np.array([[0, 0, 4, 3], [1.3, 2.1, 5.7, 4.9], [-3, -2, 1, 2], [2, 2, 2.1, 2.1]], np.float32)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
def test_regions(mode: str, transform: str) -> None:
    node = node_of(
        "RoiAlign",
        "x r b",
        mode=mode,
        coordinate_transformation_mode=transform,
        output_height=2,
        output_width=3,
        sampling_ratio=2,
        spatial_scale=0.9,
    )
    inputs = {"x": real((2, 3, 5, 6)), "r": ROIS, "b": np.array([0, 1, 1, 0])}
    model = one_node(node, inputs, opset=16)
    assert_like_the_reference(model, inputs)


def test_regions_of_as_many_samples_as_they_are_large() -> None:
    inputs = {"x": real((2, 3, 5, 6)), "r": ROIS, "b": np.array([0, 1, 1, 0])}
    model = one_node(node_of("RoiAlign", "x r b", output_height=2), inputs, opset=16)
    with pytest.raises(UnsupportedModel, match="sampling_ratio"):
        compile_model(model.SerializeToString(), TINY, Options())


@pytest.mark.parametrize(
    ("group", "offsets", "attributes"),
    [
        (1, 1, {"pads": [1, 1, 1, 1]}),
        (2, 2, {"strides": [2, 1], "dilations": [1, 2]}),
    ],
)
def test_deformed_kernels(group: int, offsets: int, attributes: dict[str, Any]) -> None:
    image, kernel = np.array([5, 6]), np.array([2, 2])
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads = np.array(attributes.get("pads", [0] * 4))
    sizes = tuple((image + pads[:2] + pads[2:] - dilations * (kernel - 1) - 1) // strides + 1)
    inputs = {
        "x": real((1, 4, 5, 6)),
        "w": real((6, 4 // group, 2, 2), 1),
        "o": real((1, offsets * 8, *sizes), 2) * 2,
        "b": real((6,), 3),
    }
    names = "x w o b"
    if offsets == 2:
        inputs["m"], names = real((1, offsets * 4, *sizes), 4), "x w o b m"
    node = node_of("DeformConv", names, group=group, offset_group=offsets, **attributes)
    model = one_node(node, inputs, opset=19)
    assert_like_the_reference(model, inputs)
