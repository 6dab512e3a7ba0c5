"""Integer operators agree with onnxruntime, or where it has none with onnx's evaluator, exactly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from clockstep_isa import Machine
from tests.support.endtoend import assert_equal, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.machines import machine as machine_of
from tests.support.models import build, random_inputs
from tests.support.oracle import evaluate
from tests.support.quantized import full_range

TINY = MACHINES["tiny"]
BYTES = ("int8", "uint8")
PAIRS = tuple(itertools.product(BYTES, BYTES))
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")


def check(model: ModelProto, rng: np.random.Generator, machine: Machine = TINY) -> None:
    inputs = random_inputs(model, rng)
    assert_equal(run_checked(model, machine, inputs).outputs, expected(model, inputs))


def matmul_integer(
    rng: np.random.Generator,
    a: Sequence[int],
    b: Sequence[int],
    types: tuple[str, str] = ("int8", "int8"),
    zeros: tuple[Sequence[int] | None, Sequence[int] | None] = (None, None),
    constants: str = "b",
) -> ModelProto:
    """MatMulInteger; `zeros` are shapes of zero points, `constants` names constant operands."""
    shapes = {"a": a, "b": b}
    names = ["a", "b"]
    values: dict[str, NDArray[np.generic]] = {}
    for name, dtype in zip("ab", types, strict=True):
        if name in constants:
            values[name] = full_range(rng, shapes[name], dtype)
    for name, dtype, zero in zip(("a_zero", "b_zero"), types, zeros, strict=True):
        names.append(name if zero is not None else "")
        if zero is not None:
            values[name] = full_range(rng, zero, dtype)
    while not names[-1]:
        names.pop()
    inputs = {n: (t, shapes[n]) for n, t in zip("ab", types, strict=True) if n not in values}
    node = helper.make_node("MatMulInteger", names, ["y"], "matmul")
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    return build([node], inputs, {"y": ("int32", shape)}, values)


@pytest.mark.parametrize("constants", ["b", "a", ""])
@pytest.mark.parametrize("types", PAIRS)
def test_types_and_zero_points(types: tuple[str, str], constants: str) -> None:
    rng = np.random.default_rng(1)
    m, k, n = 5, 35, 18
    for zeros in itertools.product((None, ()), (None, (1,), (n,))):
        check(matmul_integer(rng, (m, k), (k, n), types, zeros, constants), rng)


@pytest.mark.parametrize("constants", ["b", "a", ""])
@pytest.mark.parametrize("types", PAIRS)
def test_zero_points_per_row(types: tuple[str, str], constants: str) -> None:
    """ONNX defines them, onnxruntime and onnx's evaluator refuse them: the oracle is exact."""
    rng = np.random.default_rng(10)
    m, k, n = 5, 35, 18
    for zero in (None, (), (n,)):
        model = matmul_integer(rng, (m, k), (k, n), types, ((m,), zero), constants)
        inputs = random_inputs(model, rng)
        outputs = run_checked(model, TINY, inputs).outputs
        assert_equal(outputs, {"y": np.asarray(evaluate(model, inputs)["y"])})


@pytest.mark.parametrize("types", PAIRS)
def test_sizes_about_the_lanes(types: tuple[str, str]) -> None:
    rng = np.random.default_rng(2)
    sizes = (1, 15, 16, 17, 35)
    for m, k, n in itertools.product(sizes, repeat=3):
        if (m + k + n) % 5 == 0:
            check(matmul_integer(rng, (m, k), (k, n), types, ((), (n,))), rng)


@pytest.mark.parametrize("constants", ["b", ""])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((20,), (20,)),
        ((20,), (20, 7)),
        ((7, 20), (20,)),
        ((2, 3, 20), (20, 7)),
        ((3, 20), (2, 20, 7)),
        ((2, 3, 20), (2, 20, 7)),
        ((2, 1, 3, 20), (4, 20, 7)),
        ((2, 3, 20), (20,)),
        ((20,), (2, 20, 7)),
    ],
)
def test_ranks(a: Sequence[int], b: Sequence[int], constants: str) -> None:
    rng = np.random.default_rng(3)
    for types in (("int8", "int8"), ("uint8", "int8"), ("uint8", "uint8")):
        check(matmul_integer(rng, a, b, types, ((), ()), constants), rng)


