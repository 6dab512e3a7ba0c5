"""One chip: what each unit does with an instruction in the cycle that it acts.

To add an instruction that only computes, write it in `semantics.py`; one that moves vectors or
has state gets a method here and a line in `_ACTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Queue, Unit, wiring
from clockstep_isa.layout import numpy_type
from clockstep_isa.machine import Machine
from clockstep_isa.table import ENUMS, Field, Kind, Type
from clockstep_runtime.interpreter.decode import Issue, Operand
from clockstep_runtime.interpreter.memory import Slice
from clockstep_runtime.interpreter.mxm import Mxm, Plane
from clockstep_runtime.interpreter.observer import Observer
from clockstep_runtime.interpreter.streams import Streams
from clockstep_runtime.semantics import EXECUTES

__all__ = ["Chip", "Network"]

Vectors = NDArray[np.uint8]


class Network:
    """The links of all chips: what arrives where, and when."""

    def __init__(self, machine: Machine, chips: int) -> None:
        self.peers = wiring(machine, chips)
        self.arriving: dict[tuple[int, int, int], Vectors] = {}
        """The vector [1, lanes] that arrives at (chip, link, cycle)."""


class Chip:
    """State of one chip. `results[c]` are the vectors due on a stream in cycle `c`."""

    def __init__(self, machine: Machine, number: int, network: Network, observer: Observer) -> None:
        self.machine = machine
        self.number = number
        self.network = network
        self.observer = observer
        self.streams = Streams(machine)
        self.results: dict[int, list[tuple[Issue, int, Vectors]]] = {}
        self._slices: dict[int, Slice] = {}
        self._mxm: dict[str, Mxm] = {}

    def slice(self, queue: Queue) -> Slice:
        """The SRAM slice of a MEM queue."""
        if queue.id not in self._slices:
            self._slices[queue.id] = Slice(self.machine)
        return self._slices[queue.id]

    def mxm(self, side: str) -> Mxm:
        """The planes of one hemisphere."""
        if side not in self._mxm:
            self._mxm[side] = Mxm(self.machine)
        return self._mxm[side]

    def claim_bank(self, issue: Issue, step: int, cycle: int) -> None:
        """Check the address of a MEM dispatch, and that its bank is free in this cycle."""
        address = _address(issue, step)
        last = address + issue.fields.get("words", 1) - 1
        if not 0 <= address <= last < self.machine.words_per_slice:
            message = f"address {last} is outside 0 to {self.machine.words_per_slice - 1}"
            raise issue.fault("address-range", message, cycle)
        if not self.slice(issue.queue).access(address, cycle):
            bank = address // self.machine.mem.words_per_bank
            raise issue.fault("bank-conflict", f"bank {bank} is accessed twice", cycle)

    def act(self, issue: Issue, step: int, cycle: int) -> None:
        """Sample the operands of dispatch `step`, and do what the instruction says."""
        operands = {}
        for name, operand in issue.inputs.items():
            operands[name] = self._sample(issue, operand, cycle)
            self.observer.sampled(issue, step, cycle, name, operands[name])
        result = _ACTIONS.get(issue.row.name, Chip._compute)(self, issue, operands, step, cycle)
        if result is not None:
            due = cycle - issue.skew + issue.latency
            self.results.setdefault(due, []).append((issue, step, result))

    def deliver(self, cycle: int) -> None:
        """Write the results due in this cycle into the registers of their units."""
        written: set[tuple[int, int, int]] = set()
        due = self.results.pop(cycle, [])
        for issue, step, vectors in sorted(due, key=lambda result: result[0].queue.id):
            operand, x = issue.output, issue.queue.x
            assert operand is not None
            slots = {(x, operand.direction, operand.base + i) for i in range(operand.width)}
            if written & slots:
                message = f"{operand.text} already has a producer at position {x} in this cycle"
                raise issue.fault("slot-two-producers", message, cycle)
            written |= slots
            self.streams.write(operand, x, vectors)
            self.observer.produced(issue, step, cycle, vectors)

    def _sample(self, issue: Issue, operand: Operand, cycle: int) -> Vectors:
        vectors = self.streams.sample(operand, issue.queue.x)
        if vectors is None:
            message = f"nothing is on {operand.text} at position {issue.queue.x}"
            raise issue.fault("slot-empty", message, cycle)
        return vectors

    def _read(self, issue: Issue, _: dict[str, Vectors], step: int, cycle: int) -> Vectors:
        address = _address(issue, step)
        word = self.slice(issue.queue).read(address, cycle)
        if word is None:
            raise issue.fault("word-unwritten", f"word {address} is not written yet", cycle)
        self.observer.fetched(issue, step, cycle, address, word)
        return word

    def _write(self, issue: Issue, operands: dict[str, Vectors], step: int, cycle: int) -> None:
        address = _address(issue, step)
        self.slice(issue.queue).write(address, operands["a"], cycle + issue.latency)
        self.observer.stored(issue, step, cycle, address, operands["a"])

    def _scatter(self, issue: Issue, operands: dict[str, Vectors], step: int, cycle: int) -> None:
        memory, first, words = self.slice(issue.queue), _address(issue, step), issue.fields["words"]
        missing = memory.unwritten(first, words, cycle)
        if missing is not None:
            raise issue.fault("word-unwritten", f"word {missing} is not written yet", cycle)
        memory.written(first, words, cycle + issue.latency)
        place = int(_elements(operands["map"], Type.I16)[0]) - issue.fields["first"] & 0xFFFF
        if place < words:
            memory.write(first + place, operands["a"], cycle + issue.latency)
            self.observer.stored(issue, step, cycle, first + place, operands["a"])

    def _gather(self, issue: Issue, operands: dict[str, Vectors], step: int, cycle: int) -> Vectors:
        memory, words = self.slice(issue.queue), issue.fields["words"]
        if not step:
            ends = sorted(_address(issue, i) for i in (0, issue.repeat - 1))
            missing = memory.unwritten(ends[0], ends[1] - ends[0] + words, cycle)
            if missing is not None:
                raise issue.fault("word-unwritten", f"word {missing} is not written yet", cycle)
        place = int(_elements(operands["map"], Type.I16)[0]) - issue.fields["first"] & 0xFFFF
        if place >= words:
            return np.zeros((1, self.machine.vector), np.uint8)
        address = _address(issue, step) + place
        word = memory.read(address, cycle)
        assert word is not None, "what may be reached was there when it began"
        self.observer.fetched(issue, step, cycle, address, word)
        return word

    def _lw(self, issue: Issue, operands: dict[str, Vectors], step: int, cycle: int) -> None:
        kind = _type(issue)
        column = issue.fields["column"] + step * issue.fields["stride"]
        last = column + issue.fields["count"] // kind.bytes - 1
        if column < 0 or last >= self.machine.vector:
            message = f"columns {column} to {last} are outside 0 to {self.machine.vector - 1}"
            raise issue.fault("address-range", message, cycle)
        self.mxm(issue.queue.hemisphere).load(issue.queue.index, kind, column, operands["a"])

    def _iw(self, issue: Issue, _: dict[str, Vectors], step: int, cycle: int) -> None:
        kind = _type(issue)
        if self._plane(issue).loaded - {kind}:
            message = f"the buffer holds weights of another type than {kind.text}"
            raise issue.fault("mxm-type", message, cycle)
        self.mxm(issue.queue.hemisphere).install(issue.queue.index, kind, cycle)

    def _abc(self, issue: Issue, operands: dict[str, Vectors], step: int, cycle: int) -> None:
        kind, plane = _type(issue), self._plane(issue)
        array = plane.array
        if array is None:
            raise issue.fault("mxm-empty", "no weights are installed", cycle)
        if array.type is not kind:
            raise issue.fault("mxm-type", f"the array holds {array.type.text}", cycle)
        ready = array.installed + self.machine.mxm.install_latency
        if cycle < ready:
            raise issue.fault("mxm-busy", f"the array is being installed until {ready}", cycle)
        product = EXECUTES["abc"](
            a=_elements(operands["a"], kind), weights=array.weights, rows=issue.fields["rows"]
        )
        result = Type.I32 if kind is Type.I8 else Type.F32
        due = cycle + self.machine.mxm.multiply_latency
        plane.products[due] = (result, _bytes(product))

    def _acc(self, issue: Issue, _: dict[str, Vectors], step: int, cycle: int) -> Vectors:
        kind, products = _type(issue), self._plane(issue).products
        for missed in [due for due in products if due < cycle]:
            del products[missed]
        if cycle not in products:
            message = "nothing to accumulate: no product is delivered in this cycle"
            raise issue.fault("acc-nothing", message, cycle)
        found, product = products[cycle]
        if found is not kind:
            raise issue.fault("mxm-type", f"the product is {found.text}", cycle)
        return product

    def _send(self, issue: Issue, operands: dict[str, Vectors], step: int, cycle: int) -> None:
        peer = self.network.peers.get((self.number, issue.queue.index))
        if peer is None:
            raise issue.fault("link-unwired", f"link {issue.queue.index} leads nowhere", cycle)
        self.network.arriving[(*peer, cycle + issue.latency)] = operands["a"]

    def _receive(self, issue: Issue, _: dict[str, Vectors], step: int, cycle: int) -> Vectors:
        vector = self.network.arriving.pop((self.number, issue.queue.index, cycle), None)
        if vector is None:
            message = f"nothing arrives on link {issue.queue.index} in this cycle"
            raise issue.fault("receive-nothing", message, cycle)
        return vector

    def _compute(
        self, issue: Issue, operands: dict[str, Vectors], step: int, cycle: int
    ) -> Vectors:
        """An ALU or SXM instruction: its function in `semantics`, on fields by name."""
        arguments = {
            _argument(item): self._value(issue, item, operands)
            for item in issue.row.fields
            if item.name not in ("type", "width", "out")
        }
        if issue.row.unit in (Unit.TRANSPOSE, Unit.DISTRIBUTE):
            arguments["per_superlane"] = self.machine.lanes.per_superlane
        result = EXECUTES[issue.row.name](**arguments)
        return _bytes(result) if issue.row.unit is Unit.VXM else np.ascontiguousarray(result.T)

    def _value(self, issue: Issue, item: Field, operands: dict[str, Vectors]) -> Any:
        value = issue.fields[item.name]
        if item.kind is Kind.STREAM and issue.row.unit is Unit.VXM:
            return _elements(operands[item.name], _type(issue))
        if item.kind is Kind.STREAM:
            return operands[item.name].T
        if item.kind is Kind.IMMEDIATE:
            kind = _type(issue)
            return np.array([value], "<u4").view(numpy_type(kind))[:1]
        if item.kind is Kind.TYPE:
            return Type(value)
        return ENUMS[item.kind][value] if item.kind in ENUMS else value

    def _plane(self, issue: Issue) -> Plane:
        return self.mxm(issue.queue.hemisphere).planes[issue.queue.index]


def _address(issue: Issue, step: int) -> int:
    return issue.fields["address"] + step * issue.fields.get("stride", 0)


def _argument(item: Field) -> str:
    return "b" if item.kind is Kind.IMMEDIATE else item.name


def _type(issue: Issue) -> Type:
    assert issue.type is not None, f"{issue.row.name} has no type"
    return issue.type


def _elements(vectors: Vectors, kind: Type) -> NDArray[Any]:
    """Typed values [lanes] of a stream group [bytes, lanes], least significant byte first."""
    return np.ascontiguousarray(vectors.T).view(numpy_type(kind))[:, 0]


def _bytes(values: NDArray[Any]) -> Vectors:
    """The inverse of `_elements`."""
    flat = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    return np.ascontiguousarray(flat.T)


_Action = Callable[[Chip, Issue, dict[str, Vectors], int, int], Vectors | None]

_ACTIONS: dict[str, _Action] = {
    "read": Chip._read,
    "write": Chip._write,
    "scatter": Chip._scatter,
    "gather": Chip._gather,
    "lw": Chip._lw,
    "iw": Chip._iw,
    "abc": Chip._abc,
    "acc": Chip._acc,
    "send": Chip._send,
    "receive": Chip._receive,
}
