"""A row put into an input where it lies, at an address that the run computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from clockstep_isa import BY_NAME, load_machine
from tests.support.endtoend import expected, run_checked

Array = NDArray[Any]
SETS, ROWS, COLUMNS = 3, 40, 20
SHAPE = (1, SETS, ROWS, COLUMNS)


def scattered(count: int, kind: int = TensorProto.FLOAT) -> ModelProto:
    """A cache with `count` new rows from a place on, which a product reads."""
    new = (1, SETS, count, COLUMNS)
    inputs = [
        helper.make_tensor_value_info("past", kind, SHAPE),
        helper.make_tensor_value_info("new", kind, new),
        helper.make_tensor_value_info("place", TensorProto.INT64, (1,)),
    ]
    outputs = [
        helper.make_tensor_value_info("present", kind, SHAPE),
        helper.make_tensor_value_info("y", kind, (1, SETS, count, ROWS)),
    ]
    nodes = [
        helper.make_node("Neg", ["new"], ["rows"]),
        helper.make_node("TensorScatter", ["past", "rows", "place"], ["present"], axis=2),
        helper.make_node("Transpose", ["present"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["new", "turned"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)


def given(count: int, place: int, dtype: type = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(place)
    past = rng.standard_normal(SHAPE).astype(np.float16).astype(dtype)
    new = rng.standard_normal((1, SETS, count, COLUMNS)).astype(np.float16).astype(dtype)
    return {"past": past, "new": new, "place": np.array([place])}


@pytest.mark.parametrize("chips", [1, 2])
@pytest.mark.parametrize(("count", "precision"), [(1, "fp16"), (1, "exact"), (3, "fp16")])
def test_rows(count: int, precision: str, chips: int) -> None:
    """At the first place, the last, and in between; nothing is copied but the new rows."""
    model, machine = scattered(count), load_machine("tiny")
    for place in (0, 17, ROWS - count):
        inputs = given(count, place)
        want = expected(model, inputs)
        run = run_checked(model, machine, inputs, precision=precision, chips=chips)
        assert (run.outputs["present"] == want["present"]).all()
        close = 2e-3 if precision == "fp16" else 1e-6
        assert np.abs(run.outputs["y"] - want["y"]).max() <= close * np.abs(want["y"]).max()
    code = run.program.code
    put = int((code.opcode == BY_NAME["scatter"].opcode).sum())
    bytes_ = 2 if precision == "fp16" else 4
    assert put >= count * SETS * bytes_ * 2, "two tiles of a row, a slice for each byte"


@pytest.mark.parametrize("place", [-1, -3, ROWS, 65536, 65536 + 5, 2**20])
def test_nowhere(place: int) -> None:
    """A place that is none of the rows leaves all of them alone."""
    inputs = [
        helper.make_tensor_value_info("past", TensorProto.FLOAT16, SHAPE),
        helper.make_tensor_value_info("new", TensorProto.FLOAT16, (1, SETS, 1, COLUMNS)),
        helper.make_tensor_value_info("place", TensorProto.INT32, (1, 1)),
    ]
    numbers = numpy_helper.from_array(np.arange(ROWS, dtype=np.int32).reshape(-1, 1), "numbers")
    nodes = [
        helper.make_node("Equal", ["numbers", "place"], ["here"]),
        helper.make_node("Where", ["here", "new", "past"], ["present"]),
    ]
    outputs = [helper.make_tensor_value_info("present", TensorProto.FLOAT16, SHAPE)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numbers])
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    x = given(1, 7, np.float16) | {"place": np.array([[place]], np.int32)}
    run = run_checked(model, load_machine("tiny"), x)
    assert BY_NAME["scatter"].opcode in run.program.code.opcode
    assert (run.outputs["present"] == x["past"]).all()