@pytest.mark.parametrize("name", ["ring", "narrow", "wide", "odd"])
def test_products_on_other_machines(name: str) -> None:
    rng = np.random.default_rng(4)
    machine = MACHINES[name]
    lanes = machine.vector
    for size, types, constants in (
        ((lanes + 1, 3 * lanes + 1, lanes - 1), ("uint8", "int8"), "b"),
        ((3, lanes, 2 * lanes + 1), ("int8", "uint8"), ""),
    ):
        m, k, n = size
        check(matmul_integer(rng, (m, k), (k, n), types, ((), (n,)), constants), rng, machine)


def test_partial_sums_where_slices_are_few() -> None:
    """K takes several groups of planes, and 16 slices hold operands, partial sums and results."""
    rng = np.random.default_rng(11)
    machine = machine_of("tiny", mem__slices_per_hemisphere=8)
    for constants in ("b", ""):
        model = matmul_integer(rng, (45, 90), (90, 52), ("int8", "uint8"), ((), (52,)), constants)
        check(model, rng, machine)


def test_the_largest_sums() -> None:
    """Every element at its limit, over many tiles: the sum stays exact in 32 bits."""
    k = 1000
    value = np.full((k, 3), -128, np.int8)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"], "matmul")
    model = build([node], {"a": ("int8", (2, k))}, {"y": ("int32", (2, 3))}, {"b": value})
    a = np.stack([np.full(k, -128, np.int8), np.full(k, 127, np.int8)])
    outputs = run_checked(model, TINY, {"a": a}).outputs
    assert outputs["y"].tolist() == [[k * 16384] * 3, [k * -16256] * 3]


# -- elementwise --------------------------------------------------------------------------------

