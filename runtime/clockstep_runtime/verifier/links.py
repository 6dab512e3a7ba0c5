"""The network: sends lead somewhere, and every receive meets the vector that arrives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clockstep_isa.geometry import wiring
from clockstep_isa.program import Program
from clockstep_runtime.verifier.columns import Columns
from clockstep_runtime.verifier.progressions import Progressions, first_missing
from clockstep_runtime.verifier.report import Findings

__all__ = ["check_links"]

Ints = NDArray[np.int64]


def check_links(program: Program, columns: Columns, findings: Findings) -> None:
    """Match receives with sends at the other end of their link, a link's latency earlier."""
    sends, receives = columns.named("send"), columns.named("receive")
    findings.count("links", int(sends.count.sum() + receives.count.sum()))
    if not len(sends) and not len(receives):
        return
    links = max(1, program.machine.c2c.links)
    peer = np.full(program.chips * links, -1, np.int64)
    for (chip, link), (other, port) in wiring(program.machine, program.chips).items():
        peer[chip * links + link] = other * links + port
    arrival = peer[_port(sends, links)]
    for index in np.flatnonzero(arrival < 0).tolist():
        cycle = int(sends.start[index])
        _add(findings, "link-unwired", sends, index, cycle, "send: the link leads nowhere")
    wired = sends.take(arrival >= 0)
    arriving = _progressions(wired, arrival[arrival >= 0], wired.latency, depth=0)
    missing = first_missing(
        arriving, _progressions(receives, _port(receives, links), receives.skew, depth=1)
    )
    for index in np.flatnonzero(missing >= 0).tolist():
        cycle = int(receives.start[index] + missing[index] * receives.step[index])
        message = "receive: nothing arrives in this cycle"
        _add(findings, "receive-nothing", receives, index, cycle, message)


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
