"""The MXM: what arrays hold when activations meet them, and who takes their products.

The state of a plane in a cycle follows from three numbers: the last `iw` of each type on it and
on the other planes of its group. Nothing is stepped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import Unit
from clockstep_isa.machine import Machine
from clockstep_isa.table import BY_NAME, TABLE, Type
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.progressions import Progressions, Segments, first_missing, match
from clockstep_runtime.verifier.report import Findings

__all__ = ["check_mxm", "plane_numbers"]

Ints = NDArray[np.int64]
NEVER = -1
"""The cycle of an `iw` that has not been."""


def check_mxm(columns: Columns, findings: Findings) -> Segments:
    """Weight buffers, arrays and products of every plane.

    The segments join instructions: an `acc` and the `abc` whose products it takes.
    """
    loads = columns.only(Unit.LW)
    activations = columns.named("abc")
    _check_buffers(loads, findings)
    installs = _Installs(columns.machine, loads.named("iw"))
    findings.count("activations", int(activations.count.sum()))
    planes = plane_numbers(activations)
    for plane in np.unique(planes).tolist():
        _check_activations(installs, plane, activations.take(planes == plane), findings)
    return _check_products(columns, findings)


def plane_numbers(columns: Columns) -> Ints:
    """The plane of each instruction, numbered over hemispheres and chips."""
    per_side = columns.machine.mxm.planes_per_hemisphere
    numbers = [
        ("WE".find(q.hemisphere) * per_side + q.index) if q.hemisphere else 0
        for q in columns.geometry.queues
    ]
    return columns.chip * 2 * per_side + np.array(numbers, np.int64)[columns.local]


def _check_buffers(loads: Columns, findings: Findings) -> None:
    """All weights loaded for one `iw` have its type."""
    kinds = loads.field("type")
    installs, weights = loads.where("iw"), loads.where("lw")
    after = np.searchsorted(installs, weights)
    followed = after < len(installs)
    weights, target = weights[followed], installs[after[followed]]
    wrong = (loads.queue[weights] == loads.queue[target]) & (kinds[weights] != kinds[target])
    for index in np.unique(target[wrong]).tolist():
        message = "iw: the buffer holds weights of another type"
        _add(findings, "mxm-type", loads, index, int(loads.start[index]), message)


def _add(
    findings: Findings, code: str, columns: Columns, index: int, cycle: int, message: str
) -> None:
    unit, chip = columns.unit(index), int(columns.chip[index])
    findings.add(code, chip, unit.name, cycle, message)


@dataclass(slots=True)
class _Held:
    """What a plane holds in some cycles: type code (-1: nothing), and when it was installed."""

    kind: Ints
    installed: Ints


class _Installs:
    """All `iw`, to ask for the last one of a type on a plane up to given cycles."""

    def __init__(self, machine: Machine, installs: Columns) -> None:
        self._group = machine.mxm.fp16_planes
        self.latency = machine.mxm.install_latency
        plane = plane_numbers(installs)
        kind = installs.args[:, BY_NAME["iw"].field("type")]
        self._of: dict[tuple[int, int], Columns] = {}
        for key in sorted(set(zip(plane.tolist(), kind.tolist(), strict=True))):
            self._of[key] = installs.take((plane == key[0]) & (kind == key[1]))

    def last(self, plane: int, kind: Type, cycles: Ints) -> Ints:
        """Per cycle that of the last `iw` of `kind` on `plane` not after it, or `NEVER`."""
        found = self._of.get((plane, int(kind)))
        if found is None:
            return np.full(len(cycles), NEVER, np.int64)
        at = np.searchsorted(found.start, cycles, "right") - 1
        use = found.take(np.maximum(at, 0))
        number = np.minimum((cycles - use.start) // use.step, use.count - 1)
        return np.where(at < 0, NEVER, use.start + number * use.step)

    def held(self, plane: int, cycles: Ints) -> _Held:
        """What `plane` holds. In one cycle a later plane's `iw` comes after an earlier one's."""
        first = plane - plane % self._group
        wide = self.last(first, Type.F16, cycles)
        own = self.last(plane, Type.I8, cycles)
        if plane != first:
            kind = np.where((own != NEVER) & (own >= wide), int(Type.I8), -1)
            return _Held(kind, own)
        others = [self.last(p, Type.I8, cycles) for p in range(first + 1, first + self._group)]
        ended = np.max([np.full(len(cycles), NEVER), *others], axis=0) >= wide
        narrow = (own != NEVER) & (own > wide)
        is_wide = (wide != NEVER) & ~narrow & ~ended
        kind = np.where(narrow, int(Type.I8), np.where(is_wide, int(Type.F16), -1))
        return _Held(kind, np.where(narrow, own, wide))


def _check_activations(
    installs: _Installs, plane: int, activations: Columns, findings: Findings
) -> None:
    """Each sample meets an installed array of its type."""
    kind = activations.args[:, BY_NAME["abc"].field("type")]
    first = activations.start + activations.skew
    last = activations.last + activations.skew
    before, after = installs.held(plane, first), installs.held(plane, last)
    same = (before.kind == after.kind) & (before.installed == after.installed)
    fine = same & (before.kind == kind) & (first >= before.installed + installs.latency)
    # The rest either is wrong or runs across an installation: sample by sample.
    for index in np.flatnonzero(~fine).tolist():
        step, count = int(activations.step[index]), int(activations.count[index])
        cycles = first[index] + step * np.arange(count)
        held = installs.held(plane, cycles)
        faults = (
            ("mxm-empty", held.kind < 0, "no weights are installed"),
            ("mxm-type", held.kind != kind[index], "the array holds another type"),
            ("mxm-busy", cycles < held.installed + installs.latency, "still being installed"),
        )
        wrong = np.flatnonzero(np.any([mask for _, mask, _ in faults], axis=0))
        if len(wrong):
            at = int(wrong[0])
            code, _, text = next(fault for fault in faults if fault[1][at])
            _add(findings, code, activations, index, int(cycles[at]), f"abc: {text}")


def _check_products(columns: Columns, findings: Findings) -> Segments:
    """Each `acc` comes in the very cycle of a product of its type."""
    of_sources, of_takers = columns.where("abc"), columns.where("acc")
    sources, takers = columns.take(of_sources), columns.take(of_takers)
    kind = sources.args[:, BY_NAME["abc"].field("type")]
    result = np.where(kind == Type.I8, int(Type.I32), int(Type.F32))
    products = _progressions(sources, result, sources.latency, depth=0)
    wanted = _progressions(takers, takers.args[:, BY_NAME["acc"].field("type")], 0, depth=1)
    findings.count("products", int(takers.count.sum()))
    found = match(products, wanted)
    missing = first_missing(found, takers.count)
    other = {int(Type.I32): int(Type.F32), int(Type.F32): int(Type.I32)}
    for index in np.flatnonzero(missing >= 0).tolist():
        cycle = int(takers.start[index] + missing[index] * takers.step[index])
        group = int(wanted.group[index])
        swapped = group - group % _TYPES + other[group % _TYPES]
        present = len(match(products, _single(swapped, cycle))) > 0
        if present:
            _add(findings, "mxm-type", takers, index, cycle, "acc: the product has another type")
            continue
        name = TABLE[int(takers.row[index])].name
        message = f"{name}: nothing to accumulate, no product is delivered in this cycle"
        _add(findings, "acc-nothing", takers, index, cycle, message)
    return replace(found, consumer=of_takers[found.consumer], producer=of_sources[found.producer])


_TYPES = len(Type)


def _progressions(columns: Columns, kind: Ints, delay: Ints | int, depth: int) -> Progressions:
    """Cycles of products, or of their takers, by plane and type."""
    return Progressions(
        plane_numbers(columns) * _TYPES + kind,
        np.full(len(columns), depth, np.int64),
        columns.start + delay,
        columns.step,
        columns.count,
        np.arange(len(columns)),
    )


def _single(group: int, cycle: int) -> Progressions:
    one = np.ones(1, np.int64)
    return Progressions(group * one, one, cycle * one, one, one, 0 * one)
