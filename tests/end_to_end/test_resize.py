"""Resize by interpolation, against onnx's reference evaluator and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

MODES = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"),
    "tf_crop_and_resize",
)


def resize(shape: Shape, dtype: str, parameters: dict[str, Array], **attributes: Any) -> ModelProto:
    names = ["x", *(name if name in parameters else "" for name in ("roi", "scales", "sizes"))]
    node = helper.make_node("Resize", names, ["y"], **attributes)
    out = [f"n{i}" for i in range(len(shape))]
    return build([node], {"x": (dtype, shape)}, {"y": (dtype, out)}, parameters)


def image(shape: Shape, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).normal(size=shape) * 4
    return values.astype(np.float16).astype(np.float32)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(draw=st.data())
def test_every_attribute(draw: st.DataObject) -> None:
    """Within what fp16 leaves of each axis's result."""
    shape = tuple(draw.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    rank = len(shape)
    mode = draw.draw(st.sampled_from(MODES))
    axes = sorted(draw.draw(st.sets(st.integers(0, rank - 1), min_size=1)))
    attributes: dict[str, Any] = {
        "mode": draw.draw(st.sampled_from(("linear", "cubic"))),
        "coordinate_transformation_mode": mode,
        "axes": axes,
        "antialias": draw.draw(st.integers(0, 1)),
        "exclude_outside": draw.draw(st.integers(0, 1)),
        "extrapolation_value": 3.0,
        "cubic_coeff_a": draw.draw(st.sampled_from((-0.75, -0.5))),
    }
    parameters: dict[str, Array] = {}
    if mode == "tf_crop_and_resize":
        corner = st.sampled_from((0.0, 0.25, 0.5, 1.0, 1.25, -0.5))
        bounds = [draw.draw(corner) for _ in range(2 * len(axes))]
        parameters["roi"] = np.array(bounds, np.float32)
    if draw.draw(st.booleans()):
        scale = st.sampled_from((1.0, 2.0, 0.5, 1.5, 0.75, 2.6))
        scales = [max(draw.draw(scale), 1.0 / shape[a]) for a in axes]
        parameters["scales"] = np.array(scales, np.float32)
    else:
        parameters["sizes"] = np.array([draw.draw(st.integers(1, 7)) for _ in axes])
        policies = ("stretch", "not_larger", "not_smaller")
        attributes["keep_aspect_ratio_policy"] = draw.draw(st.sampled_from(policies))
    model = resize(shape, "float32", parameters, **attributes)
    inputs = {"x": image(shape)}
    if mode == "pytorch_half_pixel" and attributes["antialias"]:
        return  # of one element, the evaluator takes another place than ONNX says
    with np.errstate(all="ignore"):
        found: list[Any] = list(ReferenceEvaluator(model).run(["y"], inputs))
    want = np.asarray(found[0])
    run = run_checked(model, TINY, inputs)
    assert_close(run.outputs, {"y": want}, 4e-3, scale=max(float(np.abs(want).max()), 4))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("transformation", MODES[:-1])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_as_onnxruntime(mode: str, transformation: str, dtype: str) -> None:
    """Exactly, but for the weights, which onnxruntime rounds to float32."""
    if dtype == "float16" and transformation != "half_pixel":
        return  # of which onnxruntime has no more
    sizes = {"sizes": np.array([1, 2, 7, 9])}
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation}
    model = resize((1, 2, 4, 6), dtype, sizes, **attributes)
    inputs = {"x": image((1, 2, 4, 6)).astype(dtype)}
    run = run_checked(model, TINY, inputs, precision="exact")
    assert_close(run.outputs, expected(model, inputs), 1e-3 if dtype == "float16" else 2e-6)


def test_cropping_as_onnxruntime() -> None:
    parameters = {
        "roi": np.array([0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7], np.float32),
        "sizes": np.array([1, 1, 3, 3]),
    }
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear"}
    model = resize((1, 1, 4, 4), "float32", parameters, extrapolation_value=10.0, **attributes)
    inputs = {"x": image((1, 1, 4, 4))}
    run = run_checked(model, TINY, inputs, precision="exact")
    assert (run.outputs["y"] == 10).any()
    assert_close(run.outputs, expected(model, inputs), 2e-6)


def test_an_image_between_convolutions_stays_channels_last() -> None:
    """Whole rows are gathered: nothing is turned around."""
    rng = np.random.default_rng(3)
    weights = {
        "a": rng.normal(size=(8, 3, 3, 3)).astype(np.float16).astype(np.float32),
        "b": rng.normal(size=(4, 8, 1, 1)).astype(np.float16).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["r"], mode="linear"),
        helper.make_node("Conv", ["r", "b"], ["y"]),
    ]
    kinds = {"x": ("float32", (1, 3, 8, 8))}
    model = build(nodes, kinds, {"y": ("float32", (1, 4, 12, 12))}, weights)
    inputs = {"x": image((1, 3, 8, 8))}
    run = run_checked(model, TINY, inputs)
    assert_close(run.outputs, expected(model, inputs))


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("scales", [(2.0, 3.0), (0.5, 0.3), (1.6, 0.7), (0.9, 1.0)])
def test_before_opset_11(mode: str, scales: tuple[float, float]) -> None:
    """When Resize had no attributes, it was another, as onnxruntime knows."""
    constants = {"scales": np.array([1, 1, *scales], np.float32)}
    out = (1, 2, int(5 * scales[0]), int(7 * scales[1]))
    inputs = {"x": image((1, 2, 5, 7))}
    for op, opset in (("Upsample", 9), ("Resize", 10)):
        if op == "Upsample" and min(scales) < 1:
            continue
        node = helper.make_node(op, ["x", "scales"], ["y"], mode=mode)
        kinds = {"x": ("float32", (1, 2, 5, 7))}
        model = build([node], kinds, {"y": ("float32", out)}, constants, opset)
        run = run_checked(model, TINY, inputs, precision="exact")
        assert_close(run.outputs, expected(model, inputs), 2e-6)


def test_what_is_refused() -> None:
    integers = resize((2, 3), "int8", {"sizes": np.array([4, 4])}, mode="linear")
    assert _code(integers) == "element-type"
    node = helper.make_node("Resize", ["x", "", "", "n"], ["y"], mode="cubic")
    kinds = {"x": ("float32", (2, 3)), "n": ("int64", (2,))}
    computed = build([node], kinds, {"y": ("float32", (4, 4))})
    assert _code(computed) == "operand-not-constant"


def _code(model: ModelProto) -> str:
    with pytest.raises(UnsupportedModel) as refused:
        compile_model(model.SerializeToString(), TINY, Options())
    return refused.value.diagnostic.code
