"""Lower bounds: cycles that no schedule of the lowered steps can beat on this machine.

A bound holds for whatever order, placement and packing of vectors, as long as the steps are those
that lowering made. `parts.py` takes steps apart, `work.py` counts what each takes of every
resource, `path.py` follows the dependences, `links.py` what must pass from chip to chip. What each
bound means stands in docs/bounds.md. To add one, add a resource, or a name to `NAMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clockstep_compiler.bounds.links import link_bound
from clockstep_compiler.bounds.parts import Parts, parts_of
from clockstep_compiler.bounds.path import Path
from clockstep_compiler.bounds.work import Tally, resources
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.partition import Partition
from clockstep_compiler.steps import Lowered, Step

__all__ = ["LAYOUT", "NAMES", "Bounds", "lower_bounds"]

NAMES = ("mxm", "weights", "streams", "banks", "alus", "large alus", "links", "latency")

LAYOUT = "layout"
"""Beside the bounds: the cycles of the busiest resource when a row of a matrix, as the steps have
them, takes whole vectors. Another layout may take fewer."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Cycles by name, of the program and of every node that steps belong to, `LAYOUT` included.

    A step belongs to the first of the nodes that it serves.
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
            node: max(found[name] for name in NAMES if name != "latency")
            for node, found in self.nodes.items()
        }

    def laid_out(self) -> dict[int, int]:
        """The same with rows in whole vectors."""
        return {node: found[LAYOUT] for node, found in self.nodes.items()}


def lower_bounds(plan: Floorplan, lowered: Lowered, partition: Partition, chips: int) -> Bounds:
    """Every bound; `partition` says where weights lie."""
    steps, exact, whole = lowered.steps, Tally(plan), Tally(plan, whole=True)
    parts = [parts_of(step, plan.machine.vector) for step in steps]
    taken = [exact.step(step, own) for step, own in zip(steps, parts, strict=True)]
    vectors = [whole.step(step, own) for step, own in zip(steps, parts, strict=True)]
    nodes: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        nodes.setdefault(step.nodes[0], []).append(index)

    def found(indices: list[int], *, alone: bool) -> dict[str, int]:
        own = [taken[i] for i in indices]
        cycles = _work(plan, own, chips, ends=not alone)
        laid_out = _work(plan, [vectors[i] for i in indices], chips, ends=not alone)
        cycles["links"] = 0 if alone else link_bound(plan, lowered, parts, partition, chips)
        chosen = [(steps[i], parts[i]) for i in indices]
        cycles["latency"] = _latency(plan, chosen, own, chips, alone=alone)
        return cycles | {LAYOUT: max(laid_out.values())}

    return Bounds(
        found(list(range(len(steps))), alone=False),
        {node: found(indices, alone=True) for node, indices in sorted(nodes.items())},
    )


def _work(
    plan: Floorplan, demands: list[dict[str, int]], chips: int, *, ends: bool
) -> dict[str, int]:
    """The greatest bound of each name, from what all steps together take.

    With `ends`, from the first read of the program to its last write.
    """
    found: dict[str, int] = {}
    for resource in resources(plan):
        amount = sum(demand[resource.key] for demand in demands)
        cycles = -(-amount // (resource.capacity * chips))
        if cycles and ends:
            cycles += resource.ends
        found[resource.name] = max(found.get(resource.name, 0), cycles)
    return found


def _latency(
    plan: Floorplan,
    steps: list[tuple[Step, Parts | None]],
    demands: list[dict[str, int]],
    chips: int,
    *,
    alone: bool,
) -> int:
    capacity = {r.key: r.capacity * chips for r in resources(plan)}
    path = Path(plan, lambda key, amount: -(-amount // capacity[key]), alone)
    times = [path.step(*step, demand) for step, demand in zip(steps, demands, strict=True)]
    return max((ready.all for ready in times), default=0)
