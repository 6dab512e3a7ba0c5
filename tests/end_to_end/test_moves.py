"""Elements moved by any index, on the machine: every type, every pattern, every fill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockstep_compiler import Options
from clockstep_compiler.graph import Graph, Node, Tensor
from clockstep_compiler.pipeline import compile_graph
from clockstep_isa import load_machine
from clockstep_runtime import Session, interpret
from tests.support.endtoend import assert_same_bits

Array = np.ndarray
CUBE = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)


def drawn(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    """Values that fp16 holds, of every sign."""
    generator = np.random.default_rng(seed)
    if "float" in dtype:
        return generator.standard_normal(shape).astype(np.float16).astype(dtype)
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    low = 0 if dtype.startswith("u") else -100
    return generator.integers(low, 100, shape).astype(dtype)


def check(
    index: Array,
    shapes: list[tuple[int, ...]],
    dtype: str,
    *,
    machine: str = "tiny",
    constant: int | None = None,
    fill: float = 0,
) -> None:
    """A graph of one Move; input number `constant` is a constant."""
    names = tuple(f"x{i}" for i in range(len(shapes)))
    values = {n: drawn(s, dtype, i) for i, (n, s) in enumerate(zip(names, shapes, strict=True))}
    constants = {n: v for i, (n, v) in enumerate(values.items()) if i == constant}
    tensors = {n: Tensor(n, v.shape, dtype) for n, v in values.items()}
    tensors["y"] = Tensor("y", index.shape, dtype)
    attributes = {"index": index, "fill": fill, "op": "Gather"}
    node = Node("move", "Move", "clockstep", 1, names, ("y",), attributes)
    inputs = tuple(n for n in names if n not in constants)
    graph = Graph("g", inputs, ("y",), tensors, constants, (node,), "0" * 64)
    program = compile_graph(graph, load_machine(machine), Options(effort="fast"))
    feeds = {name: values[name] for name in inputs}
    run = Session(program).execute(feeds)
    assert run.cycles == program.cycles
    assert_same_bits(run, interpret(program, feeds))
    flat = np.concatenate([value.ravel() for value in values.values()])
    filler = np.asarray(fill).astype(dtype)
    np.testing.assert_array_equal(run.outputs["y"], np.where(index < 0, filler, flat[index]))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "float16", "float32", "int32"])
@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (3, 2, 1, 0), (0, 1, 3, 2), (1, 0, 2, 3)])
def test_transpositions(dtype: str, axes: tuple[int, ...]) -> None:
    check(CUBE.transpose(axes), [CUBE.shape], dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32", "int32"])
@pytest.mark.parametrize("fill", [0, 3])
def test_padding(dtype: str, fill: int) -> None:
    widths = ((0, 0), (0, 0), (1, 2), (2, 1))
    check(np.pad(CUBE, widths, constant_values=-1), [CUBE.shape], dtype, fill=fill)


@pytest.mark.parametrize("constant", [None, 0, 1])
@pytest.mark.parametrize("axis", [1, 3])
def test_concatenation(axis: int, constant: int | None) -> None:
    other = CUBE.size + np.arange(CUBE.size).reshape(CUBE.shape)
    index = np.concatenate([CUBE, other], axis)
    check(index, [CUBE.shape, CUBE.shape], "float16", constant=constant)


def test_slices_backwards_and_with_gaps() -> None:
    check(CUBE[:, ::-1, 1:4, ::2], [CUBE.shape], "int32")
    check(CUBE[..., ::-1], [CUBE.shape], "float32")


@pytest.mark.parametrize("machine", ["tiny", "lpu-v1"])
def test_a_permutation_of_everything(machine: str) -> None:
    shuffled = np.random.default_rng(0).permutation(CUBE.size).reshape(6, 35)
    check(shuffled, [CUBE.shape], "float16", machine=machine)


def test_wider_than_the_lanes() -> None:
    index = np.arange(40 * 50).reshape(40, 50)
    check(index.T, [index.shape], "float16")
    check(index.reshape(50, 40), [index.shape], "int8")
    check(np.repeat(index[:, :1], 37, axis=1), [index.shape], "float32")


def test_nothing_at_all() -> None:
    check(np.zeros((0, 3), np.int64), [(2, 3)], "float32")
    check(np.zeros((), np.int64), [(2, 3)], "int8")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_any_index(data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(st.tuples(st.integers(1, 4), st.integers(1, 20)), min_size=1, max_size=3)
    )
    total = sum(rows * columns for rows, columns in shapes)
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20))
    seed = data.draw(st.integers(0, 2**32 - 1))
    index = np.random.default_rng(seed).integers(-1, total, (rows, columns))
    check(index, shapes, data.draw(st.sampled_from(["int8", "float16", "int32"])), fill=2)


ROWS = np.arange(72 * 400).reshape(72, 400)
HEADS = ROWS.reshape(72, 8, 50).transpose(1, 0, 2).reshape(576, 50)
REGULAR = {
    "cut": (HEADS, [ROWS.shape]),
    "merged": (np.argsort(HEADS.ravel()).reshape(ROWS.shape), [HEADS.shape]),
    "turned": (ROWS.T[40:], [ROWS.shape]),
    "beside": (np.concatenate([ROWS[:, 100:], ROWS.size + ROWS[:, :90]], 1), [ROWS.shape] * 2),
    "rows": (ROWS[::-1], [ROWS.shape]),
    "filled": (np.pad(ROWS[8:], ((3, 0), (0, 5)), constant_values=-1), [ROWS.shape]),
}


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize("name", REGULAR)
def test_what_advances_regularly_for_many_rows(name: str, dtype: str) -> None:
    """On a machine that takes all rows at once; a part of a tile comes from several blocks."""
    index, shapes = REGULAR[name]
    check(index, shapes, dtype, machine="lpu-v1", fill=3)
