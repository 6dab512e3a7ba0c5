"""Attention, rotary embeddings and caches, in ONNX's spelling and in onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.one_node import assert_like_onnxruntime, contrib, node_of, one_node

Array = NDArray[Any]
RNG = np.random.default_rng(11)
INF = np.float32(np.inf)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def attention(operands: str, outputs: str = "y", **given: Any) -> NodeProto:
    return node_of("Attention", operands, outputs, **given)


# -- ONNX's own ------------------------------------------------------------------------------------

B, H, S, T, D = 2, 4, 3, 5, 8
Q, K, V = floats(B, H, S, D), floats(B, 2, T, D), floats(B, 2, T, 4)
HIDDEN = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], np.bool_)
"""A mask whose second row hides all keys: the result there is zero."""
SINGLE = attention("q k v", is_causal=1)
CASES: list[tuple[NodeProto, dict[str, Array]]] = [
    (attention("q k v"), {}),
    (SINGLE, {}),
    (attention("q k v", scale=0.3, softcap=0.7), {}),
    (attention("q k v m"), {"m": floats(S, T)}),
    (attention("q k v m"), {"m": floats(B, 1, S, T)}),
    (attention("q k v m"), {"m": HIDDEN}),
    (attention("q k v m"), {"m": np.where(HIDDEN, 0, -INF).astype(np.float32)}),
    (attention("q k v m", is_causal=1), {"m": HIDDEN[:, :3].copy()}),
    (attention("q k v m - - n", is_causal=1), {"m": HIDDEN, "n": np.array([2, 5])}),
    (attention("q k v - - - n"), {"n": np.array([1, 4])}),
    (
        attention("q k v - pk pv", "y a b", is_causal=1),
        {"pk": floats(B, 2, 4, D), "pv": floats(B, 2, 4, 4)},
    ),
    (attention("q k v", left_window_size=1, right_window_size=1), {}),
    (attention("q k v - - - n", left_window_size=1, is_causal=1), {"n": np.array([3, 5])}),
    (attention("q k v m", "y - - s"), {"m": HIDDEN}),
    *((attention("q k v m", "y - - s", qk_matmul_output_mode=n, softcap=2.0), {"m": HIDDEN})
      for n in range(1, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("node", "more"), CASES)
def test_attention(node: NodeProto, more: dict[str, Array]) -> None:
    """Against onnx's own evaluator: onnxruntime knows neither windows nor every mask."""
    inputs = {"q": Q, "k": K, "v": V, **more}
    model = one_node(node, inputs, opset=25)
    names = [out.name for out in model.graph.output]
    want = dict(zip(names, ReferenceEvaluator(model).run(names, inputs), strict=True))
    have = run_checked(model, MACHINES["tiny"], inputs, precision="exact").outputs
    for name in names:
        np.testing.assert_allclose(have[name], want[name], rtol=1e-4, atol=1e-5)


def test_packed_heads() -> None:
    """[B, S, H * D], with a group of queries for each head of keys."""
    node = attention("q k v", q_num_heads=4, kv_num_heads=2, is_causal=1)
    assert_like_onnxruntime(
        node, {"q": floats(2, 3, 32), "k": floats(2, 3, 16), "v": floats(2, 3, 8)}
    )


def test_attention_in_fp16() -> None:
    """The default precision, on a machine of full size."""
    inputs = {"q": floats(1, 2, 16, 16), "k": floats(1, 2, 16, 16), "v": floats(1, 2, 16, 16)}
    model = one_node(SINGLE, inputs)
    run = run_checked(model, load_machine("lpu-v1"), inputs)
    assert_close(run.outputs, expected(model, inputs), 5e-3)


@pytest.mark.parametrize("body", ["Tanh", "Abs"])
def test_attention_with_a_graph_of_its_own(body: str) -> None:
    """The scores pass through a subgraph, which has a constant of its own."""

    def info(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 3, 4])

    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    nodes = [helper.make_node(body, ["s"], ["t"]), helper.make_node("Mul", ["t", "half"], ["u"])]
    graph = helper.make_graph(nodes, "mod", [info("s")], [info("u")], [half])
    node = helper.make_node(
        "FlexAttention", ["q", "k", "v"], ["y"], domain="ai.onnx.preview", score_mod=graph
    )
    inputs = {"q": floats(1, 2, 3, 8), "k": floats(1, 1, 4, 8), "v": floats(1, 1, 4, 5)}
    model = one_node(node, inputs, opset=26)
    model.opset_import.add(domain="ai.onnx.preview", version=1)
    scores = inputs["q"] @ inputs["k"].swapaxes(2, 3) / np.sqrt(8)
    scores = (np.tanh(scores) if body == "Tanh" else np.abs(scores)) / 2
    weights = np.exp(scores)
    want = (weights / weights.sum(-1, keepdims=True)) @ inputs["v"]
    run = run_checked(model, MACHINES["tiny"], inputs, precision="exact")
    assert_close(run.outputs, {"y": want.astype(np.float32)}, 3e-6)


