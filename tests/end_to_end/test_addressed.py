"""Gather and its kin by computed indices: every bit pattern, type, axis and form."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from clockstep_compiler import Options, compile_model
from clockstep_isa import load_machine
from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import run_checked
from tests.support.machines import MACHINES
from tests.support.one_node import assert_same_elements, node_of, one_node

TINY = MACHINES["tiny"]
Array = NDArray[Any]
Shape = tuple[int, ...]

DTYPES = (
    *("float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"),
    "bool",
)


def elements(shape: Shape, dtype: str, seed: int = 0) -> Array:
    """Any bits where they have a meaning."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype == "int64":
        return rng.integers(-(2**31), 2**31, shape)
    size = np.dtype(dtype).itemsize
    raw = rng.integers(0, 256, (*shape, size), np.uint8)
    return raw.view(dtype).reshape(shape)


def places(shape: Shape, size: int, seed: int = 0, dtype: str = "int64") -> Array:
    """Indices from either end."""
    return np.random.default_rng(seed).integers(-size, size, shape).astype(dtype)


check = partial(assert_same_elements, bits=True)
"""Bit for bit."""


# -- Gather ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constant", [(), ("x",)])
@pytest.mark.parametrize("rows", [5, 20])
def test_rows_of_every_type(dtype: str, constant: tuple[str, ...], rows: int) -> None:
    """Few rows are masked, many multiplied."""
    check("Gather", {"x": elements((rows, 18), dtype), "i": places((6,), rows)}, constant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constant", [(), ("x",)])
def test_last_axis_of_every_type(dtype: str, constant: tuple[str, ...]) -> None:
    check("Gather", {"x": elements((3, 20), dtype), "i": places((2, 9), 20)}, constant, axis=1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(draw=st.data())
def test_gather(draw: st.DataObject) -> None:
    shape = tuple(draw.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    axis = draw.draw(st.integers(-len(shape), len(shape) - 1))
    wanted = tuple(draw.draw(st.lists(st.integers(1, 5), max_size=2)))
    kind = draw.draw(st.sampled_from(("int32", "int64")))
    constant = draw.draw(st.sampled_from(((), ("x",))))
    inputs = {"x": elements(shape, "float32"), "i": places(wanted, shape[axis], 1, kind)}
    check("Gather", inputs, constant, axis=axis)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "uint32"])
@pytest.mark.parametrize("rows", [5, 20])
def test_out_of_range_is_zero(dtype: str, rows: int) -> None:
    x, i = elements((rows, 3), dtype), np.array([0, rows, -rows - 1, 2**31 - 1, rows - 1])
    model = one_node(node_of("Gather", "x i"), {"x": x, "i": i}, kinds={"y": dtype})
    have = run_checked(model, TINY, {"x": x, "i": i}, precision="exact").outputs["y"]
    none = np.zeros(3, dtype)
    np.testing.assert_array_equal(have, np.stack([x[0], none, none, none, x[-1]]))


def test_large_matrices_are_masked() -> None:
    """As experts' weights are taken."""
    for constant in ((), ("x",)):
        check("Gather", {"x": elements((10, 260, 16), "int8"), "i": places((2,), 10)}, constant)
    stack = {"x": elements((2, 3, 260, 16), "int8"), "i": places((2,), 3)}
    check("Gather", stack, axis=1)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("zero", [0, 3])
def test_a_quantized_table_stays_quantized(dtype: str, zero: int) -> None:
    """A DequantizeLinear below a Gather: a byte for each element, even if it has nine bits."""
    table, i = elements((40, 18), dtype), np.array([3, -1, 40, 0, -(2**31)])
    nodes = [node_of("DequantizeLinear", "q s z", "x"), node_of("Gather", "x i")]
    parameters: dict[str, Array] = {"s": np.array(0.25, np.float32), "z": np.array(zero, dtype)}
    model = one_node(nodes[1], {"i": i}, {"q": table, **parameters}, opset=18)
    model.graph.node.insert(0, nodes[0])
    run = run_checked(model, TINY, {"i": i}, precision="exact")
    none = np.full(18, zero)
    want = (np.stack([table[3], table[-1], none, table[0], none]) - zero) * 0.25
    np.testing.assert_array_equal(run.outputs["y"], want)
    assert run.program.info["weight_bytes"] == table.size


def test_an_embedding() -> None:
    """Several tiles of rows and of columns on the machine of reference."""
    table, i = elements((700, 400), "float16"), places((1, 9), 700)
    model = one_node(node_of("Gather", "x i"), {"i": i}, {"x": table}, {"y": "float16"}, 18)
    run = run_checked(model, load_machine("lpu-v1"), {"i": i}, precision="fp16")
    assert run.outputs["y"].tobytes() == table[i].tobytes()


@pytest.mark.parametrize("name", sorted(MACHINES))
@pytest.mark.parametrize("constant", [False, True])
def test_machines(name: str, constant: bool) -> None:
    """Nothing here knows how many lanes or slices there are; several chips where there are."""
    x, i = elements((60, 40), "float32"), places((5,), 60)
    inputs = {"i": i} if constant else {"x": x, "i": i}
    model = one_node(node_of("Gather", "x i"), inputs, {"x": x} if constant else {}, opset=18)
    machine = MACHINES[name]
    chips = min(2, machine.max_chips)
    run = run_checked(
        model, machine, inputs, precision="exact", chips=chips, objective="throughput", copies=1
    )
    assert run.outputs["y"].tobytes() == x[i].tobytes()


def test_too_large() -> None:
    x, i = np.zeros((1 << 15, 2), np.int8), np.zeros((1 << 13,), np.int64)
    model = one_node(node_of("Gather", "x i"), {"x": x, "i": i}, kinds={"y": "int8"})
    with pytest.raises(UnsupportedModel, match="comparisons"):
        compile_model(model.SerializeToString(), TINY, Options())


# -- GatherND and GatherElements -------------------------------------------------------------------


@settings(max_examples=20, deadline=None, derandomize=True)
@given(draw=st.data())
def test_gather_nd(draw: st.DataObject) -> None:
    shape = tuple(draw.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    batch = draw.draw(st.integers(0, min(2, len(shape) - 1)))
    depth = draw.draw(st.integers(1, len(shape) - batch))
    lead = (*shape[:batch], draw.draw(st.integers(1, 4)))
    index = [places(lead, n, k) for k, n in enumerate(shape[batch : batch + depth])]
    inputs = {"x": elements(shape, "float32"), "i": np.stack(index, -1)}
    check("GatherND", inputs, batch_dims=batch)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(draw=st.data())
def test_gather_elements(draw: st.DataObject) -> None:
    shape = tuple(draw.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    axis = draw.draw(st.integers(-len(shape), len(shape) - 1))
    wanted = [draw.draw(st.integers(1, n)) for n in shape]
    wanted[axis] = draw.draw(st.integers(1, 7))
    inputs = {"x": elements(shape, "float32"), "i": places(tuple(wanted), shape[axis])}
    check("GatherElements", inputs, axis=axis)


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int16"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 10), 1), ((4, 100), 1), ((2, 70, 3), 1)])
def test_elements_of_many(dtype: str, shape: Shape, axis: int) -> None:
    """Beyond 64 places by products with everything."""
    wanted = tuple(3 if i == axis else n for i, n in enumerate(shape))
    inputs = {"x": elements(shape, dtype), "i": places(wanted, shape[axis])}
    check("GatherElements", inputs, axis=axis)


# -- what is made of them --------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis: int) -> None:
    i, depth = np.array([[0, 6, -7], [8, -9, 3]]), np.array(7)
    values = np.array([2, -5], np.float32)
    node = node_of("OneHot", "i d v", axis=axis)
    inputs = {"i": i, "v": values}
    model = one_node(node, inputs, {"d": depth}, opset=18)
    want = np.full((2, 3, 7), 2, np.float32)
    want[[0, 0, 0, 1], [0, 1, 2, 2], [0, 6, 0, 3]] = -5
    have = run_checked(model, TINY, inputs, precision="exact").outputs["y"]
    np.testing.assert_array_equal(have, np.moveaxis(want, -1, axis))


@pytest.mark.parametrize(
    ("shape", "batch", "time"), [((5, 4), 1, 0), ((4, 12, 3), 0, 1), ((12, 4, 3), 1, 0)]
)
def test_sequences_of_computed_lengths(shape: Shape, batch: int, time: int) -> None:
    lengths = np.random.default_rng(0).integers(1, shape[time] + 1, shape[batch])
    inputs = {"x": elements(shape, "float32"), "l": lengths}
    check("ReverseSequence", inputs, batch_axis=batch, time_axis=time)


@pytest.mark.parametrize("constant", [{}, {"i": np.array([[4, 0, 4]])}])
def test_features(constant: dict[str, Array]) -> None:
    x, i = elements((3, 5), "int32").astype(np.float32), np.array([[4, 0, 4]])
    inputs = {"x": x} if constant else {"x": x, "i": i}
    node = helper.make_node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain="ai.onnx.ml")
    model = one_node(node, inputs, constant, opset=18)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    have = run_checked(model, TINY, inputs, precision="exact").outputs["y"]
    np.testing.assert_array_equal(have, x[:, [4, 0, 4]])
