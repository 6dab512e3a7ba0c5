"""Hand-made programs that use what compiled ones do not: every ALU row, the SXM, tight timing.

Cycles follow from the machine's figures and positions, so each program can be made for any
machine with enough slices and streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clockstep_isa import BY_NAME, TABLE, Machine, Program, Queue, Type, Unit, geometry
from tests.support.build import Builder, east, west

__all__ = ["alus", "casts", "copies", "links", "planes", "sxm"]


class _Flow:
    """A builder, and vectors brought from slices to a unit and from a unit to slices."""

    def __init__(self, machine: Machine, chips: int = 1) -> None:
        self.machine = machine
        self.builder = Builder(machine, chips)
        self.at = self.builder.at
        self.rng = np.random.default_rng(7)

    def place(self, queue: str) -> Queue:
        return geometry(self.machine).by_name[queue.partition(".")[2]]

    def words(self, slices: Sequence[str], address: int, count: int, top: int = 256) -> None:
        """Random bytes below `top` in `count` words of each slice."""
        for queue in slices:
            data = self.rng.integers(0, top, (count, self.machine.vector)).astype(np.uint8)
            self.builder.store(queue, address, data)

    def feed(
        self,
        slices: Sequence[str],
        unit: str,
        cycle: int,
        stream: int,
        address: int = 0,
        stride: int = 1,
        repeat: int = 1,
        interval: int = 1,
    ) -> int:
        """Read so that `unit` can sample in `cycle`: one slice a stream, from `stream` on."""
        x = self.place(unit).x
        side = east if self.place(slices[0]).x < x else west
        for i, queue in enumerate(slices):
            hops = abs(self.place(queue).x - x)
            start = cycle - hops - self.machine.mem.read_latency
            out = side(stream + i)
            self.at(
                queue,
                start,
                "read",
                address=address,
                stride=stride,
                out=out,
                repeat=repeat,
                interval=interval,
            )
        return side(stream)

    def drain(
        self,
        unit: str,
        cycle: int,
        slices: Sequence[str],
        stream: int,
        address: int = 0,
        stride: int = 1,
        repeat: int = 1,
        interval: int = 1,
    ) -> int:
        """Write what `unit` puts on its streams in `cycle`, to one slice a stream."""
        x = self.place(unit).x
        side = west if self.place(slices[0]).x < x else east
        for i, queue in enumerate(slices):
            start = cycle + abs(self.place(queue).x - x)
            a = side(stream + i)
            self.at(
                queue,
                start,
                "write",
                a=a,
                address=address,
                stride=stride,
                repeat=repeat,
                interval=interval,
            )
        return side(stream)

    def output(self, name: str, slices: Sequence[str], address: int, rows: int) -> None:
        """An output of bytes for each slice: what the words hold, whatever it means."""
        shape = (rows, self.machine.vector)
        for i, queue in enumerate(slices):
            self.builder.bind("output", f"{name}{i}", "int8", Type.I8, shape, [queue], address)

    def program(self) -> Program:
        return self.builder.program()


def _slices(side: str, first: int, count: int) -> list[str]:
    return [f"c0.mem.{side}{i}" for i in range(first, first + count)]


def alus(machine: Machine, kind: Type) -> Program:
    """Every ALU row that `kind` has but `cast`, one a cycle, on one large ALU."""
    flow = _Flow(machine)
    rows = [
        row for row in TABLE if row.unit is Unit.VXM and row.name != "cast" and kind in row.types
    ]
    count, width, alu = len(rows), kind.bytes, "c0.vxm.0"
    a, b, out = _slices("W", 0, width), _slices("W", width, width), _slices("E", 0, width)
    dtype = {Type.I8: "int8", Type.I16: "int16", Type.I32: "int32"}.get(kind, f"float{8 * width}")
    flow.builder.bind("input", "a", dtype, kind, (count, machine.vector), a)
    flow.words(b, 0, count)
    start = 40
    first = flow.feed(a, alu, start, 0, repeat=count)
    second = flow.feed(b, alu, start, 4, repeat=count)
    target = flow.drain(alu, start + machine.vxm.op_latency, out, 0, repeat=count)
    for i, row in enumerate(rows):
        fields = {"a": first, "out": target}
        if any(item.name == "b" for item in row.fields):
            fields["b"] = second
        if any(item.name == "imm" for item in row.fields):
            fields["imm"] = int(flow.rng.integers(0, 1 << (8 * width)))
        flow.at(alu, start + i, f"{row.name}.{kind.text}", **fields)
    flow.output("y", out, 0, count)
    return flow.program()


def casts(machine: Machine) -> Program:
    """Every pair of types, with every rounding and overflow in turn."""
    flow = _Flow(machine)
    alu, start, address, row = "c0.vxm.0", 40, 0, BY_NAME["cast"]
    assert machine.is_large(0) >= row.large
    for kind in Type:
        source = _slices("W", 0, kind.bytes)
        flow.words(source, address, len(Type))
        a = flow.feed(source, alu, start, 0, address, repeat=len(Type))
        for i, to in enumerate(Type):
            out = _slices("E", 0, to.bytes)
            done = start + i + machine.vxm.op_latency
            target = flow.drain(alu, done, out, 0, address + i)
            mode = {"round": (i + kind) % 2, "overflow": (i + kind) // 2 % 2}
            flow.at(alu, start + i, f"cast.{kind.text}", to=int(to), a=a, out=target, **mode)
            flow.output(f"y{kind.text}{to.text}", out, address + i, 1)
        start, address = start + len(Type), address + len(Type)
    return flow.program()


def sxm(machine: Machine) -> Program:
    """Permutor, transposer and distributor of the west, each a few times."""
    flow = _Flow(machine)
    lanes, inner = machine.lanes, machine.lanes.per_superlane
    data, table, out = _slices("W", 0, 4), _slices("W", 4, 2), _slices("W", 6, 4)
    flow.builder.bind("input", "x", "float32", Type.F32, (4, machine.vector), data)
    order = np.arange(machine.vector) * 7 % machine.vector + (np.arange(machine.vector) == 3) * 999
    raw = np.stack([order] * 4).astype("<u2").view(np.uint8).reshape(4, -1, 2)
    for byte, queue in enumerate(table):
        flow.builder.store(queue, 0, np.ascontiguousarray(raw[:, :, byte]))
    local = np.tile((np.arange(inner) * 3 + 1) % (inner + 1), (2, lanes.superlanes))
    flow.builder.store(table[0], 4, local.astype(np.uint8))
    written = _permutes(flow, data, table, out)
    _transpose(flow, data, out, written)
    unit = "c0.sxm.W.distribute0"
    start = 110
    a = flow.feed(data[:1], unit, start, 0, repeat=2, interval=3)
    indices = flow.feed(table[:1], unit, start, 1, 4, repeat=2, interval=3)
    done = start + machine.sxm.distribute_latency
    target = flow.drain(unit, done, out[:1], 3, 60, repeat=2, interval=3)
    flow.at(unit, start, "distribute", a=a, map=indices, out=target, repeat=2, interval=3)
    flow.output("z", out[:1], 60, 2)
    return flow.program()


def _permutes(flow: _Flow, data: Sequence[str], table: Sequence[str], out: Sequence[str]) -> int:
    unit, lanes = "c0.sxm.W.permute0", flow.machine.vector
    operations: tuple[tuple[str, int, dict[str, int]], ...] = (
        ("shift", 1, {"amount": 3, "low": 0, "high": lanes - 2}),
        ("shift", 4, {"amount": -2, "low": 1, "high": lanes}),
        ("broadcast", 2, {"lane": lanes - 1}),
        ("broadcast", 4, {"lane": 0}),
        ("permute", 2, {}),
        ("permute", 1, {}),
    )
    start, written = 50, 0
    for name, width, fields in operations:
        a = flow.feed(data[:width], unit, start, 0, repeat=2)
        if name == "permute":
            fields["map"] = flow.feed(table, unit, start, 4, repeat=2)
        done = start + flow.machine.sxm.permute_latency
        target = flow.drain(unit, done, out[:width], 0, written, repeat=2)
        flow.at(unit, start, name, a=a, width=width, out=target, repeat=2, **fields)
        flow.output(f"{name}{width}", out[:width], written, 2)
        start, written = start + 4, written + 2
    return written


def _transpose(flow: _Flow, data: Sequence[str], out: Sequence[str], address: int) -> None:
    """One group of as many streams as a superlane has lanes: slices in turn, words in turn."""
    unit, inner = "c0.sxm.W.transpose0", flow.machine.lanes.per_superlane
    start = 84
    assert inner <= len(data)
    a = flow.feed(data[:inner], unit, start, 2, repeat=3, interval=2)
    done = start + flow.machine.sxm.transpose_latency
    target = flow.drain(unit, done, out[:inner], 1, address, repeat=3, interval=2)
    flow.at(unit, start, "transpose", a=a, width=inner, out=target, repeat=3, interval=2)
    flow.output("t", out[:inner], address, 3)


def planes(machine: Machine) -> Program:
    """Two int8 planes at once, then fp16 on the pair, then int8 again on the second plane."""
    flow = _Flow(machine)
    x, more = _slices("W", 8, 2), 20
    flow.builder.bind("input", "x", "float16", Type.F16, (3, machine.vector), x)
    flow.words(x, 3, 6)
    ends = [
        _product(flow, 0, Type.I8, 30, 0, x[:1], 3),
        _product(flow, 1, Type.I8, 30, 0, x[1:], 3),
    ]
    wide = max(ends) + more
    narrow = _product(flow, 0, Type.F16, wide, 40, x, 0) + more
    _product(flow, 1, Type.I8, narrow, 40, x[1:], 6)
    return flow.program()


def _product(
    flow: _Flow, plane: int, kind: Type, start: int, base: int, x: Sequence[str], row: int
) -> int:
    """Load and install weights from `start` on, multiply three rows; the cycle of the last.

    Weights lie in words `base` and on of four slices of the plane, `x` in words `row` and on.
    """
    machine, name = flow.machine, f"c0.mxm.W{plane}"
    mxm, lanes = machine.mxm, machine.vector
    each = 4 // kind.bytes
    loads = lanes // each
    source, out = _slices("W", 4 * plane, 4), _slices("E", 4 * plane, 4)
    flow.words(source, base, loads)
    stream, lw = 4 * plane, f"{name}.lw"
    a = flow.feed(source, lw, start, stream, base, repeat=loads)
    flow.at(lw, start, f"lw.{kind.text}", a=a, count=4, column=0, stride=each, repeat=loads)
    installed = start + loads
    flow.at(lw, installed, f"iw.{kind.text}")
    interval = 1 if kind is Type.I8 else mxm.fp16_interval
    sampled = installed + max(mxm.install_latency, mxm.activation_skew)
    repeats = {"repeat": 3, "interval": interval}
    a = flow.feed(x, f"{name}.abc", sampled, 8 + 2 * plane, row, **repeats)
    dispatch = sampled - mxm.activation_skew
    flow.at(f"{name}.abc", dispatch, f"abc.{kind.text}", a=a, rows=lanes - 3 * plane, **repeats)
    product = sampled + mxm.multiply_latency
    sums = Type.I32 if kind is Type.I8 else Type.F32
    done = product + mxm.accumulate_latency
    target = flow.drain(f"{name}.acc", done, out, stream, base, **repeats)
    flow.at(f"{name}.acc", product, f"acc.{sums.text}", out=target, **repeats)
    flow.output(f"y{plane}{kind.text}{start}", out, base, 3)
    return product + 3 * interval


def copies(machine: Machine) -> Program:
    """Words copied from slice to slice as early as may be: backwards, across banks, onto one."""
    flow = _Flow(machine)
    count, edge, latency = 5, machine.mem.words_per_bank, machine.mem.write_latency
    source, middle, last = "c0.mem.W0", "c0.mem.E1", "c0.mem.W3"
    flow.builder.bind("input", "x", "int8", Type.I8, (count, machine.vector), [source], edge - 2)
    hops = {name: flow.place(name).x for name in (source, middle, last)}
    arrival = machine.mem.read_latency + hops[middle] - hops[source]

    def read(queue: str, cycle: int, out: int, address: int, stride: int, repeat: int) -> None:
        flow.at(queue, cycle, "read", address=address, stride=stride, out=out, repeat=repeat)

    def write(queue: str, cycle: int, a: int, address: int, stride: int, repeat: int) -> None:
        flow.at(queue, cycle, "write", a=a, address=address, stride=stride, repeat=repeat)

    read(source, 0, east(1), edge - 2, 1, count)
    write(middle, arrival, east(1), 20, -2, count)
    # The word that is written last is read first, as soon as it may be.
    again = arrival + count - 1 + latency
    read(middle, again, west(2), 20 - 2 * (count - 1), 2, count)
    back = machine.mem.read_latency + hops[middle] - hops[last]
    write(last, again + back, west(2), edge - 3, 1, count)
    # All of them onto one word, of which the last one stays; then that word three times.
    onto = again + count
    read(middle, onto, west(3), 12, 2, count)
    write(last, onto + back, west(3), 7, 0, count)
    thrice = onto + back + count - 1 + latency
    read(last, thrice, east(0), 7, 0, 3)
    forth = machine.mem.read_latency + hops[middle] - hops[last]
    write(middle, thrice + forth, east(0), 30, 3, 3)
    flow.output("y", [last], edge - 3, count)
    flow.output("z", [last], 7, 1)
    flow.builder.bind("output", "w", "int8", Type.I8, (1, machine.vector), [middle], 33)
    return flow.program()


def links(machine: Machine, chips: int, ways: Sequence[tuple[int, int, int, int]]) -> Program:
    """Vectors sent from chip to chip as fast as a link goes.

    `ways` are (chip, link, next chip, its link) of each hop.
    """
    flow = _Flow(machine, chips)
    count, every = 4, machine.c2c.cycles_per_vector
    queue, cycle = f"c{ways[0][0]}.mem.W2", 0
    flow.builder.bind("input", "x", "int8", Type.I8, (count, machine.vector), [queue])
    repeats = {"repeat": count, "interval": every}
    for hop, (chip, leaving, other, entering) in enumerate(ways):
        send, receive = f"c{chip}.c2c.{leaving}.send", f"c{other}.c2c.{entering}.receive"
        cycle += machine.mem.read_latency + abs(flow.place(queue).x - flow.place(send).x)
        a = flow.feed([queue], send, cycle, hop, **repeats)
        flow.at(send, cycle, "send", a=a, **repeats)
        cycle += machine.link_latency
        queue = f"c{other}.mem.{flow.place(receive).hemisphere}{2 + hop}"
        out = flow.drain(receive, cycle + 1, [queue], 5, **repeats)
        flow.at(receive, cycle, "receive", out=out, **repeats)
        cycle += 1 + abs(flow.place(queue).x - flow.place(receive).x)
        # The slice is free when the last word has been written.
        cycle += (count - 1) * every + machine.mem.write_latency
    flow.builder.bind("output", "y", "int8", Type.I8, (count, machine.vector), [queue])
    return flow.program()
