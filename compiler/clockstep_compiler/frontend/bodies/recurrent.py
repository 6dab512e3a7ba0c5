"""LSTM, GRU and RNN unrolled: one product for the inputs of all time steps, then step by step.

What the three have in common, directions, lengths, layouts and outputs, is `_Layer`; what one step
does is a cell of `cells`. To add one, write a function marked `@composes`.

Rows at or beyond the length of their sequence keep their state and put out zeros. As onnxruntime
does, `clip` leaves alone what an LSTM's last activation is applied to, and the final states of a
sequence of length zero are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clockstep_compiler.frontend.bodies.activations import activations
from clockstep_compiler.frontend.bodies.cells import (
    Cell,
    Floats,
    Gru,
    Lstm,
    Quantized,
    Rnn,
    State,
    Weights,
)
from clockstep_compiler.frontend.body import Body, Refused, composes
from clockstep_compiler.frontend.infer import Mismatch

__all__ = ["dynamic_quantize_lstm", "gru", "lstm", "rnn"]


class _Layer:
    """One node: its sizes, its operands taken apart, its outputs put together."""

    def __init__(self, body: Body, gates: int, defaults: tuple[str, ...]) -> None:
        self.body, self.gates = body, gates
        direction = body.attribute("direction", "forward")
        if direction not in ("forward", "reverse", "bidirectional"):
            raise Mismatch(f"there is no direction {direction!r}")
        self.reverse = {"forward": [False], "reverse": [True]}.get(direction, [False, True])
        self.batch_first = bool(body.attribute("layout", 0))
        self.x, self.w, self.r, self.b, self.lengths = body.inputs(5)
        shape = body.shape(self.x)
        if len(shape) != 3 or len(body.shape(self.r)) != 3:
            raise Mismatch(f"X has {len(shape)} axes, R {len(body.shape(self.r))}, not 3")
        if self.batch_first:
            shape = shape[1], shape[0], shape[2]
        self.steps, self.batch, self.depth = shape
        self.hidden = body.attribute("hidden_size") or body.shape(self.r)[2]
        if 0 in (*shape, self.hidden):
            raise Refused("unsupported-form", "an axis of X or R is empty")
        self.functions = activations(body, defaults, self.directions)
        self.expect(self.b, (self.directions, 2 * gates * self.hidden))
        self.expect(self.lengths, (self.batch,), "int32")

    @property
    def directions(self) -> int:
        return len(self.reverse)

    def expect(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> None:
        """Check an operand, which may be absent; `dtype` "" is any, None that of X."""
        body, dtype = self.body, self.body.dtype(self.x) if dtype is None else dtype
        if name and body.shape(name) != shape:
            raise Mismatch(f"{name!r} has shape {body.shape(name)}, not {shape}")
        if name and dtype and body.dtype(name) != dtype:
            raise Mismatch(f"{name!r} is {body.dtype(name)}, not {dtype}")

    def parts(self, name: str, count: int) -> list[tuple[str, ...]]:
        """An operand [directions, count * n, ...] as `count` parts of each direction."""
        body, shape = self.body, self.body.shape(name)
        rows = self.directions * count
        flat = body.reshape(name, (self.directions * shape[1], *shape[2:]))
        sizes = body.constant([self.directions * shape[1] // rows] * rows)
        every = body.ops("Split", [flat, sizes], rows, axis=0) if rows > 1 else (flat,)
        return [every[i : i + count] for i in range(0, rows, count)]

    def floats(self) -> tuple[list[Floats], list[Floats]]:
        """The weights of the inputs and of the state, for each direction."""
        rows = self.gates * self.hidden
        self.expect(self.w, (self.directions, rows, self.depth))
        self.expect(self.r, (self.directions, rows, self.hidden))
        return (
            [Floats(self.body, part) for part in self.parts(self.w, self.gates)],
            [Floats(self.body, part) for part in self.parts(self.r, self.gates)],
        )

    def quantized(self, name: str, scale: str, zero: str, depth: int) -> list[Quantized]:
        """Weights of integers, [directions, depth, gates * hidden], for each direction."""
        body, columns = self.body, self.gates * self.hidden
        self.expect(name, (self.directions, depth, columns), "")
        return [
            Quantized(body, self._gates(name, d), self._gates(scale, d), self._gates(zero, d))
            for d in range(self.directions)
        ]

    def _gates(self, name: str, direction: int) -> tuple[str, ...]:
        """The parts of one direction along the last axis; a value for all of it is each's."""
        body, columns = self.body, self.gates * self.hidden
        part = body.take(name, 0, direction)
        if not body.shape(part):
            return (part,) * self.gates
        if body.shape(part)[-1] != columns:
            raise Mismatch(f"{name!r} has shape {body.shape(name)}; its last axis is not {columns}")
        sizes = body.constant([self.hidden] * self.gates)
        return body.ops("Split", [part, sizes], self.gates, axis=-1)

    def biases(self, apart: bool = False) -> list[tuple[list[str], str]]:
        """What is added to the inputs, one a gate, and apart the last gate's of the state."""
        if not self.b:
            return [([""] * self.gates, "")] * self.directions
        found = []
        for every in self.parts(self.b, 2 * self.gates):
            added, state = every[: self.gates], every[self.gates :]
            sums = [self.body.op("Add", *pair) for pair in zip(added, state, strict=True)]
            found.append(([*sums[:-1], added[-1]], state[-1]) if apart else (sums, ""))
        return found

    def initial(self, name: str) -> list[str]:
        """A state of each direction before the first step; "" where it is zero."""
        body, axis = self.body, int(self.batch_first)
        shape = [self.batch, self.hidden]
        shape.insert(axis, self.directions)
        self.expect(name, tuple(shape))
        value = body.value(name)
        if not name or (value is not None and not value.any()):
            return [""] * self.directions
        return [body.take(name, axis, d) for d in range(self.directions)]

    def inputs(self, weights: Sequence[Weights], biases: Sequence[list[str]]) -> list[list[State]]:
        """For each direction and step the products of the inputs, one a gate."""
        body = self.body
        x = body.transpose(self.x, (1, 0, 2)) if self.batch_first else self.x
        rows = body.reshape(x, (self.steps * self.batch, self.depth))
        found = []
        for part, bias in zip(weights, biases, strict=True):
            gates = [self._cut(part.product(rows, k, bias[k])) for k in range(self.gates)]
            found.append(list(zip(*gates, strict=True)))
        return found

    def _cut(self, rows: str) -> tuple[str, ...]:
        if self.steps == 1:
            return (rows,)
        sizes = self.body.constant([self.batch] * self.steps)
        return self.body.ops("Split", [rows, sizes], self.steps, axis=0)

    # -- the steps ---------------------------------------------------------------------------------

    def run(
        self,
        cells: Sequence[Cell],
        inputs: Sequence[Sequence[Sequence[str]]],
        states: Sequence[State],
    ) -> None:
        """All steps of all directions, and the outputs."""
        masks = self.masks()
        every, finals = [], []
        for d, (cell, state) in enumerate(zip(cells, states, strict=True)):
            order = range(self.steps - 1, -1, -1) if self.reverse[d] else range(self.steps)
            outputs = [""] * self.steps
            for t in order:
                outputs[t], state = self._step(cell, inputs[d][t], state, masks[t])
            every.append(outputs)
            finals.append([self._select(masks[0], s, "") for s in state])
        if self.body.wants(0):
            self._give_all(every)
        for k, across in enumerate(zip(*finals, strict=True), 1):
            if self.body.wants(k):
                self._give_final(k, across)

    def _step(
        self, cell: Cell, inputs: Sequence[str], state: State, mask: str | None
    ) -> tuple[str, State]:
        if mask is None:
            return "", state
        new = cell.step(inputs, state)
        kept = zip(new, state, strict=True)
        return self._select(mask, new[0], ""), tuple(self._select(mask, *pair) for pair in kept)

    def masks(self) -> list[str | None]:
        """For each step which rows still run: "" all, None none, else a bool [batch, 1]."""
        body = self.body
        if not self.lengths:
            return [""] * self.steps
        value = body.value(self.lengths)
        if value is None:
            column = body.reshape(self.lengths, (self.batch, 1))
            return [
                body.op("Less", body.constant(t, np.dtype(body.dtype(column))), column)
                for t in range(self.steps)
            ]
        known = value.astype(np.int64)
        if known.min() < 0 or known.max() > self.steps:
            raise Mismatch(f"a sequence length is not within 0 and {self.steps}")
        rows = [(known > t).reshape(-1, 1) for t in range(self.steps)]
        return [
            "" if row.all() else body.constant(row, np.bool_) if row.any() else None for row in rows
        ]

    def _select(self, mask: str | None, new: str, old: str) -> str:
        """`new` where the mask is set, else `old`; "" is zero."""
        if mask is None or not new:
            return old if mask is None else new
        if not mask or new == old:
            return new
        return self.body.op("Where", mask, new, old or self.body.like(0.0, new))

    # -- outputs -----------------------------------------------------------------------------------

    def _zeros(self) -> str:
        zeros = self.body.constant(np.zeros((self.batch, self.hidden)), np.float32)
        return self.body.cast(zeros, self.body.dtype(self.x))

    def _joined(self, names: Sequence[str]) -> str:
        names = [name or self._zeros() for name in names]
        return self.body.op("Concat", *names, axis=0) if len(names) > 1 else names[0]

    def _give_all(self, every: Sequence[Sequence[str]]) -> None:
        """Y, [steps, directions, batch, hidden] or with the batch first."""
        joined = self._joined([name for across in zip(*every, strict=True) for name in across])
        shape = (self.steps, self.directions, self.batch, self.hidden)
        y = self.body.reshape(joined, shape)
        self.body.give(0, self.body.transpose(y, (2, 0, 1, 3)) if self.batch_first else y)

    def _give_final(self, index: int, across: Sequence[str]) -> None:
        """Y_h or Y_c, [directions, batch, hidden] or with the batch first."""
        y = self.body.reshape(self._joined(across), (self.directions, self.batch, self.hidden))
        self.body.give(index, self.body.transpose(y, (1, 0, 2)) if self.batch_first else y)


