"""Provenance against brute force: what changes an element when it is changed, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from clockstep_compiler import Options, compile_model
from clockstep_isa import Machine, Program, ScheduleViolation, Type, geometry
from clockstep_runtime import Session, interpret
from clockstep_runtime.debug import Provenance, provenance
from tests.support.build import Builder, build, east, west
from tests.support.handmade import LANES, adder, matmul, two_chips
from tests.support.machines import MACHINES
from tests.support.models import (
    ACTIVATIONS,
    computed_b,
    matmul_of_inputs,
    mlp,
    random_inputs,
    reshapes,
)
from tests.support.quantized import qdq_mlp

Place = tuple[int, int, int]
"""(queue, address, lane) of a byte of the image."""


def image_bytes(trail: Provenance) -> set[Place]:
    return {
        (word.queue, word.address, lane)
        for word in trail.words
        for lane in np.flatnonzero(word.lanes).tolist()
        if not word.input
    }


# -- lanes that move, on hand-made programs -------------------------------------------------------


def shuffle(name: str, streams: int, maps: int, part: int, **fields: int) -> Builder:
    """One instruction of the SXM in the west; stream `part` of its result is the output."""
    builder = build()
    queues, lanes = geometry(builder.machine).by_name, np.arange(LANES)
    unit = {"transpose": "transpose0", "distribute": "distribute0"}.get(name, "permute0")
    sxm = queues[f"sxm.W.{unit}"]
    figure = builder.machine.sxm
    latency = {"transpose0": figure.transpose_latency, "permute0": figure.permute_latency}
    cycle = 20

    def arrive(slice_: str, stream: int) -> None:
        at = cycle - 1 - (queues[slice_].x - sxm.x)
        builder.at(f"c0.{slice_}", at, "read", address=3, out=west(stream))

    for i in range(streams):
        builder.store(f"c0.mem.W{i}", 3, (1 + lanes + 16 * i)[None].astype(np.uint8))
        arrive(f"mem.W{i}", i)
    for i in range(maps):
        order = (5 * lanes + 2) % (LANES if name == "permute" else 5)
        words = order if i == 0 else 0 * lanes
        builder.store(f"c0.mem.W{8 + i}", 3, words[None].astype(np.uint8))
        arrive(f"mem.W{8 + i}", 4 + i)
    if maps:
        fields["map"] = west(4)
    if name != "distribute":
        fields["width"] = streams
    builder.at(f"c0.sxm.W.{unit}", cycle, name, a=west(0), out=east(8), **fields)
    end = cycle + latency.get(unit, figure.distribute_latency)
    target = queues["mem.E0"]
    builder.at("c0.mem.E0", end + target.x - sxm.x, "write", address=9, a=east(8 + part))
    return builder.bind("output", "y", "int8", Type.I8, (1, LANES), ["c0.mem.E0"], 9)


SHUFFLES: list[tuple[str, int, int, int, dict[str, int]]] = [
    ("shift", 2, 0, 1, {"amount": 3, "low": 2, "high": 9}),
    ("shift", 1, 0, 0, {"amount": -5, "low": 0, "high": 16}),
    ("broadcast", 2, 0, 0, {"lane": 6}),
    ("permute", 2, 2, 1, {}),
    ("transpose", 4, 0, 2, {}),
    ("distribute", 1, 1, 0, {}),
]


def flipped(program: Program, region: int, lane: int) -> Program:
    data = np.array(program.image.data)
    data[region, lane] ^= 1
    return replace(program, image=replace(program.image, data=data))


@pytest.mark.parametrize(("name", "streams", "maps", "part", "fields"), SHUFFLES)
def test_lanes_that_move(
    name: str, streams: int, maps: int, part: int, fields: dict[str, int]
) -> None:
    """For every lane of the result, exactly the bytes whose change changes it."""
    program = shuffle(name, streams, maps, part, **fields).program()
    before = interpret(program, {}).outputs["y"][0]
    matters: dict[int, set[Place]] = {lane: set() for lane in range(LANES)}
    for region, (_, queue, address, _) in enumerate(program.image.regions.tolist()):
        for lane in range(LANES):
            after = interpret(flipped(program, region, lane), {}).outputs["y"][0]
            for changed in np.flatnonzero(after != before).tolist():
                matters[changed].add((queue, address, lane))
    assert any(matters.values())
    for lane, wanted in matters.items():
        trail = provenance(program, {}, program.outputs[0], (0, lane))
        assert image_bytes(trail) == wanted, (name, lane)


# -- hand-made programs of known structure --------------------------------------------------------


def test_a_sum_is_made_of_two_elements() -> None:
    program = adder(3, 2).program()
    inputs = {name: np.arange(48, dtype=np.float32).reshape(3, 16) for name in "xy"}
    trail = provenance(program, inputs, program.outputs[0], (1, 5))
    for name in "xy":
        assert np.argwhere(trail.inputs[name]).tolist() == [[1, 5]]
    add = next(s for s in trail.steps if set(s.sources) == {"a", "b"})
    assert add.value == 2 * (16 + 5)
    assert len(add.sources["a"]) == 4
    assert add.cycle == 6 + 2
    assert len(trail.steps) == 4 + 1 + 8
    assert len(trail.words) == 8


@pytest.mark.parametrize("kind", [Type.I8, Type.F16])
def test_a_product_is_a_row_and_a_column(kind: Type) -> None:
    builder, _ = matmul(kind, 4)
    program = builder.program()
    x = np.random.default_rng(1).normal(size=(4, LANES)) * 9
    inputs = {"x": x.astype(program.inputs[0].dtype)}
    trail = provenance(program, inputs, program.outputs[0], (2, 7))
    assert np.argwhere(trail.inputs["x"]).tolist() == [[2, lane] for lane in range(LANES)]
    words = [word for word in trail.words if not word.input]
    assert len(words) == kind.bytes
    assert all(word.lanes.all() for word in words)
    product = next(s for s in trail.steps if "weights" in s.sources)
    assert np.argwhere(product.lanes).tolist() == [[0, 7]]
    acc = next(s for s in trail.steps if "product" in s.sources)
    assert acc.value == interpret(program, inputs).outputs["y"][2, 7]


def test_links_are_followed() -> None:
    program = two_chips().program()
    x = np.arange(3 * LANES, dtype=np.int8).reshape(3, LANES)
    trail = provenance(program, {"x": x}, program.outputs[0], (2, 3))
    assert np.argwhere(trail.inputs["x"]).tolist() == [[2, 3]]
    assert [list(step.sources) for step in trail.steps] == [["a"], ["link"], ["a"], ["word"]]


def test_a_program_that_may_not_run() -> None:
    program = replace(adder(1, 1).program(), cycles=3)
    inputs = {name: np.zeros((1, 16), np.float32) for name in "xy"}
    with pytest.raises(ScheduleViolation):
        provenance(program, inputs, program.outputs[0], (0, 0))


# -- compiled programs ----------------------------------------------------------------------------


def compiled(model: ModelProto, machine: Machine, **options: Any) -> Program:
    return compile_model(
        model.SerializeToString(), machine, Options(**{"effort": "fast", **options})
    )


def check(program: Program, inputs: dict[str, NDArray[Any]], index: tuple[int, ...]) -> None:
    """Inputs one element at a time, the image all that does not matter at once."""
    output = program.outputs[0]
    trail = provenance(program, inputs, output, index)
    session = Session(program)
    before = session.run(inputs)[output.name][index]
    for name, value in inputs.items():
        batch = {k: np.repeat(v[None], value.size, axis=0) for k, v in inputs.items()}
        flat = batch[name].reshape(value.size, -1)
        flat[np.arange(value.size), np.arange(value.size)] += np.asarray(1.7, value.dtype)
        after = session.run(batch)[output.name][(slice(None), *index)]
        changed = (after != before).reshape(value.shape)
        assert np.array_equal(changed, trail.inputs[name]), name
    if not all(word.input for word in trail.words):
        _check_image(program, inputs, index, trail, before)


def _check_image(
    program: Program,
    inputs: dict[str, NDArray[Any]],
    index: tuple[int, ...],
    trail: Provenance,
    before: Any,
) -> None:
    image, output = program.image, program.outputs[0]
    assert image.data is not None
    matters = np.zeros(image.data.shape, np.bool_)
    first = 0
    rows: dict[Place, int] = {}
    for chip, queue, address, count in image.regions.tolist():
        rows |= {(chip, queue, address + i): first + i for i in range(count)}
        first += count
    for word in trail.words:
        if not word.input:
            matters[rows[word.chip, word.queue, word.address]] |= word.lanes
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, image.data.shape).astype(np.uint8)
    other = np.where(matters, image.data, noise)
    broken = replace(program, image=replace(image, data=other))
    after = Session(broken).run(inputs)[output.name][index]
    assert after.tobytes() == before.tobytes()
    changed = 0
    every = np.argwhere(matters)
    chosen = every[rng.choice(len(every), min(20, len(every)), replace=False)]
    for row, lane in chosen.tolist():
        data = np.array(image.data)
        data[row, lane] ^= 0xFF
        one = replace(program, image=replace(image, data=data))
        changed += Session(one).run(inputs)[output.name][index] != before
    assert 2 * changed >= len(chosen)


@pytest.mark.parametrize("name", MACHINES)
def test_layers(name: str) -> None:
    rng = np.random.default_rng(3)
    model = mlp(rng, (20, 24, 24, 7), 3, ("Tanh",), residual=True)
    program = compiled(model, MACHINES[name])
    check(program, random_inputs(model, rng), (1, 4))


def test_on_two_chips() -> None:
    rng = np.random.default_rng(4)
    model = mlp(rng, (24, 40, 12), 2, ("Tanh",))
    program = compiled(model, MACHINES["tiny"], chips=2, objective="throughput", copies=1)
    check(program, random_inputs(model, rng), (1, 11))


def test_weights_that_are_computed() -> None:
    """Columns of the array are rows of an input, transposed on the way."""
    model = matmul_of_inputs(3, 20, 18)
    program = compiled(model, MACHINES["tiny"])
    check(program, random_inputs(model, np.random.default_rng(5)), (1, 17))


def test_weights_that_come_from_a_layer() -> None:
    """x @ Relu(z + c): what Relu lets through is one column, and what it stops is in it."""
    rng = np.random.default_rng(8)
    model = computed_b(rng, 2, 5, 18)
    program = compiled(model, MACHINES["tiny"])
    inputs = random_inputs(model, rng)
    inputs["z"] = np.abs(inputs["z"]) + 5
    check(program, inputs, (1, 16))


def test_relayouts() -> None:
    rng = np.random.default_rng(6)
    model = reshapes(rng)
    program = compiled(model, MACHINES["tiny"], dims={"N": 3})
    inputs = random_inputs(model, rng, {"N": 3})
    output = Session(program).run(inputs)["y"]
    index = tuple(int(i[0]) for i in np.nonzero(output > 0.5))
    check(program, inputs, index)


def test_quantized_layers() -> None:
    """Saturation and rounding may hide a change, but nothing else may cause one."""
    rng = np.random.default_rng(7)
    model = qdq_mlp(rng, (20, 30, 6), 3, ACTIVATIONS[:1])
    program = compiled(model, MACHINES["tiny"])
    inputs = random_inputs(model, rng)
    trail = provenance(program, inputs, program.outputs[0], (2, 1))
    assert np.array_equal(trail.inputs["x"], np.arange(3)[:, None].repeat(20, 1) == 2)
    other = np.where(trail.inputs["x"], inputs["x"], 9).astype(np.float32)
    session = Session(program)
    name = program.outputs[0].name
    assert session.run({"x": other})[name][2, 1] == session.run(inputs)[name][2, 1]
