"""Attention of integers with its heads side by side: the same bits as with heads apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from clockstep_compiler import Options
from clockstep_compiler.problems import lowered_model
from clockstep_compiler.steps import Transpose
from clockstep_isa import Machine
from tests.support.endtoend import expected, run_checked
from tests.support.machines import MACHINES, machine
from tests.support.models import build

Array = NDArray[np.generic]

EIGHT = machine("tiny", **{"lanes.superlanes": 8})
"""A vector takes several heads, and these several K tiles."""


def _attention(
    heads: int,
    depth: int,
    queries: int,
    keys: int,
    mask: tuple[int, ...] | Array,
    kind: str = "int8",
    scale: float = 0.4,
) -> ModelProto:
    """Queries, keys and values [1, rows, heads * depth], quantized; scores plus a mask, an input of
    that shape or a constant; their softmax times the values."""
    zeros = {"int8": (3, -7, 5, -128), "uint8": (131, 121, 133, 0)}[kind]
    constants: dict[str, Array] = {
        "apart": np.array([1, -1, heads, depth], np.int64),
        "flat": np.array([1, -1, heads * depth], np.int64),
        "s_score": np.float32(scale),
        "s_power": np.float32(1 / 255),
        "s": np.float32(1 / 64),
    }
    constants |= {
        f"z_{name}": np.array(zero, kind)
        for name, zero in zip(("q", "k", "v", "power"), zeros, strict=True)
    }
    nodes: list[NodeProto] = []

    def make(op: str, inputs: list[str], out: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [out], out, **attributes))
        return out

    def quantized(name: str, scale: str, zero: str) -> str:
        whole = make("QuantizeLinear", [name, scale, zero], f"{name}_q")
        return make("DequantizeLinear", [whole, scale, zero], f"{name}_dq")

    def operand(name: str, turn: list[int]) -> str:
        split = make("Reshape", [quantized(name, "s", f"z_{name}"), "apart"], f"{name}_apart")
        return make("Transpose", [split], f"{name}_turned", perm=turn)

    q, k = operand("q", [0, 2, 1, 3]), operand("k", [0, 2, 3, 1])
    scores = quantized(make("MatMul", [q, k], "scores"), "s_score", "z_q")
    masked = quantized(make("Add", [scores, "mask"], "masked"), "s_score", "z_k")
    powers = quantized(make("Softmax", [masked], "powers", axis=-1), "s_power", "z_power")
    mixed = make("MatMul", [powers, operand("v", [0, 2, 1, 3])], "mixed")
    turned = make("Transpose", [quantized(mixed, "s", "z_v")], "t", perm=[0, 2, 1, 3])
    make("Reshape", [turned, "flat"], "y")
    rows = {"q": queries, "k": keys, "v": keys}
    inputs = {name: ("float32", (1, count, heads * depth)) for name, count in rows.items()}
    if isinstance(mask, tuple):
        inputs["mask"] = ("float32", mask)
    else:
        constants["mask"] = mask
    return build(nodes, inputs, {"y": ("float32", (1, queries, heads * depth))}, constants)


def _assert_alike(model: ModelProto, target: Machine, precision: str = "auto") -> None:
    """The heads are together, and of the results a few are a step off.

    A power is exact to 2**-11 of itself, and so of another step in about a hundred cases; results
    depend on many of these.
    """
    graph, _ = lowered_model(model, Options(), target)
    assert [n.op for n in graph.nodes if n.op in ("Scores", "Context")] == ["Scores", "Context"]
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        i.name: rng.normal(size=[d.dim_value for d in i.type.tensor_type.shape.dim]).astype("f")
        for i in model.graph.input
    }
    run = run_checked(model, target, inputs, precision=precision)
    steps = (run.outputs["y"] - expected(model, inputs)["y"]) * 64
    assert np.abs(steps).max() <= (1 if precision == "auto" else 2)
    assert (np.abs(steps) > 0.5).mean() <= (0.05 if precision == "auto" else 0.1)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("mask", [(1, 1, 1, 12), (1, 1, 6, 12), (12,), (1, 5, 6, 12), (1, 1, 1, 1)])
def test_masks(mask: tuple[int, ...], kind: str) -> None:
    _assert_alike(_attention(5, 8, 6, 12, mask, kind), EIGHT)


@pytest.mark.parametrize(
    ("heads", "depth", "queries", "keys"),
    [(2, 16, 9, 6), (6, 4, 8, 8), (9, 8, 7, 10), (20, 2, 5, 5), (12, 16, 2, 33), (3, 32, 20, 70)],
)
def test_shapes(heads: int, depth: int, queries: int, keys: int) -> None:
    """Heads that fill a K tile or do not, of several K tiles; keys of more than one."""
    _assert_alike(_attention(heads, depth, queries, keys, (1, 1, 1, keys)), EIGHT)


@pytest.mark.parametrize("scale", [0.02, 0.4, 1e30])
def test_ranges(scale: float) -> None:
    """Powers that are all numbers of fp16, most of them, and one alone."""
    _assert_alike(_attention(4, 8, 6, 12, (1, 1, 1, 12), scale=scale), EIGHT)


def test_constant_mask() -> None:
    mask = np.where(np.tri(6, 12, 6), 0, -20).astype(np.float32)
    _assert_alike(_attention(4, 8, 6, 12, mask), EIGHT)


@pytest.mark.parametrize("name", ["tiny", "ring", "wide", "odd"])
def test_machines(name: str) -> None:
    target = MACHINES[name]
    depth = target.vector // 4
    keys = target.vector // 2
    _assert_alike(_attention(4, depth, depth, keys, (1, 1, 1, keys)), target)


def test_floats() -> None:
    """What is dequantized is finite, so fp16 is masked by zeros as well."""
    _assert_alike(_attention(4, 8, 6, 12, (1, 1, 1, 12)), EIGHT, precision="fp16")


def test_values_are_turned_before_they_are_needed() -> None:
    """What follows from the values alone does not wait for the softmax in arrays."""
    _, lowered = lowered_model(_attention(4, 8, 6, 12, (1, 1, 1, 12)), Options(), EIGHT)
    turned = [i for i, step in enumerate(lowered.steps) if isinstance(step, Transpose)]
    own = [lowered.steps[i].out.columns for i in turned]
    sums = [i for i, step in enumerate(lowered.steps) if step.out.rows == 1]
    assert own == [12, 12]  # values, then powers
    assert turned[0] < min(sums) < turned[1]


def test_few_queries_stay_apart() -> None:
    """One query, as in decoding: rows of keys are fuller."""
    graph, _ = lowered_model(_attention(4, 8, 1, 60, (1, 1, 1, 60)), Options(), EIGHT)
    assert not any(node.op == "Scores" for node in graph.nodes)
