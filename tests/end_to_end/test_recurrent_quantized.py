"""DynamicQuantizeLSTM against onnxruntime: the same integers, so the same sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
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


def test_gates_of_quantized_products() -> None:
    """Products of four K tiles with what gates make of them: a step of no wave is cut in two."""
    rng = np.random.default_rng(3)
    nodes, constants = [], {"s": np.float32(0.008), "z": np.int8(0)}
    nodes.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
    for gate, act in zip("ifog", ("Sigmoid", "Sigmoid", "Sigmoid", "Tanh"), strict=True):
        constants[f"w{gate}"] = rng.integers(-127, 128, (1024, 320), np.int8)
        constants[f"b{gate}"] = rng.normal(0, 0.1, 320).astype(np.float32)
        nodes += [
            helper.make_node("DequantizeLinear", [f"w{gate}", "s", "z"], [f"v{gate}"]),
            helper.make_node("MatMul", ["d", f"v{gate}"], [f"p{gate}"]),
            helper.make_node("Add", [f"p{gate}", f"b{gate}"], [f"a{gate}"]),
            helper.make_node(act, [f"a{gate}"], [gate]),
        ]
    nodes += [
        helper.make_node("Mul", ["f", "c"], ["kept"]),
        helper.make_node("Mul", ["i", "g"], ["new"]),
        helper.make_node("Add", ["kept", "new"], ["c_out"]),
        helper.make_node("Tanh", ["c_out"], ["t"]),
        helper.make_node("Mul", ["o", "t"], ["h_out"]),
    ]
    inputs = {name: rng.normal(0, 0.4, shape).astype(np.float32)
              for name, shape in (("x", (1, 1024)), ("c", (1, 320)))}  # fmt: skip
    given = [helper.make_tensor_value_info(n, 1, v.shape) for n, v in inputs.items()]
    wanted = [helper.make_tensor_value_info(n, 1, (1, 320)) for n in ("h_out", "c_out")]
    stored = [numpy_helper.from_array(v, n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "gates", given, wanted, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    outputs = run_checked(model, load_machine("lpu-v1"), inputs).outputs
    for name, value in expected(model, inputs).items():
        np.testing.assert_allclose(outputs[name], value, rtol=0, atol=5e-3)
