"""Write the ONNX graph of a language model of the Llama family, with random weights or none.

The graph is what exporters write: caches of a fixed size as inputs and outputs, and attention as
onnxruntime's GroupQueryAttention (`--attention contrib`) or in ONNX's own operators (`onnx`). To
add a model, add a row to `SIZES`; to add a kind of weights, a method `_<kind>` of `Writer`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
    save_model,
)

__all__ = ["ATTENTION", "FILE", "SIZES", "WEIGHTS", "Sizes", "llama"]

Array = NDArray[Any]
ATTENTION = ("contrib", "onnx")
WEIGHTS = ("float32", "float16", "int8", "int4")

BLOCK = 32
"""Weights that share a scale, of 4-bit weights and of experts of few bits."""

_TYPES = {
    np.dtype(kind): helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for kind in (np.float32, np.float16, np.int8, np.uint8, np.int32, np.int64)
}


@dataclass(frozen=True)
class Sizes:
    """A configuration. `experts` 0: one dense layer; otherwise `active` of them for each token."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    head_size: int = 0
    """Elements of a head; 0: hidden / heads."""
    experts: int = 0
    active: int = 2

    @property
    def width(self) -> int:
        return self.head_size or self.hidden // self.heads


# fmt: off
SIZES = {
    #                       layers hidden heads kv   ffn    vocab
    "tiny":           Sizes(2,     32,    2,    1,   64,    40),
    "tiny-moe":       Sizes(2,     32,    2,    1,   32,    40, experts=4),
    "smollm2-135m":   Sizes(30,    576,   9,    3,   1536,  49152),
    "llama-2-7b":     Sizes(32,    4096,  32,   32,  11008, 32000),
    "llama-2-70b":    Sizes(80,    8192,  64,   8,   28672, 32000),
    "mixtral-8x7b":   Sizes(32,    4096,  32,   8,   14336, 32000, experts=8),
    "gpt-oss-120b":   Sizes(36,    2880,  64,   8,   2880,  201088, 64, experts=128, active=4),
}
# fmt: on


