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

Compile = Callable[[Graph, Options], Program]


def pipelined(
    graph: Graph, machine: Machine, options: Options, compile_one: Compile
) -> Program | None:
    """The model in stages, if it takes more chips than a node has; None if it cannot be had so.

    `compile_one` compiles the graph of a stage for the fewest chips. Raises `DoesNotFit` where no
    node holds a stage, if the model takes so many nodes that it is hopeless as a whole.
    """
    node = machine.system.chips_per_node
    wanted = options.chips or -(-_bytes(graph) // machine.sram_bytes)
    if wanted <= node:
        return None
    graph = replace(graph, states=paired(graph, options.states))
    parts = _parts(graph, machine, options)
    if len(parts) < 2:
        return None
    forms: dict[str, Graph] = {}
    for part in parts:
        forms.setdefault(part.form, part.graph)
    many = wanted > _MANY_NODES * node
    most = max(least_ranks(part.graph, machine) for part in parts)
    if many and most > node:
        raise DoesNotFit(
            "sram",
            f"a stage takes {most} chips, and a node has {node}: only chips of a node share one",
            where=machine.name,
            help="more chips, if a stage has several layers; else weights of fewer bits, or a"
            " machine with larger nodes (system.chips_per_node)",
        )
    try:
        programs = _compiled(list(forms.values()), replace(options, chips=None), compile_one)
        made = dict(zip(forms, zip(forms.values(), programs, strict=True), strict=True))
        return _composed(graph, machine, options, [(p, *made[p.form]) for p in parts])
    except (DoesNotFit, UnsupportedModel, NoRoom, Unlike):
        if not many:
            return None
        raise DoesNotFit(
            "sram",
            f"of {len(parts)} stages for {wanted} chips one finds no room on its node",
            where=machine.name,
            help=f"more chips may do, which have fewer layers each: --chips {wanted + node}",
        ) from None


_MANY_NODES = 4
"""Nodes beyond which a model is in stages or not at all: as a whole it would take days."""


_FEW_NODES = 16
"""Nodes of a stage below which it takes no time worth a process."""


def _compiled(graphs: list[Graph], one: Options, compile_one: Compile) -> list[Program]:
    """The program of each stage; without weights, which programs would carry from one process to
    another, as many at a time as there are cores."""
    jobs = [partial(_tried, compile_one, graph, one) for graph in graphs]
    few = sum(len(graph.nodes) >= _FEW_NODES for graph in graphs) < 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if one.weights or few or cores < 2:
        return [compile_one(graph, one) for graph in graphs]
    _JOBS[:] = jobs
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(cores, len(jobs)), fork) as pool:
        found = list(pool.map(_run, range(len(jobs))))
    _JOBS.clear()
    programs = [program for program in found if program is not None]
    if len(programs) < len(found):
        raise Unlike("a stage that cannot be compiled")
    return programs


_JOBS: list[Callable[[], Program | None]] = []
"""What processes find to do where they begin: graphs need not be sent to them."""


def _run(number: int) -> Program | None:
    return _JOBS[number]()


def _tried(compile_one: Compile, graph: Graph, one: Options) -> Program | None:
    try:
        return compile_one(graph, one)
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
