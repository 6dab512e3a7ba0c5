"""What one step of an LSTM, a GRU or an RNN does, and the weights it does it with.

To add a cell, write a class with `step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from clockstep_compiler.frontend.bodies.activations import Activation
from clockstep_compiler.frontend.body import Body

__all__ = ["Cell", "Floats", "Gru", "Lstm", "Quantized", "Rnn", "State", "Weights"]

State = tuple[str, ...]
"""The hidden state [batch, hidden], an LSTM's cell state after it; "" where it is zero."""


class Weights(Protocol):
    """The matrices of one direction, one a gate."""

    def product(self, rows: str, gate: int, addend: str) -> str:
        """rows @ matrix + addend; "" adds nothing."""


class Cell(Protocol):
    def step(self, inputs: Sequence[str], state: State) -> State:
        """The next state, from the products of the inputs, one a gate, and the last state."""


# -- weights ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Floats:
    """Each matrix is [hidden, depth], as ONNX has them."""

    body: Body
    gates: tuple[str, ...]

    def product(self, rows: str, gate: int, addend: str) -> str:
        addends = [addend] if addend else []
        return self.body.op("Gemm", rows, self.gates[gate], *addends, transB=1)


@dataclass(frozen=True, slots=True)
class Quantized:
    """Each matrix is [depth, hidden], of integers; rows are quantized anew, all with one scale.

    What a zero point of rows takes away is that times the sums of a matrix's columns.
    """

    body: Body
    gates: tuple[str, ...]
    scales: tuple[str, ...]
    zeros: tuple[str, ...]
    made: dict[tuple[str, ...], str] = field(default_factory=dict)

    def product(self, rows: str, gate: int, addend: str) -> str:
        body, matrix, zero = self.body, self.gates[gate], self.zeros[gate]
        if (rows, "integers") not in self.made:
            found = body.ops("DynamicQuantizeLinear", [rows], 3)
            self.made[rows, "integers"], self.made[rows, "scale"] = found[:2]
            self.made[rows, "zero"] = body.cast(found[2], "int32")
        total = body.op("MatMulInteger", self.made[rows, "integers"], matrix, "", zero)
        lost = body.op("Mul", self.made[rows, "zero"], self._sums(matrix, zero))
        real = body.cast(body.op("Sub", total, lost), "float32")
        result = body.op("Mul", real, self._factor(rows, self.scales[gate]))
        return body.op("Add", result, addend) if addend else result

    def _sums(self, matrix: str, zero: str) -> str:
        """The sums of the columns, less the zero point."""
        if (matrix, zero) not in self.made:
            ones = self.body.constant(np.ones((1, self.body.shape(matrix)[0])), np.int8)
            self.made[matrix, zero] = self.body.op("MatMulInteger", ones, matrix, "", zero)
        return self.made[matrix, zero]

    def _factor(self, rows: str, scale: str) -> str:
        """The scale of products."""
        if (rows, scale) not in self.made:
            self.made[rows, scale] = self.body.op("Mul", self.made[rows, "scale"], scale)
        return self.made[rows, scale]


# -- cells -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rnn:
    body: Body
    weights: Weights
    functions: list[Activation]

    def step(self, inputs: Sequence[str], state: State) -> State:
        (x,), (h,) = inputs, state
        return (self.functions[0](self.weights.product(h, 0, x) if h else x),)


@dataclass(frozen=True, slots=True)
class Gru:
    """Gates z, r, h. `bias` is what is added before the reset gate, if that comes after."""

    body: Body
    weights: Weights
    functions: list[Activation]
    linear_before_reset: bool
    bias: str

    def step(self, inputs: Sequence[str], state: State) -> State:
        (h,) = state
        f, g = self.functions
        z, r = (f(self._gate(inputs[k], k, h)) for k in (0, 1))
        new = g(self._hidden(inputs[2], r, h))
        result = self.body.op("Mul", self.body.op("Sub", self.body.like(1.0, z), z), new)
        return (self.body.op("Add", result, self.body.op("Mul", z, h)) if h else result,)

    def _gate(self, x: str, gate: int, h: str) -> str:
        return self.weights.product(h, gate, x) if h else x

    def _hidden(self, x: str, r: str, h: str) -> str:
        body = self.body
        if not self.linear_before_reset:
            return self.weights.product(body.op("Mul", r, h), 2, x) if h else x
        linear = self.weights.product(h, 2, self.bias) if h else self.bias
        return body.op("Add", x, body.op("Mul", r, linear)) if linear else x


@dataclass(frozen=True, slots=True)
class Lstm:
    """Gates i, o, f, c; peepholes, if any, of i, o and f."""

    body: Body
    weights: Weights
    functions: list[Activation]
    input_forget: bool
    peepholes: tuple[str, ...]

    def step(self, inputs: Sequence[str], state: State) -> State:
        body, (h, c) = self.body, state
        f, g, activate = self.functions
        gates = [self.weights.product(h, k, x) if h else x for k, x in enumerate(inputs)]
        i = f(self._seen(gates[0], 0, c))
        new = body.op("Mul", i, g(gates[3]))
        if c:
            forget = self._forget(gates[2], i, c)
            new = body.op("Add", body.op("Mul", forget, c), new)
        o = f(self._seen(gates[1], 1, new))
        return body.op("Mul", o, activate(new)), new

    def _forget(self, gate: str, i: str, c: str) -> str:
        if self.input_forget:
            return self.body.op("Sub", self.body.like(1.0, i), i)
        return self.functions[0](self._seen(gate, 2, c))

    def _seen(self, gate: str, peephole: int, c: str) -> str:
        if not self.peepholes or not c:
            return gate
        body = self.body
        return body.op("Add", gate, body.op("Mul", c, self.peepholes[peephole]))