@dataclass
class Writer:
    """Adds nodes and weights of a model that takes `tokens` tokens a run; None: any number, the
    dimension of that name."""

    sizes: Sizes
    context: int
    tokens: int | None
    weights: str
    attention: str
    drawn: bool
    """Whether weights are drawn; otherwise they are said to lie in a file that is not written."""
    seed: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    absent: int = 0
    """Bytes of the file that is not written."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of activations, caches and scales."""
        return np.dtype(np.float16 if self.weights == "float16" else np.float32)

    @property
    def cache(self) -> tuple[int, int, int, int]:
        return (1, self.sizes.kv_heads, self.context, self.sizes.width)

    def model(self) -> ModelProto:
        """`input_ids` [1, tokens] and `position` [1], that of the first of them, to `logits`."""
        x = self._embedded()
        for i in range(self.sizes.layers):
            x = self._layer(i, x)
        x = self._norm(x, "model.norm")
        logits = self._matmul(x, "lm_head", self.sizes.hidden, self.sizes.vocab)
        self._node("Identity", logits, out="logits")
        kind = _TYPES[self.dtype]
        length = self.tokens or "tokens"
        inputs = [_info("input_ids", TensorProto.INT64, (1, length))]
        inputs.append(_info("position", TensorProto.INT64, (1,)))
        outputs = [_info("logits", kind, (1, length, self.sizes.vocab))]
        for i in range(self.sizes.layers):
            for name in ("key", "value"):
                inputs.append(_info(f"past_key_values.{i}.{name}", kind, self.cache))
                outputs.append(_info(f"present.{i}.{name}", kind, self.cache))
        graph = helper.make_graph(self.nodes, "llama", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    # -- parts ---------------------------------------------------------------------------------

    def _embedded(self) -> str:
        s = self.sizes
        table = self._random("model.embed_tokens.weight", (s.vocab, s.hidden), self.dtype, 1.0)
        angles = np.outer(np.arange(self.context), 10000.0 ** -(np.arange(0, s.width, 2) / s.width))
        for name, values in (("cos_cache", np.cos(angles)), ("sin_cache", np.sin(angles))):
            self._constant(name, values.astype(self.dtype))
        if self.tokens:
            self._constant("tokens", np.array([self.tokens]))
        else:
            self._node("Shape", "input_ids", out="tokens", start=1)
        self._node("Add", "position", "tokens", out="length")
        if self.attention == "contrib":
            last = self._node("Sub", "length", self._constant("one", np.array([1])))
            self._node("Cast", last, out="seqlens_k", to=TensorProto.INT32)
            self._constant("total_sequence_length", np.array(self.context, np.int32))
        else:
            self._constant("axis", np.array([1]))
            zero, one = (self._constant(f"{n}", np.array(n)) for n in (0, 1))
            count = self._node("Squeeze", "tokens")
            steps = self._node("Range", zero, count, one)
            first = self._node("Unsqueeze", "position", "axis")
            self._node("Add", first, steps, out="position_ids")
        return self._node("Gather", table, "input_ids", axis=0)

    def _layer(self, i: int, x: str) -> str:
        s, name = self.sizes, f"model.layers.{i}"
        inner = self._norm(x, f"{name}.input_layernorm")
        q, k, v = (
            self._matmul(inner, f"{name}.self_attn.{n}_proj", s.hidden, heads * s.width)
            for n, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads))
        )
        attend = self._grouped if self.attention == "contrib" else self._standard
        y = attend(i, q, k, v)
        y = self._matmul(y, f"{name}.self_attn.o_proj", s.heads * s.width, s.hidden)
        x = self._node("Add", x, y)
        inner = self._norm(x, f"{name}.post_attention_layernorm")
        mixed = self._experts if s.experts else self._dense
        return self._node("Add", x, mixed(f"{name}.mlp", inner))

    def _norm(self, x: str, name: str) -> str:
        scale = self._constant(f"{name}.weight", np.ones(self.sizes.hidden, self.dtype))
        op = "RMSNormalization"
        if self.attention == "contrib":  # the name by which onnxruntime knows it
            op = "SimplifiedLayerNormalization"
        return self._node(op, x, scale, axis=-1, epsilon=1e-5)

    def _dense(self, name: str, x: str) -> str:
        s = self.sizes
        gate, up = (self._matmul(x, f"{name}.{n}_proj", s.hidden, s.ffn) for n in ("gate", "up"))
        gate = self._node("Mul", gate, self._node("Sigmoid", gate))
        return self._matmul(self._node("Mul", gate, up), f"{name}.down_proj", s.ffn, s.hidden)

    def _experts(self, name: str, x: str) -> str:
        s = self.sizes
        scores = self._matmul(x, f"{name}.router", s.hidden, s.experts)
        shape = self._constant(f"{name}.shape", np.array([-1, s.experts]))
        scores = self._node("Reshape", scores, shape)
        shapes = {"fc1": (s.experts, 2 * s.ffn, s.hidden), "fc2": (s.experts, s.hidden, s.ffn)}
        given: dict[str, Any] = {"k": s.active, "activation_type": "swiglu", "swiglu_fusion": 1}
        given |= {"normalize_routing_weights": 1, "domain": "com.microsoft"}
        names = {n: f"{name}.experts.{n}.weight" for n in shapes}
        bits = {"int8": 8, "int4": 4}.get(self.weights)
        if bits is None:
            for n, size in shapes.items():
                self._random(names[n], size, self.dtype, size[2] ** -0.5)
            return self._node("MoE", x, scores, names["fc1"], "", names["fc2"], **given)
        operands = [x, scores]
        for n, size in shapes.items():
            operands += [*self._codes(names[n], size, bits, s.hidden if n == "fc1" else s.ffn), ""]
        given |= {"expert_weight_bits": bits}
        return self._node("QMoE", *operands[:-1], **given)

    def _grouped(self, i: int, q: str, k: str, v: str) -> str:
        past = [f"past_key_values.{i}.{n}" for n in ("key", "value")]
        rest = ["seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"]
        found = [f"model.layers.{i}.attention", f"present.{i}.key", f"present.{i}.value"]
        heads = {"num_heads": self.sizes.heads, "kv_num_heads": self.sizes.kv_heads}
        domain = "com.microsoft"
        node = helper.make_node(
            "GroupQueryAttention",
            [q, k, v, *past, *rest],
            found,
            found[0],
            domain=domain,
            do_rotary=1,
            **heads,
        )
        self.nodes.append(node)
        return found[0]

    def _standard(self, i: int, q: str, k: str, v: str) -> str:
        """New rows take their places in the caches, and those beyond the valid ones are masked."""
        s = self.sizes
        q, k, v = (
            self._in_heads(i, *given)
            for given in (("q", q, s.heads), ("k", k, s.kv_heads), ("v", v, s.kv_heads))
        )
        q, k = (
            self._node("RotaryEmbedding", n, "cos_cache", "sin_cache", "position_ids")
            for n in (q, k)
        )
        for name, new in (("key", k), ("value", v)):
            past, present = f"past_key_values.{i}.{name}", f"present.{i}.{name}"
            self._node("TensorScatter", past, new, "position", out=present, axis=2)
        caches = [f"present.{i}.{n}" for n in ("key", "value")]
        y = self._node("Attention", q, *caches, "", "", "", "length", is_causal=1)
        y = self._node("Transpose", y, perm=[0, 2, 1, 3])
        shape = self._constant(f"merged.{i}", np.array([1, -1, s.heads * s.width]))
        return self._node("Reshape", y, shape)

    def _in_heads(self, i: int, name: str, x: str, heads: int) -> str:
        shape = self._constant(f"heads.{i}.{name}", np.array([1, -1, heads, self.sizes.width]))
        return self._node("Transpose", self._node("Reshape", x, shape), perm=[0, 2, 1, 3])

    # -- products ------------------------------------------------------------------------------

    def _matmul(self, x: str, name: str, depth: int, columns: int) -> str:
        write = {"int8": self._int8, "int4": self._int4}.get(self.weights, self._float)
        return write(x, name, depth, columns)

    def _float(self, x: str, name: str, depth: int, columns: int) -> str:
        weight = self._random(f"{name}.weight", (depth, columns), self.dtype, depth**-0.5)
        return self._node("MatMul", x, weight)

    def _int8(self, x: str, name: str, depth: int, columns: int) -> str:
        """A scale for each column."""
        codes = self._random(f"{name}.weight_quantized", (depth, columns), np.dtype(np.int8), 0)
        scale = np.full(columns, _step(depth, 8), self.dtype)
        scales = self._constant(f"{name}.weight_scale", scale)
        weight = self._node("DequantizeLinear", codes, scales, axis=1)
        return self._node("MatMul", x, weight)

    def _int4(self, x: str, name: str, depth: int, columns: int) -> str:
        """A scale for each block of a column."""
        codes, scales = self._codes(f"{name}.weight", (columns, depth), 4, depth, packed=True)
        given = {"K": depth, "N": columns, "bits": 4, "block_size": BLOCK}
        return self._node("MatMulNBits", x, codes, scales, domain="com.microsoft", **given)

    def _codes(
        self, name: str, shape: tuple[int, ...], bits: int, depth: int, packed: bool = False
    ) -> tuple[str, str]:
        """Codes and scales of weights [..., depth]; `packed`: in blocks, a scale for each."""
        size = depth * bits // 8
        blocks = -(-depth // BLOCK)
        inner = (blocks, BLOCK * bits // 8) if packed else (size,)
        kind = np.dtype(np.uint8)
        codes = self._random(f"{name}_quantized", (*shape[:-1], *inner), kind, 0)
        each = (*shape[:-1], blocks) if packed else shape[:-1]
        scales = np.full(each, _step(depth, bits), self.dtype)
        return codes, self._constant(f"{name}_scale", scales)

    # -- nodes and weights ---------------------------------------------------------------------

    def _node(self, op: str, *operands: str, out: str = "", **given: Any) -> str:
        name = out or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, operands, [name], name, **given))
        return name

    def _constant(self, name: str, values: Array) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def _random(self, name: str, shape: tuple[int, ...], kind: np.dtype[Any], spread: float) -> str:
        """Normal floats of a standard deviation, or evenly spread integers."""
        if not self.drawn:
            return self._absent(name, shape, kind)
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        if kind.kind == "f":
            values = rng.standard_normal(shape, np.float32) * np.float32(spread)
            return self._constant(name, values.astype(kind))
        info = np.iinfo(kind)
        return self._constant(name, rng.integers(info.min, info.max, shape, kind, endpoint=True))

    def _absent(self, name: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> str:
        tensor = TensorProto(name=name, data_type=_TYPES[kind], dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        length = math.prod(shape) * kind.itemsize
        for key, value in (("location", FILE), ("offset", self.absent), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.absent += length
        self.constants.append(tensor)
        return name


FILE = "weights.bin"
"""Where the weights lie, beside the model."""


def _step(depth: int, bits: int) -> float:
    """The scale that gives evenly spread codes the deviation of a layer's weights."""
    return float(12**0.5 / (2**bits * depth**0.5))


def _info(name: str, kind: int, shape: Sequence[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def llama(
    sizes: Sizes,
    *,
    context: int,
    tokens: int | None = 1,
    weights: str = "float32",
    attention: str = "contrib",
    drawn: bool = True,
    seed: int = 0,
) -> ModelProto:
    """The graph of a model that takes `tokens` tokens a run, or any number if None, at any position
    below `context`.

    Random weights are `drawn` from `seed`, or said to lie in a file that is not there.
    """
    return Writer(sizes, context, tokens, weights, attention, drawn, seed).model()


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path, help="MODEL.onnx")
    parser.add_argument("--model", choices=SIZES, default="tiny", help="sizes to begin with")
    for item in dataclasses.fields(Sizes):
        parser.add_argument(f"--{item.name.replace('_', '-')}", type=int, help="another size")
    parser.add_argument("--context", type=int, default=64, help="rows of the caches")
    parser.add_argument("--tokens", type=int, default=1, help="tokens of a run; 0: as bound")
    parser.add_argument("--weights", choices=WEIGHTS, default="float32")
    parser.add_argument("--attention", choices=ATTENTION, default="contrib")
    parser.add_argument("--no-weights", action="store_true", help=f"{FILE} is not written")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    named = {item.name: getattr(given, item.name) for item in dataclasses.fields(Sizes)}
    own = {name: value for name, value in named.items() if value is not None}
    model = llama(
        dataclasses.replace(SIZES[given.model], **own),
        context=given.context,
        tokens=given.tokens or None,
        weights=given.weights,
        attention=given.attention,
        drawn=not given.no_weights,
        seed=given.seed,
    )
    if given.no_weights:
        given.output.write_bytes(model.SerializeToString())
        return
    (given.output.parent / FILE).unlink(missing_ok=True)  # onnx would append to it
    save_model(model, given.output, save_as_external_data=True, location=FILE)


if __name__ == "__main__":
    main()
