"""Mixtures of experts against onnxruntime: routing, activations, weights of few bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.endtoend import expected
from tests.support.one_node import assert_like_onnxruntime, contrib, one_node

Array = NDArray[Any]
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
