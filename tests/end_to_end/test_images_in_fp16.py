"""What fp16 keeps of small convolutions and of what lies between them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from clockstep_compiler.options import Options
from clockstep_compiler.problems import lowered_model
from clockstep_compiler.steps import Compute
from clockstep_isa import load_machine
from clockstep_isa.table import Type
from tests.support.endtoend import expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

LPU = load_machine("lpu-v1")

TINY = MACHINES["tiny"]
FP16 = Options(precision="fp16")


@pytest.mark.parametrize(("channels", "kernel"), [(16, 1), (5, 3), (64, 1), (8, 3)])
def test_small_kernels_have_weights_as_exact_as_f32(channels: int, kernel: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, channels, 4, 5)).astype(np.float16).astype(np.float32)
    weights = rng.normal(size=(6, channels, kernel, kernel)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    size = (1, 6, 5 - kernel, 6 - kernel)
    shapes = {"x": ("float32", image.shape)}, {"y": ("float32", size)}
    model = build([node], *shapes, {"w": weights})
    run = run_checked(model, TINY, {"x": image}, FP16)
    wanted = expected(model, {"x": image})["y"]
    off = np.abs(run.outputs["y"] - wanted).max() / np.ptp(wanted)
    assert (off < 1e-6) == (channels * kernel * kernel <= 48)


def test_infinities_stay_infinite() -> None:
    """Some weights are fp16 as they are, and none is zero."""
    weights = np.array([[1.5, 0.1, -0.3, 2.0], [-0.7, -1.0, 1e-9, 0.2]], np.float32)
    image = np.ones((1, 4, 1, 9), np.float32)
    image[0, np.arange(8) % 4, 0, np.arange(8)] = np.inf * np.array([1, -1]).repeat(4)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    shapes = {"x": ("float32", image.shape)}, {"y": ("float32", (1, 2, 1, 9))}
    model = build([node], *shapes, {"w": weights.reshape(2, 4, 1, 1)})
    run, wanted = run_checked(model, TINY, {"x": image}, FP16), expected(model, {"x": image})["y"]
    infinite = np.isinf(wanted)
    assert infinite.sum() == 16
    np.testing.assert_array_equal(run.outputs["y"][infinite], wanted[infinite])


def chain(last: str) -> ModelProto:
    """A product, something element by element, and what reads that."""
    kernels = {"depthwise": (8, 1, 3, 3), "product": (8, 8, 3, 3)}
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"]),
        helper.make_node("Tanh", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b"], ["y"], group=8 if last == "depthwise" else 1),
    ]
    weights = {
        "a": rng.normal(size=(8, 4, 1, 1)).astype(np.float32),
        "b": rng.normal(size=kernels[last]).astype(np.float32),
    }
    shapes = {"x": ("float32", (1, 4, 6, 7))}, {"y": ("float32", (1, 8, 4, 5))}
    return build(nodes, *shapes, weights)


@pytest.mark.parametrize(("last", "kind"), [("depthwise", Type.F32), ("product", Type.F16)])
def test_images_that_no_array_reads_are_rounded_by_nothing(last: str, kind: Type) -> None:
    steps = lowered_model(chain(last), FP16, LPU)[1].steps
    (made,) = (s.out for s in steps if isinstance(s, Compute) and s.out.name.startswith("q"))
    assert made.type == kind
