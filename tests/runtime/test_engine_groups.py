"""Steps that the engine executes together, a few vectors at a time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from clockstep_isa import load_machine
from clockstep_runtime import Session, interpret, random_inputs
from clockstep_runtime.engine import group
from clockstep_runtime.engine import run as run_module
from tests.support.endtoend import assert_same_bits, build_session

GATED = """
<ir_version: 8, opset_import: ["" : 18]>
gated (float[5, 24] x, float[24, 20] w, float[20] b) => (float[5, 20] y, float[5, 20] z)
{
    p = MatMul(x, w)
    h = Add(p, b)
    t = Tanh(h)
    g = Mul(h, t)
    y = Add(g, h)
    z = Neg(y)
}
"""
"""A product whose sum is used three times by what is done to it; computed weights; two outputs."""


@pytest.fixture(scope="module")
def session() -> Session:
    return build_session(onnx.parser.parse_model(GATED), load_machine("tiny"))


def test_inputs_are_loaded_a_few_runs_at_a_time(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs, two at a time."""
    runs = [random_inputs(session.program, seed) for seed in range(3)]
    stacked = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    monkeypatch.setattr(run_module, "_LOADED", 2 * runs[0]["x"].size)
    outputs = session.run(stacked)
    for i, run in enumerate(runs):
        for name, value in session.run(run).items():
            assert value.tobytes() == outputs[name][i].tobytes()


def test_what_only_elements_are_computed_from_is_no_value(session: Session) -> None:
    (engine,) = session._engines.values()  # what is tested cannot be told from the results
    linked = engine.linked
    sizes = np.diff(linked.groups)
    assert sizes.sum() == len(linked.steps)
    assert sizes.min() == 1
    assert sizes.max() >= 4


def test_some_runs_at_a_time_change_no_bit(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = session.program
    runs = [random_inputs(program, seed) for seed in range(5)]
    stacked = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    (engine,) = session._engines.values()
    whole = session.run(stacked)
    monkeypatch.setattr(run_module, "_TOGETHER", 2 * engine._largest)
    for name, value in session.run(stacked).items():
        assert value.tobytes() == whole[name].tobytes()


@pytest.mark.parametrize(
    ("vectors", "multiplied"), [(1, 1), (1, 3), (2, 3), (2, 1), (1 << 18,) * 2]
)
def test_blocks_change_no_bit(
    session: Session, vectors: int, multiplied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch, too, whatever the vectors of a block, and those multiplied at a time."""
    program = session.program
    runs = [random_inputs(program, seed) for seed in range(3)]
    stacked = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    monkeypatch.setattr(group, "_FEW", 0)
    wide = len(runs) * program.machine.vector
    monkeypatch.setattr(group, "_BLOCK", vectors * wide)
    monkeypatch.setattr(group, "_PRODUCTS", multiplied * wide)
    session = Session(program)
    outputs = session.run(stacked)
    for i, run in enumerate(runs):
        single = session.execute(run)
        assert_same_bits(single, interpret(program, run))
        for name, value in single.outputs.items():
            assert value.tobytes() == outputs[name][i].tobytes()
