"""Operands of products are computed before they are moved, and moved once."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from clockstep_compiler import Options
from clockstep_compiler.problems import lowered_model
from clockstep_compiler.steps import Move, Transpose
from clockstep_isa import load_machine
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

LPU = load_machine("lpu-v1")

CONSTANTS = {
    "heads": np.array([1, 6, 2, 4], np.int64),  # batch, positions, heads, features
    "flat": np.array([1, 6, 8], np.int64),
    "scale": np.float32(0.5),
    "several": np.array([[[1]], [[2]]], np.float32),  # one for each head
    "s": np.float32(1 / 32),
    "z": np.uint8(120),
}


def _attention(scale: str = "scale", quantized: bool = False) -> ModelProto:
    """Relu(a), Relu(b) and Relu(c) as queries, keys and values; no softmax."""
    nodes = []

    def chain(name: str, turn: list[int]) -> str:
        steps: list[tuple[str, list[str], dict[str, list[int]]]] = [
            ("Relu", [], {}),
            ("Reshape", ["heads"], {}),
            ("Transpose", [], {"perm": turn}),
            ("Mul", [scale], {}),
        ]
        if quantized:
            steps += [("QuantizeLinear", ["s", "z"], {}), ("DequantizeLinear", ["s", "z"], {})]
        for k, (op, more, attributes) in enumerate(steps):
            out = f"{name[0]}{k}"
            nodes.append(helper.make_node(op, [name, *more], [out], f"{op} {out}", **attributes))
            name = out
        return name

    q, k, v = chain("a", [0, 2, 1, 3]), chain("b", [0, 2, 3, 1]), chain("c", [0, 2, 1, 3])
    nodes += [
        helper.make_node("MatMul", [q, k], ["scores"], "scores"),
        helper.make_node("MatMul", ["scores", v], ["mixed"], "mixed"),
        helper.make_node("Transpose", ["mixed"], ["t"], "t", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "flat"], ["y"], "y"),
    ]
    inputs = {name: ("float32", (1, 6, 8)) for name in "abc"}
    return build(nodes, inputs, {"y": ("float32", (1, 6, 8))}, CONSTANTS)


def _moves(model: ModelProto) -> int:
    """Steps that move elements."""
    _, lowered = lowered_model(model, Options(), LPU)
    return sum(isinstance(step, Move | Transpose) for step in lowered.steps)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_heads(quantized: bool, name: str) -> None:
    model = _attention(quantized=quantized)
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(1, 6, 8)).astype(np.float32) for name in "abc"}
    run = run_checked(model, MACHINES[name], inputs)
    assert_close(run.outputs, expected(model, inputs), scale=2.0)


@pytest.mark.parametrize("quantized", [False, True])
def test_one_move_for_each_operand(quantized: bool) -> None:
    """Scaled, and quantized, as they lie; keys and values come as the array takes them."""
    model = _attention(quantized=quantized)
    graph, _ = lowered_model(model, Options(), LPU)
    makers = {node.outputs[0]: node for node in graph.nodes}
    for product in (node for node in graph.nodes if node.op == "MatMul"):
        for operand in product.inputs[product.name == "mixed" :]:
            maker = makers[operand]
            if quantized:
                assert maker.op == "DequantizeLinear"
                maker = makers[maker.inputs[0]]
            assert maker.op == "Move"
            assert makers[maker.inputs[0]].op == ("QuantizeLinear" if quantized else "Mul")
    assert _moves(model) == 3, "that of the result picks rows"


def test_what_is_not_alike_for_all_elements_stays() -> None:
    """Where heads are cut out of rows, a factor for each head is none for each row."""
    graph, _ = lowered_model(_attention("several"), Options(), LPU)
    makers = {node.outputs[0]: node for node in graph.nodes}
    product = next(node for node in graph.nodes if node.name == "mixed")
    assert makers[product.inputs[1]].op == "Mul"
