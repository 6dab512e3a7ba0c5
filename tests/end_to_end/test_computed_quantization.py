"""Quantization whose scales and zero points are computed, against onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from clockstep_isa import load_machine
from tests.support.endtoend import assert_equal, build_session, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build, random_inputs
from tests.support.quantized import full_range

TINY = MACHINES["tiny"]
Array = NDArray[Any]
Kinds = Mapping[str, tuple[str, Sequence[int]]]


def check(model: ModelProto, inputs: Mapping[str, Array], steps: int = 0) -> dict[str, Array]:
    """Every integer within `steps` of onnxruntime's, floats to some units; our outputs."""
    found, wanted = run_checked(model, TINY, inputs).outputs, expected(model, inputs)
    for name, want in wanted.items():
        have = found[name]
        assert (have.shape, have.dtype) == (want.shape, want.dtype), name
        if want.dtype.kind == "f":
            np.testing.assert_allclose(have, want, rtol=1e-6, atol=1e-30, err_msg=name)
        else:
            distance = np.abs(have.astype(np.int64) - want.astype(np.int64))
            assert distance.max(initial=0) <= steps, name
    return found


# -- DynamicQuantizeLinear -----------------------------------------------------------------------


def dynamic(shape: Sequence[int]) -> ModelProto:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"], "dynamic")
    outputs: Kinds = {"y": ("uint8", shape), "scale": ("float32", ()), "zero": ("uint8", ())}
    return build([node], {"x": ("float32", shape)}, outputs)


@pytest.mark.parametrize("shape", [(1,), (33,), (5, 20), (2, 3, 4, 5)])
@pytest.mark.parametrize("low", [-1.0, 0.25, -7.0])
def test_dynamic_quantization_is_onnxruntimes_to_the_bit(
    shape: tuple[int, ...], low: float
) -> None:
    rng = np.random.default_rng([math.prod(shape), int(low * 4) + 99])
    model = dynamic(shape)
    session = build_session(model, TINY)
    for scale in (1.0, 1e-25, 1e37):
        x = (rng.uniform(low, low + 4, shape) * scale).astype(np.float32)
        assert_equal(session.execute({"x": x}).outputs, expected(model, {"x": x}))


def test_dynamic_quantization_of_zeros_has_scale_one() -> None:
    found = check(dynamic((4, 5)), {"x": np.zeros((4, 5), np.float32)})
    assert found["scale"] == 1.0
    assert not found["y"].any()


def test_the_same_program_quantizes_other_data() -> None:
    model, rng = dynamic((20, 40)), np.random.default_rng(0)
    session = build_session(model, TINY)
    for spread in (1e-3, 1.0, 1e4):
        x = rng.normal(1, spread, (20, 40)).astype(np.float32)
        assert_equal(session.execute({"x": x}).outputs, expected(model, {"x": x}))


# -- QuantizeLinear and DequantizeLinear ---------------------------------------------------------


def pair(shape: Sequence[int], own: Sequence[int], dtype: str, **attributes: Any) -> ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "q", **attributes),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "d", **attributes),
    ]
    inputs = {"x": ("float32", shape), "scale": ("float32", own), "zero": (dtype, own)}
    return build(nodes, inputs, {"q": (dtype, shape), "y": ("float32", shape)})


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize(
    ("shape", "own", "attributes"),
    [
        ((5, 20), (), {}),
        ((5, 20), (20,), {"axis": -1}),
        ((5, 20), (5,), {"axis": 0}),
        ((2, 3, 4, 5), (3,), {}),
        ((5, 20), (5, 7), {"axis": 1, "block_size": 3}),
        ((4, 3, 2), (2, 3, 2), {"axis": 0, "block_size": 2}),
    ],
)
def test_parameters_are_inputs(
    shape: tuple[int, ...], own: tuple[int, ...], attributes: dict[str, int], dtype: str
) -> None:
    rng = np.random.default_rng(math.prod(shape))
    model = pair(shape, own, dtype, **attributes)
    limits = np.iinfo(dtype)
    scale = rng.uniform(0.01, 0.1, own).astype(np.float32)
    x = rng.normal(0, limits.max / 40, shape).astype(np.float32)
    inputs = {"x": x, "scale": scale, "zero": full_range(rng, own, dtype)}
    found = check(model, inputs)
    assert len(np.unique(found["q"])) > 10
    constants = {name: inputs.pop(name) for name in ("scale", "zero")}
    fixed = build(
        list(model.graph.node),
        {"x": ("float32", shape)},
        {"q": (dtype, shape), "y": ("float32", shape)},
        constants,
    )
    check(fixed, inputs, steps=1)


def test_quotients_are_those_of_division() -> None:
    """Ties included: x is a half times the scale, however that is rounded."""
    rng = np.random.default_rng(3)
    scale = rng.uniform(1e-3, 1e3, 50).astype(np.float32)
    halves = rng.integers(-250, 250, (40, 50)) + np.float32(0.5)
    model = pair((40, 50), (50,), "int16", axis=1)
    x = (halves * scale).astype(np.float32)
    zero = np.zeros(50, np.int16)
    check(model, {"x": x, "scale": scale, "zero": zero})
    result = {"q": ("int16", (40, 50))}
    constants = {"scale": scale, "zero": zero}
    fixed = build([model.graph.node[0]], {"x": ("float32", (40, 50))}, result, constants)
    found = run_checked(fixed, TINY, {"x": x}, precision="exact").outputs
    assert_equal(found, expected(fixed, {"x": x}))
    check(fixed, {"x": x}, steps=1)


