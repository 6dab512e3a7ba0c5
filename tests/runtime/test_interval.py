"""How often programs may be started: two runs under way at once break no rule."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from benchmarks.builder import Net
from clockstep_compiler import Options, compile_model
from clockstep_isa import Program
from clockstep_isa.program import Code
from clockstep_runtime import interval, verify
from tests.support.machines import MACHINES


def _pipeline(chips: int) -> Program:
    """Layers one after another, each chip with its part of them."""
    net = Net("pipeline")
    x = net.input("x", (6, 24))
    for _ in range(6):
        x = net.op("Relu", net.op("MatMul", x, net.normal((24, 24), 0.2)))
    net.output(x, "y", (6, 24))
    options = Options(chips=chips, objective="throughput", copies=1, effort="fast")
    return compile_model(net.model().SerializeToString(), MACHINES["tiny"], options)


def _twice(program: Program, apart: int) -> Program:
    """A run, and another that starts so many cycles later."""
    code = program.code
    later = replace(code, cycle=code.cycle + apart)
    both = Code(
        **{
            f.name: np.concatenate([getattr(c, f.name) for c in (code, later)])
            for f in fields(Code)
        }
    )
    return replace(program, code=both.sorted(), cycles=program.cycles + apart)


@pytest.mark.parametrize("chips", [1, 2, 4])
def test_runs_that_far_apart_do_not_meet(chips: int) -> None:
    program = _pipeline(chips)
    apart = interval(program)
    assert apart == program.cycles if chips == 1 else apart < 0.8 * program.cycles
    assert verify(_twice(program, apart)).ok
    assert not verify(_twice(program, apart // 2)).ok


def test_nothing_can_be_started_at_any_time() -> None:
    program = _pipeline(1)
    nothing = replace(program, code=program.code.take(np.zeros(len(program.code), np.bool_)))
    assert interval(nothing) == 0
