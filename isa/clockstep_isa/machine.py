"""The machine: every figure of one chip and of the system it stands in, read from one TOML.

The dataclasses below are the schema; a field is a figure, and its metadata says its range, unit
and meaning. To add a figure, add a field here and a value in `machines/lpu-v1.toml` and
`machines/tiny.toml`. Geometry that follows from the figures (positions, queues, wiring) is
derived in `geometry.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PROVENANCE", "Figure", "Machine", "Schema", "schema"]

PROVENANCE = ("paper", "sdk", "measured", "derived", "assumed")
"""How sure a figure is: published, in official code, measured by users, arithmetic, our choice."""


def _figure(unit: str, low: int, high: int, doc: str) -> Any:
    return field(metadata={"unit": unit, "low": low, "high": high, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    hz: int = _figure("Hz", 1, 10**11, "clock frequency; turns cycles into seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    superlanes: int = _figure("superlanes", 1, 128, "tiles stacked north to south")
    per_superlane: int = _figure("lanes", 2, 64, "lanes of one superlane; one byte each")


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    per_direction: int = _figure("streams", 8, 256, "streams eastward, and as many westward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mem:
    slices_per_hemisphere: int = _figure("slices", 2, 1024, "SRAM slices of a hemisphere")
    slices_per_hop: int = _figure("slices", 1, 64, "slices that share one stream hop")
    banks: int = _figure("banks", 1, 16, "banks of a slice; each does one access per cycle")
    words_per_bank: int = _figure("words", 1, 2**18, "words of a bank; a word is one vector")
    read_latency: int = _figure("cycles", 1, 4096, "dispatch of `read` to its vector on the stream")
    write_latency: int = _figure(
        "cycles", 1, 4096, "dispatch of `write` until the word can be read"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mxm:
    planes_per_hemisphere: int = _figure("planes", 1, 16, "lanes x lanes arrays of a hemisphere")
    hops_from_mem: int = _figure("hops", 1, 4096, "outermost MEM hop to the MXM")
    install_streams: int = _figure("streams", 2, 256, "widest `lw`: weight streams of a plane")
    fp16_planes: int = _figure("planes", 1, 2, "planes that one fp16 array takes")
    fp16_interval: int = _figure("cycles", 1, 64, "cycles between fp16 activations of an array")
    install_latency: int = _figure("cycles", 1, 4096, "dispatch of `iw` until `abc` may sample")
    activation_skew: int = _figure("cycles", 0, 4096, "dispatch of `abc` to sampling its operand")
    multiply_latency: int = _figure("cycles", 1, 4096, "activation sampled to its product in ACC")
    accumulate_latency: int = _figure("cycles", 1, 4096, "dispatch of `acc` to its result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vxm:
    rows: int = _figure("ALUs", 1, 16, "ALUs of a rank")
    ranks: int = _figure("ranks", 1, 16, "ranks of ALUs, west to east")
    large_every: int = _figure("ALUs", 1, 16, "ALU (row, rank) is large if it divides row + rank")
    hops_from_mem: int = _figure("hops", 1, 4096, "innermost MEM hop to the nearest rank")
    hops_per_rank: int = _figure("hops", 1, 4096, "stream hops from rank to rank")
    op_latency: int = _figure("cycles", 1, 4096, "dispatch of an ALU operation to its result")
    window_groups: int = _figure("quads", 1, 64, "stream quads that an ALU row can read")
    window_step: int = _figure("quads", 0, 64, "shift of that window from one row to the next")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sxm:
    hops_from_mem: int = _figure("hops", 1, 4096, "outermost MEM hop to the SXM and C2C units")
    distributors: int = _figure("units", 0, 64, "distributors of a hemisphere")
    transposers: int = _figure("units", 0, 64, "transposers of a hemisphere")
    permutors: int = _figure("units", 1, 64, "permutors (shift, permute, broadcast) likewise")
    unattributed_queues: int = _figure("queues", 0, 64, "queues counted in public, use unknown")
    distribute_latency: int = _figure("cycles", 1, 4096, "dispatch of `distribute` to its result")
    transpose_latency: int = _figure("cycles", 1, 4096, "dispatch of `transpose` to its result")
    permute_latency: int = _figure("cycles", 1, 4096, "dispatch of a permutor op to its result")


@dataclass(frozen=True, slots=True, kw_only=True)
class C2c:
    links: int = _figure("links", 0, 64, "chip-to-chip links of a chip, each both ways")
    lanes: int = _figure("lanes", 1, 64, "serial lanes of a link, each way")
    lane_kbps: int = _figure("kb/s", 1, 10**9, "rate of one lane")
    wire_bits: int = _figure(
        "bits", 1, 2**20, "one vector on the wire, framing and coding included"
    )
    cycles_per_vector: int = _figure(
        "cycles", 0, 4095, "time that one vector holds a link; 0: from wire_bits and the lanes"
    )
    latency: int = _figure("cycles", 1, 65535, "mean time from `send` to arrival at the peer")
    margin: int = _figure("cycles", 0, 65535, "added to the latency for jitter and drift")
    drift_margin: int = _figure("cycles", 0, 65535, "of the margin, what clocks may drift apart")
    drift_ppm: int = _figure("ppm", 0, 10**5, "error of a chip's clock, fast or slow; 0: one clock")
    realign: int = _figure("cycles", 0, 65535, "pause of all chips that re-aligns their clocks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Icu:
    instruction_bytes: int = _figure("bytes", 16, 16, "one instruction word, fixed by the codec")
    nop_max: int = _figure("cycles", 1, 65535, "longest wait of one `nop`")
    repeat_max: int = _figure("times", 1, 65535, "longest repeat of one instruction")
    instructions_in_sram: int = _figure(
        "flag", 0, 1, "1: instructions take room in the chip's SRAM"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    chips_per_node: int = _figure("chips", 1, 256, "chips wired all-to-all, or as near as links go")
    local_links: int = _figure("links", 0, 64, "links of a chip used inside its node")
    global_links: int = _figure("links", 0, 64, "links of a chip that leave its node")
    direct_nodes: int = _figure("nodes", 1, 4096, "nodes wired to one another; more are in racks")
    nodes_per_rack: int = _figure("nodes", 1, 4096, "nodes of a rack")
    rack_links: int = _figure("links", 0, 64, "global links of a chip that leave its rack")
    max_nodes: int = _figure("nodes", 1, 4096, "nodes of the largest system")


@dataclass(frozen=True, slots=True)
class Figure:
    """Where a value comes from: `provenance` is one of `PROVENANCE`, `source` says which."""

    value: int
    provenance: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One resolved machine. `figures` keeps the provenance of every `section.key`."""

    name: str
    doc: str
    clock: Clock
    lanes: Lanes
    streams: Streams
    mem: Mem
    mxm: Mxm
    vxm: Vxm
    sxm: Sxm
    c2c: C2c
    icu: Icu
    system: System
    figures: Mapping[str, Figure] = field(compare=False, hash=False, repr=False)

    def __hash__(self) -> int:
        """By the name: it is asked often, and few machines share one."""
        return hash(self.name)

    @property
    def vector(self) -> int:
        """Lanes of a vector, which is also the bytes of a word and of one stream's value."""
        return self.lanes.superlanes * self.lanes.per_superlane

    @property
    def quads(self) -> int:
        """Aligned groups of four streams per direction."""
        return self.streams.per_direction // 4

    @property
    def words_per_slice(self) -> int:
        return self.mem.banks * self.mem.words_per_bank

    @property
    def words_per_chip(self) -> int:
        return 2 * self.mem.slices_per_hemisphere * self.words_per_slice

    @property
    def sram_bytes(self) -> int:
        """Bytes of SRAM of one chip."""
        return self.words_per_chip * self.vector

    @property
    def link_latency(self) -> int:
        """Cycles from the dispatch of `send` to that of the matching `receive`."""
        return self.c2c.latency + self.c2c.margin

    @property
    def max_chips(self) -> int:
        return self.system.chips_per_node * self.system.max_nodes

    @property
    def direct_chips(self) -> int:
        """Chips of the largest system without racks."""
        return self.system.chips_per_node * min(self.system.direct_nodes, self.system.max_nodes)

    def racks(self, chips: int) -> int:
        """Racks of a system of `chips`; 1 if all its nodes are wired to one another."""
        system = self.system
        nodes = -(-chips // system.chips_per_node)
        if nodes <= max(system.direct_nodes, system.nodes_per_rack):
            return 1
        return -(-nodes // system.nodes_per_rack)

    @property
    def realign_interval(self) -> int:
        """Cycles after which two clocks may be `c2c.drift_margin` apart; 0 if they never are.

        The worst pair is one fast and one slow clock.
        """
        apart = 2 * self.c2c.drift_ppm
        return max(1, self.c2c.drift_margin * 10**6 // apart) if apart else 0

    def pauses(self, cycles: int, chips: int) -> int:
        """Re-alignments of a program of `cycles` on so many chips; one chip needs none."""
        every = self.realign_interval
        return (cycles - 1) // every if chips > 1 and every and cycles else 0

    def seconds(self, cycles: int, chips: int) -> float:
        """How long `cycles` take on so many chips, re-alignment of their clocks included."""
        return (cycles + self.pauses(cycles, chips) * self.c2c.realign) / self.clock.hz

    def is_large(self, alu: int) -> bool:
        """Whether ALU `row * ranks + rank` does exp2, rsqrt, tanh, max, min and casts."""
        row, rank = divmod(alu, self.vxm.ranks)
        return (row + rank) % self.vxm.large_every == 0

    def window(self, alu: int) -> frozenset[int]:
        """Stream quads (either direction) that the ALU can read."""
        start = (alu // self.vxm.ranks) * self.vxm.window_step
        return frozenset((start + i) % self.quads for i in range(self.vxm.window_groups))


@dataclass(frozen=True, slots=True)
class Schema:
    """One figure of the schema."""

    key: str
    unit: str
    low: int
    high: int
    doc: str


SECTIONS = {
    "clock": Clock,
    "lanes": Lanes,
    "streams": Streams,
    "mem": Mem,
    "mxm": Mxm,
    "vxm": Vxm,
    "sxm": Sxm,
    "c2c": C2c,
    "icu": Icu,
    "system": System,
}


def schema() -> dict[str, Schema]:
    """Every figure by its `section.key`, in file order."""
    rows = {}
    for section, kind in SECTIONS.items():
        for item in dataclasses.fields(kind):
            key = f"{section}.{item.name}"
            meta = item.metadata
            rows[key] = Schema(key, meta["unit"], meta["low"], meta["high"], meta["doc"])
    return rows