# -- products ------------------------------------------------------------------------------------

TYPES = [("int8", "int8"), ("uint8", "int8"), ("uint8", "uint8")]


def cases(left: str, right: str) -> list[tuple[tuple[str, str], tuple[str, ...]]]:
    """Types of both operands, and which of them and of their zero points are constants."""
    zero, other = f"{left}z", f"{right}z"
    constants = [(right,), (right, other), (right, zero), (), (zero,), (other,)]
    return [(TYPES[i % len(TYPES)], names) for i, names in enumerate(constants)]


def drawn(rng: np.random.Generator, kinds: Kinds, constant: Sequence[str]) -> tuple[Any, Any]:
    """Inputs and constants over the whole range of their types."""
    values = {name: full_range(rng, shape, dtype) for name, (dtype, shape) in kinds.items()}
    return (
        {name: value for name, value in values.items() if name not in constant},
        {name: value for name, value in values.items() if name in constant},
    )


@pytest.mark.parametrize(("types", "constant"), cases("a", "b"))
@pytest.mark.parametrize(
    ("a", "b", "az", "bz"),
    [
        ((5, 17), (17, 9), (), ()),
        ((2, 3, 40), (40, 20), (), (20,)),
        ((2, 3, 4), (2, 4, 5), (), ()),
        ((7,), (7, 3), (), (3,)),
        ((3, 7), (7,), (), ()),
    ],
)
def test_matmul_integer(
    a: Any, b: Any, az: Any, bz: Any, constant: tuple[str, ...], types: tuple[str, str]
) -> None:
    rng = np.random.default_rng(5)
    left, right = types
    kinds: Kinds = {"a": (left, a), "b": (right, b), "az": (left, az), "bz": (right, bz)}
    node = helper.make_node("MatMulInteger", ["a", "b", "az", "bz"], ["y"], "matmul")
    inputs, constants = drawn(rng, kinds, constant)
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    given = {name: kinds[name] for name in inputs}
    model = build([node], given, {"y": ("int32", shape)}, constants)
    found = run_checked(model, TINY, inputs).outputs["y"]
    values = {k: v.astype(np.int64) for k, v in {**inputs, **constants}.items()}
    want = np.matmul(values["a"] - values["az"], values["b"] - values["bz"])
    np.testing.assert_array_equal(found, want)


CONVOLUTIONS: list[tuple[Any, Any, dict[str, Any]]] = [
    ((1, 3, 6, 5), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 6, 5, 4), (6, 3, 2, 2), {"group": 2, "strides": [2, 1], "pads": [0, 1, 1, 0]}),
    ((1, 5, 9), (5, 1, 3), {"group": 5, "auto_pad": "SAME_UPPER"}),
    ((1, 8, 4, 4), (3, 8, 1, 1), {}),
]


@pytest.mark.parametrize(("types", "constant"), cases("x", "w"))
@pytest.mark.parametrize(("x", "w", "attributes"), CONVOLUTIONS)
def test_conv_integer(
    x: Any, w: Any, attributes: Any, constant: tuple[str, ...], types: tuple[str, str]
) -> None:
    rng = np.random.default_rng(6)
    left, right = types
    per_channel = (w[0],) if w[0] % 2 else ()
    kinds: Kinds = {"x": (left, x), "w": (right, w), "xz": (left, ()), "wz": (right, per_channel)}
    node = helper.make_node("ConvInteger", ["x", "w", "xz", "wz"], ["y"], "conv", **attributes)
    inputs, constants = drawn(rng, kinds, constant)
    values = {k: v.astype(np.float64) for k, v in {**inputs, **constants}.items()}
    shift = values["wz"].reshape(-1, *[1] * (len(w) - 1)) if per_channel else values["wz"]
    plain = helper.make_node("Conv", ["x", "w"], ["y"], "conv", **attributes)
    rank = [None] * len(x)
    floats = {"x": ("float64", x), "w": ("float64", w)}
    oracle = build([plain], floats, {"y": ("float64", [f"d{i}" for i in range(len(rank))])})
    want = expected(oracle, {"x": values["x"] - values["xz"], "w": values["w"] - shift})["y"]
    given = {name: kinds[name] for name in inputs}
    model = build([node], given, {"y": ("int32", want.shape)}, constants)
    found = run_checked(model, TINY, inputs).outputs["y"]
    np.testing.assert_array_equal(found, want)


