"""Random MLPs in fp16: on preset machines, on machines of other shapes, on random machines."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_compiler import EFFORTS
from clockstep_isa import load_machine
from tests.support.endtoend import assert_close, assert_equal, expected, fp16_inputs, run_checked
from tests.support.machines import MACHINES, random_machine
from tests.support.models import ACTIVATIONS, mlp, random_inputs, random_mlp


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", MACHINES)
def test_small_machines(name: str, seed: int) -> None:
    rng = np.random.default_rng([seed, 1])
    model = random_mlp(rng, layers=(1, 6), widths=(1, 40), batch=(1, 12))
    inputs = fp16_inputs(random_inputs(model, rng))
    run = run_checked(model, MACHINES[name], inputs, effort=EFFORTS[seed % 2])
    assert_close(run.outputs, expected(model, inputs))


def test_more_effort_is_never_slower_and_gives_the_same() -> None:
    """The numbers are those of the model, however it is scheduled."""
    rng = np.random.default_rng(8)
    model = mlp(rng, (20, 30, 30, 5), 9, ("Relu", "Tanh"), ("linear",))
    inputs = fp16_inputs(random_inputs(model, rng))
    runs = [run_checked(model, MACHINES["tiny"], inputs, effort=effort) for effort in EFFORTS]
    cycles = [run.program.cycles for run in runs]
    assert cycles == sorted(cycles, reverse=True)
    for run in runs:
        assert_equal(run.outputs, runs[0].outputs)


@pytest.mark.parametrize("name", MACHINES)
def test_batches_and_widths_of_many_tiles(name: str) -> None:
    """Six layers with a batch of several times the lanes."""
    rng = np.random.default_rng(7)
    model = mlp(rng, (30, 70, 70, 33, 1, 64, 17), batch=70, activations=ACTIVATIONS)
    inputs = fp16_inputs(random_inputs(model, rng))
    assert_close(run_checked(model, MACHINES[name], inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize("seed", range(24))
def test_random_machines(seed: int) -> None:
    """A machine that nobody has seen works without touching code."""
    rng = np.random.default_rng(seed)
    machine = random_machine(rng)
    model = random_mlp(rng, layers=(1, 4), widths=(1, 30), batch=(1, 9))
    inputs = fp16_inputs(random_inputs(model, rng))
    assert_close(run_checked(model, machine, inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize("seed", range(6))
def test_lpu(seed: int) -> None:
    rng = np.random.default_rng([seed, 2])
    model = random_mlp(rng, layers=(1, 6), widths=(1, 2000), batch=(1, 4))
    inputs = fp16_inputs(random_inputs(model, rng))
    assert_close(
        run_checked(model, load_machine("lpu-v1"), inputs).outputs, expected(model, inputs)
    )


@pytest.mark.parametrize("widths", [(2000, 2000), (1, 2000, 1), (321, 640, 641, 639, 320, 319, 1)])
def test_lpu_at_the_edges(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    model = mlp(rng, widths, batch=2, activations=ACTIVATIONS)
    inputs = fp16_inputs(random_inputs(model, rng))
    assert_close(
        run_checked(model, load_machine("lpu-v1"), inputs).outputs, expected(model, inputs)
    )


def test_lpu_with_a_batch_of_seventy() -> None:
    rng = np.random.default_rng(4)
    model = mlp(rng, (300, 500, 500, 10), batch=70, activations=ACTIVATIONS)
    inputs = fp16_inputs(random_inputs(model, rng))
    assert_close(
        run_checked(model, load_machine("lpu-v1"), inputs).outputs, expected(model, inputs)
    )
