"""Lower bounds: cycles that no schedule of the lowered steps can beat on this machine.

A bound holds for whatever order, placement and packing of vectors, as long as the steps are those
that lowering made. `work.py` counts what each step takes of every resource, `path.py` follows the
dependences, `links.py` what must pass from chip to chip. What each bound means, and its formula,
stands in docs/bounds.md. To add one, add a resource, or a name to `NAMES` and its cycles here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clockstep_compiler.bounds.links import link_bound
from clockstep_compiler.bounds.path import Path
from clockstep_compiler.bounds.work import Demand, Tally, resources
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.partition import Partition
from clockstep_compiler.steps import Lowered, Step

__all__ = ["NAMES", "Bounds", "lower_bounds"]

NAMES = ("mxm", "weights", "streams", "banks", "alus", "large alus", "links", "latency")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Cycles by name, of the program and of every node that steps belong to.

    A step belongs to the first of the nodes that it serves; `work` leaves the latency out.
    """

    program: Mapping[str, int]
    nodes: Mapping[int, Mapping[str, int]]

    @property
    def greatest(self) -> tuple[int, str]:
        """The bound, and its name: the first of equals."""
        name = max(NAMES, key=lambda name: self.program[name])
        return self.program[name], name

    def work(self) -> dict[int, int]:
        """The cycles in which each node could do its work at the full rate of the machine."""
        return {
            node: max(cycles for name, cycles in found.items() if name != "latency")
            for node, found in self.nodes.items()
        }


def lower_bounds(plan: Floorplan, lowered: Lowered, partition: Partition, chips: int) -> Bounds:
    """Every bound; `partition` says where weights lie."""
    tally = Tally(plan)
    demands = [tally.step(step) for step in lowered.steps]
    nodes: dict[int, list[int]] = {}
    for index, step in enumerate(lowered.steps):
        nodes.setdefault(step.nodes[0], []).append(index)
    program = _work(plan, demands, chips, ends=True)
    program["links"] = link_bound(plan, lowered, demands, partition, chips)
    program["latency"] = _latency(plan, list(lowered.steps), demands, chips, alone=False)
    found = {}
    for node, indices in sorted(nodes.items()):
        own = [demands[i] for i in indices]
        found[node] = _work(plan, own, chips, ends=False) | {"links": 0}
        steps = [lowered.steps[i] for i in indices]
        found[node]["latency"] = _latency(plan, steps, own, chips, alone=True)
    return Bounds(program, found)


def _work(plan: Floorplan, demands: list[Demand], chips: int, *, ends: bool) -> dict[str, int]:
    """The greatest bound of each name, from what all steps together take.

    With `ends`, from the first read of the program to its last write.
    """
    found: dict[str, int] = {}
    for resource in resources(plan):
        amount = sum(demand.amounts[resource.key] for demand in demands)
        cycles = -(-amount // (resource.capacity * chips))
        if cycles and ends:
            cycles += resource.ends
        found[resource.name] = max(found.get(resource.name, 0), cycles)
    return found


def _latency(
    plan: Floorplan, steps: list[Step], demands: list[Demand], chips: int, *, alone: bool
) -> int:
    capacity = {r.key: r.capacity * chips for r in resources(plan)}
    path = Path(plan, lambda key, amount: -(-amount // capacity[key]), alone)
    times = [path.step(step, demand) for step, demand in zip(steps, demands, strict=True)]
    return max((ready.all for ready in times), default=0)
