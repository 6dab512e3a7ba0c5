"""Sessions: verified once, run on one set of inputs or a batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from clockstep_isa.diagnostics import ScheduleViolation, UsageError
from clockstep_isa.layout import Binding
from clockstep_isa.table import Type
from clockstep_runtime import Session, random_inputs
from tests.support.build import build
from tests.support.handmade import LANES, adder, two_chips


def test_run_and_execute_agree() -> None:
    session = Session(two_chips().program())
    inputs = random_inputs(session.program, 4)
    execution = session.execute(inputs)
    assert execution.cycles == session.program.cycles
    np.testing.assert_array_equal(session.run(inputs)["y"], execution.outputs["y"])


def test_a_batch_is_as_many_runs() -> None:
    session = Session(adder(3, 1).program())
    runs = [random_inputs(session.program, seed) for seed in range(4)]
    batch = {name: np.stack([run[name] for run in runs]) for name in "xy"}
    outputs = session.run(batch)["z"]
    assert outputs.shape == (4, 3, LANES)
    for run, z in zip(runs, outputs, strict=True):
        np.testing.assert_array_equal(session.run(run)["z"], z)


def test_batches_that_do_not_match() -> None:
    session = Session(adder(3, 1).program())
    one = np.zeros((3, LANES), np.float32)
    for x, y in (((2,), ()), ((2,), (3,)), ((0,), (0,))):
        inputs = {
            "x": np.broadcast_to(one, (*x, 3, LANES)),
            "y": np.broadcast_to(one, (*y, 3, LANES)),
        }
        with pytest.raises(UsageError, match="input-batch"):
            session.run(inputs)
    with pytest.raises(UsageError, match="input-type"):
        session.run({"x": one[None, None], "y": one[None, None]})


def test_a_wrong_program_gives_no_session() -> None:
    with pytest.raises(ScheduleViolation, match="cycles-promise") as caught:
        Session(adder(3, 1).program(cycles=1))
    assert len(caught.value.violations) == 1


def test_random_inputs_are_the_same_for_the_same_seed() -> None:
    program = adder(3, 1).program()
    first, again, other = (random_inputs(program, seed) for seed in (5, 5, 6))
    assert all(first[name].tobytes() == again[name].tobytes() for name in "xy")
    assert first["x"].tobytes() != other["x"].tobytes()
    assert first["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("dtype", "stored", "offset", "low", "high"),
    [
        ("int8", Type.I8, 0, -128, 127),
        ("uint8", Type.I8, -128, 0, 255),
        ("int16", Type.I16, 0, -32768, 32767),
        ("int64", Type.I32, 0, -128, 127),
        ("int32", Type.I8, 100, -128, 27),
        ("bool", Type.I8, 0, 0, 1),
    ],
)
def test_integers_are_drawn_from_what_the_program_can_store(
    dtype: str, stored: Type, offset: int, low: int, high: int
) -> None:
    builder = build().bind("input", "x", dtype, stored, (2000, 200), ["c0.mem.W0"])
    binding = builder.inputs[0]
    layouts = (dataclasses.replace(binding.layouts[0], offset=offset),)
    binding = Binding("x", dtype, binding.shape, layouts)
    program = dataclasses.replace(builder.program(), inputs=(binding,))
    drawn = random_inputs(program, 0)["x"]
    assert drawn.dtype == np.dtype(dtype)
    assert (drawn.min(), drawn.max()) == (low, high)
