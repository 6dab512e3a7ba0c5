"""Products of int8 matrices, x [m, k] by constant weights [k, n], in the spellings that files have.

To add a spelling, add a function to `SPELLINGS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx

from benchmarks.builder import Net

__all__ = ["SPELLINGS", "product"]

_STEP = 1 / 64
"""The scale of x; that of the weights makes y about as large as x."""


def product(spelling: str, m: int, k: int = 4096, n: int = 4096) -> onnx.ModelProto:
    """x [m, k] to y [m, n]; `spelling` is a key of `SPELLINGS`, and says of which types."""
    net = Net(f"matmul-{spelling}")
    weight = net.constant(net.rng.integers(-128, 128, (k, n)), "w", dtype="int8")
    SPELLINGS[spelling](net, weight, m, k, n)
    return net.model()


def _integer(net: Net, weight: str, m: int, k: int, n: int) -> None:
    """int8 to int32."""
    y = net.op("MatMulInteger", net.input("x", (m, k), "int8"), weight)
    net.output(y, "y", (m, n), "int32")


def _linear(net: Net, weight: str, m: int, k: int, n: int) -> None:
    """int8 to int8, the scales and zero points operands of one node."""
    step, zero = net.constant(_STEP), net.constant(0, dtype="int8")
    scale = net.constant(_weight_scale(k))
    operands = [net.input("x", (m, k), "int8"), step, zero, weight, scale, zero, step, zero]
    net.output(net.op("QLinearMatMul", *operands), "y", (m, n), "int8")


def _qdq(net: Net, weight: str, m: int, k: int, n: int) -> None:
    """int8 to int8, a MatMul with its operands dequantized and its result quantized."""
    step, zero = net.constant(_STEP), net.constant(0, dtype="int8")
    x = net.op("DequantizeLinear", net.input("x", (m, k), "int8"), step, zero)
    w = net.op("DequantizeLinear", weight, net.constant(_weight_scale(k)), zero)
    net.output(net.op("QuantizeLinear", net.op("MatMul", x, w), step, zero), "y", (m, n), "int8")


SPELLINGS: dict[str, Callable[[Net, str, int, int, int], None]] = {
    "integer": _integer,
    "qlinear": _linear,
    "qdq": _qdq,
}


def _weight_scale(k: int) -> float:
    return 1 / (148.0 * math.sqrt(k))
