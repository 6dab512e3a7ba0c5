"""Quantized chains: layers between QuantizeLinear and DequantizeLinear, as quantizers write them.

Such layers are multiplied in int8 and judged by the exact rule: every quantized tensor is within
one step of exact arithmetic on the quantized tensors before it. The float rule of `bounds` allows
fp16 in between, which would hide an error of that size.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from fuzz.builder import ELEMENTS, Array, Graph
from tests.support.oracle import expose_quantized, layerwise

__all__ = ["chain", "steps_off"]


def chain(g: Graph) -> ModelProto:
    """x -> [Q, DQ, product with a quantized constant, bias, activation]... -> Q."""
    width, rows = g.size(), g.integer(1, 9)
    x = g.fresh((rows, width), "float32", constant=False)
    for _ in range(g.integer(1, 3)):
        x, _ = _quantized(g, x)
        n = min(g.size(), ELEMENTS // width)
        x, width = _layer(g, x, width, n), n
    _, last = _quantized(g, x)
    return expose_quantized(g.model([last]))


def _quantized(g: Graph, x: str) -> tuple[str, str]:
    """Through eight bits and back: the float tensor, and the quantized one."""
    dtype = g.choose("int8", "uint8")
    scale = g.constant(np.asarray(g.choose(0.05, 1 / 127, 0.02, 0.25, 1.0), np.float32))
    zero = g.constant(np.asarray((0 if dtype == "int8" else 128) + g.integer(-9, 9)).astype(dtype))
    small = g.node("QuantizeLinear", [x, scale, zero])
    return g.node("DequantizeLinear", [small, scale, zero]), small


def _layer(g: Graph, x: str, k: int, n: int) -> str:
    form = g.choose("matmul", "gemm", "transposed")
    per_channel = g.flag()
    shape = (n, k) if form == "transposed" else (k, n)
    axis = 0 if form == "transposed" else 1
    rng = np.random.default_rng(g.integer(0, 999))
    scale = rng.uniform(0.002, 0.02, (n,) if per_channel else ()).astype(np.float32)
    zero = g.constant(np.zeros(scale.shape, np.int8))
    values = g.constant(rng.integers(-127, 128, shape).astype(np.int8))
    weight = g.node("DequantizeLinear", [values, g.constant(scale), zero], axis=axis)
    bias = g.constant((rng.normal(size=n) / 4).astype(np.float32))
    if form == "matmul":
        x = g.node("MatMul", [x, weight])
        x = g.node("Add", [x, bias]) if g.flag() else x
    else:
        x = g.node("Gemm", [x, weight, bias], transB=int(form == "transposed"))
    op = g.choose("", "Relu", "Sigmoid", "Tanh", "LeakyRelu")
    return g.node(op, [x]) if op else x


def steps_off(model: ModelProto, inputs: dict[str, Array], outputs: dict[str, Array]) -> list[str]:
    """Quantized outputs more than one step from the exact ones, a sentence each."""
    problems = []
    for name, want in layerwise(model, inputs, outputs).items():
        off = np.abs(outputs[name].astype(np.int64) - want.astype(np.int64)).max(initial=0)
        if off > 1:
            problems.append(f"{name}: {off} steps from exact arithmetic")
    return problems
