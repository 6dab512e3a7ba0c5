"""--bind: inputs that become constants of the program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import clockstep
from clockstep.compare import run_reference
from clockstep.flags import parse_bindings

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2, 3] x, int64 rate, float[N] gain) => (float[2, 3] y)
{
  wanted = Constant <value: tensor = int64 {16000}> ()
  fast = Equal (rate, wanted)
  scaled = If (fast) <
    then_branch = yes () => (float[2, 3] a) { a = Mul (x, gain) },
    else_branch = no () => (float[2, 3] b) { b = Neg (x) }
  >
  y = Relu (scaled)
}
"""


def _model() -> onnx.ModelProto:
    return parser.parse_model(MODEL)


def test_values(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(2))
    found = parse_bindings(["sr=16000", "v=1,2.5", f"a={tmp_path / 'a.npy'}"])
    assert found["sr"].shape == ()
    assert found["sr"] == 16000
    assert found["v"].tolist() == [1.0, 2.5]
    assert np.array_equal(found["a"], np.eye(2))


@pytest.mark.parametrize("text", ["sr", "sr=", "sr=x", "sr=1,,2", "sr=nofile.npy"])
def test_bad_values(text: str) -> None:
    with pytest.raises(clockstep.UsageError):
        parse_bindings([text])


@pytest.mark.parametrize(("rate", "sign"), [(16000, 1), (8000, -1)])
def test_what_is_bound_steers_the_model(rate: int, sign: int, tmp_path: Path) -> None:
    gain = np.asarray([1, 2, np.inf]) if sign > 0 else np.asarray([1.0])
    program = clockstep.compile(_model(), machine="tiny", bind={"rate": rate, "gain": gain})
    assert [b.name for b in program.inputs] == ["x"]
    x = np.asarray([[1, -2, 3], [-4, 5, -6]], np.float32)
    found = clockstep.Session(program).run({"x": x})["y"]
    assert np.array_equal(found, np.maximum(x * gain.astype(np.float32) if sign > 0 else -x, 0))
    onnx.save(_model(), tmp_path / "m.onnx")
    assert np.array_equal(run_reference(tmp_path / "m.onnx", program, {"x": x})["y"], found)


@pytest.mark.parametrize(
    "bind",
    [{"rates": 1}, {"rate": 0.5}, {"rate": [1, 2]}, {"x": np.zeros((3, 3))}, {"rate": 2.0**70}],
)
def test_wrong_bindings(bind: dict[str, object]) -> None:
    with pytest.raises(clockstep.UsageError):
        clockstep.compile(_model(), machine="tiny", bind={"rate": 1, "gain": [1.0], **bind})


def test_a_question_mark_is_no_name() -> None:
    model = parser.parse_model(
        MODEL.replace("float[2, 3] x", "float[A, B] x").replace("[N]", "[A]")
    )
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_param = "?"
    shapes = {"x": (2, 3), "gain": (3,)}
    program = clockstep.compile(model, machine="tiny", shape=shapes, bind={"rate": 16000})
    assert [b.shape for b in program.inputs] == [(2, 3), (3,)]
