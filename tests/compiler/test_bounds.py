"""Lower bounds: figures worked out by hand, of machines whose every figure can differ."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from clockstep_compiler import Options, compile_model
from clockstep_compiler.bounds.parts import rows_used
from clockstep_isa import Machine
from tests.support.bounds import assert_sound, bounds_of
from tests.support.graphs import random_graph
from tests.support.machines import MACHINES, machine, random_machine
from tests.support.models import build, elementwise

TINY = MACHINES["tiny"]
"""16 lanes; 2 planes and 12 slices a hemisphere; 16 streams a direction; 16 ALUs, 8 large."""


def bounds(model: ModelProto, chosen: Machine = TINY, chips: int = 1) -> dict[str, int]:
    """The bounds of the first node that has any, which are those of work alone."""
    program = compile_model(
        model.SerializeToString(),
        chosen,
        Options(chips=chips, objective="throughput", copies=1, effort="fast"),
    )
    assert_sound(program)
    _, nodes = bounds_of(program)
    return nodes[min(nodes)]


def product(m: int, k: int, n: int, zeros: int = 0) -> ModelProto:
    """int8 x [m, k] times a constant [k, n], the last columns of which are zero, nothing else."""
    weights = np.random.default_rng(0).integers(1, 9, (k, n))
    weights[:, n - zeros :] = 0
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"], "product")
    ends = {"x": ("int8", (m, k))}, {"y": ("int32", (m, n))}
    return build([node], *ends, {"w": weights.astype(np.int8)})


@pytest.mark.parametrize(
    ("m", "k", "n", "cycles"),
    [
        (64, 16, 16, 16),  # whole tiles: 64 passes on four planes
        (64, 32, 48, 96),  # 2 x 3 tiles
        (64, 8, 8, 8),  # every pass takes 16 elements: two rows side by side, columns as they are
        (64, 4, 16, 16),  # every element of the result is a sum, 16 of them a pass
        (64, 16, 4, 16),  # every element has to enter
        (1, 16, 16, 1),
    ],
)
def test_passes(m: int, k: int, n: int, cycles: int) -> None:
    assert bounds(product(m, k, n))["mxm"] == cycles


def test_multiplications_by_zero_do_not_count() -> None:
    assert bounds(product(64, 32, 32))["mxm"] == 64
    assert bounds(product(64, 32, 32, zeros=8))["mxm"] == 48
    assert bounds(product(1, 256, 64, zeros=32))["weights"] == 32


def test_rows_in_whole_vectors() -> None:
    """Beside the bounds: a row of eight elements is a pass, and a pass takes a plane's cycle."""
    assert bounds(product(64, 8, 8))["layout"] == 64 // 4
    # 24 columns of 3 sums each, 16 of them a pass: 4.5 passes for each row
    assert bounds(product(64, 40, 24))["layout"] == 64 * 5 // 4
    assert bounds(product(64, 16, 16))["layout"] == bounds(product(64, 16, 16))["mxm"]


def test_rows_that_are_not_there_do_not_count() -> None:
    indices = [np.array([3, -1, 3, 0]), np.array([-1, -1])]
    assert rows_used(5, indices, 4) == 2
    assert rows_used(5, [None], 4) == 4
    assert rows_used(5, [None, np.array([4])], 2) == 3


def test_fp16_takes_more_planes_and_cycles() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    constant = np.ones((16, 16), np.float32)
    ends = {"x": ("float32", (64, 16))}, {"y": ("float32", (64, 16))}
    model = build([node], *ends, {"w": constant})
    assert bounds(model)["mxm"] == 16 * 2 * 2
    wide = machine("tiny", mxm__fp16_planes=1, mxm__fp16_interval=3)
    assert bounds(model, wide)["mxm"] == 16 * 3


def test_weights() -> None:
    """256 x 64 bytes over 4 planes with 4 streams of 16 lanes each; on two chips half of it."""
    model = product(1, 256, 64)
    assert bounds(model)["weights"] == 256 * 64 // (4 * 4 * 16)
    assert bounds(model, chips=2)["weights"] == 256 * 64 // (2 * 4 * 4 * 16)
    scarce = machine("tiny", streams__per_direction=8, mxm__install_streams=8)
    assert bounds(model, scarce)["weights"] == 256 * 64 // (2 * 8 * 16)


