"""One step of an LSTM in int8, in the spellings that files have.

x, h and c are float32 inputs, h and c of the next step outputs; weights are int8, and so is what
is multiplied with them. To add a spelling, add a function to `SPELLINGS`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from benchmarks.builder import Net

__all__ = ["SPELLINGS", "lstm"]

_STEP = 1 / 127
"""The scale of x and h: both lie in [-1, 1]."""


def lstm(spelling: str, size: int, batch: int) -> onnx.ModelProto:
    """`size` inputs and as many states, `batch` independent rows; a key of `SPELLINGS`."""
    net = Net(f"lstm-{spelling}")
    SPELLINGS[spelling](net, size, batch)
    return net.model()


def _qdq(net: Net, size: int, batch: int) -> None:
    """One product of [x, h] with [W; R], QuantizeLinear and DequantizeLinear about it."""
    x, h, c = (net.input(name, (batch, size)) for name in ("x", "h", "c"))
    both = _rounded(net, net.op("Concat", x, h, axis=1))
    weight = _dequantized(net, _weight(net, (2 * size, 4 * size)), size)
    gates = net.op("Add", net.op("MatMul", both, weight), net.normal((4 * size,), 0.1))
    _cell(net, gates, c, size, batch)


def _integer(net: Net, size: int, batch: int) -> None:
    """The same product as a MatMulInteger, whose int32 sums are scaled by a Mul."""
    x, h, c = (net.input(name, (batch, size)) for name in ("x", "h", "c"))
    scale, zero = net.constant(_STEP), net.constant(0, dtype="int8")
    both = net.op("QuantizeLinear", net.op("Concat", x, h, axis=1), scale, zero)
    sums = net.op("MatMulInteger", both, _weight(net, (2 * size, 4 * size)))
    whole = net.op("Cast", sums, to=onnx.TensorProto.FLOAT)
    scaled = net.op("Mul", whole, net.constant(_STEP * _weight_scale(size)))
    _cell(net, net.op("Add", scaled, net.normal((4 * size,), 0.1)), c, size, batch)


def _node(net: Net, size: int, batch: int) -> None:
    """An LSTM node of one time step, its operands quantized and dequantized before it."""
    x, h, c = _states(net, size, batch)
    weights = [_dequantized(net, _weight(net, (1, 4 * size, size)), size) for _ in "WR"]
    bias = net.normal((1, 8 * size), 0.1)
    operands = [_rounded(net, x), *weights, bias, "", _rounded(net, h), c]
    _out(net, net.ops("LSTM", operands, 3, hidden_size=size), size, batch)


def _dynamic(net: Net, size: int, batch: int) -> None:
    """onnxruntime's DynamicQuantizeLSTM, which finds the scales of x and h when it runs."""
    x, h, c = _states(net, size, batch)
    w, r = (_weight(net, (1, size, 4 * size)) for _ in "WR")
    scale, zero = _weight_scale(size), net.constant([0], dtype="int8")
    scales = [net.constant([scale]), zero, net.constant([scale]), zero]
    operands = [x, w, r, net.normal((1, 8 * size), 0.1), "", h, c, "", *scales]
    domain = "com.microsoft"
    results = net.ops("DynamicQuantizeLSTM", operands, 3, hidden_size=size, domain=domain)
    _out(net, results, size, batch)


SPELLINGS: dict[str, Callable[[Net, int, int], None]] = {
    "node": _node,
    "qdq": _qdq,
    "integer": _integer,
    "dynamic": _dynamic,
}


def _weight_scale(size: int) -> float:
    """With it the gates have a deviation of about one half for x and h of one."""
    return float(np.float32(0.5 / 73.6 / (2 * size) ** 0.5))


def _weight(net: Net, shape: tuple[int, ...]) -> str:
    return net.constant(net.rng.integers(-127, 128, shape), dtype="int8")


def _dequantized(net: Net, weight: str, size: int) -> str:
    scale, zero = net.constant(_weight_scale(size)), net.constant(0, dtype="int8")
    return net.op("DequantizeLinear", weight, scale, zero)


def _rounded(net: Net, x: str) -> str:
    scale, zero = net.constant(_STEP), net.constant(0, dtype="int8")
    return net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)


def _cell(net: Net, gates: str, c: str, size: int, batch: int) -> None:
    """Gates i, o, f, c as ONNX orders them."""
    i, o, f, g = net.ops("Split", [gates], 4, axis=1, num_outputs=4)
    kept = net.op("Mul", net.op("Sigmoid", f), c)
    fresh = net.op("Mul", net.op("Sigmoid", i), net.op("Tanh", g))
    state = net.op("Add", kept, fresh)
    shown = net.op("Mul", net.op("Sigmoid", o), net.op("Tanh", state))
    net.output(shown, "h_out", (batch, size))
    net.output(state, "c_out", (batch, size))


def _states(net: Net, size: int, batch: int) -> list[str]:
    return [net.input(name, (1, batch, size)) for name in ("x", "h", "c")]


def _out(net: Net, results: list[str], size: int, batch: int) -> None:
    _, h, c = results
    net.output(h, "h_out", (1, batch, size))
    net.output(c, "c_out", (1, batch, size))
