"""Programs of stages, one after another on chips of their own, as one program.

A stage's program counts chips and cycles from its own first. Here it gets its chips, and starts
when all that it reads of other stages has been sent (`glue.py`). Stages of one form share the
program of the first of them: it is instantiated for each, under the names of its own graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.glue import Glue, Unlike, free_words, journeys
from clockstep_compiler.graph import Graph
from clockstep_isa.geometry import wires
from clockstep_isa.layout import PIECE, Binding, Layout
from clockstep_isa.machine import Machine
from clockstep_isa.parts import Part, repeated
from clockstep_isa.program import (
    ARGS,
    Code,
    Image,
    Node,
    Note,
    Probe,
    Program,
)

__all__ = ["Instance", "compose", "placed"]

_CHIP = PIECE.index("chip")


LARGE = 1 << 18
"""Instructions from which on a program is kept as parts: a listing of all of it is of no use."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A stage on the chips from `chip` on: its own graph, and the program of its form.

    `program` was made of the graph `model`, which differs from `graph` in names alone.
    """

    graph: Graph
    model: Graph
    program: Program
    chip: int


def placed(machine: Machine, sizes: Sequence[int], chips: int) -> list[int]:
    """The first chip of programs of some sizes, one after another on a system of `chips`.

    Each was made for the first chips of a node, or of as many nodes as it needs: where it comes to
    run, links must join chips alike. Raises `Unlike` if there are not enough such chips.
    """
    every = _by_chip(machine, chips)
    found, chip = [], 0
    for size in sizes:
        own = _wires(_by_chip(machine, max(size, machine.system.chips_per_node)), 0, size)
        while chip + size <= chips and size > 1 and _wires(every, chip, size) != own:
            chip += 1
        if chip + size > chips:
            raise Unlike(f"stages of {list(sizes)} chips do not fit {chips}")
        found.append(chip)
        chip += size
    return found


_Wires = dict[int, list[tuple[int, int, int]]]
"""By chip: its links, and the chip and the link that each leads to."""


def _by_chip(machine: Machine, chips: int) -> _Wires:
    found: _Wires = {}
    for chip, link, peer, port in wires(machine, chips).tolist():
        found.setdefault(chip, []).append((link, peer, port))
    return found


def _wires(every: _Wires, first: int, size: int) -> list[tuple[int, int, int, int]]:
    """The links between `size` chips, which are counted from the first of them."""
    return [
        (chip - first, link, peer - first, port)
        for chip in range(first, first + size)
        for link, peer, port in every.get(chip, ())
        if first <= peer < first + size
    ]


def compose(
    graph: Graph, machine: Machine, instances: Sequence[Instance], chips: int, info: dict[str, Any]
) -> Program:
    """One program that runs the stages of `graph` in order; `info` is what it says of itself.

    Raises `Unlike` if a tensor does not lie as the stage that reads it wants it, and `NoRoom` if
    chips on the way are full.
    """
    return _Composer(graph, Floorplan(machine), instances, chips).program(info)


@dataclass
class _Composer:
    """Collects what the stages say, with chips, cycles, nodes and notes moved."""

    graph: Graph
    plan: Floorplan
    instances: Sequence[Instance]
    chips: int
    parts: dict[object, _Part] = field(default_factory=dict)
    """What runs at several places, by what tells it from others."""
    nodes: list[Node] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    causes: list[list[Any]] = field(default_factory=list)
    stages: list[list[int]] = field(default_factory=list)
    """(chip, chips, start, end, node, nodes) of each instance."""
    made: dict[str, tuple[Binding, int]] = field(default_factory=dict)
    """Results of stages, and the node that makes each."""
    read: dict[str, list[Binding]] = field(default_factory=dict)
    """Inputs of the model as the stages read them."""

    def program(self, info: dict[str, Any]) -> Program:
        """The stages, one after another."""
        machine, cycle = self.plan.machine, 0
        glue = Glue(self.plan, self.chips, self._free)
        for instance in self.instances:
            start = self._bring(glue, instance, cycle)
            self._add(instance, start)
            cycle = start + instance.program.cycles
        code, image, notes = self._whole()
        return Program(
            machine=machine,
            chips=self.chips,
            code=code,
            image=image,
            inputs=tuple(_joined(self.read[name]) for name in self.graph.inputs),
            outputs=tuple(replace(self.made[name][0], name=name) for name in self.graph.outputs),
            nodes=tuple(self.nodes),
            notes=notes,
            cycles=cycle,
            info={**info, "causes": self.causes, "stages": self.stages},
            probes=tuple(self.probes),
            states=self.graph.states,
        )

    def _whole(self) -> tuple[Code, Image, Sequence[Note]]:
        """Code, image and notes: as parts if any of these runs twice, and they are many."""
        parts = tuple(part.part for part in self.parts.values())
        words = [
            part.data for part in self.parts.values() for _ in part.places if part.data is not None
        ]
        data = np.concatenate(words) if words else None
        code, image, notes = repeated(self.plan.machine, parts, data)
        if len(code) > LARGE and any(len(part.places) > 1 for part in parts):
            return code, image, notes
        return code.sorted(), Image(image.regions, data), tuple(notes)

    def _free(self, chip: int) -> NDArray[np.bool_] | None:
        """The words of a chip that its program does not touch; None where none runs."""
        for i in self.instances:
            if i.chip <= chip < i.chip + i.program.chips:
                return free_words(i.program, chip - i.chip)
        return None

    def _bring(self, glue: Glue, instance: Instance, cycle: int) -> int:
        """Send an instance what it reads of others from `cycle` on; when it may start."""
        start = cycle
        for name, binding in zip(instance.graph.inputs, instance.program.inputs, strict=True):
            there = _moved(binding, name, instance.chip)
            if name not in self.made:
                self.read.setdefault(name, []).append(there)
                continue
            source, node = self.made[name]
            begin = len(glue.rows)
            end = glue.send(list(journeys(source, there)), cycle)
            self._note(glue.rows[begin:], node, end)
            cycle = start = max(start, end)
        return start

    def _note(self, rows: list[tuple[int, ...]], node: int, end: int) -> None:
        """Transfers belong to the node that made what they carry."""
        if not rows:
            return
        queues = len(self.plan.queues)
        table = np.array(rows, np.int64)
        table = table[np.lexsort((table[:, 1], table[:, 0]))]
        chips, cycle = table[:, 0] // queues, int(table[:, 1].min())
        chip = int(chips.min())
        table[:, 0] -= chip * queues
        table[:, 1] -= cycle
        part = _Part(int(chips.max()) + 1 - chip, _code(table), (Note(0, _SENT),))
        self.parts.setdefault(table.tobytes(), part).places.append((chip, cycle, node))
        begin = self.causes[-1][1]
        self.nodes[node] = replace(self.nodes[node], end=end)
        self.causes.append([begin, end, node, "link", ""])

    def _add(self, instance: Instance, start: int) -> None:
        """An instance's program from cycle `start` on."""
        program, nodes = instance.program, len(self.nodes)
        part = _Part(program.chips, program.code, program.notes, program.image)
        self.parts.setdefault(id(program), part).places.append((instance.chip, start, nodes))
        self.stages.append(
            [instance.chip, program.chips, start, start + program.cycles, nodes, len(program.nodes)]
        )
        names = _names(instance)
        for node in program.nodes:
            self.nodes.append(
                Node(names.get(node.name, node.name), node.op, node.start + start, node.end + start)
            )
        self.causes += [
            [first + start, end + start, node + nodes, cause, detail]
            for first, end, node, cause, detail in program.info["causes"]
        ]
        for probe in program.probes:
            name = names.get(probe.binding.name, probe.binding.name)
            binding = _moved(probe.binding, name, instance.chip)
            numbers = tuple(node + nodes for node in probe.nodes)
            self.probes.append(Probe(binding, probe.ready + start, numbers))
        last = max(range(nodes, len(self.nodes)), key=lambda n: self.nodes[n].end)
        for name, binding in zip(instance.graph.outputs, program.outputs, strict=True):
            self.made[name] = (_moved(binding, name, instance.chip), last)