# -- the operators ---------------------------------------------------------------------------------


@composes("RNN")
def rnn(body: Body) -> None:
    """Replace an RNN by its steps."""
    layer = _Layer(body, 1, ("Tanh",))
    weights, state = layer.floats()
    inputs = layer.inputs(weights, [bias for bias, _ in layer.biases()])
    cells = [Rnn(body, *pair) for pair in zip(state, layer.functions, strict=True)]
    initial = [(h,) for h in layer.initial(body.inputs(6)[5])]
    layer.run(cells, inputs, initial)


@composes("GRU")
def gru(body: Body) -> None:
    """Replace a GRU by its steps."""
    layer = _Layer(body, 3, ("Sigmoid", "Tanh"))
    weights, state = layer.floats()
    linear = bool(body.attribute("linear_before_reset", 0))
    biases = layer.biases(apart=linear)
    inputs = layer.inputs(weights, [bias for bias, _ in biases])
    cells = [
        Gru(body, part, functions, linear, bias)
        for part, functions, (_, bias) in zip(state, layer.functions, biases, strict=True)
    ]
    initial = [(h,) for h in layer.initial(body.inputs(6)[5])]
    layer.run(cells, inputs, initial)


@composes("LSTM")
def lstm(body: Body) -> None:
    """Replace an LSTM by its steps."""
    layer = _Layer(body, 4, ("Sigmoid", "Tanh", "Tanh"))
    weights, state = layer.floats()
    _run_lstm(layer, weights, state)


