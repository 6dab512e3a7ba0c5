"""Mixtures of experts against onnxruntime: routing, activations, weights of few bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from clockstep_isa.table import BY_NAME
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.one_node import assert_like_onnxruntime, contrib, one_node

Array = NDArray[Any]
TINY = MACHINES["tiny"]
TOKENS, EXPERTS, WIDTH, INNER = 2, 3, 8, 6


def weights(rng: np.random.Generator, gated: bool, width: int = WIDTH) -> dict[str, Array]:
    wide = 2 * INNER if gated else INNER
    shapes = {"w1": (wide, width), "b1": (wide,), "w2": (width, INNER), "b2": (width,)}
    return {
        name: rng.standard_normal((EXPERTS, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def operands(rng: np.random.Generator, width: int = WIDTH) -> dict[str, Array]:
    """Tokens, and scores of which no two are near each other."""
    scores = np.stack([rng.permutation(EXPERTS) for _ in range(TOKENS)]).astype(np.float32)
    return {"x": rng.standard_normal((TOKENS, width)).astype(np.float32), "r": scores / 2}


@pytest.mark.parametrize(
    "given",
    [
        {"activation_type": "relu"},
        {"activation_type": "gelu", "k": 2},
        {"activation_type": "silu", "k": 2, "normalize_routing_weights": 1},
        {"activation_type": "swiglu", "k": 2, "swiglu_fusion": 1, "swiglu_limit": 1.5},
    ],
)
def test_mixtures(given: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    gated = given["activation_type"] == "swiglu"
    more: dict[str, Any] = {"activation_alpha": 1.7, "activation_beta": 1.0} if gated else {}
    node = contrib("MoE", "x r w1 b1 w2 b2", **given, **more)
    assert_like_onnxruntime(node, operands(rng), weights(rng, gated), rtol=5e-6)


def test_halves_side_by_side() -> None:
    """The other layout of a gated layer, which onnxruntime has on other devices."""
    rng = np.random.default_rng(1)
    inputs, constants = operands(rng), weights(rng, gated=True)
    given: dict[str, Any] = {"activation_type": "swiglu", "k": 2}
    paired = contrib("MoE", "x r w1 b1 w2 b2", swiglu_fusion=1, **given)
    want = expected(one_node(paired, inputs, constants), inputs)
    for name in ("w1", "b1"):
        pairs = constants[name]
        constants[name] = np.concatenate([pairs[:, 0::2], pairs[:, 1::2]], 1)
    apart = contrib("MoE", "x r w1 b1 w2 b2", swiglu_fusion=2, **given)
    assert_like_onnxruntime(apart, inputs, constants, want=want, rtol=5e-6)


def test_an_expert_that_is_not_chosen_counts_for_nothing() -> None:
    """Its weights are infinite."""
    rng = np.random.default_rng(2)
    inputs, constants = operands(rng), weights(rng, gated=False)
    inputs["r"][:, 1] = -5.0
    constants["w1"][1] = np.inf
    node = contrib("MoE", "x r w1 b1 w2 b2", k=2)
    assert_like_onnxruntime(node, inputs, constants, rtol=5e-6)


@pytest.mark.parametrize(("bits", "block"), [(4, 0), (8, 0), (4, 16)])
def test_weights_of_few_bits(bits: int, block: int) -> None:
    rng = np.random.default_rng(3)
    width = inner = 32 if block else 8
    blocks = (width // block,) if block else ()
    constants: dict[str, Array] = {}
    for k in (1, 2):
        codes = rng.integers(0, 256, (EXPERTS, inner, width * bits // 8))
        constants[f"w{k}"] = codes.astype(np.uint8)
        scales = rng.uniform(0.05, 0.15, (EXPERTS, inner, *blocks))
        constants[f"s{k}"] = scales.astype(np.float32)
        constants[f"b{k}"] = rng.standard_normal((EXPERTS, inner)).astype(np.float32)
    given: dict[str, Any] = {"block_size": block, "weights_prepacked": 0} if block else {}
    given["normalize_routing_weights"] = 1
    names = "x r w1 s1 b1 w2 s2 b2"
    node = contrib("QMoE", names, k=2, expert_weight_bits=bits, **given)
    assert_like_onnxruntime(node, operands(rng, width), constants, rtol=5e-6)


@pytest.mark.parametrize("fusion", [1, 2])
def test_gated_bytes(fusion: int) -> None:
    """Gates every other column or first, against the same weights as floats."""
    rng = np.random.default_rng(4)
    inputs, codes, floats = operands(rng), {}, {}
    for k, (columns, depth) in {1: (2 * INNER, WIDTH), 2: (WIDTH, INNER)}.items():
        codes[f"w{k}"] = rng.integers(0, 256, (EXPERTS, columns, depth)).astype(np.uint8)
        codes[f"s{k}"] = rng.uniform(0.005, 0.015, (EXPERTS, columns)).astype(np.float32)
        floats[f"w{k}"] = (codes[f"w{k}"] - np.float32(128)) * codes[f"s{k}"][..., None]
        codes[f"b{k}"] = floats[f"b{k}"] = rng.standard_normal((EXPERTS, columns), np.float32)
    given: dict[str, Any] = {"activation_type": "swiglu", "k": 2, "normalize_routing_weights": 1}
    if fusion == 2:  # which onnxruntime has on other devices
        for name in ("w1", "b1"):
            pairs = floats[name]
            floats[name] = np.stack([pairs[:, :INNER], pairs[:, INNER:]], 2).reshape(pairs.shape)
    paired = contrib("MoE", "x r w1 b1 w2 b2", swiglu_fusion=1, **given)
    want = expected(one_node(paired, inputs, floats), inputs)
    names = "x r w1 s1 b1 w2 s2 b2"
    node = contrib("QMoE", names, swiglu_fusion=fusion, expert_weight_bits=8, **given)
    assert_like_onnxruntime(node, inputs, codes, want=want, rtol=5e-6)


# -- one token ------------------------------------------------------------------------------------


def one_token(
    experts: int, width: int, inner: int
) -> tuple[ModelProto, dict[str, Array], list[dict[str, Array]]]:
    """A QMoE of bytes, k = 2, its constants, and inputs that go to each of the experts."""
    rng = np.random.default_rng(5)
    constants: dict[str, Array] = {}
    for k, (columns, depth) in {1: (2 * inner, width), 2: (width, inner)}.items():
        constants[f"w{k}"] = rng.integers(0, 256, (experts, columns, depth)).astype(np.uint8)
        scales = rng.uniform(0.5, 1.5, (experts, columns)) / (64 * np.sqrt(depth))
        constants[f"s{k}"] = scales.astype(np.float32)
        constants[f"b{k}"] = rng.standard_normal((experts, columns), np.float32)
    inputs = []
    for first in range(0, experts, 2):
        scores = rng.uniform(-1, 0, (1, experts)).astype(np.float32)
        scores[0, [(first + 3) % experts, first]] = 1.5, 2
        inputs.append({"x": rng.standard_normal((1, width), np.float32), "r": scores})
    given = {"activation_type": "swiglu", "swiglu_fusion": 1, "normalize_routing_weights": 1}
    names = "x r w1 s1 b1 w2 s2 b2"
    node = contrib("QMoE", names, k=2, expert_weight_bits=8, **given)
    return one_node(node, inputs[0], constants), constants, inputs


def by_hand(constants: dict[str, Array], inputs: dict[str, Array]) -> Array:
    """The two experts of one token, in float64."""
    x, scores = inputs["x"][0].astype(float), inputs["r"][0].astype(float)
    best = np.argsort(-scores)[:2]
    weight = np.exp(scores[best]) / np.exp(scores[best]).sum()
    result = np.zeros(len(constants["s2"][0]))
    for expert, by in zip(best, weight, strict=True):
        w1, w2 = (
            (constants[f"w{k}"][expert] - 128.0) * constants[f"s{k}"][expert][:, None]
            for k in (1, 2)
        )
        wide = w1 @ x + constants["b1"][expert]
        gate, line = wide[::2], wide[1::2]
        result += by * (w2 @ (gate / (1 + np.exp(-gate)) * line) + constants["b2"][expert])
    return result[None].astype(np.float32)


@pytest.mark.parametrize(
    ("name", "precision", "error"),
    [
        ("tiny", "exact", 3e-6),
        ("tiny", "fp16", 4e-3),
        ("tiny", "auto", 4e-3),
        ("ring", "exact", 3e-6),
        ("wide", "auto", 4e-3),
    ],
)
def test_the_experts_of_one_token(name: str, precision: str, error: float) -> None:
    """Weights are read where the routing says: in the same cycles, whichever they are."""
    model, constants, inputs = one_token(experts=5, width=40, inner=24)
    machine, cycles = MACHINES[name], set()
    for given in inputs:
        run = run_checked(model, machine, given, precision=precision)
        assert_close(run.outputs, {"y": by_hand(constants, given)}, error)
        cycles.add(run.program.cycles)
    assert len(cycles) == 1
    assert BY_NAME["gather"].opcode in run.program.code.opcode


def test_chosen_experts_take_a_part_of_the_time_of_all() -> None:
    """Of eight experts two are computed; weights that fill a chip stay bytes."""
    model, constants, inputs = one_token(experts=8, width=64, inner=64)
    assert constants["w1"].size + constants["w2"].size > TINY.sram_bytes // 8
    run = run_checked(model, TINY, inputs[1])
    assert_close(run.outputs, {"y": by_hand(constants, inputs[1])}, 4e-3)
    weights = constants["w1"].size + constants["w2"].size
    assert weights <= run.program.info["weight_bytes"] < 1.1 * weights
    both = {name: np.repeat(value, 2, 0) for name, value in inputs[1].items()}
    all_experts = run_checked(one_node(model.graph.node[0], both, constants), TINY, both)
    assert 2 * run.program.cycles < all_experts.program.cycles


@pytest.mark.parametrize("chips", [2, 3])
def test_chosen_experts_are_shared(chips: int) -> None:
    model, constants, inputs = one_token(experts=4, width=96, inner=48)
    run = run_checked(model, TINY, inputs[1], chips=chips)
    assert_close(run.outputs, {"y": by_hand(constants, inputs[1])}, 4e-3)
