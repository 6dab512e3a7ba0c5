"""Softmax and normalisation: every axis, constant and computed parameters, awkward statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from clockstep_compiler import Options, compile_model
from clockstep_isa import Machine, load_machine
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
LPU = load_machine("lpu-v1")
Array = NDArray[Any]
Shape = tuple[int, ...]


def model_of(
    op: str,
    shape: Shape,
    parameters: tuple[Array, ...] = (),
    dtype: str = "float32",
    constant: bool = True,
    opset: int = 21,
    **attributes: Any,
) -> tuple[ModelProto, dict[str, Array]]:
    """One node of one input, its parameters constant or inputs as well; and inputs for it."""
    names = [f"p{i}" for i in range(len(parameters))]
    node = helper.make_node(op, ["x", *names], ["y"], **attributes)
    values = {n: p.astype(np.float16).astype(dtype) for n, p in zip(names, parameters, strict=True)}
    inputs = {"x": sample(shape).astype(dtype), **({} if constant else values)}
    kinds = {name: (dtype, value.shape) for name, value in inputs.items()}
    constants = values if constant else {}
    return build([node], kinds, {"y": (dtype, shape)}, constants, opset), inputs


def sample(shape: Shape, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * 2 + 1).astype(np.float16)


def check(
    model: ModelProto, inputs: dict[str, Array], rtol: float = 2e-6, machine: Machine = TINY
) -> None:
    """Every element within `rtol` of the largest, or of fp16 where the result is that."""
    have = run_checked(model, machine, inputs).outputs["y"]
    want = expected(model, inputs)["y"]
    assert (have.shape, have.dtype) == (want.shape, want.dtype)
    rtol = 2**-9 if have.dtype == np.float16 else rtol
    span = float(np.abs(want[np.isfinite(want)]).max(initial=0))
    np.testing.assert_allclose(have, want, rtol=rtol, atol=rtol * span)


SOFTMAXES = [
    ((5,), 0),
    ((3, 20), -1),
    ((3, 20), 0),
    ((2, 3, 17), 2),
    ((2, 5, 3), 1),
    ((2, 3, 4, 5), -1),
    ((2, 3, 4, 5), 1),
    ((4, 1), 1),
    ((2, 37), 1),
]


@pytest.mark.parametrize(("shape", "axis"), SOFTMAXES)
def test_softmax(shape: Shape, axis: int) -> None:
    check(*model_of("Softmax", shape, axis=axis))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_softmax_of_other_types(dtype: str) -> None:
    check(*model_of("Softmax", (3, 20), dtype=dtype, axis=-1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_flattened(axis: int) -> None:
    """Before opset 13 all axes from `axis` on are one."""
    check(*model_of("Softmax", (2, 3, 5), opset=11, axis=axis), 2**-10)


def test_on_lpu_v1() -> None:
    model, inputs = model_of("Softmax", (2, 40, 330))
    check(model, inputs, machine=LPU)
    parameters = (sample((330,), 1), sample((330,), 2))
    model, inputs = model_of("LayerNormalization", (50, 330), parameters)
    check(model, inputs, machine=LPU)


def test_softmax_far_apart() -> None:
    """Large scores do not overflow, masked ones are zero, nothing but masks is NaN."""
    model, _ = model_of("Softmax", (5, 4), axis=-1)
    inf = np.inf
    rows = [[6e4, 5.9e4, 0, -6e4], [-inf, 1, 2, -inf], [-inf] * 4, [-6e4] * 4, [0, -80, -90, -110]]
    check(model, {"x": np.array(rows, np.float32)})


def test_attention_scores() -> None:
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Mul", ["s", "c"], ["t"]),
        helper.make_node("Softmax", ["t"], ["y"]),
    ]
    kinds: dict[str, tuple[str, Shape]] = {
        "q": ("float32", (2, 5, 8)),
        "k": ("float32", (2, 8, 18)),
    }
    constants = {"c": np.array(0.25, np.float32)}
    model = build(nodes, kinds, {"y": ("float32", (2, 5, 18))}, constants)
    check(model, {name: sample(shape).astype("f4") for name, (_, shape) in kinds.items()}, 1e-5)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 20), -1), ((2, 3, 17), -1), ((2, 3, 5), 1), ((2, 3, 4, 2), 0), ((6, 1), -1)],
)
def test_layers(shape: Shape, axis: int, constant: bool) -> None:
    parameters = (sample(shape[axis:], 1), sample(shape[axis:], 2))
    check(*model_of("LayerNormalization", shape, parameters, constant=constant, axis=axis))
    rms = model_of(
        "RMSNormalization", shape, parameters[:1], constant=constant, opset=23, axis=axis
    )
    check(*rms)


def test_a_large_mean_costs_no_accuracy() -> None:
    """The spread is a thousandth of the mean: E[x^2] - E[x]^2 would lose all of it in fp16."""
    model, _ = model_of("LayerNormalization", (3, 20), (np.ones(20), np.zeros(20)))
    x = (2000 + sample((3, 20)).astype(np.float32).round()).astype(np.float32)
    check(model, {"x": x}, 1e-4)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 20), (2, 3, 4, 5), (1, 17, 2, 2), (2, 2, 2, 2, 3)])
def test_instances_and_batches(shape: Shape, constant: bool) -> None:
    parameters = (sample(shape[1:2], 1), sample(shape[1:2], 2))
    check(*model_of("InstanceNormalization", shape, parameters, constant=constant))
    more = (*parameters, sample(shape[1:2], 3), np.abs(sample(shape[1:2], 4)))
    check(*model_of("BatchNormalization", shape, more, constant=constant, epsilon=1e-2))


@pytest.mark.parametrize("constant", [True, False])
def test_a_batch_of_vectors(constant: bool) -> None:
    parameters = tuple(np.abs(sample((17,), k)) for k in range(4))
    check(*model_of("BatchNormalization", (3, 17), parameters, constant=constant))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("shape", "groups"), [((2, 6, 3, 4), 2), ((2, 4, 18), 4), ((3, 8), 2)])
def test_groups(shape: Shape, groups: int, constant: bool) -> None:
    parameters = (sample(shape[1:2], 1), sample(shape[1:2], 2))
    each = model_of("GroupNormalization", shape, parameters, constant=constant, num_groups=groups)
    check(*each, 1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("p", [1, 2])
def test_norms(p: int, axis: int) -> None:
    model, inputs = model_of("LpNormalization", (3, 4, 18), p=p, axis=axis)
    inputs["x"] = np.abs(inputs["x"])
    inputs["x"][0, :, 0] = inputs["x"][:, 0, 0] = inputs["x"][0, 0] = 0
    x = inputs["x"].astype(np.float64)
    norm = (x**p).sum(axis=axis, keepdims=True) ** (1 / p)
    have = run_checked(model, TINY, inputs).outputs["y"]
    np.testing.assert_allclose(have, x / np.where(norm == 0, 1, norm), rtol=1e-6)


@pytest.mark.parametrize("axes", [(0, 2, 3), (2, 3), (1,)])
def test_mean_and_variance(axes: tuple[int, ...]) -> None:
    check(*model_of("MeanVarianceNormalization", (2, 3, 4, 5), axes=axes), 1e-5)


def test_statistics_are_results() -> None:
    node = helper.make_node("LayerNormalization", ["x", "s"], ["y", "m", "v"], axis=1)
    kinds = {name: ("float32", shape) for name, shape in OUTPUTS.items()}
    constants = {"s": sample((4, 5), 1).astype(np.float32)}
    model = build([node], {"x": ("float32", (3, 4, 5))}, kinds, constants)
    inputs = {"x": sample((3, 4, 5)).astype(np.float32)}
    have, want = run_checked(model, TINY, inputs).outputs, expected(model, inputs)
    for name in OUTPUTS:
        np.testing.assert_allclose(have[name], want[name], rtol=2e-6, atol=2e-6)


OUTPUTS = {"y": (3, 4, 5), "m": (3, 1, 1), "v": (3, 1, 1)}


@pytest.mark.parametrize("shape", [(4, 17), (2, 3, 4, 5)])
def test_batches_in_training(shape: Shape) -> None:
    """The batch's statistics, and the running ones."""
    names = ["s", "b", "m", "v"]
    node = helper.make_node(
        "BatchNormalization", ["x", *names], ["y", "rm", "rv"], training_mode=1, momentum=0.8
    )
    kinds = {"y": ("float32", shape), "rm": ("float32", shape[1:2]), "rv": ("float32", shape[1:2])}
    known = {n: np.abs(sample(shape[1:2], k)).astype("f4") for k, n in enumerate(names)}
    model = build([node], {"x": ("float32", shape)}, kinds, known)
    x = sample(shape).astype(np.float32)
    have = run_checked(model, TINY, {"x": x}).outputs
    axes = tuple(i for i in range(len(shape)) if i != 1)
    wide, column = x.astype(np.float64), (-1, *(1,) * (len(shape) - 2))
    mean, variance = wide.mean(axis=axes), wide.var(axis=axes)
    factor = known["s"] / np.sqrt(variance + 1e-5)
    want = (wide - mean.reshape(column)) * factor.reshape(column) + known["b"].reshape(column)
    np.testing.assert_allclose(have["y"], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(have["rm"], known["m"] * 0.8 + mean * 0.2, rtol=1e-5)
    np.testing.assert_allclose(have["rv"], known["v"] * 0.8 + variance * 0.2, rtol=1e-5)


def test_refusals() -> None:
    model, _ = model_of("LpNormalization", (2, 3), p=3)
    with pytest.raises(UnsupportedModel) as refusal:
        compile_model(model.SerializeToString(), TINY, Options())
    assert refusal.value.diagnostic.code == "unsupported-form"


@pytest.mark.parametrize("size", [2e6, 1e-4])
@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_layers_of_large_and_small_elements(op: str, size: float) -> None:
    """The array sums in fp16, whose range is neither that of the elements nor of their squares."""
    model, _ = model_of(op, (3, 40), (np.ones(40),), opset=23, epsilon=1e-30)
    x = np.random.default_rng(3).uniform(-size, size, (3, 40)).astype(np.float32)
    x[1] /= 100
    check(model, {"x": x}, 1e-4 if size < 1 else 1e-5)


def test_layers_beyond_the_range_are_not_numbers() -> None:
    model, _ = model_of("LayerNormalization", (2, 20), (np.ones(20),))
    x = sample((2, 20)).astype(np.float32)
    x[1, 3] = 1e9
    have = run_checked(model, TINY, {"x": x}).outputs["y"]
    assert np.isfinite(have[0]).all()
    assert np.isnan(have[1]).all()


def test_layers_between_others() -> None:
    """Elements are stored in fp16: neither their sums nor those of the squares add to the error."""
    nodes = [
        helper.make_node("Mul", ["x", "c"], ["t"]),
        helper.make_node("LayerNormalization", ["t", "s"], ["u"]),
        helper.make_node("RMSNormalization", ["u", "s"], ["v"]),
        helper.make_node("MatMul", ["v", "e"], ["y"]),
    ]
    kinds = {"x": ("float32", (5, 37))}
    constants = {
        "c": np.array(3, np.float32),
        "s": np.abs(sample((37,), 1)).astype(np.float32),
        "e": np.eye(37, dtype=np.float32),
    }
    model = build(nodes, kinds, {"y": ("float32", (5, 37))}, constants, 23)
    check(model, {"x": sample((5, 37)).astype(np.float32)}, 2**-9)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_layers_of_integers(op: str, dtype: str) -> None:
    """Quantized elements give what floats of their values give, but for what rounds otherwise."""
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "a", "z"], ["t"]),
        helper.make_node(op, ["t", "s"], ["u"], epsilon=1e-12),
        helper.make_node("QuantizeLinear", ["u", "b", "z"], ["y"]),
    ]
    constants = {
        "a": np.array(0.03, np.float32),
        "b": np.array(0.05, np.float32),
        "z": np.array(7, dtype),
        "s": np.abs(sample((90,), 1)).astype(np.float32),
    }
    shape, info = (40, 90), np.iinfo(dtype)
    model = build(nodes, {"x": (dtype, shape)}, {"y": (dtype, shape)}, constants, 23)
    x = np.random.default_rng(5).integers(info.min, info.max + 1, shape, dtype)
    have = run_checked(model, LPU, {"x": x}).outputs["y"].astype(int)
    off = np.abs(have - expected(model, {"x": x})["y"])
    assert off.max() <= 1
    assert off.mean() < 2e-3


