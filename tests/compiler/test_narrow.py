"""Moves of dequantized elements are moves of integers, where one scale is for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from benchmarks.recurrent import lstm
from clockstep_compiler import Options, compile_model
from clockstep_compiler.frontend import import_model
from tests.support.endtoend import assert_equal, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

CONSTANTS = {
    "s": np.float32(0.5),
    "other": np.float32(0.25),
    "z": np.int8(3),
    "none": np.int8(0),
    "shape": np.array([2, 12], np.int64),
    "sizes": np.array([1, 3], np.int64),
}


def _model(
    *nodes: tuple[str, list[str], list[str]], **outputs: tuple[str, tuple[int, ...]]
) -> ModelProto:
    inputs = {name: ("int8", (2, 3, 4)) for name in ("a", "b")}
    made = []
    for op, operands, results in nodes:
        axis = {"axis": 2} if op in ("Concat", "Split") else {}
        perm = {"perm": [0, 2, 1]} if op == "Transpose" else {}
        made.append(helper.make_node(op, operands, results, **axis, **perm))
    return build(made, inputs, dict(outputs), CONSTANTS)


DEQUANTIZED = ("DequantizeLinear", ["a", "s", "z"], ["x"])
TURNED = ("Transpose", ["x"], ["t"])


def _inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(-128, 128, (2, 3, 4), np.int8) for name in ("a", "b")}


def _ops(model: ModelProto) -> list[str]:
    return [node.op for node in import_model(model, Options()).nodes]


def _right(model: ModelProto) -> None:
    inputs = _inputs()
    run = run_checked(model, MACHINES["tiny"], inputs)
    assert_equal(run.outputs, expected(model, inputs))


@pytest.mark.parametrize("op", ["Transpose", "Reshape"])
def test_quantized_again_with_the_same_scale_nothing_is_left(op: str) -> None:
    moving = (op, ["x", "shape"] if op == "Reshape" else ["x"], ["t"])
    back = ("QuantizeLinear", ["t", "s", "z"], ["y"])
    shape = (2, 12) if op == "Reshape" else (2, 4, 3)
    model = _model(DEQUANTIZED, moving, back, y=("int8", shape))
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(_ops(model))
    _right(model)


@pytest.mark.parametrize("step", [["other", "z"], ["s", "none"]])
def test_another_scale_or_zero_point_is_applied(step: list[str]) -> None:
    back = ("QuantizeLinear", ["t", *step], ["y"])
    model = _model(DEQUANTIZED, TURNED, back, y=("int8", (2, 4, 3)))
    assert _ops(model) == ["Move", "DequantizeLinear", "QuantizeLinear"]
    _right(model)


@pytest.mark.parametrize(("scale", "first"), [("s", "Move"), ("other", "DequantizeLinear")])
def test_joined_integers_have_one_scale(scale: str, first: str) -> None:
    model = _model(
        DEQUANTIZED,
        ("DequantizeLinear", ["b", scale, "z"], ["w"]),
        ("Concat", ["x", "w"], ["y"]),
        y=("float32", (2, 3, 8)),
    )
    assert _ops(model)[0] == first
    _right(model)


def test_parts_and_their_whole_are_both_there() -> None:
    model = _model(
        DEQUANTIZED,
        ("Split", ["x", "sizes"], ["p", "q"]),
        ("QuantizeLinear", ["p", "s", "z"], ["u"]),
        x=("float32", (2, 3, 4)),
        q=("float32", (2, 3, 3)),
        u=("int8", (2, 3, 1)),
    )
    assert "QuantizeLinear" not in _ops(model)
    _right(model)


def test_weights_of_an_lstm_stay_bytes() -> None:
    program = compile_model(lstm("node", 16, 1).SerializeToString(), MACHINES["tiny"], Options())
    assert program.info["weight_bytes"] == 2 * 16 * 64
