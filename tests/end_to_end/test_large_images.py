"""Images larger than a chip: rows spread over chips, weights on each; inputs of odd layouts."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import clockstep
from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
from clockstep_isa.table import BY_NAME
from tests.support.endtoend import (
    assert_close,
    expected,
    fp16_inputs,
    run_checked,
)
from tests.support.machines import MACHINES, with_words


def _model(size: int, channels: int, slope: bool) -> ModelProto:
    rng = np.random.default_rng(size)
    weights = rng.standard_normal((channels, 2, 3, 3)) / 4
    tensors = [
        numpy_helper.from_array(weights.astype(np.float16).astype(np.float32), "w"),
        numpy_helper.from_array(rng.uniform(-0.5, 0.5, (channels, 1, 1)).astype(np.float32), "s"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c", "s"], ["a"])
        if slope
        else helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["p", "", "scales"], ["r"], mode="nearest"),
        helper.make_node("Add", ["r", "a"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, size, size])
    shape = [1, channels, size, size]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("size", "words", "slope"), [(24, 32, True), (16, 16, False)])
def test_an_image_larger_than_a_chip(size: int, words: int, slope: bool) -> None:
    machine, model = with_words("tiny", words), _model(size, 5, slope)
    x = np.random.default_rng(0).standard_normal((1, 2, size, size)).astype(np.float32)
    inputs = fp16_inputs({"x": x})
    run = run_checked(model, machine, inputs)
    assert run.program.chips > 1
    assert_close(run.outputs, expected(model, inputs))


def test_a_focus_reads_its_input_with_channels_last() -> None:
    """Every second pixel in both directions, channels joined: the first layer of some networks."""
    corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
    two = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    tensors = [two, numpy_helper.from_array(np.array([2, 2], np.int64), "steps")]
    tensors.append(numpy_helper.from_array(np.array([99, 99], np.int64), "ends"))
    weights = np.random.default_rng(1).standard_normal((4, 12, 1, 1)) / 4
    tensors.append(numpy_helper.from_array(weights.astype(np.float16).astype(np.float32), "w"))
    nodes = []
    for k, corner in enumerate(corners):
        tensors.append(numpy_helper.from_array(np.array(corner, np.int64), f"start{k}"))
        parts = ["x", f"start{k}", "ends", "axes", "steps"]
        nodes.append(helper.make_node("Slice", parts, [f"part{k}"]))
    nodes.append(helper.make_node("Concat", [f"part{k}" for k in range(4)], ["f"], axis=1))
    nodes.append(helper.make_node("Conv", ["f", "w"], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 10])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 5])
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = fp16_inputs({"x": np.random.default_rng(0).standard_normal((1, 3, 8, 10), np.float32)})
    run = run_checked(model, MACHINES["tiny"], inputs)
    assert_close(run.outputs, expected(model, inputs))
    assert run.program.cycles < 4000


def test_weights_are_loaded_once_on_each_chip() -> None:
    """Rows spread over chips stream past weights that stay, as they do on one chip."""
    machine, model = load_machine("lpu-v1"), _model(24, 24, False).SerializeToString()
    programs = [
        compile_model(model, machine, Options(chips=n, objective="throughput", copies=1))
        for n in (1, 2)
    ]
    install = BY_NAME["iw"].opcode
    one, two = (int((program.code.opcode == install).sum()) for program in programs)
    assert two < 1.1 * one
    assert all(clockstep.verify(program).ok for program in programs)
