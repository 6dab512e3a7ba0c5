"""What must hold of the bounds and the causes of every program that was compiled."""

from __future__ import annotations

from collections import Counter

from clockstep_compiler.bounds import LAYOUT, NAMES
from clockstep_compiler.causes import CAUSES
from clockstep_isa import Program

__all__ = ["assert_sound", "bounds_of", "causes_of"]


def bounds_of(program: Program) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
    """The bounds of the program and of its nodes, by name."""
    said = program.info["bounds"]
    names = said["names"]
    assert names == [*NAMES, LAYOUT]
    nodes = {row[0]: dict(zip(names, row[1:], strict=True)) for row in said["nodes"]}
    return dict(zip(names, said["program"], strict=True)), nodes


def causes_of(program: Program) -> Counter[tuple[int, str]]:
    """Cycles by node and cause."""
    found: Counter[tuple[int, str]] = Counter()
    for first, end, node, cause, _ in program.info["causes"]:
        found[node, cause] += end - first
    return found


def assert_sound(program: Program) -> None:
    """No bound is beaten, and every cycle has one cause, of a node that is at work."""
    whole, nodes = bounds_of(program)
    beaten = {name: whole[name] for name in NAMES if whole[name] > program.cycles}
    assert not beaten, f"a program of {program.cycles} cycles beats {beaten}"
    greatest = max(whole[name] for name in NAMES)
    assert program.info["lower_bound_cycles"] == greatest == whole[program.info["bound_by"]]
    for index, bounds in nodes.items():
        node = program.nodes[index]
        beaten = {name: bounds[name] for name in NAMES if bounds[name] > node.end - node.start}
        assert not beaten, f"{node} beats {beaten}"
    at = 0
    for first, end, node, cause, _ in program.info["causes"]:
        assert first == at < end, "a cycle has no cause, or several"
        assert cause in CAUSES
        assert program.nodes[node].start < program.nodes[node].end
        at = end
    assert at == program.cycles, f"{at} cycles have a cause, of {program.cycles}"
    for (index, cause), cycles in causes_of(program).items():
        work = max(nodes[index][name] for name in NAMES if name != "latency")
        assert work <= nodes[index][LAYOUT], "whole vectors take no fewer cycles"
        assert cause != "compute" or cycles <= work, "more at the bound than the bound"
        assert cause != "layout" or cycles <= nodes[index][LAYOUT] - work
