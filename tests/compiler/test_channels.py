"""Channels last: what follows an image into that order, and what is moved where it must not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from clockstep_compiler import Options
from clockstep_compiler.channel_rules import PULLED, RULES
from clockstep_compiler.channels import channels_last, order
from clockstep_compiler.frontend import import_model
from clockstep_compiler.graph import Graph
from tests.support.images import inferred

IMAGE = (2, 3, 4, 5)
WEIGHTS = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)


def laid_out(
    nodes: Sequence[NodeProto], constants: Mapping[str, Any] | None = None, outputs: str = "y"
) -> Graph:
    """The graph of `nodes` behind a convolution "x" -> "a", as the lowering gets it."""
    first = helper.make_node("Conv", ["x", "w"], ["a"], "conv")
    model = inferred(
        [first, *nodes],
        {"x": ("float32", IMAGE)},
        {"w": WEIGHTS, **(constants or {})},
        outputs.split(),
    )
    graph = import_model(model.SerializeToString(), Options())
    return channels_last(graph, RULES, PULLED)


def moves(graph: Graph) -> list[tuple[str, tuple[int, ...]]]:
    """Sources and shapes of everything that moves elements."""
    return [
        (node.inputs[0], graph.tensors[node.outputs[0]].shape)
        for node in graph.nodes
        if node.op == "Move"
    ]


def test_order() -> None:
    assert order(2) == (0, 1)
    assert order(3) == (0, 2, 1)
    assert order(5) == (0, 2, 3, 4, 1)


def test_without_images_nothing_changes() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = inferred([node], {"x": ("float32", IMAGE)}, {})
    graph = import_model(model.SerializeToString(), Options())
    assert channels_last(graph, RULES, PULLED) is graph


def test_input_and_output_are_seen_in_that_order() -> None:
    graph = laid_out([helper.make_node("Relu", ["a"], ["y"])])
    assert moves(graph) == [("x", (2, 4, 5, 3))]
    (name,) = graph.outputs
    tensor, axes = graph.views[name]
    assert (tensor.name, tensor.shape, axes) == ("y", IMAGE, (0, 2, 3, 1))
    assert graph.tensors[name].shape == (2, 4, 5, 3)


@pytest.mark.parametrize("shape", [(), (5,), (3, 1, 1), (1, 3, 4, 5), (4, 1)])
def test_constants_are_turned(shape: tuple[int, ...]) -> None:
    constant = np.arange(np.prod(shape)).reshape(shape).astype(np.float32) + 1
    graph = laid_out([helper.make_node("Mul", ["a", "c"], ["y"])], {"c": constant})
    node = next(n for n in graph.nodes if n.op == "Mul")
    turned = graph.constants[node.inputs[1]]
    whole = np.broadcast_to(constant, IMAGE).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.broadcast_to(turned, (2, 4, 5, 3)), whole)


def test_what_only_a_convolution_reads_is_computed_in_its_order() -> None:
    relu = helper.make_node("Relu", ["x"], ["r"], "relu")
    conv = helper.make_node("Conv", ["r", "w"], ["y"], "conv")
    model = inferred([relu, conv], {"x": ("float32", IMAGE)}, {"w": WEIGHTS})
    graph = import_model(model.SerializeToString(), Options())
    assert moves(channels_last(graph, RULES, PULLED)) == [("x", (2, 4, 5, 3))]


def test_moves_take_the_order_in() -> None:
    """A Transpose to channels last is free, and so is the way back."""
    nodes = [
        helper.make_node("Transpose", ["a"], ["t"], perm=(0, 2, 3, 1)),
        helper.make_node("Reshape", ["t", "shape"], ["y"]),
    ]
    graph = laid_out(nodes, {"shape": np.array([2, 20, 3])})
    assert moves(graph) == [("x", (2, 4, 5, 3))]


def test_channels_are_joined_where_they_are() -> None:
    """Concat along the channels between convolutions is one move, of whole pixels."""
    nodes = [
        helper.make_node("Conv", ["a", "w"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "v"], ["y"]),
    ]
    graph = laid_out(nodes, {"v": np.ones((2, 6, 1, 1), np.float32)})
    assert [shape for _, shape in moves(graph)] == [(2, 4, 5, 3), (2, 4, 5, 6)]
    index = next(n for n in graph.nodes if len(n.inputs) == 2 and n.op == "Move")
    np.testing.assert_array_equal(index.attributes["index"][0, 0, 0], [0, 1, 2, 120, 121, 122])


@pytest.mark.parametrize("keep", [0, 1])
def test_reductions_of_the_image(keep: int) -> None:
    node = helper.make_node("ReduceMean", ["a", "axes"], ["y"], keepdims=keep)
    graph = laid_out([node], {"axes": np.array([2, 3])})
    reduced = next(n for n in graph.nodes if n.op == "ReduceMean")
    np.testing.assert_array_equal(graph.constants[reduced.inputs[1]], [1, 2])
    assert graph.tensors[graph.outputs[0]].shape == ((2, 1, 1, 3) if keep else (2, 3))
    assert len(moves(graph)) == 1


def test_axes_of_quantization() -> None:
    constants = {"s": np.array([1, 2, 3], np.float32), "z": np.zeros(3, np.int8)}
    node = helper.make_node("QuantizeLinear", ["a", "s", "z"], ["y"], axis=1)
    graph = laid_out([node], constants)
    assert next(n for n in graph.nodes if n.op == "QuantizeLinear").attributes["axis"] == 3


def test_others_get_the_order_of_onnx() -> None:
    graph = laid_out([helper.make_node("Softmax", ["a"], ["y"], axis=-1)])
    node = next(n for n in graph.nodes if n.op == "Softmax")
    assert node.inputs == ("a",)
    assert ("a.last", IMAGE) in moves(graph)
    assert graph.outputs == ("y",)


def test_normalization_is_a_factor_and_a_term() -> None:
    rng = np.random.default_rng(1)
    constants = {n: rng.uniform(1, 2, size=3).astype(np.float32) for n in "sbmv"}
    node = helper.make_node("BatchNormalization", ["a", *"sbmv"], ["y"], "norm", epsilon=0.5)
    graph = laid_out([node], constants)
    factor = constants["s"] / np.sqrt(constants["v"] + 0.5)
    term = constants["b"] - constants["m"] * factor
    by_op = {n.op: graph.constants[n.inputs[1]] for n in graph.nodes if n.op in ("Mul", "Add")}
    np.testing.assert_allclose(by_op["Mul"].astype(np.float64), factor, rtol=1e-6)
    np.testing.assert_allclose(by_op["Add"].astype(np.float64), term, rtol=1e-6)
