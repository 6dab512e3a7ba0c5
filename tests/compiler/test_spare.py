"""Steps that are spared: bytes that stay as they are, wide matrices that are turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.options import Options
from clockstep_compiler.problems import lowered_model
from clockstep_compiler.spare import spared
from clockstep_compiler.steps import Lowered, Transpose
from clockstep_isa.table import Type
from tests.support.endtoend import assert_equal, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
Array = NDArray[Any]


def quantized(
    name: str, scale: float, zero: int, dtype: str = "int8"
) -> tuple[list[NodeProto], dict[str, Array]]:
    """`name` quantized to `name`_q and dequantized to `name`_d."""
    parameters = [f"{name}_s", f"{name}_z"]
    nodes = [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_d"]),
    ]
    return nodes, {parameters[0]: np.float32(scale), parameters[1]: np.array(zero, dtype)}


def lowered(model: ModelProto) -> Lowered:
    return spared(Floorplan(TINY), lowered_model(model, Options(), TINY)[1])


def chain(scale: float, zero: int) -> ModelProto:
    """x, quantized, over 8 and quantized again: x comes out as it went in, or does not."""
    first, constants = quantized("x", 0.5, 3)
    second, more = quantized("y", scale, zero)
    divide = helper.make_node("Div", ["x_d", "c"], ["y"])
    nodes = [*first, divide, *second, helper.make_node("Neg", ["y_d"], ["n"])]
    constants |= more | {"c": np.array(8, np.float32)}
    outputs = {"y_q": ("int8", (4, 20)), "n": ("float32", (4, 20))}
    return build(nodes, {"x": ("float32", (4, 20))}, outputs, constants)


@pytest.mark.parametrize(
    ("scale", "zero", "steps"), [(0.0625, 3, 2), (0.063, 3, 3), (0.0625, 4, 3)]
)
def test_bytes_that_stay_as_they_are_are_not_copied(scale: float, zero: int, steps: int) -> None:
    model = chain(scale, zero)
    assert len(lowered(model).steps) == steps
    x = np.linspace(-70, 70, 80, dtype=np.float32).reshape(4, 20)
    assert_equal(run_checked(model, TINY, {"x": x}).outputs, expected(model, {"x": x}))


@pytest.mark.parametrize("outputs", [("p_q",), ("p_q", "p")])
def test_bytes_are_turned(outputs: tuple[str, ...]) -> None:
    """A Softmax of a wide range finds the greatest over rows; its result goes back as bytes."""
    first, constants = quantized("x", 1.0, 0)
    softmax = helper.make_node("Softmax", ["x_d"], ["p"], axis=-1)
    last, more = quantized("p", 1 / 255, 0, "uint8")
    kinds = {"p_q": "uint8", "p": "float32"}
    model = build(
        [*first, softmax, last[0]],
        {"x": ("float32", (24, 20))},
        {name: (kinds[name], (24, 20)) for name in outputs},
        constants | more,
    )
    turned = {step.out.type for step in lowered(model).steps if isinstance(step, Transpose)}
    assert (turned == {Type.I8}) == (outputs == ("p_q",))
    x = np.random.default_rng(0).integers(-128, 128, (24, 20)).astype(np.float32)
    have, want = run_checked(model, TINY, {"x": x}).outputs, expected(model, {"x": x})
    assert np.abs(have["p_q"].astype(int) - want["p_q"]).max() <= 1