@pytest.mark.parametrize("scale", [0.05, 0.3, 3e36])
@pytest.mark.parametrize("columns", [40, 300])
def test_softmax_of_integers(columns: int, scale: float) -> None:
    """The greatest of a row matters only if powers of all integers have no room in fp16."""
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "a", "z"], ["t"]),
        helper.make_node("Softmax", ["t"], ["u"]),
        helper.make_node("IsNaN", ["u"], ["n"]),
        helper.make_node("Where", ["n", "o", "u"], ["v"]),
        helper.make_node("QuantizeLinear", ["v", "b", "z"], ["y"]),
    ]
    constants = {
        "a": np.array(scale, np.float32),
        "b": np.array(1 / 255, np.float32),
        "z": np.array(-128, np.int8),
        "o": np.array(0, np.float32),
    }
    shape = (2, 20, columns)
    model = build(nodes, {"x": ("int8", shape)}, {"y": ("int8", shape)}, constants)
    x = np.random.default_rng(6).integers(-128, 128, shape, np.int8)
    x[0, 0], x[0, 1], x[1, 2, 1:] = -128, 127, -128
    have = run_checked(model, LPU, {"x": x}).outputs["y"].astype(int)
    want = expected(model, {"x": x})["y"]
    assert np.abs(have - want).max() <= 1
    assert (have != want).mean() < 1e-3


