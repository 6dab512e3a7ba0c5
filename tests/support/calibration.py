"""Hand-made programs for `lpu-v1` that measure the model against published figures of the chip.

Each takes its cycles from the geometry and the machine's figures, or as an argument to be found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.machine import Machine
from clockstep_isa.machine_file import load_machine
from clockstep_isa.program import Image, Program
from clockstep_isa.table import Type
from tests.support.build import Builder, build, east, west

__all__ = ["Sweep", "activation_to_alu", "install", "sweep", "transpose_round_trip"]

LPU = load_machine("lpu-v1")
OUTWARD = {"W": west, "E": east}
"""Streams from MEM to the MXM of each hemisphere."""
INWARD = {"W": east, "E": west}


def hops(unit: str, other: str, machine: Machine = LPU) -> int:
    """Stream hops between two queues of a chip."""
    by_name = geometry(machine).by_name
    return abs(by_name[unit].x - by_name[other].x)


@dataclass(frozen=True)
class Sweep:
    """All words of a chip read once, into the weight buffers of all planes.

    `cycles` are those in which the MXM edge takes vectors, `pipeline` what comes before.
    """

    program: Program
    cycles: int
    pipeline: int


def sweep() -> Sweep:
    """Read every word of SRAM through both MXM edges, all streams busy in every cycle.

    McNaughton's wrap-around rule: the slices' words laid end to end, cut into one piece a stream.
    A slice that is cut sends its tail first, on the next stream, and never two words at once.
    """
    builder = build("lpu-v1")
    words, streams = LPU.words_per_slice, LPU.streams.per_direction
    cycles = -(-LPU.mem.slices_per_hemisphere * words // streams)
    farthest = hops("mem.W0", "mxm.W0.lw")
    pipeline = LPU.mem.read_latency + farthest
    for side in "WE":
        for number in range(LPU.mem.slices_per_hemisphere):
            queue = f"mem.{side}{number}"
            lead = farthest - hops(queue, f"mxm.{side}0.lw")
            first = number * words
            while first < (number + 1) * words:
                stream, time = divmod(first, cycles)
                count = min((number + 1) * words - first, cycles - time)
                builder.at(
                    f"c0.{queue}",
                    lead + time,
                    "read",
                    address=first - number * words,
                    stride=1,
                    out=OUTWARD[side](stream),
                    repeat=count,
                )
                first += count
        for plane in range(LPU.mxm.planes_per_hemisphere):
            _load(builder, side, plane, pipeline, cycles)
    queues = [q for q in geometry(LPU).queues if q.unit is Unit.MEM]
    everything = Image(np.array([(0, q.id, 0, words) for q in queues], np.int64), None)
    return Sweep(replace(builder.program(), image=everything), cycles, pipeline)


def _load(builder: Builder, side: str, plane: int, start: int, cycles: int) -> None:
    """`lw` in each of `cycles` cycles, round and round the columns of the plane."""
    width = LPU.mxm.install_streams
    round_ = LPU.vector // width
    for first in range(0, cycles, round_):
        builder.at(
            f"c0.mxm.{side}{plane}.lw",
            start + first,
            "lw.i8",
            a=OUTWARD[side](plane * width),
            count=width,
            column=0,
            stride=width,
            repeat=min(round_, cycles - first),
        )


@dataclass(frozen=True)
class Install:
    """A program that installs planes, multiplies `activation` by each and writes the results.

    Output "y<plane>" of the program is int32 [1, lanes]. `loading` are the cycles of `lw`,
    `installed` is the first cycle in which an activation may be sampled.
    """

    program: Program
    weights: dict[str, NDArray[np.int8]]
    activation: NDArray[np.int8]
    loading: int
    installed: int


def install(planes: tuple[str, ...]) -> Install:
    """Install int8 weights on planes such as "W0", each from 16 of the outermost slices."""
    generator = np.random.default_rng(0)
    builder = build("lpu-v1")
    lanes, width = LPU.vector, LPU.mxm.install_streams
    loading = lanes // width
    weights: dict[str, NDArray[np.int8]] = {}
    last = LPU.mem.slices_per_hemisphere
    nearest = last - LPU.mxm.planes_per_hemisphere * width
    arrival = LPU.mem.read_latency + hops(f"mem.W{nearest}", "mxm.W0.lw")
    activation = generator.integers(-128, 128, (1, lanes), dtype=np.int8)
    for name in planes:
        side, plane = name[0], int(name[1])
        weights[name] = generator.integers(-128, 128, (lanes, lanes), dtype=np.int8)
        for stream in range(width):
            queue = f"mem.{side}{nearest + plane * width + stream}"
            # Column c of the array is vector c: stream c % width, c // width cycles on.
            builder.store(f"c0.{queue}", 0, weights[name].T[stream::width].copy().view(np.uint8))
            builder.at(
                f"c0.{queue}",
                arrival - LPU.mem.read_latency - hops(queue, f"mxm.{name}.lw"),
                "read",
                address=0,
                stride=1,
                out=OUTWARD[side](plane * width + stream),
                repeat=loading,
            )
        _load(builder, side, plane, arrival, loading)
        builder.at(f"c0.mxm.{name}.lw", arrival + loading, "iw.i8")
    installed = arrival + loading + LPU.mxm.install_latency
    for name in planes:
        _multiply(builder, name, installed, activation)
    return Install(builder.program(), weights, activation[0], loading, installed)


def _multiply(builder: Builder, plane: str, sample: int, activation: NDArray[np.int8]) -> None:
    """Sample the activation in cycle `sample`; the product goes to four inner slices."""
    side, number = plane[0], int(plane[1])
    source = f"mem.{side}{8 + number}"
    builder.store(f"c0.{source}", 0, activation.view(np.uint8))
    read = sample - LPU.mem.read_latency - hops(source, f"mxm.{plane}.abc")
    builder.at(f"c0.{source}", read, "read", address=0, out=OUTWARD[side](number))
    builder.at(
        f"c0.mxm.{plane}.abc",
        sample - LPU.mxm.activation_skew,
        "abc.i8",
        a=OUTWARD[side](number),
        rows=LPU.vector,
    )
    taken = sample + LPU.mxm.multiply_latency
    builder.at(f"c0.mxm.{plane}.acc", taken, "acc.i32", out=INWARD[side](4 * number))
    slices = [f"mem.{side}{4 * number + byte}" for byte in range(4)]
    for byte, queue in enumerate(slices):
        cycle = taken + LPU.mxm.accumulate_latency + hops(queue, f"mxm.{plane}.acc")
        stream = INWARD[side](4 * number + byte)
        builder.at(f"c0.{queue}", cycle, "write", address=9, a=stream)
    shape = (1, LPU.vector)
    queues = [f"c0.{queue}" for queue in slices]
    builder.bind("output", f"y{plane}", "int32", Type.I32, shape, queues, 9)


def activation_to_alu(delay: int) -> Program:
    """Read an activation from slice W32 in cycle 0, multiply, and sample the sum on the nearest
    rank of ALUs in cycle `delay`: right for one delay only."""
    builder = build("lpu-v1").store("c0.mem.W32", 0, np.ones((1, LPU.vector), np.uint8))
    sample = LPU.mem.read_latency + hops("mem.W32", "mxm.W0.abc")
    taken = sample + LPU.mxm.multiply_latency
    builder.at("c0.mem.W32", 0, "read", address=0, out=west(0))
    builder.at("c0.mxm.W0.lw", 0, "iw.i8")
    skew = LPU.mxm.activation_skew
    builder.at("c0.mxm.W0.abc", sample - skew, "abc.i8", a=west(0), rows=LPU.vector)
    builder.at("c0.mxm.W0.acc", taken, "acc.i32", out=east(0))
    return builder.at("c0.vxm.0", delay, "mov.i32", a=east(0), out=east(4)).program()


def transpose_round_trip(delay: int) -> Program:
    """Send 16 vectors from the innermost slices through a transposer; slice W0 reads in cycle 0
    and takes the result in cycle `delay`: right for one delay only."""
    builder = build("lpu-v1")
    width = LPU.lanes.per_superlane
    for stream in range(width):
        queue = f"mem.W{stream}"
        builder.store(f"c0.{queue}", 0, np.full((1, LPU.vector), stream, np.uint8))
        lead = hops("mem.W0", queue)
        builder.at(f"c0.{queue}", lead, "read", address=0, out=west(stream))
    at = LPU.mem.read_latency + hops("mem.W0", "sxm.W.transpose0")
    builder.at("c0.sxm.W.transpose0", at, "transpose", a=west(0), width=width, out=east(0))
    builder.at("c0.mem.W0", delay, "write", a=east(0), address=1)
    return builder.bind(
        "output", "y", "uint8", Type.I8, (1, LPU.vector), ["c0.mem.W0"], 1
    ).program()
