"""Verifiers and engines that are wrong on purpose: a harness that lets one pass proves nothing.

A verifier is blind to one code, or believes one figure of the machine to be one more or less. An
engine overlooks something. `catches` finds the mutants at which the judge notices. A new check
needs a row in `CODES`, a new figure one in `FIGURES` or `UNSEEN`; `OVERSIGHTS` has
the wrong engines.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from clockstep_isa import (
    BY_NAME,
    TABLE,
    ClockstepError,
    Machine,
    Program,
    end_cycle,
    geometry,
    machine_from_dict,
    machine_to_dict,
)
from clockstep_runtime import Execution, Report, interpret, verify
from tests.mutation import corpus
from tests.mutation.campaign import Key, mutant, subject
from tests.mutation.judge import Engine, Inputs, Judge, Place, reference, remembering

__all__ = ["CODES", "FIGURES", "OVERSIGHTS", "UNSEEN", "Catch", "catches", "weakenings"]

Verifier = Callable[[Program], Report]

CODES: Mapping[str, str] = {
    "acc-nothing": "hand-planes",
    "address-range": "hand-copies",
    "alu-kind": "hand-alu-ring",
    "alu-ports": "hand-alu-ring",
    "alu-window": "hand-alu-ring",
    "bank-conflict": "hand-copies",
    "cycles-promise": "hand-copies",
    "field-range": "hand-sxm",
    "link-busy": "hand-links",
    "link-unwired": "hand-links",
    "mxm-busy": "hand-planes",
    "mxm-empty": "hand-planes",
    "mxm-type": "hand-planes",
    "opcode-unknown": "hand-copies",
    "queue-overlap": "hand-copies",
    "receive-nothing": "hand-links",
    "slot-empty": "hand-copies",
    "slot-two-producers": "hand-adder",
    "stream-align": "hand-alu-ring",
    "stream-range": "hand-copies",
    "type-illegal": "hand-alu-ring",
    "unit-busy": "hand-planes",
    "unit-missing": "hand-copies",
    "unit-row": "hand-copies",
    "word-unwritten": "hand-copies",
}
"""All that the verifier reports, but for what the interpreter takes for granted, and programs
whose mutants soon show what a verifier without it lets pass."""

FIGURES: Mapping[str, tuple[str, ...]] = {
    "streams.per_direction": ("hand-alu-ring",),
    "mem.slices_per_hop": ("hand-copies",),
    "mem.banks": ("hand-copies",),
    "mem.words_per_bank": ("hand-copies",),
    "mem.read_latency": ("hand-alu-ring",),
    "mem.write_latency": ("hand-copies-odd",),
    "mxm.hops_from_mem": ("hand-planes",),
    "mxm.install_streams": ("hand-planes",),
    "mxm.fp16_planes": ("hand-planes", "mlp-wide"),
    "mxm.fp16_interval": ("hand-fp16",),
    "mxm.install_latency": ("hand-planes",),
    "mxm.activation_skew": ("hand-planes",),
    "mxm.multiply_latency": ("hand-planes",),
    "mxm.accumulate_latency": ("hand-planes",),
    "vxm.large_every": ("mlp-ring",),
    "vxm.hops_from_mem": ("hand-alu-ring",),
    "vxm.hops_per_rank": ("hand-alu-i32",),
    "vxm.op_latency": ("mlp-ring",),
    "vxm.window_groups": ("mlp-ring",),
    "vxm.window_step": ("hand-alu-ring",),
    "sxm.hops_from_mem": ("hand-sxm",),
    "sxm.distribute_latency": ("hand-sxm",),
    "sxm.transpose_latency": ("hand-sxm",),
    "sxm.permute_latency": ("hand-sxm",),
    "c2c.cycles_per_vector": ("hand-links",),
    "c2c.latency": ("hand-links",),
    "c2c.margin": ("hand-links",),
    "icu.repeat_max": ("hand-copies",),
    "system.chips_per_node": ("hand-nodes",),
    "system.local_links": ("hand-nodes",),
    "system.global_links": ("hand-nodes",),
    "system.direct_nodes": ("hand-racks",),
    "system.nodes_per_rack": ("hand-racks",),
    "system.rack_links": ("hand-racks",),
}
"""Figures that a verifier may be wrong about, each with such programs."""

UNSEEN = frozenset(
    {
        # No verdict depends on them.
        "clock.hz",
        "icu.instruction_bytes",
        "icu.instructions_in_sram",
        "icu.nop_max",
        "sxm.unattributed_queues",
        # The program would be another: its words have other lanes, its queues other numbers.
        "lanes.superlanes",
        "lanes.per_superlane",
        "mem.slices_per_hemisphere",
        "mxm.planes_per_hemisphere",
        "vxm.rows",
        "vxm.ranks",
        "sxm.distributors",
        "sxm.transposers",
        "sxm.permutors",
        "c2c.links",
        # It only bounds the number of chips.
        "system.max_nodes",
        # What a vector takes on a link is settled when the machine is read; drift is no cycle.
        "c2c.lanes",
        "c2c.lane_kbps",
        "c2c.wire_bits",
        "c2c.drift_margin",
        "c2c.drift_ppm",
        "c2c.realign",
    }
)
"""The other figures."""

_STEPS = {"streams.per_direction": 4}
"""How far a figure goes wrong, if not by one."""


def blind(code: str) -> Verifier:
    """A verifier that does not report `code`."""

    def weak(program: Program) -> Report:
        report = _verify(program)
        left = tuple(v for v in report.violations if v.code != code)
        return dataclasses.replace(report, ok=not left, violations=left)

    return weak


def believing(figure: str, by: int) -> Verifier:
    """A verifier that takes a figure of the machine for `by` more than it is.

    Its own idea of the program's length is put in, so that it has to be caught at something else.
    """

    def weak(program: Program) -> Report:
        machine = _with_figure(program.machine, figure, by)
        assert machine is not None
        other = end_cycle(machine, program.code) - end_cycle(program.machine, program.code)
        return verify(dataclasses.replace(program, machine=machine, cycles=program.cycles + other))

    return weak


@functools.lru_cache(maxsize=4096)
def _with_figure(machine: Machine, figure: str, by: int) -> Machine | None:
    """The machine with one figure changed; None if there is no such one, or it has other queues."""
    section, _, key = figure.partition(".")
    data = machine_to_dict(machine)
    value = machine.figures[figure].value + by
    data[section] = {**data[section], key: {**data[section][key], "value": value}}
    try:
        changed = machine_from_dict(data, "machine")
    except ClockstepError:
        return None
    names = [[queue.name for queue in geometry(m).queues] for m in (machine, changed)]
    return changed if names[0] == names[1] else None


def overlooking(spoilt: Callable[[Program], Program]) -> Engine:
    """An engine that takes every program for what `spoilt` makes of it."""

    def wrong(program: Program, inputs: Inputs) -> Execution:
        return interpret(spoilt(program), inputs)

    return wrong


def _fields(
    rows: Iterable[str], field: str, change: Callable[[Program, np.ndarray], np.ndarray]
) -> Callable[[Program], Program]:
    """A program in which a field of some rows holds what `change` makes of it."""

    def spoilt(program: Program) -> Program:
        args = program.code.args.copy()
        for name in rows:
            row = BY_NAME[name]
            where, column = program.code.opcode == row.opcode, row.field(field)
            args[where, column] = change(program, args[where, column])
        return dataclasses.replace(program, code=dataclasses.replace(program.code, args=args))

    return spoilt


def _regions_backwards(program: Program) -> Program:
    """Regions of the image in the opposite order, which matters where two overlap."""
    image = program.image
    assert image.data is not None
    ends = np.cumsum(image.regions[:, 3])
    order = np.arange(len(ends))[::-1]
    parts = [image.data[ends[i] - image.regions[i, 3] : ends[i]] for i in order]
    data = np.concatenate(parts) if parts else image.data
    image = dataclasses.replace(image, regions=image.regions[order], data=data)
    return dataclasses.replace(program, image=image)


_IMMEDIATE = [row.name for row in TABLE if "imm" in [item.name for item in row.fields]]

OVERSIGHTS: Mapping[str, tuple[str, Callable[[Program], Program]]] = {
    "rows": (
        "hand-planes",
        _fields(["abc"], "rows", lambda p, v: 0 * v + p.machine.vector),
    ),
    "low": ("hand-sxm", _fields(["shift"], "low", lambda p, v: 0 * v)),
    "high": ("hand-sxm", _fields(["shift"], "high", lambda p, v: 0 * v + p.machine.vector)),
    "round": ("hand-casts", _fields(["cast"], "round", lambda p, v: 0 * v)),
    "overflow": ("hand-casts", _fields(["cast"], "overflow", lambda p, v: 0 * v)),
    "signs": ("hand-alu-ring", _fields(_IMMEDIATE, "imm", lambda p, v: v & 0x7FFFFFFF)),
    "strides": ("hand-copies", _fields(["read", "write"], "stride", lambda p, v: np.sign(v))),
    "order": ("hand-int8", _regions_backwards),
}
"""Mistakes of an engine, as what it takes a program for, each with a program that shows it."""


@dataclass(frozen=True, slots=True)
class Weakening:
    """A wrong judge, and a program whose mutants should give it away."""

    name: str
    judge: Judge
    program: str


def weakenings() -> list[Weakening]:
    """Every wrong judge, all in a total order."""
    found = [
        Weakening(f"verifier blind to {code}", Judge(blind(code), {}, _reference), where)
        for code, where in CODES.items()
    ]
    for figure, programs in FIGURES.items():
        for by in (_STEPS.get(figure, 1), -_STEPS.get(figure, 1)):
            judge = Judge(believing(figure, by), {}, _reference)
            possible = [n for n in programs if _with_figure(corpus.program(n).machine, figure, by)]
            for where in possible[:1]:
                found.append(Weakening(f"verifier with {figure} {by:+d}", judge, where))
    for name, (where, spoilt) in OVERSIGHTS.items():
        judge = Judge(_verify, {name: overlooking(spoilt)}, _reference)
        found.append(Weakening(f"engine that overlooks {name}", judge, where))
    return found


@dataclass(frozen=True, slots=True)
class Catch:
    """The mutant at which a wrong judge was noticed, after how many, and by what."""

    tried: int
    key: Key
    detail: str


def catches(wrong: Iterable[Weakening], seed: int, limit: int) -> dict[str, Catch | None]:
    """For each wrong judge the first mutant of its program that it disagrees on, of `limit`."""
    found: dict[str, Catch | None] = {weakening.name: None for weakening in wrong}
    for name, group in _by_program(wrong).items():
        for tried, key in enumerate(_interleaved(name, seed, limit), 1):
            changed, of = mutant(key), subject(name)
            for weakening in group:
                verdict = weakening.judge.judge(of, changed)
                if verdict.outcome == "disagreement":
                    found[weakening.name] = Catch(tried, key, verdict.detail)
            group = [weakening for weakening in group if found[weakening.name] is None]
            if not group:
                break
    return found


def _by_program(wrong: Iterable[Weakening]) -> dict[str, list[Weakening]]:
    groups: dict[str, list[Weakening]] = {}
    for weakening in wrong:
        groups.setdefault(weakening.program, []).append(weakening)
    return groups


def _interleaved(program: str, seed: int, count: int) -> list[Key]:
    """Mutants of one program, a structural one after every three of a field."""
    families = ("field", "field", "field", "structural")
    return [Key(program, families[i % 4], seed, i) for i in range(count)]


_verify = remembering(verify)
_found: Callable[[Program], list[Execution | Place]] = remembering(lambda program: [])


def _reference(program: Program, inputs: Inputs) -> Execution | Place:
    """The reference, asked once for each mutant: all inputs of a program are the same."""
    found = _found(program)
    if not found:
        found.append(reference(program, inputs))
    return found[0]