def test_softmax_between_others() -> None:
    """Scores of attention that stay in fp16: masked, large, and such that are no numbers."""
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Add", ["s", "m"], ["t"]),
        helper.make_node("Softmax", ["t"], ["p"]),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    kinds = {"q": ("float32", (2, 16, 8)), "k": ("float32", (2, 8, 32)), "m": ("float32", (16, 32))}
    constants = {"v": np.eye(32, dtype=np.float32)}
    model = build(nodes, kinds, {"y": ("float32", (2, 16, 32))}, constants)
    rng = np.random.default_rng(8)
    mask = np.zeros((16, 32), np.float32)
    mask[1, 5:], mask[2], mask[3, 1:], mask[4] = -np.inf, -6e4, -np.inf, 2000
    inputs = {"q": rng.normal(size=(2, 16, 8)), "k": rng.normal(size=(2, 8, 32)) * 4, "m": mask}
    check(model, {name: x.astype(np.float16).astype("f4") for name, x in inputs.items()}, 2**-9)


@pytest.mark.parametrize("instead", [None, 0.0, 0.25])
def test_softmax_of_masks(instead: float | None) -> None:
    """A row of the least numbers is a row like any other, of -inf it is not a number: its own, or
    what is chosen instead."""
    nodes = [
        helper.make_node("Mul", ["x", "c"], ["t"]),
        helper.make_node("Softmax", ["t"], ["p" if instead is None else "o"]),
        helper.make_node("Mul", ["p", "d"], ["y"]),
    ]
    if instead is not None:
        nodes.insert(2, helper.make_node("IsNaN", ["o"], ["n"]))
        nodes.insert(3, helper.make_node("Where", ["n", "z", "o"], ["p"]))
    constants = {"c": np.array(5.2e33, np.float32), "d": np.array(0.5, np.float32)}
    constants |= {"z": np.array(instead or 0, np.float32)}
    model = build(nodes, {"x": ("float32", (20, 24))}, {"y": ("float32", (20, 24))}, constants)
    x = np.zeros((20, 24), np.float32)
    x[1], x[2], x[3, 4:], x[4, 7:] = -65504, -np.inf, -65504, -np.inf
    check(model, {"x": x}, 2**-9)
