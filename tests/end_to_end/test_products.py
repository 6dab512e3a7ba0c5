"""Matrix products in fp16: every size, rank and form that ONNX has, constant and computed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto, helper

from benchmarks.builder import Net
from clockstep_compiler import Options
from clockstep_isa import Machine, load_machine
from tests.support.endtoend import assert_close, expected, fp16_inputs, run_checked
from tests.support.machines import MACHINES
from tests.support.models import (
    batched_matmul,
    build,
    computed_b,
    matmul_of_inputs,
    random_inputs,
)

TINY = MACHINES["tiny"]


def check(model: ModelProto, rng: np.random.Generator, machine: Machine = TINY) -> None:
    """Run on random inputs. Products are near one; a single one may cancel to much less."""
    inputs = fp16_inputs(random_inputs(model, rng))
    want = expected(model, inputs)
    scale = max(1.0, *(float(np.abs(array).max(initial=0.0)) for array in want.values()))
    assert_close(run_checked(model, machine, inputs).outputs, want, scale=scale)


def sizes(machine: Machine) -> tuple[int, ...]:
    """Sizes about the number of lanes, where tilings go wrong."""
    lanes = machine.vector
    return (1, lanes - 1, lanes, lanes + 1, 2 * lanes + 3)


@pytest.mark.parametrize("k", sizes(TINY))
def test_every_size_about_the_lanes(k: int) -> None:
    rng = np.random.default_rng(k)
    rows = sizes(TINY)[sizes(TINY).index(k) % 2 :: 2]
    for m, n in itertools.product(rows, sizes(TINY)):
        check(batched_matmul(rng, (m, k), (k, n)), rng)


@pytest.mark.parametrize("name", ["ring", "narrow", "wide", "odd"])
def test_sizes_about_the_lanes_of_other_machines(name: str) -> None:
    rng = np.random.default_rng(1)
    machine = MACHINES[name]
    one, below, lanes, above, many = sizes(machine)
    for m, k, n in ((below, lanes, above), (above, many, below), (many, above, one)):
        check(batched_matmul(rng, (m, k), (k, n)), rng, machine)


@pytest.mark.parametrize("k", sizes(TINY))
def test_every_size_of_a_product_of_two_inputs(k: int) -> None:
    rng = np.random.default_rng(k)
    for m, n in itertools.product((1, 17, 35), (1, 15, 35)):
        check(matmul_of_inputs(m, k, n), rng)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 17, 3), (20, 35, 40)])
def test_right_side_computed_at_run_time(name: str, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(2)
    check(computed_b(rng, *shape), rng, MACHINES[name])


RANKS = [
    ((7,), (7,)),
    ((7,), (7, 5)),
    ((6, 7), (7,)),
    ((2, 6, 7), (7,)),
    ((7,), (2, 7, 5)),
    ((2, 6, 7), (7, 5)),
    ((6, 7), (2, 7, 5)),
    ((2, 6, 7), (2, 7, 5)),
    ((2, 6, 7), (1, 7, 5)),
    ((1, 6, 7), (2, 7, 5)),
    ((2, 1, 6, 7), (3, 7, 5)),
    ((2, 3, 6, 7), (1, 3, 7, 5)),
    ((3, 6, 7), (2, 1, 7, 5)),
    ((2, 3, 1, 20), (2, 3, 20, 1)),
    ((7,), (2, 3, 7, 5)),
    ((2, 3, 6, 7), (7,)),
    ((20,), (20, 33)),
    ((33, 20), (20,)),
]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("a", "b"), RANKS)
def test_ranks_and_broadcasting(a: Sequence[int], b: Sequence[int], constant: bool) -> None:
    rng = np.random.default_rng(3)
    check(batched_matmul(rng, a, b, constant), rng)


@pytest.mark.parametrize(("a", "b"), RANKS)
def test_left_side_constant(a: Sequence[int], b: Sequence[int]) -> None:
    rng = np.random.default_rng(4)
    value = rng.normal(size=a).astype(np.float32)
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    node = helper.make_node("MatMul", ["a", "b"], ["y"], "matmul")
    check(build([node], {"b": ("float32", b)}, {"y": ("float32", shape)}, {"a": value}), rng)


@pytest.mark.parametrize(("a", "b"), RANKS)
def test_both_sides_computed(a: Sequence[int], b: Sequence[int]) -> None:
    rng = np.random.default_rng(5)
    shape = np.matmul(np.zeros(a), np.zeros(b)).shape
    nodes = [
        helper.make_node("Neg", ["a"], ["left"], "neg"),
        helper.make_node("Relu", ["b"], ["right"], "relu"),
        helper.make_node("MatMul", ["left", "right"], ["y"], "matmul"),
    ]
    inputs = {"a": ("float32", a), "b": ("float32", b)}
    check(build(nodes, inputs, {"y": ("float32", shape)}), rng)


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (5, 20), (20, 5), (33, 34)])
def test_a_tensor_times_its_own_transpose(rows: int, columns: int, computed: bool) -> None:
    rng = np.random.default_rng(6)
    x = "t" if computed else "x"
    nodes = [helper.make_node("Relu", ["x"], ["t"], "relu")] if computed else []
    nodes.append(helper.make_node("Gemm", [x, x], ["y"], "gemm", transB=1))
    inputs = {"x": ("float32", (rows, columns))}
    check(build(nodes, inputs, {"y": ("float32", (rows, rows))}), rng)


@pytest.mark.parametrize("size", [4, 16, 21])
def test_a_tensor_squared(size: int) -> None:
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("Relu", ["x"], ["t"], "relu"),
        helper.make_node("MatMul", ["t", "t"], ["square"], "square"),
        helper.make_node("MatMul", ["square", "t"], ["y"], "cube"),
    ]
    shape = (size, size)
    check(build(nodes, {"x": ("float32", shape)}, {"y": ("float32", shape)}), rng)


def gemm(
    rng: np.random.Generator,
    size: tuple[int, int, int],
    trans: tuple[int, int],
    c: Sequence[int] | None,
    constants: str,
    scale: tuple[float, float] = (1.0, 1.0),
) -> ModelProto:
    """alpha A' B' + beta C; `constants` names the operands that are."""
    m, k, n = size
    shapes: dict[str, Sequence[int]] = {
        "a": (k, m) if trans[0] else (m, k),
        "b": (n, k) if trans[1] else (k, n),
    }
    if c is not None:
        shapes["c"] = c
    values = {x: rng.normal(size=shapes[x]).astype(np.float32) for x in shapes if x in constants}
    inputs = {x: ("float32", shape) for x, shape in shapes.items() if x not in values}
    node = helper.make_node(
        "Gemm",
        list(shapes),
        ["y"],
        "gemm",
        transA=trans[0],
        transB=trans[1],
        alpha=scale[0],
        beta=scale[1],
    )
    return build([node], inputs, {"y": ("float32", (m, n))}, values)


@pytest.mark.parametrize("constants", ["", "b", "a", "bc", "ac", "c"])
@pytest.mark.parametrize("trans", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_transposed(trans: tuple[int, int], constants: str) -> None:
    rng = np.random.default_rng(8)
    for size in ((5, 20, 18), (17, 3, 33)):
        check(gemm(rng, size, trans, (size[2],), constants, (0.5, 2.0)), rng)


@pytest.mark.parametrize("constants", ["b", "bc"])
@pytest.mark.parametrize("c", [None, (), (1,), (19,), (1, 19), (6, 1), (1, 1), (6, 19)])
def test_gemm_bias(c: Sequence[int] | None, constants: str) -> None:
    rng = np.random.default_rng(9)
    for scale in ((1.0, 1.0), (-0.25, 0.75), (0.0, 1.0), (2.0, 0.0)):
        check(gemm(rng, (6, 11, 19), (0, 0), c, constants, scale), rng)


def test_gemm_of_computed_operands() -> None:
    """Both transposed on the way: the machine has to turn what it has computed itself."""
    rng = np.random.default_rng(10)
    nodes = [
        helper.make_node("Relu", ["a"], ["left"], "relu"),
        helper.make_node("Neg", ["b"], ["right"], "neg"),
        helper.make_node("Abs", ["c"], ["bias"], "abs"),
        helper.make_node(
            "Gemm", ["left", "right", "bias"], ["y"], "gemm", transA=1, transB=1, beta=-1.5
        ),
    ]
    inputs = {"a": ("float32", (20, 7)), "b": ("float32", (33, 20)), "c": ("float32", (7, 1))}
    check(build(nodes, inputs, {"y": ("float32", (7, 33))}), rng)


def test_two_products_added() -> None:
    """A wave takes one product: of a sum of two, one has to be stored first."""
    rng = np.random.default_rng(11)
    weights = {name: rng.normal(size=(12, 20)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["one"], "one"),
        helper.make_node("MatMul", ["x", "w"], ["two"], "two"),
        helper.make_node("Sub", ["one", "two"], ["difference"], "sub"),
        helper.make_node("Mul", ["difference", "one"], ["y"], "mul"),
    ]
    shape = (5, 20)
    model = build(nodes, {"x": ("float32", (5, 12))}, {"y": ("float32", shape)}, weights)
    check(model, rng)


def test_a_product_as_the_bias_of_another() -> None:
    rng = np.random.default_rng(13)
    weights = {name: rng.normal(size=(12, 20)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["bias"], "one"),
        helper.make_node("Gemm", ["x", "w", "bias"], ["y"], "two", beta=0.5),
    ]
    check(build(nodes, {"x": ("float32", (5, 12))}, {"y": ("float32", (5, 20))}, weights), rng)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types(dtype: str) -> None:
    rng = np.random.default_rng(12)
    weight = (rng.normal(size=(20, 9)) / 4).astype(dtype)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")
    model = build([node], {"x": (dtype, (6, 20))}, {"y": (dtype, (6, 9))}, {"w": weight})
    check(model, rng)


HEADS, LONG = (8, 96, 64), (8, 64, 128)


def test_arrays_of_heads_are_loaded_while_others_are_multiplied() -> None:
    """Integers with zero points, both sides computed: exact, and no head waits for the one before.

    One head after the other, each with its way through the chip, takes twice as many cycles.
    """
    rng = np.random.default_rng(7)
    zeros = {"az": np.array(117, np.uint8), "bz": np.array(131, np.uint8)}
    node = helper.make_node("MatMulInteger", ["a", "b", "az", "bz"], ["y"], "matmul")
    inputs = {"a": ("uint8", HEADS), "b": ("uint8", LONG)}
    model = build([node], inputs, {"y": ("int32", (8, 96, 128))}, zeros)
    values = {name: rng.integers(0, 256, shape, np.uint8) for name, (_, shape) in inputs.items()}
    run = run_checked(model, load_machine("lpu-v1"), values)
    left, right = values["a"].astype(np.int64) - 117, values["b"].astype(np.int64) - 131
    np.testing.assert_array_equal(run.outputs["y"], left @ right)
    assert run.program.cycles < 2400


@pytest.mark.parametrize("lead", [(), (2,)])
def test_integer_products_of_depth_zero_are_zero(lead: tuple[int, ...]) -> None:
    weights = {"b": np.zeros((*lead, 0, 7), np.int8)}
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"], "matmul")
    model = build([node], {"a": ("int8", (*lead, 8, 0))}, {"y": ("int32", (*lead, 8, 7))}, weights)
    run = run_checked(model, TINY, {"a": np.zeros((*lead, 8, 0), np.int8)})
    np.testing.assert_array_equal(run.outputs["y"], np.zeros((*lead, 8, 7), np.int32))


@pytest.mark.parametrize("precision", ["fp16", "exact"])
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("name", ["tiny", "lpu-v1"])
def test_columns_alike_give_results_alike(name: str, rows: int, precision: str) -> None:
    """Floats of every tile are added up in the same order: a Softmax tells their last bits."""
    machine = load_machine(name)
    deep, wide = 5 * machine.vector - 3, 3 * machine.vector + 5
    net, rng = Net("alike"), np.random.default_rng(4)
    column = rng.standard_normal((deep, 1)).astype(np.float32)
    y = net.op("Gemm", net.input("x", (rows, deep)), net.constant(np.repeat(column, wide, 1)))
    net.output(y, "y", (rows, wide))
    inputs = {"x": rng.standard_normal((rows, deep)).astype(np.float32)}
    run = run_checked(net.model(), machine, inputs, Options(precision=precision))
    outputs = run.outputs["y"]
    assert (outputs == outputs[:, :1]).all()