def _run_lstm(layer: _Layer, weights: Sequence[Weights], state: Sequence[Weights]) -> None:
    body, (h, c, peepholes) = layer.body, layer.body.inputs(8)[5:]
    inputs = layer.inputs(weights, [bias for bias, _ in layer.biases()])
    layer.expect(peepholes, (layer.directions, 3 * layer.hidden))
    seen = layer.parts(peepholes, 3) if peepholes else [()] * layer.directions
    coupled = bool(body.attribute("input_forget", 0))
    cells = [
        Lstm(body, part, functions, coupled, peephole)
        for part, functions, peephole in zip(state, layer.functions, seen, strict=True)
    ]
    initial = zip(layer.initial(h), layer.initial(c), strict=True)
    layer.run(cells, inputs, list(initial))


@composes("com.microsoft.DynamicQuantizeLSTM")
def dynamic_quantize_lstm(body: Body) -> None:
    """Replace an LSTM of integer weights, which quantizes inputs and states as it goes.

    As onnxruntime does on one thread, all inputs together, and all rows of a state.
    """
    layer = _Layer(body, 4, ("Sigmoid", "Tanh", "Tanh"))
    if layer.lengths and any(mask != "" for mask in layer.masks()):
        problem = "sequences of different lengths share the scale of a state"
        raise Refused("unsupported-form", problem, "give no sequence_lens")
    w_scale, w_zero, r_scale, r_zero = body.inputs(12)[8:]
    weights = layer.quantized(layer.w, w_scale, w_zero, layer.depth)
    _run_lstm(layer, weights, layer.quantized(layer.r, r_scale, r_zero, layer.hidden))