SHAPES = [
    ((5, 20), (5, 20)),
    ((5, 20), (20,)),
    ((5, 20), (5, 1)),
    ((5, 20), ()),
    ((3, 1), (2, 1, 17)),
]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Min", "Max"])
def test_binary(op: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    for a, b in SHAPES[len(op) + len(dtype) & 1 :: 2]:
        node = helper.make_node(op, ["a", "b"], ["y"], "op")
        outputs = {"y": (dtype, np.broadcast_shapes(tuple(a), tuple(b)))}
        check(build([node], {"a": (dtype, a), "b": (dtype, b)}, outputs), rng)
    constant = {"b": full_range(rng, (20,), dtype)}
    outputs = {"y": (dtype, (5, 20))}
    check(build([node], {"a": (dtype, (5, 20))}, outputs, constant), rng)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
@pytest.mark.parametrize("op", ["Neg", "Abs", "Relu"])
def test_unary(op: str, dtype: str) -> None:
    rng = np.random.default_rng(6)
    check(unary(op, dtype), rng)
    limits = np.iinfo(dtype)
    shape = (5, 20)
    inputs = {"x": np.resize(np.array([limits.min, limits.max, 0], dtype), shape)}
    model = unary(op, dtype)
    assert_equal(run_checked(model, TINY, inputs).outputs, expected(model, inputs))


def unary(op: str, dtype: str) -> ModelProto:
    node = helper.make_node(op, ["x"], ["y"], "op")
    return build([node], {"x": (dtype, (5, 20))}, {"y": (dtype, (5, 20))})


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_clip(dtype: str) -> None:
    rng = np.random.default_rng(7)
    for bounds in ((3, 90), (100, 100)):
        constants = {n: np.array(v, dtype) for n, v in zip(("lo", "hi"), bounds, strict=True)}
        node = helper.make_node("Clip", ["x", "lo", "hi"], ["y"], "clip")
        check(build([node], {"x": (dtype, (5, 20))}, {"y": (dtype, (5, 20))}, constants), rng)
    inputs = {"x": (dtype, (5, 20)), "lo": (dtype, ()), "hi": (dtype, ())}
    check(build([node], inputs, {"y": (dtype, (5, 20))}), rng)


def cast(source: str, target: str) -> ModelProto:
    node = helper.make_node("Cast", ["x"], ["y"], "cast", to=tensor_type(target))
    return build([node], {"x": (source, (5, 20))}, {"y": (target, (5, 20))})


def tensor_type(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


@pytest.mark.parametrize("target", [*INTEGERS, "bool"])
@pytest.mark.parametrize("source", [*INTEGERS, "bool"])
def test_cast_between_integers(source: str, target: str) -> None:
    check(cast(source, target), np.random.default_rng(8))


@pytest.mark.parametrize("source", [*INTEGERS, "bool"])
def test_cast_to_float(source: str) -> None:
    """Integers that a float graph output holds exactly."""
    inputs = {"x": np.resize(np.arange(-120 if source.startswith("i") else 0, 120), (5, 20))}
    inputs = {"x": inputs["x"].astype(source)}
    model = cast(source, "float32")
    assert_equal(run_checked(model, TINY, inputs).outputs, expected(model, inputs))


@pytest.mark.parametrize("target", ["int8", "uint8", "int16", "int32"])
def test_cast_from_float_rounds_toward_zero(target: str) -> None:
    low = 0 if target.startswith("u") else -100
    x = np.linspace(low, 100, 100, dtype=np.float32).reshape(5, 20)
    inputs = {"x": x.astype(np.float16).astype(np.float32)}
    model = cast("float32", target)
    assert_equal(run_checked(model, TINY, inputs).outputs, expected(model, inputs))


def test_a_chain_of_integer_operators() -> None:
    """uint8 product, bias, clip, narrow, product again: as integer-only networks are written."""
    rng = np.random.default_rng(9)
    constants: dict[str, NDArray[np.generic]] = {
        "w": full_range(rng, (40, 20), "int8"),
        "bias": rng.integers(-9999, 9999, 20, dtype=np.int32),
        "low": np.array(0, np.int32),
        "high": np.array(255, np.int32),
        "v": full_range(rng, (20, 9), "int8"),
        "zero": np.array(3, np.uint8),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["one"], "one"),
        helper.make_node("Add", ["one", "bias"], ["sum"], "bias"),
        helper.make_node("Clip", ["sum", "low", "high"], ["clipped"], "clip"),
        helper.make_node("Cast", ["clipped"], ["bytes"], "narrow", to=tensor_type("uint8")),
        helper.make_node("MatMulInteger", ["bytes", "v", "zero"], ["y"], "two"),
    ]
    check(build(nodes, {"x": ("uint8", (7, 40))}, {"y": ("int32", (7, 9))}, constants), rng)


@pytest.mark.parametrize(
    ("dtype", "op"),
    [
        (dtype, op)
        for dtype in ("int8", "uint8", "int16", "uint16")
        for op in ("Abs", "Relu", "Max", "Min", "Clip", "Cast")
        if op != "Relu" or dtype.startswith("i")
    ],
)
def test_narrow_sums_wrap_before_their_value_matters(dtype: str, op: str) -> None:
    """100 + 100 is -56 in int8 also if it goes from one ALU to the next."""
    rng = np.random.default_rng(10)
    constants = {"lo": np.array(3, dtype), "hi": np.array(90, dtype), "c": np.array(50, dtype)}
    more = {"Max": ["c"], "Min": ["c"], "Clip": ["lo", "hi"]}.get(op, [])
    kept = {name: value for name, value in constants.items() if name in more}
    to = {"to": tensor_type("int32")} if op == "Cast" else {}
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"], "mul"),
        helper.make_node("Sub", ["square", "y"], ["sum"], "sub"),
        helper.make_node(op, ["sum", *more], ["z"], "last", **to),
    ]
    shapes = {"x": (dtype, (5, 20)), "y": (dtype, (5, 20))}
    outputs = {"z": ("int32" if op == "Cast" else dtype, (5, 20))}
    check(build(nodes, shapes, outputs, kept), rng)
