"""About how many cycles a chip is at work on its part of a node, and a tensor is on its way.

Only for choosing among ways to share a graph: the schedule says how long one takes. Units are
cycles throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from clockstep_compiler.channels import RENAMING
from clockstep_compiler.graph import Node
from clockstep_compiler.placements import (
    PARTIAL,
    WHOLE,
    Placement,
    Strategy,
    part_of,
    part_shape,
    picks,
)
from clockstep_compiler.shard_rules import View, index_of
from clockstep_isa.machine import Machine

__all__ = ["Costs"]

_HOP = 40
"""Cycles of reading a vector, crossing the chip, and writing it."""

_STEP = 60
"""Cycles from the first operand of a step to its first result."""

_TURN = 300
"""The same where elements come to other lanes: they pass the array."""

_JOIN = 100
"""The same of one vector of elements that come out of other vectors, in place of some of them."""

_PRODUCT = 150
"""The same of a product."""

_PASSES = {"LayerNormalization": 6, "RMSNormalization": 5, "Softmax": 6, "LogSoftmax": 6}
"""How often all rows pass the ALUs."""

_BYTES = {"int8": 1, "uint8": 1, "bool": 1, "int32": 4, "int64": 4, "uint32": 4}
"""Of an element as it is stored, if not two."""

_PRODUCTS = ("ChosenMatMul", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of a graph that is shared by the ranks of `view`."""

    view: View
    machine: Machine
    price: float = 0.0
    """What a word of a constant on every rank counts as, in cycles."""
    _known: dict[tuple[int, Strategy], int] = field(default_factory=dict)
    """What nodes, by their identity, are known to take."""

    def priced(self, node: Node, strategy: Strategy) -> float:
        """What one rank takes for its part of a node, and what its constants count as."""
        held = (
            self.words(name, place)
            for name, place in zip(node.inputs, strategy.inputs, strict=True)
            if name in self.view.graph.constants
        )
        return self.work(node, strategy) + (self.price * sum(held) if self.price else 0)

    def words(self, name: str, place: Placement) -> int:
        """Words of SRAM that the part of a constant takes on every rank, floats in fp16."""
        array = self.view.graph.constants[name]
        shape = part_shape(array.shape, place, self.view.ranks)
        return -(-math.prod(shape) * min(2, array.itemsize) // self.machine.vector)

    def work(self, node: Node, strategy: Strategy) -> int:
        """What one rank takes for its part of a node."""
        key = id(node), strategy
        if key not in self._known:
            self._known[key] = self._work(node, strategy)
        return self._known[key]

    def _work(self, node: Node, strategy: Strategy) -> int:
        view, ranks = self.view, self.view.ranks
        if all(name in view.graph.constants for name in node.inputs if name):
            return 0
        if node.op in _PRODUCTS:
            left, right = (0, 3) if node.op == "QLinearMatMul" else (0, 1)
            shapes = [
                part_shape(view.shape(node.inputs[i]), strategy.inputs[i], ranks)
                for i in (left, right)
            ]
            if node.op == "ChosenMatMul":
                shapes[1] = shapes[1][1:]  # one of them is read
            return _PRODUCT + self._product(node, shapes, strategy)
        found = 0 if node.op in RENAMING else _STEP
        if node.op == "Move" or node.op in RENAMING:
            found += self._fetched(node, strategy) + self._rejoined(node, strategy)
        if node.op == "Take" and node.inputs[0] in view.graph.constants:
            table = part_shape(view.shape(node.inputs[0]), strategy.inputs[0], ranks)
            found += self._vectors(table) * 2 // (2 * self.machine.mxm.install_streams)
        for name in node.outputs:
            shape = part_shape(view.shape(name), strategy.output, ranks)
            found += _PASSES.get(node.op, 1) * self._vectors(shape)
        return found

    def _fetched(self, node: Node, strategy: Strategy) -> int:
        """What the first and the last rank take of others' parts of the source of a move."""
        view, own = self.view, strategy.inputs[0]
        if own < 0 or (strategy.output >= 0 and len(node.inputs) > 1 and node.op == "Move"):
            return 0
        index, shape, size = view.coarse(node)
        last = len(index.shape) - 1, len(shape) - 1
        if size > 1:
            parts = (index.shape[-1], strategy.output == last[0]), (shape[-1], own == last[1])
            if any(split and count % view.ranks for count, split in parts):
                index, shape, size = index_of(view, node), view.shape(node.inputs[0]), 1
        most = 0
        for rank in (0, view.ranks - 1):
            part = part_of(index, strategy.output, rank, view.ranks)
            for pick in picks(part, shape, own, view.ranks, rank):
                if pick.owner != rank:
                    columns = (pick.high - pick.low) * size
                    vectors = len(pick.rows) * -(-columns // self.machine.vector)
                    most = max(most, vectors)
        return self._sent(most * self._bytes(node.inputs[0])) if most else 0

    def _rejoined(self, node: Node, strategy: Strategy) -> int:
        """Vectors of a row that are put together of others, one after another."""
        lanes, ranks = self.machine.vector, self.view.ranks
        old, new = (
            (part_shape(self.view.shape(name), place, ranks) or (1,))[-1]
            for name, place in (
                (node.inputs[0], strategy.inputs[0]),
                (node.outputs[0], strategy.output),
            )
        )
        if max(old, new) <= lanes or old == new or old % lanes == new % lanes == 0:
            return 0
        return _JOIN * -(-max(old, new) // lanes)

    def _product(self, node: Node, shapes: list[tuple[int, ...]], strategy: Strategy) -> int:
        """All K tiles of all tiles of columns, or as long as the weights take to come."""
        lanes, mxm, ranks = self.machine.vector, self.machine.mxm, self.view.ranks
        left, right = shapes
        if len(left) < 2 or len(right) < 2:
            return math.prod(left) // lanes + math.prod(right) // lanes
        shape = part_shape(self.view.shape(node.outputs[0]), strategy.output, ranks)
        swapped = bool(node.attributes.get("transA", 0))
        depth, columns = left[-2 if swapped else -1], shape[-1]
        fp16 = self._bytes(node.inputs[0]) > 1
        arrays = 2 * mxm.planes_per_hemisphere // (mxm.fp16_planes if fp16 else 1)
        pace = mxm.fp16_interval if fp16 else 1
        tiles = -(-depth // lanes) * -(-columns // lanes)
        streamed = math.prod(shape[:-1]) * tiles * pace // arrays
        sets = math.prod(right[:-2])
        words = sets * columns * -(-depth // lanes) * self._bytes(node.inputs[0])
        return max(streamed, words // (2 * mxm.install_streams))

    def convert(self, name: str, have: Placement, want: Placement) -> int:
        """What it takes that a tensor is where it is wanted."""
        view, ranks = self.view, self.view.ranks
        if have == want or name in view.graph.constants:
            return 0
        shape = view.shape(name)
        whole = self._vectors(shape) * self._bytes(name)
        part = self._vectors(part_shape(shape, max(have, want), ranks)) * self._bytes(name)
        if have == PARTIAL and want == WHOLE:
            return min(self.exchange(name), self.dealt(name))
        latency = _TURN if self._turned(shape, (have, want)) else _STEP
        if have == WHOLE:
            return latency + part
        return self._sent(part) + latency + (whole if want == WHOLE else part)

    def _turned(self, shape: tuple[int, ...], places: tuple[Placement, Placement]) -> bool:
        """Whether elements of a part lie in other lanes than those of all of a tensor."""
        part = shape[-1] // self.view.ranks if shape else 1
        return len(shape) - 1 in places and part % self.machine.vector > 0

    def exchange(self, name: str) -> int:
        """A sum on every chip, each of which sends all it has to all others."""
        vectors = self._vectors(self.view.shape(name))
        return self._sent(vectors * self._bytes(name)) + _STEP + vectors * self.view.ranks // 4

    def dealt(self, name: str) -> int:
        """A sum of which every chip makes some blocks, which are then sent to all others."""
        vectors = self._vectors(self.view.shape(name))
        shape, lanes = self.view.shape(name), self.machine.vector
        blocks = min(4, -(-math.prod(shape[:-1]) // 32)) * -(-shape[-1] // lanes) if shape else 1
        most = -(-blocks // self.view.ranks)
        one = -(-vectors * most // blocks) * self._bytes(name)
        return 2 * self._sent(one) + _STEP + one * self.view.ranks // 4

    def _sent(self, vectors: int) -> int:
        """Vectors over a link of their own."""
        machine = self.machine
        return vectors * machine.c2c.cycles_per_vector + machine.link_latency + _HOP

    def _vectors(self, shape: tuple[int, ...]) -> int:
        """Vectors of as many elements as there are lanes."""
        return math.prod(shape[:-1]) * -(-shape[-1] // self.machine.vector) if shape else 1

    def _bytes(self, name: str) -> int:
        return _BYTES.get(self.view.graph.tensors[name].dtype, 2)
