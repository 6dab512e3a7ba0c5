"""Published cycle counts of the real chip, on the model of it (machine `lpu-v1`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clockstep_isa.geometry import Unit, geometry
from clockstep_isa.program import Program, end_cycle
from clockstep_runtime import interpret, verify
from tests.support.calibration import (
    LPU,
    activation_to_alu,
    install,
    sweep,
    transpose_round_trip,
)


def test_c1_sweep_of_all_sram_through_both_mxm_edges() -> None:
    found = sweep()
    report = verify(found.program)
    assert report.violations == ()
    assert report.checks["words"] == LPU.words_per_chip
    assert found.cycles == 11_264
    assert found.pipeline == 20  # one cycle of reading, nineteen hops from the innermost slice
    assert end_cycle(LPU, found.program.code) == 11_264 + 20


def run(program: Program) -> dict[str, np.ndarray]:
    assert verify(program).violations == ()
    execution = interpret(program, {})
    assert execution.cycles == program.cycles
    return execution.outputs


def test_c2_a_plane_is_installed_from_16_streams_in_20_cycles() -> None:
    found = install(("W0",))
    assert found.loading == 20
    outputs = run(found.program)
    wanted = found.activation.astype(np.int64) @ found.weights["W0"].astype(np.int64)
    np.testing.assert_array_equal(outputs["yW0"][0], wanted)


def test_c2_all_four_planes_in_less_than_40_cycles_with_transit() -> None:
    found = install(("W0", "W1", "E0", "E1"))
    assert found.installed < 40
    outputs = run(found.program)
    for plane, weights in found.weights.items():
        wanted = found.activation.astype(np.int64) @ weights.astype(np.int64)
        np.testing.assert_array_equal(outputs[f"y{plane}"][0], wanted)


def only_delay(make: Callable[[int], Program], delays: range) -> int:
    """The one delay for which the program is right."""
    right = [delay for delay in delays if verify(make(delay)).ok]
    assert len(right) == 1
    return right[0]


def test_c3_activation_read_through_the_mxm_to_an_alu() -> None:
    delay = only_delay(activation_to_alu, range(50, 100))
    assert abs(delay - 76) <= 2
    run(activation_to_alu(delay))


def test_c4_transpose_round_trip() -> None:
    delay = only_delay(transpose_round_trip, range(30, 80))
    assert abs(delay - 50) <= 2
    outputs = run(transpose_round_trip(delay))
    # Stream 0 gets lane 0 of every vector of its superlane: vector i is all i.
    np.testing.assert_array_equal(outputs["y"][0], np.tile(np.arange(16), 20))


def test_c4_hemisphere_crossing() -> None:
    slices = [q for q in geometry(LPU).queues if q.unit is Unit.MEM and q.hemisphere == "W"]
    beyond = slices[-1].x - 1
    assert slices[0].x - beyond == 11
