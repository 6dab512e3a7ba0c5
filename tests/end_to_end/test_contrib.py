"""onnxruntime's fused operators against its kernels: activations, products, norms, weights."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import MalformedFile, UnsupportedModel
from tests.support.machines import MACHINES
from tests.support.one_node import assert_like_onnxruntime, contrib, one_node

Array = NDArray[Any]
RNG = np.random.default_rng(4)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


X, BIAS = floats(2, 3, 8), floats(8)


@pytest.mark.parametrize(
    "node",
    [
        contrib("Gelu", "x"),
        contrib("BiasGelu", "x b"),
        contrib("FastGelu", "x"),
        contrib("FastGelu", "x b"),
        contrib("QuickGelu", "x"),
        contrib("QuickGelu", "x", alpha=1.0),
        contrib("QuickGelu", "x", alpha=0.3),
    ],
)
def test_activations(node: NodeProto) -> None:
    given = {"x": X, "b": BIAS}
    assert_like_onnxruntime(node, {name: given[name] for name in node.input})


def test_split_gelu() -> None:
    """onnxruntime has it on other devices only."""
    x, bias = floats(2, 3, 16), floats(16)
    left, right = np.split((x + bias).astype(np.float64), 2, -1)
    want = left * right * 0.5 * (1 + np.vectorize(math.erf)(right / math.sqrt(2)))
    node = contrib("BiasSplitGelu", "x b")
    assert_like_onnxruntime(node, {"x": x, "b": bias}, want={"y": want.astype(np.float32)})


@pytest.mark.parametrize(
    ("a", "b", "given"),
    [
        ((2, 5, 3), (2, 5, 4), {"transA": 1, "alpha": 0.5}),
        ((3, 5), (4, 5), {"transB": 1}),
        ((3, 2, 4, 5), (2, 4, 5, 6), {"transBatchA": 1}),
        ((5, 2, 3), (4, 2, 5), {"transBatchA": 1, "transA": 1, "transBatchB": 1, "transB": 1}),
    ],
)
def test_products(a: tuple[int, ...], b: tuple[int, ...], given: dict[str, Any]) -> None:
    node = contrib("FusedMatMul", "a b", **given)
    assert_like_onnxruntime(node, {"a": floats(*a), "b": floats(*b)})


@pytest.mark.parametrize(
    "given",
    [
        {"activation": "Relu"},
        {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1},
        {"activation": "Tanh", "alpha": 0.5, "beta": 0.2},
    ],
)
def test_gemm_with_an_activation(given: dict[str, Any]) -> None:
    b = floats(4, 5) if "transB" in given else floats(5, 4)
    node = contrib("FusedGemm", "a b c", **given)
    assert_like_onnxruntime(node, {"a": floats(3, 5)}, {"b": b, "c": floats(4)})


@pytest.mark.parametrize(
    ("operands", "given"),
    [
        ("x w b", {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}),
        ("x w b z", {"activation": "Relu"}),
        ("x w", {"activation": "Clip", "activation_params": [-0.3, 0.4]}),
    ],
)
def test_convolutions_with_an_activation(operands: str, given: dict[str, Any]) -> None:
    inputs = {"x": floats(1, 2, 4, 4), "z": floats(1, 3, 4, 4)}
    node = contrib("FusedConv", operands, kernel_shape=[3, 3], pads=[1, 1, 1, 1], **given)
    constants = {"w": floats(3, 2, 3, 3), "b": floats(3)}
    assert_like_onnxruntime(
        node,
        {n: inputs[n] for n in node.input if n in inputs},
        {n: constants[n] for n in node.input if n in constants},
    )


@pytest.mark.parametrize(
    "node",
    [
        contrib("SkipLayerNormalization", "x s g b c", "y - - sum", epsilon=1e-5),
        contrib("SkipLayerNormalization", "x row g"),
        contrib("SkipSimplifiedLayerNormalization", "x s g", "y - - sum"),
        contrib("SkipSimplifiedLayerNormalization", "x s g c"),
    ],
)
def test_sums_that_are_normalised(node: NodeProto) -> None:
    given = {"x": X, "s": floats(2, 3, 8), "row": floats(3, 8), "g": floats(8)}
    given |= {"b": BIAS, "c": floats(8)}
    assert_like_onnxruntime(node, {name: given[name] for name in node.input})


@pytest.mark.parametrize(
    ("op", "operands", "opset"),
    [
        ("SimplifiedLayerNormalization", ["x", "g"], 17),
        ("LayerNormalization", ["x", "g", "b"], 12),
    ],
)
def test_norms_that_onnx_did_not_have(op: str, operands: list[str], opset: int) -> None:
    """onnxruntime has them in ONNX's domain at any opset."""
    node = helper.make_node(op, operands, ["y"], axis=-1, epsilon=1e-6)
    given = {"x": X, "g": floats(8), "b": BIAS}
    assert_like_onnxruntime(node, {name: given[name] for name in operands}, opset=opset)


