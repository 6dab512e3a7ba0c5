"""Quantized models against exact arithmetic: layer by layer, and end to end beside onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from clockstep_isa import Machine, load_machine
from tests.support.endtoend import expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import ACTIVATIONS, random_inputs
from tests.support.oracle import end_to_end as exact_end_to_end
from tests.support.oracle import evaluate, expose_quantized, layerwise
from tests.support.quantized import qdq_convnet, qdq_mlp, qdq_pair, qlinear_matmul

TINY = MACHINES["tiny"]
KINDS = (("int8", "int8"), ("uint8", "int8"), ("uint8", "uint8"))

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass
class Tally:
    """Elements seen, how many differ from the exact ones, and by how many steps altogether."""

    elements: int = 0
    differing: int = 0
    steps: int = 0

    def add(self, wanted: Arrays, actual: Arrays, most: int | None = None) -> None:
        """Count what `wanted` names; no element may be more than `most` steps away."""
        for name, want in wanted.items():
            have = actual[name]
            assert (have.shape, have.dtype) == (want.shape, want.dtype), name
            distance = np.abs(have.astype(np.int64) - want.astype(np.int64))
            assert most is None or distance.max(initial=0) <= most, f"{name}: {distance.max()}"
            self.elements += distance.size
            self.differing += int(np.count_nonzero(distance))
            self.steps += int(distance.sum())

    def assert_almost_identical(self) -> None:
        assert self.differing <= 1e-4 * self.elements, self

    def assert_no_further_than(self, other: Tally) -> None:
        assert self.differing <= other.differing, (self, other)
        assert self.steps <= other.steps, (self, other)


def quantized_mlps(count: int, widths: int, batch: int) -> Iterator[tuple[ModelProto, Arrays]]:
    """Random QDQ MLPs of all types, per tensor and per channel, with inputs."""
    for seed in range(count):
        rng = np.random.default_rng([seed, 5])
        sizes = [int(n) for n in rng.integers(1, widths + 1, size=int(rng.integers(2, 6)))]
        model = qdq_mlp(
            rng,
            sizes,
            int(rng.integers(1, batch + 1)),
            ACTIVATIONS if seed % 2 else ("Relu", ""),
            *KINDS[seed % 3],
            per_channel=bool(seed // 3 % 2),
        )
        yield expose_quantized(model), random_inputs(model, rng)


def end_to_end(model: ModelProto, inputs: Arrays, names: Iterator[str] | Arrays) -> Arrays:
    """The exact quantized tensors from the inputs on, nothing in between rounded but by them."""
    exact = evaluate(model, inputs)
    return {name: np.asarray(exact[name]) for name in names}


@pytest.mark.parametrize("name", MACHINES)
def test_mlps_layer_by_layer(name: str) -> None:
    tally = Tally()
    for model, inputs in quantized_mlps(4, widths=45, batch=9):
        outputs = run_checked(model, MACHINES[name], inputs).outputs
        tally.add(layerwise(model, inputs, outputs), outputs, most=1)
    tally.assert_almost_identical()


def test_mlps_end_to_end() -> None:
    """No further from the exact evaluation than onnxruntime, over many models together."""
    layers, ours, theirs = Tally(), Tally(), Tally()
    machine = load_machine("lpu-v1")
    for model, inputs in quantized_mlps(12, widths=300, batch=20):
        outputs = run_checked(model, machine, inputs).outputs
        layers.add(layerwise(model, inputs, outputs), outputs, most=1)
        wanted = end_to_end(model, inputs, layerwise(model, inputs, outputs))
        ours.add(wanted, outputs)
        theirs.add(wanted, expected(model, inputs))
    layers.assert_almost_identical()
    ours.assert_no_further_than(theirs)


def test_what_is_looked_at_changes_nothing() -> None:
    """Inner tensors as further outputs: the other outputs stay the same to the bit."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        model = qdq_mlp(rng, (20, 30, 10), 4, ACTIVATIONS)
        inputs = random_inputs(model, rng)
        alone = run_checked(model, TINY, inputs).outputs["y"]
        observed = run_checked(expose_quantized(model), TINY, inputs).outputs["y"]
        np.testing.assert_array_equal(alone, observed)