# -- rotary embeddings -----------------------------------------------------------------------------

CACHES = {"c": np.cos(floats(16, 4)), "s": np.sin(floats(16, 4))}
PLACES = np.array([[0, 1, 2], [5, 3, 9]])


HEADS: dict[str, Any] = {"num_heads": 2, "rotary_embedding_dim": 8}


@pytest.mark.parametrize(
    ("node", "shape", "places", "computed"),
    [
        (contrib("RotaryEmbedding", "x p c s"), (2, 3, 16), PLACES, False),
        (contrib("RotaryEmbedding", "x p c s", interleaved=1), (2, 3, 16), PLACES, True),
        (contrib("RotaryEmbedding", "x p c s"), (2, 2, 3, 8), np.array([4]), True),
        (contrib("RotaryEmbedding", "x p c s", **HEADS), (2, 3, 24), PLACES, False),
        (
            helper.make_node("RotaryEmbedding", ["x", "c", "s", "p"], ["y"], interleaved=1),
            (2, 2, 3, 8),
            PLACES,
            False,
        ),
        (
            helper.make_node("RotaryEmbedding", ["x", "c", "s", "p"], ["y"], num_heads=2),
            (2, 3, 16),
            PLACES,
            True,
        ),
    ],
)
def test_rotary(node: NodeProto, shape: tuple[int, ...], places: Array, computed: bool) -> None:
    """Positions that are constant, and positions that are an input."""
    inputs = {"x": floats(*shape), **({"p": places} if computed else {})}
    constants = {**CACHES, **({} if computed else {"p": places})}
    assert_like_onnxruntime(node, inputs, constants)


# -- onnxruntime's ---------------------------------------------------------------------------------

HIDE = np.array([[0, 0, 0, 0, 0], [1, 0, 1, 0, 0]], np.int32)
MORE: dict[str, Array] = {
    "b": floats(24),
    "lengths": np.array([2, 5], np.int32),
    "m2": HIDE,
    "m5": np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], np.int32),
    "m3": RNG.integers(0, 2, (2, 3, 5)).astype(np.int32),
    "a": floats(1, 2, 3, 5),
    "pk": floats(2, 2, 2, 4),
    "pv": floats(2, 2, 2, 4),
    "k3": floats(2, 3, 8),
    "v3": floats(2, 3, 8),
    "q": floats(2, 3, 8),
    "k": floats(2, 5, 8),
    "v": floats(2, 5, 8),
}
MULTI = "MultiHeadAttention"


@pytest.mark.parametrize(
    "node",
    [
        contrib(MULTI, "q k v b", num_heads=2, scale=0.3),
        contrib(MULTI, "q k v - lengths", num_heads=2),
        contrib(MULTI, "q k v - m2", num_heads=2),
        contrib(MULTI, "q k v - m3 a", num_heads=2, mask_filter_value=-3.0),
        contrib(MULTI, "q k3 v3 - m5 a pk pv", "y x z", num_heads=2, unidirectional=1),
    ],
)
def test_multi_head(node: NodeProto) -> None:
    """A mask that hides every key of a sequence hides none of them, as in onnxruntime."""
    assert_like_onnxruntime(node, {name: MORE[name] for name in node.input if name})


def test_packed_operands() -> None:
    """onnxruntime has them on other devices only."""
    q, k, v = (MORE[name] for name in ("q", "k3", "v3"))
    plain = one_node(contrib(MULTI, "q k v", num_heads=2), {"q": q, "k": k, "v": v})
    want = expected(plain, {"q": q, "k": k, "v": v})
    heads = [n.reshape(2, 3, 2, 4) for n in (q, k, v)]
    for node, inputs in (
        (contrib(MULTI, "q", num_heads=2), {"q": np.stack(heads, 3)}),
        (contrib(MULTI, "q k", num_heads=2), {"q": q, "k": np.stack(heads[1:], 3)}),
    ):
        assert_like_onnxruntime(node, inputs, want=want)


@pytest.mark.parametrize(
    ("node", "more"),
    [
        (contrib("Attention", "x w b", num_heads=2), {}),
        (
            contrib("Attention", "x w b m", num_heads=2, unidirectional=1),
            {"m": np.array([[1, 1, 0], [0, 0, 0]], np.int32)},
        ),
        (contrib("Attention", "x w b m", num_heads=2), {"m": np.array([2, 3, 1, 0], np.int32)}),
        (
            contrib("Attention", "x w b - p", "y n", num_heads=2, unidirectional=1),
            {"p": floats(2, 2, 2, 2, 4)},
        ),
        (contrib("Attention", "x w2 b2", num_heads=2, qkv_hidden_sizes=[8, 8, 4]), {}),
    ],
)
def test_attention_with_its_projections(node: NodeProto, more: dict[str, Array]) -> None:
    given = {"w": floats(6, 24), "b": floats(24), "w2": floats(6, 20), "b2": floats(20)}
    constants = {name: given[name] for name in node.input if name in given}
    assert_like_onnxruntime(node, {"x": floats(2, 3, 6), **more}, constants)


