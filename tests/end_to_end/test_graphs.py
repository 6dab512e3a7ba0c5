"""Random graphs of every operator, several inputs and outputs, on all the machines in turn."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_compiler import EFFORTS
from tests.support.endtoend import assert_close, assert_equal, expected, fp16_inputs, run_checked
from tests.support.graphs import random_graph
from tests.support.machines import MACHINES, random_machine
from tests.support.models import random_inputs

NAMES = list(MACHINES)


@pytest.mark.parametrize("seed", range(30))
def test_integers(seed: int) -> None:
    """Exact however deep."""
    rng = np.random.default_rng([seed, 1])
    model = random_graph(rng, "int32", steps=int(rng.integers(3, 16)))
    inputs = random_inputs(model, rng)
    machine = MACHINES[NAMES[seed % len(NAMES)]]
    run = run_checked(model, machine, inputs, effort=EFFORTS[seed % 2])
    assert_equal(run.outputs, expected(model, inputs))


@pytest.mark.parametrize("seed", range(30))
def test_floats(seed: int) -> None:
    rng = np.random.default_rng([seed, 2])
    model = random_graph(rng, "float32", steps=int(rng.integers(3, 12)))
    inputs = fp16_inputs(random_inputs(model, rng))
    want = expected(model, inputs)
    scale = max(1.0, *(float(np.abs(array).max(initial=0.0)) for array in want.values()))
    machine = MACHINES[NAMES[seed % len(NAMES)]]
    run = run_checked(model, machine, inputs, effort=EFFORTS[seed % 2])
    assert_close(run.outputs, want, scale=scale)


@pytest.mark.parametrize("seed", range(10))
def test_integers_on_random_machines_and_chips(seed: int) -> None:
    rng = np.random.default_rng([seed, 3])
    machine = random_machine(rng)
    model = random_graph(rng, "int32", steps=8)
    inputs = random_inputs(model, rng)
    chips = 1 + seed % min(3, machine.system.chips_per_node)
    run = run_checked(model, machine, inputs, chips=chips, objective="throughput", copies=1)
    assert_equal(run.outputs, expected(model, inputs))
