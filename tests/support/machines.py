"""Machines that no preset describes, written as overrides of `tiny`, and random ones.

A test that passes on all of them shows that nothing in the compiler knows a preset's numbers. To
add a machine, add a row to `OVERRIDES`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clockstep_isa import Machine, load_machine

__all__ = ["MACHINES", "OVERRIDES", "machine", "random_machine", "with_words"]

OVERRIDES: Mapping[str, Mapping[str, int]] = {
    "tiny": {},
    # A ring: two links of a chip, so chips that are not neighbours need forwarding.
    "ring": {
        "lanes.superlanes": 6,
        "lanes.per_superlane": 4,
        "streams.per_direction": 20,
        "mem.slices_per_hemisphere": 10,
        "mem.slices_per_hop": 5,
        "mem.read_latency": 3,
        "mem.write_latency": 2,
        "mxm.install_streams": 6,
        "mxm.install_latency": 5,
        "mxm.activation_skew": 0,
        "mxm.multiply_latency": 7,
        "mxm.accumulate_latency": 2,
        "vxm.op_latency": 5,
        "c2c.links": 2,
        "c2c.cycles_per_vector": 7,
        "c2c.latency": 31,
        "system.chips_per_node": 5,
        "system.local_links": 2,
        "system.global_links": 0,
        "system.max_nodes": 1,
    },
    # Few lanes and streams: everything is cut into many tiles, and streams are scarce.
    "narrow": {
        "lanes.superlanes": 2,
        "lanes.per_superlane": 4,
        "streams.per_direction": 8,
        "mem.slices_per_hemisphere": 8,
        "mem.slices_per_hop": 1,
        "mem.banks": 4,
        "mem.words_per_bank": 1024,
        "mxm.install_streams": 2,
        "mxm.hops_from_mem": 1,
        "vxm.op_latency": 1,
        "sxm.transpose_latency": 9,
        "c2c.cycles_per_vector": 1,
    },
    # Wide vectors, fp16 on single planes, five chips in a node.
    "wide": {
        "lanes.superlanes": 8,
        "lanes.per_superlane": 8,
        "streams.per_direction": 32,
        "mem.slices_per_hemisphere": 16,
        "mem.slices_per_hop": 4,
        "mxm.planes_per_hemisphere": 3,
        "mxm.install_streams": 16,
        "mxm.fp16_planes": 1,
        "mxm.fp16_interval": 5,
        "mxm.multiply_latency": 13,
        "vxm.hops_per_rank": 3,
        "vxm.hops_from_mem": 6,
        "sxm.permute_latency": 6,
        "c2c.links": 7,
        "system.chips_per_node": 5,
        "system.local_links": 4,
        "system.global_links": 3,
    },
    # Nothing is a power of two, and latencies are out of proportion.
    "odd": {
        "lanes.superlanes": 5,
        "lanes.per_superlane": 3,
        "streams.per_direction": 12,
        "mem.slices_per_hemisphere": 11,
        "mem.slices_per_hop": 3,
        "mem.banks": 3,
        "mem.words_per_bank": 341,
        "mem.write_latency": 23,
        "mxm.planes_per_hemisphere": 1,
        "mxm.fp16_planes": 1,
        "mxm.fp16_interval": 3,
        "mxm.install_streams": 7,
        "mxm.install_latency": 19,
        "mxm.accumulate_latency": 29,
        "vxm.rows": 3,
        "vxm.ranks": 5,
        "vxm.window_groups": 3,
        "vxm.window_step": 1,
        "sxm.distribute_latency": 11,
        "c2c.links": 1,
        "system.chips_per_node": 2,
        "system.local_links": 1,
        "system.global_links": 0,
        "system.max_nodes": 1,
    },
}
"""Machines by name, as what they change in `tiny`."""


def machine(name: str, **changes: int) -> Machine:
    """A machine of `OVERRIDES`, or a preset, with figures changed; `mem__banks` is mem.banks."""
    base = name if name not in OVERRIDES else "tiny"
    figures = {**OVERRIDES.get(name, {}), **{k.replace("__", "."): v for k, v in changes.items()}}
    return load_machine(base, [f"{key}={value}" for key, value in figures.items()])


MACHINES: Mapping[str, Machine] = {name: machine(name) for name in OVERRIDES}


def with_words(name: str, words: int) -> Machine:
    """A machine of `OVERRIDES` with so many words in each of two banks of a slice."""
    return machine(name, mem__banks=2, mem__words_per_bank=words)


_RANGES: Mapping[str, tuple[int, int]] = {
    "lanes.superlanes": (2, 6),
    "lanes.per_superlane": (2, 8),
    "mem.slices_per_hemisphere": (8, 20),
    "mem.slices_per_hop": (1, 5),
    "mem.banks": (1, 4),
    "mem.read_latency": (1, 9),
    "mem.write_latency": (1, 9),
    "mxm.hops_from_mem": (1, 9),
    "mxm.install_streams": (2, 8),
    "mxm.fp16_interval": (1, 4),
    "mxm.install_latency": (1, 30),
    "mxm.activation_skew": (0, 5),
    "mxm.multiply_latency": (1, 20),
    "mxm.accumulate_latency": (1, 40),
    "vxm.rows": (4, 5),
    "vxm.ranks": (4, 5),
    "vxm.hops_from_mem": (1, 9),
    "vxm.hops_per_rank": (1, 4),
    "vxm.op_latency": (1, 6),
    "sxm.hops_from_mem": (1, 9),
    "sxm.distributors": (1, 4),
    "sxm.transposers": (1, 2),
    "sxm.permutors": (1, 2),
    "sxm.distribute_latency": (1, 9),
    "sxm.transpose_latency": (1, 20),
    "sxm.permute_latency": (1, 9),
    "c2c.links": (4, 8),
    "c2c.cycles_per_vector": (1, 30),
    "c2c.latency": (1, 300),
    "c2c.margin": (0, 20),
    "system.chips_per_node": (2, 6),
    "system.local_links": (2, 3),
    "system.global_links": (0, 1),
    "system.max_nodes": (1, 2),
}
"""What a random machine draws, both ends included."""


def random_machine(rng: np.random.Generator) -> Machine:
    """A machine of random figures; the same generator state gives the same machine."""
    figures = {key: int(rng.integers(low, high + 1)) for key, (low, high) in _RANGES.items()}
    figures["streams.per_direction"] = 4 * int(rng.integers(4, 9))
    figures["mxm.fp16_planes"] = int(rng.integers(1, 3))
    figures["mxm.planes_per_hemisphere"] = figures["mxm.fp16_planes"] * int(rng.integers(1, 3))
    return load_machine("tiny", [f"{key}={value}" for key, value in figures.items()])
