"""DynamicQuantizeLSTM against onnxruntime: the same integers, so the same sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES

TINY = MACHINES["tiny"]
STEPS, BATCH, DEPTH, HIDDEN = 3, 2, 6, 5
DOMAIN = "com.microsoft"


def built(
    direction: str = "forward",
    dtype: str = "int8",
    columns: bool = False,
    peepholes: bool = False,
    lengths: tuple[int, ...] = (),
) -> tuple[ModelProto, dict[str, NDArray[Any]]]:
    """A model, and its inputs; `columns`: a scale for every column of the weights."""
    rng = np.random.default_rng(0)
    directions, rows = (2 if direction == "bidirectional" else 1), 4 * HIDDEN

    def real(*shape: int) -> NDArray[Any]:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    low, middle, high = (-128, 0, 128) if dtype == "int8" else (0, 131, 256)
    each = (directions, rows) if columns else (directions,)
    inputs = {"X": real(STEPS, BATCH, DEPTH), "h0": real(directions, BATCH, HIDDEN)}
    inputs["c0"] = real(directions, BATCH, HIDDEN)
    constants: dict[str, NDArray[Any]] = {"B": real(directions, 2 * rows)}
    for name, depth in (("W", DEPTH), ("R", HIDDEN)):
        constants[name] = rng.integers(low, high, (directions, depth, rows)).astype(dtype)
        constants[f"{name}_scale"] = rng.uniform(0.002, 0.01, each).astype(np.float32)
        constants[f"{name}_zero"] = np.full(each, middle, dtype)
    if peepholes:
        constants["P"] = real(directions, 3 * HIDDEN)
    if lengths:
        constants["lengths"] = np.array(lengths, np.int32)
    names = ["X", "W", "R", "B", "lengths", "h0", "c0", "P", "W_scale", "W_zero", "R_scale"]
    known = {**inputs, **constants}
    node = helper.make_node(
        "DynamicQuantizeLSTM",
        [*(name if name in known else "" for name in names), "R_zero"],
        ["y", "h", "c"],
        domain=DOMAIN,
        hidden_size=HIDDEN,
        direction=direction,
    )
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info(name, 1, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info(name, 1, None) for name in ("y", "h", "c")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", 14), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), inputs


@pytest.mark.parametrize(
    "fields",
    [
        {"direction": "bidirectional"},
        {"dtype": "uint8", "lengths": (3, 3)},
        {"columns": True, "direction": "reverse", "peepholes": True},
    ],
    ids=str,
)
def test_against_onnxruntime(fields: dict[str, Any]) -> None:
    model, inputs = built(**fields)
    run = run_checked(model, TINY, inputs, precision="exact")
    assert_close(run.outputs, expected(model, inputs), rtol=3e-6, scale=1.0)


def test_in_fp16() -> None:
    model, inputs = built()
    assert_close(run_checked(model, TINY, inputs).outputs, expected(model, inputs), scale=1.0)


def test_sequences_of_different_lengths() -> None:
    model, _ = built(lengths=(3, 1))
    with pytest.raises(UnsupportedModel, match="different lengths"):
        compile_model(model.SerializeToString(), TINY, Options())