def quantized_convnets(count: int) -> Iterator[tuple[ModelProto, Arrays]]:
    """Random QDQ networks of images, with inputs."""
    for seed in range(count):
        rng = np.random.default_rng([seed, 6])
        model = qdq_convnet(rng, *KINDS[seed % 3], per_channel=bool(seed // 3 % 2))
        yield expose_quantized(model), random_inputs(model, rng)


@pytest.mark.parametrize(("name", "count"), [("tiny", 3), ("lpu-v1", 4)])
def test_convnets_layer_by_layer_and_end_to_end(name: str, count: int) -> None:
    """A step at most in each layer; from the inputs on no further away than onnxruntime."""
    machine = load_machine(name)
    layers, ours, theirs = Tally(), Tally(), Tally()
    for model, inputs in quantized_convnets(count):
        outputs, runtime = run_checked(model, machine, inputs).outputs, expected(model, inputs)
        layers.add(layerwise(model, inputs, outputs), outputs, most=1)
        quantized, _ = exact_end_to_end(model, inputs)
        ours.add(quantized, outputs)
        theirs.add(quantized, runtime)
    assert layers.differing <= 2e-3 * layers.elements, layers
    assert ours.steps <= theirs.steps, (ours, theirs)


SIZES = [
    ((1, 1), (1, 1)),
    ((5, 17), (17, 33)),
    ((20, 40), (40, 9)),
    ((2, 3, 16), (16, 15)),
    ((35, 100), (100, 35)),
]


@pytest.mark.parametrize("types", [(a, b, y) for a, b in KINDS for y in ("int8", "uint8")])
def test_qlinear_matmul(types: tuple[str, str, str]) -> None:
    rng = np.random.default_rng(1)
    tally = Tally()
    for index, (a, b) in enumerate(SIZES):
        model = qlinear_matmul(rng, a, b, *types, per_column=index % 2 == 1)
        inputs = random_inputs(model, rng)
        outputs = run_checked(model, TINY, inputs).outputs
        tally.add(end_to_end(model, inputs, outputs), outputs, most=1)
    tally.assert_almost_identical()


@pytest.mark.parametrize("name", ["ring", "narrow", "wide", "odd", "lpu-v1"])
def test_qlinear_matmul_on_other_machines(name: str) -> None:
    rng = np.random.default_rng(2)
    machine = MACHINES.get(name) or load_machine(name)
    tally = Tally()
    lanes = machine.vector
    for types in (("int8", "int8", "int8"), ("uint8", "int8", "uint8")):
        model = qlinear_matmul(rng, (3, lanes + 1), (lanes + 1, lanes - 1), *types)
        inputs = random_inputs(model, rng)
        outputs = run_checked(model, machine, inputs).outputs
        tally.add(end_to_end(model, inputs, outputs), outputs, most=1)
    tally.assert_almost_identical()


def qdq_outputs(model: ModelProto, x: NDArray[np.float32], machine: Machine = TINY) -> Arrays:
    return run_checked(model, machine, {"x": x}).outputs


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_quantize_and_dequantize(axis: int | None, dtype: str) -> None:
    rng = np.random.default_rng(3)
    shape = (5, 6, 20)
    vector: Sequence[int] = () if axis is None else (shape[axis],)
    scale = rng.uniform(0.01, 0.05, size=vector).astype(np.float32)
    middle = 0 if dtype == "int8" else 128
    zero = (middle + rng.integers(-50, 50, size=vector)).astype(dtype)
    model = qdq_pair(shape, np.asarray(scale), np.asarray(zero), 1 if axis is None else axis)
    x = rng.normal(size=shape).astype(np.float32)
    outputs = qdq_outputs(model, x)
    tally = Tally()
    tally.add({"q": np.asarray(evaluate(model, {"x": x})["q"])}, outputs, most=1)
    tally.assert_almost_identical()
    wide = scale if axis is None else np.expand_dims(scale, [i for i in range(3) if i != axis % 3])
    offset = zero if axis is None else np.expand_dims(zero, [i for i in range(3) if i != axis % 3])
    back = (outputs["q"].astype(np.float32) - offset.astype(np.float32)) * wide
    np.testing.assert_allclose(outputs["y"], back, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1 / 127, 2 / 255, 0.003, 1 / 3, 0.25])
def test_next_to_ties(scale: float) -> None:
    """Half-way values, as near as float32 has them: one step off at most, as any arithmetic is."""
    step = np.float32(scale)
    x = ((np.arange(-127, 127) + 0.5) * step).astype(np.float32).reshape(2, -1)
    model = qdq_pair(x.shape, np.asarray(step), np.asarray(0, np.int8))
    exact = {"q": np.asarray(evaluate(model, {"x": x})["q"])}
    ours, theirs = Tally(), Tally()
    ours.add(exact, qdq_outputs(model, x), most=1)
    theirs.add(exact, expected(model, {"x": x}))
    ours.assert_no_further_than(theirs)


@pytest.mark.parametrize("zero", [np.int8(v) for v in (-128, -100, 0, 3, 127)])
@pytest.mark.parametrize("shift", [0, 128])
def test_quantize_saturates(zero: np.int8, shift: int) -> None:
    """However large the value: the zero point is added to what was rounded, and then clamped."""
    point = np.asarray(zero) if not shift else np.asarray(int(zero) + shift, np.uint8)
    large = np.array([1e30, 3e38, 1e9, 2.2e8, 70000, 65504, 25.6, 12.8, 12.7, 1e-40, 0])
    x = np.concatenate([large, -large]).astype(np.float32).reshape(1, -1)
    model = qdq_pair(x.shape, np.asarray(np.float32(0.1)), point)
    np.testing.assert_array_equal(qdq_outputs(model, x)["q"], evaluate(model, {"x": x})["q"])


def test_sums_at_the_edge_of_float32() -> None:
    """Sums beyond 2**24, which float32 rounds: still at most one step away."""
    rng = np.random.default_rng(4)
    model = qlinear_matmul(rng, (3, 2000), (2000, 40))
    a = rng.integers(100, 128, size=(3, 2000), dtype=np.int8)
    outputs = run_checked(model, TINY, {"a": a}).outputs
    Tally().add(end_to_end(model, {"a": a}, outputs), outputs, most=1)