def scales(rng: np.random.Generator, *shapes: Sequence[int]) -> list[Array]:
    return [rng.uniform(0.01, 0.05, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("computed", [("as",), ("az", "bz"), ("ys",), ("bs", "yz"), ()])
def test_qlinear_matmul(computed: tuple[str, ...]) -> None:
    """Within a step of onnxruntime, which multiplies by the quotient of the scales."""
    rng = np.random.default_rng(7)
    one, two = scales(rng, (), (9,))
    values: dict[str, Array] = {
        "a": full_range(rng, (5, 17), "uint8"),
        "as": one,
        "az": np.array(120, np.uint8),
        "b": full_range(rng, (17, 9), "int8"),
        "bs": two,
        "bz": full_range(rng, (9,), "int8"),
        "ys": np.array(0.7, np.float32),
        "yz": np.array(99, np.uint8),
    }
    inputs = {name: values.pop(name) for name in ("a", *computed)}
    node = helper.make_node(
        "QLinearMatMul", ["a", "as", "az", "b", "bs", "bz", "ys", "yz"], ["y"], "matmul"
    )
    given = {name: (array.dtype.name, array.shape) for name, array in inputs.items()}
    found = check(build([node], given, {"y": ("uint8", (5, 9))}, values), inputs, steps=1)
    assert len(np.unique(found["y"])) > 10


@pytest.mark.parametrize("computed", [("xs", "xz"), ("ws",), ("ys", "yz"), ("wz", "bias"), ()])
def test_qlinear_conv(computed: tuple[str, ...]) -> None:
    rng = np.random.default_rng(8)
    one, two = scales(rng, (), (4,))
    values: dict[str, Array] = {
        "x": full_range(rng, (1, 3, 6, 5), "uint8"),
        "xs": one,
        "xz": np.array(120, np.uint8),
        "w": full_range(rng, (4, 3, 3, 3), "int8"),
        "ws": two,
        "wz": np.zeros(4, np.int8),
        "ys": np.array(0.7, np.float32),
        "yz": np.array(99, np.uint8),
        "bias": rng.integers(-9999, 9999, 4, dtype=np.int32),
    }
    inputs = {name: values.pop(name) for name in ("x", *computed)}
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "bias"]
    node = helper.make_node("QLinearConv", names, ["y"], "conv", pads=[1, 1, 1, 1])
    given = {name: (array.dtype.name, array.shape) for name, array in inputs.items()}
    found = check(build([node], given, {"y": ("uint8", (1, 4, 6, 5))}, values), inputs, steps=1)
    assert len(np.unique(found["y"])) > 10


# -- networks ------------------------------------------------------------------------------------


def dynamic_network(rng: np.random.Generator) -> tuple[ModelProto, ModelProto]:
    """A convolution, an activation and a product, quantized as they run; and in floats."""
    w, v = rng.integers(-99, 99, (6, 3, 3, 3)), rng.integers(-99, 99, (6, 10))
    constants: dict[str, Array] = {
        "w": w.astype(np.int8),
        "ws": np.array(0.004, np.float32),
        "v": v.astype(np.int8),
        "vs": np.array(0.006, np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"], "quantize"),
        helper.make_node("ConvInteger", ["xq", "w", "xz"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["c"], ["cf"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["cs"], "scales"),
        helper.make_node("Mul", ["cf", "cs"], ["cr"], "scale"),
        helper.make_node("Sigmoid", ["cr"], ["g"], "gate"),
        helper.make_node("Mul", ["cr", "g"], ["s"], "swish"),
        helper.make_node("ReduceMean", ["s", "axes"], ["p"], "pool", keepdims=0),
        helper.make_node("DynamicQuantizeLinear", ["p"], ["pq", "ps", "pz"], "again"),
        helper.make_node("MatMulInteger", ["pq", "v", "pz"], ["m"], "matmul"),
        helper.make_node("Cast", ["m"], ["mf"], "cast2", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ps", "vs"], ["ms"], "scales2"),
        helper.make_node("Mul", ["mf", "ms"], ["y"], "scale2"),
    ]
    inputs, outputs = {"x": ("float32", (2, 3, 8, 7))}, {"y": ("float32", (2, 10))}
    return build(nodes, inputs, outputs, constants), build(
        [
            helper.make_node("Conv", ["x", "w"], ["cr"], "conv", pads=[1, 1, 1, 1]),
            *nodes[5:8],
            helper.make_node("MatMul", ["p", "v"], ["y"], "matmul"),
        ],
        inputs,
        outputs,
        {
            "w": (w * 0.004).astype(np.float32),
            "v": (v * 0.006).astype(np.float32),
            "axes": constants["axes"],
        },
    )


@pytest.mark.parametrize("machine", ["tiny", "lpu-v1"])
def test_a_network_quantized_as_it_runs(machine: str) -> None:
    """As near to onnxruntime as one step of the last quantization, and nearer than to floats."""
    rng = np.random.default_rng(9)
    model, plain = dynamic_network(rng)
    inputs = random_inputs(model, rng)
    found = run_checked(model, load_machine(machine), inputs).outputs["y"]
    want, real = expected(model, inputs)["y"], expected(plain, inputs)["y"]
    assert np.abs(found - want).max() <= 2e-3 * np.abs(want).max()
    assert np.abs(found - real).max() <= 0.05 * np.abs(real).max()
    assert not np.array_equal(want, real)
