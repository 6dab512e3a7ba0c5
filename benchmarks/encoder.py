"""BERT as exporters write it, as torch's of today or as those before.

The weights are random, drawn as a fresh BERT draws them, biases and scales somewhat off their
initial zeros and ones, so that none of them can be folded away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from benchmarks.builder import Net

__all__ = ["BASE", "LARGE", "Bert"]

_STD = 0.02
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class Bert:
    """Sizes, and how it is spelled.

    Without `vocabulary` the sum of the embeddings is an input instead of ids. `dynamo`: masks are
    booleans, scores are scaled on both sides, weights that are no numbers guarded against, and
    Gelu is one node; else all of it is arithmetic.
    """

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    inner: int = 3072
    length: int = 128
    vocabulary: int = 30522
    dynamo: bool = True

    def model(self) -> onnx.ModelProto:
        """input_ids and token_type_ids [1, length] (or embeddings [1, length, hidden]) and
        attention_mask [1, length] to last_hidden_state [1, length, hidden] and pooler_output
        [1, hidden]."""
        net = Net("bert")
        ids = (1, self.length)
        x = self._embeddings(net, ids)
        mask = self._mask(net, net.input("attention_mask", ids, "int64"))
        x = self._norm(net, x)
        for _ in range(self.layers):
            x = self._layer(net, x, mask)
        net.output(x, "last_hidden_state", (*ids, self.hidden))
        first = net.op("Gather", x, net.constant(0, dtype="int64"), axis=1)
        weight = net.normal((self.hidden, self.hidden), _STD)
        pooled = net.op("Gemm", first, weight, net.normal((self.hidden,), _STD), transB=1)
        net.output(net.op("Tanh", pooled), "pooler_output", (1, self.hidden))
        return net.model()

    def _embeddings(self, net: Net, ids: tuple[int, int]) -> str:
        if not self.vocabulary:
            return net.input("embeddings", (*ids, self.hidden))
        words = net.normal((self.vocabulary, self.hidden), _STD)
        types = net.normal((2, self.hidden), _STD)
        x = net.op("Gather", words, net.input("input_ids", ids, "int64"), axis=0)
        y = net.op("Gather", types, net.input("token_type_ids", ids, "int64"), axis=0)
        positions = net.normal((1, self.length, self.hidden), _STD)
        return net.op("Add", net.op("Add", x, y), positions)

    def _mask(self, net: Net, mask: str) -> str:
        """0 where a token counts, the least number of float32 where it does not."""
        least = net.constant(np.finfo(np.float32).min)
        if self.dynamo:
            truth = net.op("Cast", mask, to=onnx.TensorProto.BOOL)
            columns = np.arange(self.length)
            places = np.stack([np.zeros_like(columns), columns], -1)[None, None, None]
            rows = net.constant(np.ones((1, 1, self.length, 1)), dtype="bool")
            kept = net.op("GatherND", truth, net.constant(places, dtype="int64"))
            return net.op("Where", net.op("And", rows, kept), net.constant(0.0), least)
        axes = net.constant([1, 2], dtype="int64")
        wide = net.op("Cast", net.op("Unsqueeze", mask, axes), to=onnx.TensorProto.FLOAT)
        return net.op("Mul", net.op("Sub", net.constant(1.0), wide), least)

    def _layer(self, net: Net, x: str, mask: str) -> str:
        heads = [self._split(net, self._linear(net, x, self.hidden, self.hidden)) for _ in "qkv"]
        weights = net.op("Softmax", net.op("Add", self._scores(net, *heads[:2]), mask), axis=-1)
        if self.dynamo:
            weights = net.op("Where", net.op("IsNaN", weights), net.constant(0.0), weights)
        mixed = net.op("Transpose", net.op("MatMul", weights, heads[2]), perm=[0, 2, 1, 3])
        flat = net.constant([1, self.length, self.hidden], dtype="int64")
        mixed = net.op("Reshape", mixed, flat)
        x = self._norm(net, net.op("Add", self._linear(net, mixed, self.hidden, self.hidden), x))
        inner = self._gelu(net, self._linear(net, x, self.hidden, self.inner))
        return self._norm(net, net.op("Add", self._linear(net, inner, self.inner, self.hidden), x))

    def _scores(self, net: Net, query: str, key: str) -> str:
        key = net.op("Transpose", key, perm=[0, 1, 3, 2])
        root = (self.hidden // self.heads) ** 0.5
        if not self.dynamo:
            return net.op("Div", net.op("MatMul", query, key), net.constant(root))
        scale = net.constant(root**-0.5)
        return net.op("MatMul", net.op("Mul", query, scale), net.op("Mul", key, scale))

    def _split(self, net: Net, x: str) -> str:
        """[1, L, hidden] to [1, heads, L, hidden / heads]."""
        shape = [1, self.length, self.heads, self.hidden // self.heads]
        apart = net.op("Reshape", x, net.constant(shape, dtype="int64"))
        return net.op("Transpose", apart, perm=[0, 2, 1, 3])

    def _linear(self, net: Net, x: str, k: int, n: int) -> str:
        product = net.op("MatMul", x, net.normal((k, n), _STD))
        return net.op("Add", net.normal((n,), _STD), product)

    def _norm(self, net: Net, x: str) -> str:
        scale, bias = net.normal((self.hidden,), 0.1, mean=1.0), net.normal((self.hidden,), 0.1)
        return net.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=_EPSILON)

    def _gelu(self, net: Net, x: str) -> str:
        if self.dynamo:
            return net.op("Gelu", x, approximate="none")
        part = net.op("Erf", net.op("Div", x, net.constant(2.0**0.5)))
        whole = net.op("Mul", x, net.op("Add", part, net.constant(1.0)))
        return net.op("Mul", whole, net.constant(0.5))


BASE = Bert()
"""BERT-base at a sequence of 128."""

LARGE = Bert(layers=24, hidden=1024, heads=16, inner=4096)
"""BERT-Large at the same."""
