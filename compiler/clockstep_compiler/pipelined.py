"""Models too large for one node of chips: stages, each compiled once, on chips of their own.

Which stages there are says `stages.py`, how their programs become one `compose.py`. A model whose
layers are not alike, or whose stages do not suit each other, is compiled as a whole.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from clockstep_compiler.compose import Instance, compose, placed
from clockstep_compiler.glue import Unlike
from clockstep_compiler.graph import Graph
from clockstep_compiler.options import Options
from clockstep_compiler.stages import Stage, stages
from clockstep_compiler.states import paired
from clockstep_compiler.storage import NoRoom
from clockstep_isa.diagnostics import DoesNotFit, UnsupportedModel
from clockstep_isa.machine import Machine
from clockstep_isa.program import Program

__all__ = ["least_ranks", "pipelined"]

Compile = Callable[[Sequence[Graph], Sequence[Options]], list[Program]]


def pipelined(
    graphs: Sequence[Graph], machine: Machine, options: Sequence[Options], compile_one: Compile
) -> list[Program] | None:
    """Models in stages, if they take more chips than a node has; None if they cannot be had so.

    They are one model, or entries of one, with options for each. `compile_one` compiles the graphs
    of a stage of all of them for the fewest chips. Raises `DoesNotFit` where no node holds a
    stage, if the models take so many nodes that they are hopeless as a whole.
    """
    node = machine.system.chips_per_node
    wanted = options[0].chips or -(-_bytes(graphs[0]) // machine.sram_bytes)
    if wanted <= node:
        return None
    graphs = [
        replace(graph, states=paired(graph, one.states))
        for graph, one in zip(graphs, options, strict=True)
    ]
    each = [_parts(graph, machine, one) for graph, one in zip(graphs, options, strict=True)]
    if len({len(parts) for parts in each}) > 1 or len(each[0]) < 2:
        return None
    stages_of = list(zip(*each, strict=True))
    kinds: dict[tuple[str, ...], list[Graph]] = {}
    for parts in stages_of:
        kinds.setdefault(_kind(parts), [part.graph for part in parts])
    many = wanted > _MANY_NODES * node
    most = max(least_ranks(part.graph, machine) for part in each[0])
    if many and most > node:
        raise DoesNotFit(
            "sram",
            f"a stage takes {most} chips, and a node has {node}: only chips of a node share one",
            where=machine.name,
            help="more chips, if a stage has several layers; else weights of fewer bits, or a"
            " machine with larger nodes (system.chips_per_node)",
        )
    try:
        ones = [replace(one, chips=None) for one in options]
        programs = _compiled(list(kinds.values()), ones, compile_one)
        made = dict(zip(kinds, programs, strict=True))
        found = []
        for number, (graph, one) in enumerate(zip(graphs, options, strict=True)):
            of = [(p[number], kinds[_kind(p)][number], made[_kind(p)][number]) for p in stages_of]
            found.append(_composed(graph, machine, one, of))
        return found
    except (DoesNotFit, UnsupportedModel, NoRoom, Unlike):
        if not many:
            return None
        raise DoesNotFit(
            "sram",
            f"of {len(stages_of)} stages for {wanted} chips one finds no room on its node",
            where=machine.name,
            help=f"more chips may do, which have fewer layers each: --chips {wanted + node}",
        ) from None


def _kind(parts: Sequence[Stage]) -> tuple[str, ...]:
    """The forms of a stage in all entries."""
    return tuple(part.form for part in parts)


_MANY_NODES = 4
"""Nodes beyond which a model is in stages or not at all: as a whole it would take days."""


_FEW_NODES = 16
"""Nodes of a stage below which it takes no time worth a process."""


def _compiled(
    stages_: list[list[Graph]], ones: Sequence[Options], compile_one: Compile
) -> list[list[Program]]:
    """The programs of each stage; without weights, which programs would carry from one process to
    another, as many at a time as there are cores."""
    jobs = [partial(_tried, compile_one, graphs, ones) for graphs in stages_]
    few = sum(len(graphs[0].nodes) >= _FEW_NODES for graphs in stages_) < 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if ones[0].weights or few or cores < 2:
        return [compile_one(graphs, ones) for graphs in stages_]
    _JOBS[:] = jobs
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(cores, len(jobs)), fork) as pool:
        found = list(pool.map(_run, range(len(jobs))))
    _JOBS.clear()
    programs = [some for some in found if some is not None]
    if len(programs) < len(found):
        raise Unlike("a stage that cannot be compiled")
    return programs


_JOBS: list[Callable[[], list[Program] | None]] = []
"""What processes find to do where they begin: graphs need not be sent to them."""


def _run(number: int) -> list[Program] | None:
    return _JOBS[number]()


def _tried(
    compile_one: Compile, graphs: Sequence[Graph], ones: Sequence[Options]
) -> list[Program] | None:
    try:
        return compile_one(graphs, ones)
    except (DoesNotFit, UnsupportedModel, NoRoom):
        return None


def _parts(graph: Graph, machine: Machine, options: Options) -> tuple[Stage, ...]:
    """Stages of a layer each; if the chips are too few for ranks of these, of parts of layers, so
    that each fills a node."""
    parts, chips = stages(graph, options, options.chips or machine.max_chips), options.chips
    node = machine.system.chips_per_node
    if chips is None or sum(_ranks(part.graph, machine) for part in parts) <= chips:
        return parts
    return stages(graph, options, chips // node, fine=True) or parts


def _ranks(graph: Graph, machine: Machine) -> int:
    """Chips of a stage: so many that a node has room for several stages alike."""
    least, node = least_ranks(graph, machine), machine.system.chips_per_node
    return next((n for n in range(least, node + 1) if node % n == 0), least)


def _bytes(graph: Graph) -> int:
    """Bytes of the constants, floats in fp16."""
    return sum(array.size * min(2, array.itemsize) for array in graph.constants.values())


_FULL = (9, 10)
"""The part of its chips that the constants of a stage fill at most."""


def least_ranks(graph: Graph, machine: Machine) -> int:
    """Chips that have room for the constants of a stage, and some to spare."""
    part, whole = _FULL
    return max(1, -(-_bytes(graph) * whole // (part * machine.sram_bytes)))


def _composed(
    graph: Graph,
    machine: Machine,
    options: Options,
    parts: Sequence[tuple[Stage, Graph, Program]],
) -> Program:
    sizes = [program.chips for _, _, program in parts]
    chips = options.chips or max(sum(sizes), machine.system.chips_per_node)
    most = min(machine.max_chips, 2 * chips + machine.system.chips_per_node)
    first = None
    while first is None:
        try:
            first = placed(machine, sizes, chips)
        except Unlike:
            if options.chips is not None or chips >= most:
                raise
            chips += 1
    instances = [
        Instance(stage.graph, model, program, chip)
        for (stage, model, program), chip in zip(parts, first, strict=True)
    ]
    return compose(graph, machine, instances, chips, _info(instances, options, machine, chips))


def _info(
    instances: Sequence[Instance], options: Options, machine: Machine, chips: int
) -> dict[str, Any]:
    """What the stages say of themselves, as one; all but what depends on when they run."""
    each = [instance.program.info for instance in instances]
    first = each[0]
    empty = dict.fromkeys(("weights", "constants", "activations", "instructions", "total"), 0)
    chip_bytes = [dict(empty) for _ in range(chips)]
    for instance, info in zip(instances, each, strict=True):
        chip_bytes[instance.chip : instance.chip + instance.program.chips] = info["chip_bytes"]
    names = first["bounds"]["names"]
    whole = [max(row) for row in zip(*(info["bounds"]["program"] for info in each), strict=True)]
    greatest = max(range(len(names) - 1), key=lambda i: whole[i])
    return {
        **{key: first[key] for key in ("tool_version", "model", "source_sha256")},
        "options": {**first["options"], "chips": options.chips},
        "weight_bytes": sum(info["weight_bytes"] for info in each),
        "sram_bytes_used": sum(info["sram_bytes_used"] for info in each),
        "sram_bytes_total": chips * machine.sram_bytes,
        "lower_bound_cycles": whole[greatest],
        "bound_by": names[greatest],
        "layout_cycles": whole[-1],
        "bounds": {"names": names, "program": whole, "nodes": _node_bounds(instances)},
        "chip_bytes": chip_bytes,
        "warnings": list(dict.fromkeys(text for info in each for text in info["warnings"])),
    }


def _node_bounds(instances: Sequence[Instance]) -> list[list[int]]:
    rows: list[list[int]] = []
    nodes = 0
    for instance in instances:
        rows += [[row[0] + nodes, *row[1:]] for row in instance.program.info["bounds"]["nodes"]]
        nodes += len(instance.program.nodes)
    return rows
