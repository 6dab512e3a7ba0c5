"""The network: sends lead somewhere, and every receive meets the vector that arrives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import wires
from clockstep_isa.program import Program
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.progressions import Progressions, Segments, first_missing, match
from clockstep_runtime.verifier.report import Findings

__all__ = ["check_links"]

Ints = NDArray[np.int64]


def check_links(program: Program, columns: Columns, findings: Findings) -> Segments:
    """Match receives with sends at the other end of their link, a link's latency earlier.

    The segments join instructions: a `receive` and the `send` of what it takes.
    """
    of_sends, of_receives = columns.where("send"), columns.where("receive")
    sends, receives = columns.take(of_sends), columns.take(of_receives)
    findings.count("links", int(sends.count.sum() + receives.count.sum()))
    links = max(1, program.machine.c2c.links)
    peer = np.full(program.chips * links, -1, np.int64)
    wired = wires(program.machine, program.chips)
    peer[wired[:, 0] * links + wired[:, 1]] = wired[:, 2] * links + wired[:, 3]
    arrival = peer[_port(sends, links)]
    for index in np.flatnonzero(arrival < 0).tolist():
        cycle = int(sends.start[index])
        _add(findings, "link-unwired", sends, index, cycle, "send: the link leads nowhere")
    arriving = _progressions(sends, arrival, sends.latency, depth=0)
    taken = _progressions(receives, _port(receives, links), receives.skew, depth=1)
    found = match(arriving, taken)
    missing = first_missing(found, receives.count)
    for index in np.flatnonzero(missing >= 0).tolist():
        cycle = int(receives.start[index] + missing[index] * receives.step[index])
        message = "receive: nothing arrives in this cycle"
        _add(findings, "receive-nothing", receives, index, cycle, message)
    return replace(found, consumer=of_receives[found.consumer], producer=of_sends[found.producer])


def _port(columns: Columns, links: int) -> Ints:
    number = np.array([q.index for q in columns.geometry.queues], np.int64)
    return columns.chip * links + number[columns.local]


def _progressions(columns: Columns, group: Ints, delay: Ints, depth: int) -> Progressions:
    return Progressions(
        group,
        np.full(len(columns), depth, np.int64),
        columns.start + delay,
        columns.step,
        columns.count,
        np.arange(len(columns)),
    )


def _add(
    findings: Findings, code: str, columns: Columns, index: int, cycle: int, message: str
) -> None:
    unit, chip = columns.unit(index), int(columns.chip[index])
    findings.add(code, chip, unit.name, cycle, message)
