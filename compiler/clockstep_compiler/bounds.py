"""Lower bounds: cycles that no schedule of the lowered steps can beat on this machine."""

from __future__ import annotations

from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.partition import find_product, inner_tiles
from clockstep_compiler.steps import Compute, Lowered, sources_of
from clockstep_isa.table import Type

__all__ = ["lower_bound"]


def lower_bound(plan: Floorplan, lowered: Lowered, chips: int) -> tuple[int, str]:
    """The greatest of three bounds, in cycles, and its name.

    mxm: activations through the arrays, all planes of all chips busy. weights: every weight once
    through the install streams. latency: the longest chain of dependent steps at minimum latency.
    """
    bounds = {
        "mxm": _occupancy(plan, lowered, chips),
        "weights": _delivery(plan, lowered, chips),
        "latency": _latency(plan, lowered),
    }
    name = max(bounds, key=lambda key: bounds[key])
    return bounds[name], name


def _occupancy(plan: Floorplan, lowered: Lowered, chips: int) -> int:
    mxm, lanes = plan.machine.mxm, plan.machine.vector
    cycles = 0
    for step in lowered.steps:
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None:
            continue
        tiles = range(-(-product.columns // lanes))
        passes = product.rows * sum(len(inner_tiles(product, tile, lanes)) for tile in tiles)
        cost = 1 if product.type == Type.I8 else mxm.fp16_planes * mxm.fp16_interval
        cycles += passes * cost
    return -(-cycles // (2 * mxm.planes_per_hemisphere * chips))


def _delivery(plan: Floorplan, lowered: Lowered, chips: int) -> int:
    vectors, lanes = 0, plan.machine.vector
    for step in lowered.steps:
        product = find_product(step.expr) if isinstance(step, Compute) else None
        if product is None:
            continue
        for tile in range(-(-product.columns // lanes)):
            columns = min(lanes, product.columns - tile * lanes)
            sets = sum(term.weights.sets for term, _ in inner_tiles(product, tile, lanes))
            vectors += sets * columns * product.type.bytes
    return -(-vectors // (2 * plan.machine.streams.per_direction * chips))


def _latency(plan: Floorplan, lowered: Lowered) -> int:
    """The longest chain of steps, each of which reads, passes its units and writes."""
    m = plan.machine
    memory = m.mem.read_latency + m.mem.write_latency
    vector = memory + 2 * m.vxm.hops_from_mem + m.vxm.op_latency
    matrix = vector + 2 * m.mxm.hops_from_mem + m.mxm.multiply_latency + m.mxm.accumulate_latency
    ready: dict[int, int] = {}
    for step in lowered.steps:
        product = isinstance(step, Compute) and find_product(step.expr) is not None
        start = max((ready.get(v.number, 0) for v in sources_of(step)), default=0)
        ready[step.out.number] = start + (matrix if product else vector)
    return max(ready.values(), default=0)
