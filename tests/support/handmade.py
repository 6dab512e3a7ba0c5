"""Small right programs for `tiny`, every cycle worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clockstep_isa.table import Type
from tests.support.build import Builder, build, east, west

__all__ = ["LANES", "adder", "gathering", "matmul", "scattering", "two_chips"]

LANES = 16


def adder(rows: int, interval: int) -> Builder:
    """z = x + y, float32, a vector every `interval` cycles."""
    builder = build()
    shape = (rows, LANES)
    x, y, z = (
        [f"c0.mem.{side}{i}" for i in range(first, first + 4)]
        for side, first in (("W", 0), ("W", 4), ("E", 0))
    )
    builder.bind("input", "x", "float32", Type.F32, shape, x)
    builder.bind("input", "y", "float32", Type.F32, shape, y)
    builder.bind("output", "z", "float32", Type.F32, shape, z, 100)

    def every(queue: str, cycle: int, mnemonic: str, **fields: int) -> None:
        builder.at(queue, cycle, mnemonic, repeat=rows, interval=interval, **fields)

    # Slices 0 and 1 are at 8, 2 and 3 at 7, 4 and 5 at 6, 6 and 7 at 5; ALU 0 is at 10.
    for first, queues in ((0, x), (4, y)):
        for i, queue in enumerate(queues):
            start = 3 - (first + i) // 2
            every(queue, start, "read", stride=1, out=east(first + i))
    every("c0.vxm.0", 6, "add.f32", a=east(0), b=east(4), out=east(8))
    for i, queue in enumerate(z):
        every(queue, 8 + 5 + i // 2, "write", address=100, stride=1, a=east(8 + i))
    return builder


def matmul(kind: Type, rows: int, interval: int | None = None) -> tuple[Builder, np.ndarray]:
    """y = x @ w for one plane: w transposed in the image, x read row by row.

    A row every `interval` cycles: as many as the array takes, unless given.
    """
    width, total = kind.bytes, Type.I32 if kind is Type.I8 else Type.F32
    builder = build()
    generator = np.random.default_rng(3)
    if kind is Type.I8:
        weights = generator.integers(-128, 128, (LANES, LANES)).astype(np.int8)
    else:
        weights = generator.standard_normal((LANES, LANES)).astype(np.float16)
    columns = np.ascontiguousarray(weights.T).view(np.uint8).reshape(LANES, LANES, width)
    # Weights come from W8 and on, at 4 and 3: four streams, so 4 / width columns a cycle.
    each = 4 // width
    for stream in range(4):
        column, byte = divmod(stream, width)
        queue = f"c0.mem.W{8 + stream}"
        builder.store(queue, 0, columns[column::each, :, byte])
        lead = 1 if stream >= 2 else 0
        loads = LANES // each
        builder.at(queue, lead, "read", stride=1, out=west(stream), repeat=loads)
    lw = "c0.mxm.W0.lw"
    fields = {"a": west(0), "count": 4, "column": 0, "stride": each}
    builder.at(lw, 5, f"lw.{kind.text}", repeat=LANES // each, **fields)
    done = 5 + LANES // each
    builder.at(lw, done, f"iw.{kind.text}")
    # Activations from W0 and W1, at 8; sampled from done + 2 on.
    interval = interval or (1 if kind is Type.I8 else 2)
    slices = [f"c0.mem.W{byte}" for byte in range(width)]
    for byte, queue in enumerate(slices):
        builder.at(
            queue, done + 2 - 9, "read", stride=1, out=west(byte), repeat=rows, interval=interval
        )
    abc, acc = "c0.mxm.W0.abc", "c0.mxm.W0.acc"
    builder.at(
        abc, done + 1, f"abc.{kind.text}", a=west(0), rows=LANES, repeat=rows, interval=interval
    )
    builder.at(acc, done + 5, f"acc.{total.text}", out=east(4), repeat=rows, interval=interval)
    results = [f"c0.mem.E{byte}" for byte in range(4)]
    for byte, queue in enumerate(results):
        at = done + 9 + 15 + byte // 2
        builder.at(queue, at, "write", stride=1, a=east(4 + byte), repeat=rows, interval=interval)
    dtype = "int8" if kind is Type.I8 else "float16"
    builder.bind("input", "x", dtype, kind, (rows, LANES), slices)
    out = "int32" if kind is Type.I8 else "float32"
    builder.bind("output", "y", out, total, (rows, LANES), results)
    return builder, weights


def two_chips() -> Builder:
    """x goes to the other chip, 13 cycles on the link, and is stored there as y."""
    builder = build(chips=2)
    builder.bind("input", "x", "int8", Type.I8, (3, LANES), ["c0.mem.W0"])
    builder.at("c0.mem.W0", 0, "read", stride=1, out=west(0), repeat=3, interval=3)
    builder.at("c0.c2c.0.send", 8, "send", a=west(0), repeat=3, interval=3)
    builder.at("c1.c2c.0.receive", 21, "receive", out=east(5), repeat=3, interval=3)
    # On the stream at 1 in cycle 22, at W0 (8) in cycle 29.
    builder.at("c1.mem.W0", 29, "write", address=50, stride=1, a=east(5), repeat=3, interval=3)
    builder.bind("output", "y", "int8", Type.I8, (3, LANES), ["c1.mem.W0"], 50)
    return builder


def gathering(stride: int = 1, settings: Mapping[str, int] | None = None, **given: int) -> Builder:
    """Places p of three rows: y has for each a word of W4, where words 100 to 107 are the table."""
    builder = build(settings=settings or {})
    builder.bind("input", "p", "int16", Type.I16, (3, 1), ["c0.mem.W8", "c0.mem.W9"])
    builder.store("c0.mem.W4", 100, np.arange(8 * LANES, dtype=np.uint8).reshape(8, -1))
    for byte in range(2):
        queue = f"c0.mem.W{8 + byte}"
        builder.at(queue, 7, "read", stride=1, out=east(2 + byte), repeat=3, interval=3)
    # Slices 8 and 9 are at 4, 4 and 5 at 6; E0 is at 15.
    fields = {"map": east(2), "address": 100, "stride": stride, "words": 4, "first": 0}
    builder.at(
        "c0.mem.W4", 10, "gather", **{**fields, "out": east(5), **given}, repeat=3, interval=3
    )
    builder.at("c0.mem.E0", 20, "write", stride=1, a=east(5), repeat=3, interval=3)
    builder.bind("output", "y", "int8", Type.I8, (3, LANES), ["c0.mem.E0"])
    return builder


def scattering(cycle: int = 10, settings: Mapping[str, int] | None = None, **given: int) -> Builder:
    """Vectors x and places p: two rows go to words 100 to 103 of W4, which are y; z is a copy."""
    builder = build(settings=settings or {})
    builder.bind("input", "x", "int8", Type.I8, (2, LANES), ["c0.mem.W10"])
    builder.bind("input", "p", "int16", Type.I16, (2, 1), ["c0.mem.W8", "c0.mem.W9"])
    builder.store("c0.mem.W4", 100, np.arange(4 * LANES, dtype=np.uint8).reshape(4, -1))
    builder.at("c0.mem.W10", 6, "read", stride=1, out=east(0), repeat=2, interval=3)
    for byte in range(2):
        queue = f"c0.mem.W{8 + byte}"
        builder.at(queue, 7, "read", stride=1, out=east(2 + byte), repeat=2, interval=3)
    fields = {"a": east(0), "map": east(2), "address": 100, "words": 4, "first": 0}
    builder.at("c0.mem.W4", 10, "scatter", **{**fields, **given})
    builder.at("c0.mem.W4", 13, "scatter", **fields)
    builder.at("c0.mem.W4", 5 + cycle, "read", address=100, stride=1, out=east(5), repeat=4)
    builder.at("c0.mem.E0", 15 + cycle, "write", stride=1, a=east(5), repeat=4)
    builder.bind("output", "y", "int8", Type.I8, (4, LANES), ["c0.mem.W4"], 100)
    return builder.bind("output", "z", "int8", Type.I8, (4, LANES), ["c0.mem.E0"])