def test_projections_of_integers() -> None:
    rng = np.random.default_rng(5)
    constants: dict[str, Array] = {
        "w": rng.integers(-128, 128, (6, 24)).astype(np.int8),
        "b": floats(24),
        "xs": np.array(0.02, np.float32),
        "ws": np.array(0.01, np.float32),
        "xz": np.array(120, np.uint8),
        "wz": np.array(3, np.int8),
    }
    inputs: dict[str, Array] = {"m": HIDE[:, :3].copy()}
    inputs["x"] = rng.integers(0, 256, (2, 3, 6)).astype(np.uint8)
    node = contrib("QAttention", "x w b xs ws m xz wz", num_heads=2)
    assert_like_onnxruntime(node, inputs, constants)


def grouped(operands: str, **given: Any) -> NodeProto:
    return contrib("GroupQueryAttention", operands, "y x z", num_heads=4, kv_num_heads=2, **given)


PROMPT, STEP = "q k v - - n t c s p a h", "q k v pk pv n t c s p a h"


def operands_of(text: str, more: dict[str, Array]) -> str:
    """The operands that there are; the caches of angles are always given."""
    there = {"q", "k", "v", "pk", "pv", "n", "t", "c", "s", *more}
    return " ".join(name if name in there else "-" for name in text.split())


@pytest.mark.parametrize(
    ("batch", "count", "before", "total", "given", "more"),
    [
        (2, 3, None, 3, {"do_rotary": 1}, {}),
        (1, 3, None, 3, {"do_rotary": 1, "rotary_interleaved": 1, "softcap": 1.5}, {}),
        (1, 5, None, 5, {"local_window_size": 2, "scale": 0.4}, {}),
        (1, 3, None, 3, {"smooth_softmax": 1}, {}),
        (1, 3, None, 3, {}, {"h": floats(4)}),
        (1, 3, None, 3, {"causal": 0}, {"a": floats(1, 4, 3, 3)}),
        (2, 1, 5, 6, {"do_rotary": 1}, {}),
        (1, 1, 8, 5, {"do_rotary": 1, "local_window_size": 3}, {}),
        (1, 1, 8, 5, {"do_rotary": 1}, {"p": np.array([[4]])}),
        (1, 3, 8, 7, {"do_rotary": 1, "local_window_size": 3}, {}),
        (1, 3, 8, 3, {"do_rotary": 1}, {}),
    ],
)
def test_caches(
    batch: int,
    count: int,
    before: int | None,
    total: int,
    given: dict[str, Any],
    more: dict[str, Array],
) -> None:
    """`before` rows of a cache, of which those that are valid are followed by `count` new ones.

    What onnxruntime leaves of a cache beyond that is zero; ours stays as it was.
    """
    width = 16
    valid = np.array([total - 1, total - 2][:batch] if before else [total - 1] * batch, np.int32)
    inputs: dict[str, Array] = {"q": floats(batch, count, 4 * width)}
    inputs |= {name: floats(batch, count, 2 * width) for name in ("k", "v")}
    text = STEP if before else PROMPT
    if before:
        for name in ("pk", "pv"):
            inputs[name] = floats(batch, 2, before, width)
            for b, last in enumerate(valid):
                inputs[name][b, :, 0 if total == count else last + 1 - count :] = 0
    inputs |= {"n": valid, **more}
    constants = {"t": np.array(total, np.int32)}
    angles = floats(16, width // 2)
    constants |= {"c": np.cos(angles), "s": np.sin(angles)}
    node = grouped(operands_of(text, more), **given)
    assert_like_onnxruntime(node, inputs, constants)


def test_refused_forms() -> None:
    inputs = {"q": floats(1, 1, 32), "k": floats(1, 1, 16), "v": floats(1, 1, 16)}
    inputs |= {"pk": floats(1, 2, 4, 8), "pv": floats(1, 2, 4, 8), "n": np.array([2], np.int32)}
    inputs["t"] = np.array(3, np.int32)
    for node, code in (
        (grouped("q k v pk pv n t"), "operand-not-constant"),
        (grouped("q k v pk pv n t", k_quant_type="PER_TENSOR"), "unsupported-form"),
        (contrib(MULTI, "q - - k", num_heads=2), "unsupported-form"),
    ):
        model = one_node(node, inputs)
        with pytest.raises(UnsupportedModel) as caught:
            compile_model(model.SerializeToString(), MACHINES["tiny"], Options())
        assert {d.code for d in caught.value.diagnostics} == {code}
