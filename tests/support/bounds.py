"""What must hold of the bounds and the causes of every program that was compiled."""

from __future__ import annotations

from collections import Counter

from clockstep_compiler.bounds import NAMES
from clockstep_compiler.causes import CAUSES
from clockstep_isa import Program

__all__ = ["assert_sound", "bounds_of", "causes_of"]


def bounds_of(program: Program) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
    """The bounds of the program and of its nodes, by name."""
    said = program.info["bounds"]
    assert said["names"] == list(NAMES)
    nodes = {row[0]: dict(zip(NAMES, row[1:], strict=True)) for row in said["nodes"]}
    return dict(zip(NAMES, said["program"], strict=True)), nodes


def causes_of(program: Program) -> Counter[tuple[int, str]]:
    """Cycles by node and cause."""
    found: Counter[tuple[int, str]] = Counter()
    for first, end, node, cause, _ in program.info["causes"]:
        found[node, cause] += end - first
    return found


def assert_sound(program: Program) -> None:
    """No bound is beaten, and every cycle has one cause, of a node that is at work."""
    whole, nodes = bounds_of(program)
    beaten = {name: cycles for name, cycles in whole.items() if cycles > program.cycles}
    assert not beaten, f"a program of {program.cycles} cycles beats {beaten}"
    assert program.info["lower_bound_cycles"] == max(whole.values())
    assert whole[program.info["bound_by"]] == max(whole.values())
    for index, bounds in nodes.items():
        node = program.nodes[index]
        beaten = {n: cycles for n, cycles in bounds.items() if cycles > node.end - node.start}
        assert not beaten, f"{node} beats {beaten}"
    at = 0
    for first, end, node, cause, _ in program.info["causes"]:
        assert first == at < end, "a cycle has no cause, or several"
        assert cause in CAUSES
        assert program.nodes[node].start < program.nodes[node].end
        at = end
    assert at == program.cycles, f"{at} cycles have a cause, of {program.cycles}"
    for (index, cause), cycles in causes_of(program).items():
        work = [c for name, c in nodes[index].items() if name != "latency"]
        assert cause != "compute" or cycles <= max(work), "more at the bound than the bound"