_SENT = "sent to another stage"


@dataclass
class _Part:
    """A part as its places are found."""

    chips: int
    code: Code
    notes: Sequence[Note]
    image: Image | None = None
    places: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def data(self) -> NDArray[np.uint8] | None:
        return None if self.image is None else self.image.data

    @property
    def part(self) -> Part:
        """It and its places, as a program has them."""
        regions = np.zeros((0, 4), np.int64) if self.image is None else self.image.regions
        return Part(self.chips, self.code, self.notes, regions, np.array(self.places, np.int64))


def _names(instance: Instance) -> dict[str, str]:
    """Names of the graph that a program was made of, and what they are in this stage."""
    if instance.model is instance.graph:
        return {}
    found: dict[str, str] = {}
    model, own = instance.model, instance.graph
    found.update(zip(model.inputs, own.inputs, strict=True))
    for theirs, ours in zip(model.nodes, own.nodes, strict=True):
        found[theirs.name] = ours.name
        found.update(zip(theirs.outputs, ours.outputs, strict=True))
    return found


def _moved(binding: Binding, name: str, chip: int) -> Binding:
    """A binding under another name, on chips from `chip` on."""
    shift = np.zeros(len(PIECE), np.int64)
    shift[_CHIP] = chip
    layouts = tuple(replace(layout, pieces=layout.pieces + shift) for layout in binding.layouts)
    return replace(binding, name=name, layouts=layouts)


def _joined(bindings: list[Binding]) -> Binding:
    """An input that several stages read: it lies where each of them wants it."""
    layouts: list[Layout] = []
    for layout in (layout for binding in bindings for layout in binding.layouts):
        forms = [replace(other, pieces=layout.pieces) == layout for other in layouts]
        if True not in forms:
            layouts.append(layout)
            continue
        at = forms.index(True)
        pieces = np.concatenate([layouts[at].pieces, layout.pieces])
        layouts[at] = replace(layouts[at], pieces=pieces)
    limits = [binding.limits for binding in bindings if binding.limits is not None]
    low, high = max((a for a, _ in limits), default=0), min((b for _, b in limits), default=0)
    return replace(bindings[0], layouts=tuple(layouts), limits=(low, high) if limits else None)


def _code(rows: NDArray[np.int64]) -> Code:
    return Code(
        queue=rows[:, 0].astype(np.int32),
        cycle=rows[:, 1],
        opcode=rows[:, 2].astype(np.uint8),
        repeat=rows[:, 3].astype(np.int32),
        interval=rows[:, 4].astype(np.int32),
        args=rows[:, 5 : 5 + ARGS],
        note=np.zeros(len(rows), np.int32),
    )