def test_embeddings() -> None:
    """Words and segments looked up, with a count of the words that are not masked."""
    ids = np.array([[3, 0, 9], [5, 5, 1]], np.int32)
    node = contrib("EmbedLayerNormalization", "ids seg w p s g b m", "y count")
    assert_like_onnxruntime(
        node,
        {"ids": ids, "seg": ids // 5, "m": np.array([[1, 1, 0], [1, 1, 1]], np.int32)},
        {"w": floats(10, 8), "p": floats(5, 8), "s": floats(2, 8), "g": BIAS, "b": BIAS},
        kinds={"count": "int32"},
    )


def test_embeddings_of_integers() -> None:
    rng = np.random.default_rng(6)
    sizes = {"w": (10, 8), "p": (5, 8), "s": (2, 8), "g": (8,), "b": (8,)}
    constants: dict[str, Array] = {}
    for k, (name, shape) in enumerate(sizes.items()):
        constants[name] = rng.integers(0, 256, shape).astype(np.uint8)
        constants[f"{name}s"] = np.array(0.01 + k / 300, np.float32)
        constants[f"{name}z"] = np.array(120 + k, np.uint8)
    ids = np.array([[3, 0, 9], [5, 5, 1]], np.int32)
    inputs = {"ids": ids, "seg": ids // 5, "m": (ids > 0).astype(np.int32)}
    text = "ids seg w p s g b m ws ps ss gs bs wz pz sz gz bz"
    node = contrib("QEmbedLayerNormalization", text, "y count")
    assert_like_onnxruntime(node, inputs, constants, kinds={"count": "int32"})


@pytest.mark.parametrize(
    ("bits", "zeros"),
    [
        (2, "none"),
        (4, "none"),
        (8, "none"),
        (2, "packed"),
        (4, "packed"),
        (8, "packed"),
        (4, "float"),
    ],
)
def test_packed_weights(bits: int, zeros: str) -> None:
    """40 elements are three blocks of 16, the last not full."""
    depth, columns, block, blocks = 40, 5, 16, 3
    constants: dict[str, Array] = {
        "B": RNG.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8),
        "s": RNG.random((columns, blocks)).astype(np.float32),
    }
    if zeros == "packed":
        shape = (columns, -(-blocks * bits // 8))
        constants["z"] = RNG.integers(0, 256, shape).astype(np.uint8)
    elif zeros == "float":
        constants["z"] = floats(columns, blocks) + (1 << bits - 1)
    operands = "x B s z" if "z" in constants else "x B s"
    size: dict[str, Any] = {"K": depth, "N": columns, "block_size": block}
    node = contrib("MatMulNBits", operands, bits=bits, accuracy_level=1, **size)
    assert_like_onnxruntime(node, {"x": floats(2, 3, depth)}, constants, rtol=1e-5)


@pytest.mark.parametrize("kind", ["int4", "uint4", "packed"])
def test_packed_tables(kind: str) -> None:
    """Rows looked up by indices that are an input."""
    constants: dict[str, Array] = {"s": RNG.random((6, 2)).astype(np.float32)}
    if kind == "packed":
        constants["d"] = RNG.integers(0, 256, (6, 16)).astype(np.uint8)
        constants["z"] = RNG.integers(0, 256, (6, 1)).astype(np.uint8)
    else:
        dtype = getattr(ml_dtypes, kind)
        constants["d"] = RNG.integers(0, 8, (6, 32)).astype(dtype)
        constants["z"] = RNG.integers(0, 8, (6, 2)).astype(dtype)
    given: dict[str, Any] = {"block_size": 16, "quantize_axis": 1, "gather_axis": 0, "bits": 4}
    node = contrib("GatherBlockQuantized", "d i s z", **given)
    assert_like_onnxruntime(node, {"i": np.array([[5, 0, 2]])}, constants)


@pytest.mark.parametrize(
    ("node", "code"),
    [
        (contrib("FusedGemm", "x x", transB=1, activation="Softplus"), "unsupported-form"),
        (contrib("SkipLayerNormalization", "x x b", "y mean"), "unsupported-form"),
        (contrib("MatMulNBits", "x b b", K=8, N=8, block_size=16), "operand-not-constant"),
        (contrib("NoSuchOperator", "x b"), "unsupported-operator"),
    ],
)
def test_refusals(node: NodeProto, code: str) -> None:
    model = one_node(node, {"x": X[0], "b": floats(8)})
    with pytest.raises(UnsupportedModel) as caught:
        compile_model(model.SerializeToString(), MACHINES["tiny"], Options())
    assert {d.code for d in caught.value.diagnostics} == {code}


@pytest.mark.parametrize(
    "node",
    [
        contrib("FusedMatMul", "x"),
        contrib("BiasGelu", "- -"),
        contrib("QuickGelu", "x", alpha="a"),
        contrib("MatMulNBits", "x b b", K=[1], N=8, block_size=16),
        contrib("MultiHeadAttention", "x x x", num_heads=2.5),
        contrib("MultiHeadAttention", "b b b", num_heads=2),
        contrib("FusedGemm", "x x x", transB=1),
        contrib("FusedConv", "x b"),
        contrib("SkipLayerNormalization", "x s g"),
    ],
)
def test_what_makes_no_sense(node: NodeProto) -> None:
    """onnx's checker knows nothing of these operators."""
    model = one_node(node, {"x": floats(3, 8), "b": floats(8), "s": floats(2, 8), "g": floats(8)})
    with pytest.raises(MalformedFile):
        compile_model(model.SerializeToString(), MACHINES["tiny"], Options())