def test_operations_and_slices() -> None:
    """64 x 16 sums in i32: one operation, two operands and a result of four bytes."""
    found = bounds(elementwise("Add", [(64, 16), (64, 16)], "int32"))
    assert found["alus"] == 64 // 16
    assert found["large alus"] == 0
    assert found["banks"] == 64 * 12 // 24
    assert found["streams"] == 64 * 8 // 32
    assert bounds(elementwise("Max", [(64, 16), (64, 16)], "int32"))["large alus"] == 64 // 8


def test_latency_of_one_addition() -> None:
    """read 1, two hops to the nearest rank, the ALU 2, two hops back, write 1; the four bytes of an
    element are in four slices, of which two are a hop further."""
    one = elementwise("Add", [(1, 16), (1, 16)], "int32")
    assert bounds(one)["latency"] == 1 + 3 + 2 + 3 + 1
    slow = machine("tiny", vxm__op_latency=9, mem__write_latency=5, mem__slices_per_hop=4)
    assert bounds(one, slow)["latency"] == 1 + 2 + 9 + 2 + 5
    rows = elementwise("Add", [(640, 16), (640, 16)], "int32")
    assert bounds(rows)["latency"] == bounds(one)["latency"]


def chain(count: int) -> ModelProto:
    """Products of [5, 16], one after the other."""
    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(count)] + ["y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"product{i}")
        for i in range(count)
    ]
    weights = {f"w{i}": rng.normal(size=(16, 16)).astype(np.float32) for i in range(count)}
    return build(nodes, {"x0": ("float32", (5, 16))}, {"y": ("float32", (5, 16))}, weights)


def test_dependent_steps_follow_one_another() -> None:
    """Every product of a chain adds the same latency, that of the way to the array and back."""
    lengths = []
    for count in (2, 3, 4):
        program = compile_model(chain(count).SerializeToString(), TINY, Options(effort="fast"))
        assert_sound(program)
        lengths.append(bounds_of(program)[0]["latency"])
    each = lengths[1] - lengths[0]
    assert lengths[2] - lengths[1] == each
    m = TINY
    array = m.mxm.multiply_latency + m.mxm.accumulate_latency + 2 * m.mxm.hops_from_mem
    assert each > array + m.mem.read_latency + m.mem.write_latency


def test_links() -> None:
    """What leaves the chip of one layer for that of the next must pass its links."""
    program = compile_model(
        chain(8).SerializeToString(),
        TINY,
        Options(effort="fast", chips=2, objective="throughput", copies=1),
    )
    whole, _ = bounds_of(program)
    c2c = TINY.c2c
    assert whole["links"] > c2c.latency + c2c.margin
    alone = compile_model(chain(8).SerializeToString(), TINY, Options(effort="fast", chips=1))
    assert bounds_of(alone)[0]["links"] == 0


@pytest.mark.parametrize("seed", range(40))
def test_no_program_beats_a_bound(seed: int) -> None:
    rng = np.random.default_rng([seed, 9])
    chosen = random_machine(rng) if seed % 2 else MACHINES[list(MACHINES)[seed // 2 % 5]]
    model = random_graph(rng, ("float32", "int32")[seed // 2 % 2], steps=int(rng.integers(1, 14)))
    chips = min(1 + seed % 3, chosen.system.chips_per_node)
    assert_sound(
        compile_model(
            model.SerializeToString(),
            chosen,
            Options(effort="fast", chips=chips, objective="throughput", copies=1),
        )
    )


def test_the_bound_of_a_single_row_is_near() -> None:
    """A bound far below what is possible would prove little."""
    model = elementwise("Add", [(1, 16), (1, 16)], "int32")
    program = compile_model(model.SerializeToString(), TINY, Options(effort="high"))
    assert program.cycles < 2 * program.info["lower_bound_cycles"]
