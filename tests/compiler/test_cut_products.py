"""Products that are cut apart, and products of joined matrices, are products of their parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper

from clockstep_compiler import Options
from clockstep_compiler.floorplan import Floorplan
from clockstep_compiler.partition import find_product
from clockstep_compiler.problems import lowered_model
from clockstep_compiler.spare import spared
from clockstep_compiler.steps import Compute, Move
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

TINY = MACHINES["tiny"]
Array = NDArray[Any]
RNG = np.random.default_rng(7)
ROWS, DEPTH, WIDTH = 2, 12, 20

BIAS = RNG.normal(size=4 * WIDTH).astype(np.float32)
CONSTANTS: dict[str, Array] = {
    "w": RNG.integers(-9, 9, (2 * DEPTH, 4 * WIDTH), dtype=np.int8),
    "turned": RNG.normal(size=(4 * WIDTH, 2 * DEPTH)).astype(np.float32),
    "scales": RNG.uniform(0.01, 0.1, 4 * WIDTH).astype(np.float32),
    "zeros": np.zeros(4 * WIDTH, np.int8),
    "b": BIAS,
    "s": np.array(1 / 32, np.float32),
    "z": np.array(3, np.int8),
    "k": np.array(1 / 64, np.float32),
}


def _node(op: str, inputs: str, outputs: str, **attributes: object) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), outputs.split()[0], **attributes)


def _cell(form: str, also: str = "") -> ModelProto:
    """The gates of a cell from x and h; `also` is an output that is not of a part."""
    nodes = [_node("Concat", "x h", "c", axis=1), _node("QuantizeLinear", "c s z", "q")]
    if form == "integer":
        nodes += [_node("MatMulInteger", "q w z", "i"), _node("Cast", "i", "f", to=1)]
        nodes += [_node("Mul", "f k", "p")]
    elif form == "dequantized":
        nodes += [_node("DequantizeLinear", "q s z", "d")]
        nodes += [_node("DequantizeLinear", "w scales zeros", "v", axis=1)]
        nodes += [_node("MatMul", "d v", "p")]
    else:
        nodes += [_node("DequantizeLinear", "q s z", "d")]
        nodes += [_node("Gemm", "d turned", "p", transB=1)]
    nodes += [_node("Add", "b p", "a"), _node("Split", "a", "i0 f0 g0 o0", axis=1, num_outputs=4)]
    nodes += [_node("Sigmoid", "i0", "i1"), _node("Tanh", "g0", "g1"), _node("Mul", "i1 g1", "y0")]
    nodes += [_node("Add", "f0 o0", "y1")]
    outputs = {name: ("float32", (ROWS, WIDTH)) for name in ("y0", "y1")}
    if also:
        columns = 4 * WIDTH if also in "ap" else 2 * DEPTH
        outputs[also] = ("int8" if also == "q" else "float32", (ROWS, columns))
    inputs = {name: ("float32", (ROWS, DEPTH)) for name in "xh"}
    return build(nodes, inputs, outputs, CONSTANTS)


def _count(model: ModelProto) -> tuple[int, int, int]:
    """Moves, products and terms of these."""
    steps = spared(Floorplan(TINY), lowered_model(model, Options(), TINY)[1]).steps
    products = [find_product(step.expr) for step in steps if isinstance(step, Compute)]
    terms = [len(p.terms) for p in products if p is not None]
    return sum(isinstance(step, Move) for step in steps), len(terms), sum(terms)


def _check(model: ModelProto) -> None:
    inputs = {name: RNG.normal(size=(ROWS, DEPTH)).astype(np.float32) for name in "xh"}
    assert_close(run_checked(model, TINY, inputs).outputs, expected(model, inputs), scale=8.0)


@pytest.mark.parametrize("form", ["integer", "dequantized"])
def test_nothing_moves(form: str) -> None:
    """Four gates of two terms each."""
    model = _cell(form)
    assert _count(model) == (0, 4, 8)
    _check(model)


@pytest.mark.parametrize(("also", "counts"), [("q", (1, 4, 4)), ("a", (4, 1, 2)), ("p", (4, 1, 2))])
def test_what_is_wanted_whole_stays_whole(also: str, counts: tuple[int, int, int]) -> None:
    model = _cell("dequantized", also)
    assert _count(model) == counts
    _check(model)


def test_turned_weights_are_not_cut() -> None:
    model = _cell("turned")
    assert _count(model)[:2] == (4, 1)
    _check(model)


def test_steps_share_the_weights_of_their_parts() -> None:
    """Two products of one constant, cut alike, have one array for each part."""
    nodes = [_node("DequantizeLinear", "w scales zeros", "v", axis=1)]
    for x in "xy":
        nodes += [_node("QuantizeLinear", f"{x} s z", f"q{x}")]
        nodes += [_node("DequantizeLinear", f"q{x} s z", f"d{x}")]
        nodes += [_node("MatMul", f"d{x} v", f"p{x}")]
        nodes += [_node("Split", f"p{x}", f"l{x} r{x}", axis=1, num_outputs=2)]
        nodes += [_node("Mul", f"l{x} r{x}", f"o{x}")]
    shape = ("float32", (ROWS, 2 * WIDTH))
    inputs = {name: ("float32", (ROWS, 2 * DEPTH)) for name in "xy"}
    model = build(nodes, inputs, {"ox": shape, "oy": shape}, CONSTANTS)
    _, lowered = lowered_model(model, Options(), TINY)
    assert lowered.weight_bytes == CONSTANTS["w"].nbytes
    assert not any(isinstance(step, Move) for step in lowered.steps)
    arrays = {name: RNG.normal(size=(ROWS, 2 * DEPTH)).astype(np.float32) for name in "xy"}
    assert_close(run_checked(model, TINY, arrays).outputs, expected(model, arrays), scale=8.0)


def test_many_small_parts_of_many_rows_are_moved() -> None:
    """Each would fill a tile of its own."""
    parts = [f"r{i}" for i in range(16)]
    nodes = [_node("MatMulInteger", "a w", "p"), _node("Split", "p", " ".join(parts), axis=1)]
    nodes[-1].attribute.append(helper.make_attribute("num_outputs", 16))
    nodes += [_node("Neg", part, f"y{part}") for part in parts]
    outputs = {f"y{part}": ("int32", (40, 5)) for part in parts}
    model = build(nodes, {"a": ("int8", (40, 2 * DEPTH))}, outputs, CONSTANTS)
    _, lowered = lowered_model(model, Options(), TINY)
    assert sum(isinstance(step, Move) for step in lowered.steps) == 16


@pytest.mark.parametrize(("shape", "taken"), [((), ()), ((5,), ()), ((1,), ()), ((5,), (2,))])
def test_elements_of_few_are_no_cuts(shape: tuple[int, ...], taken: tuple[int, ...]) -> None:
    """A number that becomes a vector of one, and elements that are taken from a vector."""
    place = np.zeros(taken, np.int64)
    nodes = [_node("Neg", "x", "y0"), _node("Reshape", "y0 long", "y1")]
    nodes += [_node("Gather", "y1 place", "y2"), _node("Abs", "y2", "y")]
    long = np.array([max(1, int(np.prod(shape)))])
    outputs = {"y": ("float32", taken)}
    model = build(nodes, {"x": ("float32", shape)}, outputs, {"place": place, "long": long})
    x = RNG.normal(size=shape).astype(np.float32)
    run = run_checked(model, TINY, {"x": np.asarray(x)}, precision="exact")
    assert_close(run.outputs, expected(model, {"x": np.asarray(x)}), 0.0)
