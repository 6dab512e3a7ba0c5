"""States: what a run leaves in SRAM is what the next one finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from clockstep_compiler import Options, compile_model
from clockstep_isa import (
    MalformedFile,
    Program,
    UsageError,
    listing_lines,
    load_machine,
    parse_listing,
)
from clockstep_runtime import Session, verify
from samples.llama.write import SIZES, llama
from tests.support.endtoend import build_session, expected, round_trip

Array = NDArray[Any]
TINY = load_machine("tiny")


def model(
    nodes: list[Any],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Array] | None = None,
    kind: int = TensorProto.FLOAT,
) -> ModelProto:
    given, made = (
        [helper.make_tensor_value_info(n, kind, shape) for n, shape in some.items()]
        for some in (inputs, outputs)
    )
    arrays = [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", given, made, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def assert_goes_on(
    graph: ModelProto, states: Mapping[str, str], runs: list[dict[str, Array]], **given: Any
) -> Program:
    """With its states in SRAM a program gives what it gives when the host hands them on."""
    apart = build_session(graph, TINY, precision="exact", states={}, **given)
    session = build_session(graph, TINY, precision="exact", states=dict(states), **given)
    program = session.program
    round_trip(program)
    assert dict(program.states) == dict(states)
    stepped = Session(program, "reference")
    dtypes = {b.name: b.dtype for b in program.inputs}
    handed = {b.name: np.zeros(b.shape, dtypes[b.name]) for b in program.inputs if b.name in states}
    for x in runs:
        want = apart.execute({**x, **handed}).outputs
        for one in (session, stepped):
            have = one.execute(x)
            assert have.cycles == program.cycles
            for name in want:
                assert have.outputs[name].tobytes() == want[name].tobytes(), name
        handed = {given: want[made] for given, made in states.items()}
    return program


@pytest.mark.parametrize(
    ("attention", "precision", "chips"),
    [("contrib", "exact", 1), ("onnx", "exact", 2), ("contrib", "fp16", 2), ("onnx", "fp16", 1)],
)
def test_decoding(attention: str, precision: str, chips: int) -> None:
    """Caches that stay: the bits of a program that is handed them, onnxruntime's tokens."""
    sizes = replace(SIZES["tiny"], layers=1 if precision == "exact" else 2)
    graph = llama(sizes, context=20, attention=attention)
    apart = build_session(graph, TINY, precision=precision, states={}, chips=chips)
    session = build_session(graph, TINY, precision=precision, chips=chips)
    stepped = Session(session.program, "reference")
    states = dict(session.program.states)
    assert len(states) == 2 * sizes.layers
    caches = {name: np.zeros((1, 1, 20, 16), np.float32) for name in states}
    theirs, token = dict(caches), 5
    for position in range(4):
        x = {"input_ids": np.array([[token]]), "position": np.array([position])}
        handed = apart.execute({**x, **caches}).outputs
        runs = [session.execute(x).outputs]
        if position < 2:
            runs.append(stepped.execute(x).outputs)
        for name, value in handed.items():
            assert all(run[name].tobytes() == value.tobytes() for run in runs)
        want = expected(graph, {**x, **theirs})
        span = np.ptp(want["logits"])
        close = 1e-5 if precision == "exact" else 2e-2
        assert np.abs(handed["logits"] - want["logits"]).max() <= close * span
        caches = {given: handed[made] for given, made in states.items()}
        theirs = {given: want[made] for given, made in states.items()}
        token = int(want["logits"].argmax())
        assert precision != "exact" or handed["logits"].argmax() == token


def test_recurrence() -> None:
    """A state that a product reads, and one that is read in two orders."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((6, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["h", "w"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["b"]),
        helper.make_node("Tanh", ["b"], ["g"]),
        helper.make_node("Transpose", ["h"], ["t"]),
        helper.make_node("MatMul", ["h", "t"], ["y"]),
    ]
    shapes = {"x": (5, 6), "h": (5, 6)}
    graph = model(nodes, shapes, {"g": (5, 6), "y": (5, 5)}, {"w": w})
    runs = [{"x": rng.standard_normal((5, 6)).astype(np.float32)} for _ in range(3)]
    assert_goes_on(graph, {"h": "g"}, runs)


def test_shift_register() -> None:
    """States that take each other's places, one that stays, and one that nobody reads."""
    nodes = [
        helper.make_node("Identity", ["a"], ["b2"]),
        helper.make_node("Identity", ["b"], ["a2"]),
        helper.make_node("Identity", ["c"], ["c2"]),
        helper.make_node("Add", ["x", "c"], ["d2"]),
        helper.make_node("Add", ["a", "x"], ["y"]),
        helper.make_node("Identity", ["x"], ["e2"]),
    ]
    names = ["a", "b", "c", "d", "e"]
    shape = (3, 20)
    outputs = {f"{n}2": shape for n in names} | {"y": shape}
    graph = model(nodes, {n: shape for n in ["x", *names]}, outputs)
    rng = np.random.default_rng(1)
    runs = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(4)]
    program = assert_goes_on(graph, {n: f"{n}2" for n in names}, runs)
    session = Session(program)
    start = {n: np.full(shape, i, np.float32) for i, n in enumerate("ab")}
    session.run({**runs[0], **start})
    after = session.run(runs[1])
    assert (after["y"] == runs[1]["x"] + 1).all()
    session.reset()
    assert (session.run(runs[2])["y"] == runs[2]["x"]).all()


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.UINT8, TensorProto.FLOAT16])
def test_counter(kind: int) -> None:
    graph = model([helper.make_node("Add", ["n", "x"], ["m"])], {"n": (7,), "x": (7,)}, {"m": (7,)})
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.elem_type = kind
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    assert_goes_on(graph, {"n": "m"}, [{"x": np.arange(7).astype(dtype)}] * 3)


def test_image_in_windows() -> None:
    """Where a convolution would have its input in windows, a state cannot be."""
    rng = np.random.default_rng(2)
    w = (rng.standard_normal((2, 2, 3, 3)) / 4).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["s", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "x"], ["r"]),
    ]
    shape = (1, 2, 6, 6)
    graph = model(nodes, {"s": shape, "x": shape}, {"r": shape}, {"w": w})
    runs = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(3)]
    assert_goes_on(graph, {"s": "r"}, runs)


def test_batch_of_runs() -> None:
    """Each run of a batch has states of its own; those of another number are refused."""
    graph = model([helper.make_node("Add", ["n", "x"], ["m"])], {"n": (3,), "x": (3,)}, {"m": (3,)})
    program = compile_model(graph.SerializeToString(), TINY, Options(states={"n": "m"}))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for engine in ("fast", "reference"):
        session = Session(program, engine)
        session.run({"x": x[0]})
        session.run({"x": x})
        assert (session.run({"x": x})["m"] == x[0] + 2 * x).all()
        with pytest.raises(UsageError, match="batch of 2 runs"):
            session.run({"x": x[0]})
        session.reset()
        assert (session.run({"x": x[0]})["m"] == x[0]).all()


def test_words_of_their_own() -> None:
    """The verifier refuses what is no state, and words that something else is loaded into."""
    nodes = [helper.make_node("Add", ["n", "x"], ["m"]), helper.make_node("Neg", ["x"], ["y"])]
    shape = (3,)
    graph = model(nodes, {"n": shape, "x": shape}, {"m": shape, "y": shape})
    program = compile_model(graph.SerializeToString(), TINY, Options(states={"n": "m"}))
    assert verify(program).ok
    for states in ((("n", "y"),), (("x", "m"),), (("q", "m"),)):
        report = verify(replace(program, states=states))
        assert {v.code for v in report.violations} == {"state-binding"}
    given = {b.name: b for b in program.inputs}
    over = replace(given["x"], layouts=given["n"].layouts)
    report = verify(replace(program, inputs=(given["n"], over)))
    assert "state-words" in {v.code for v in report.violations}
    text = "\n".join(listing_lines(program))
    assert parse_listing(text).states == (("n", "m"),)
    for row in ('{"n":"y"}', '{"q":"m"}', '{"n":1}', '{"n":"m"}\n.state {"n":"m"}'):
        with pytest.raises(MalformedFile):
            parse_listing(text.replace('.state {"n":"m"}', f".state {row}"))


@pytest.mark.parametrize(
    "states", [{"n": "z"}, {"q": "m"}, {"n": "y"}, {"n": "m", "x": "m"}], ids=str
)
def test_refused(states: dict[str, str]) -> None:
    nodes = [helper.make_node("Add", ["n", "x"], ["m"])]
    nodes.append(helper.make_node("Concat", ["m", "m"], ["y"], axis=1))
    graph = model(nodes, {"n": (2, 3), "x": (2, 3)}, {"m": (2, 3), "y": (2, 6)})
    with pytest.raises(UsageError):
        compile_model(graph.SerializeToString(), TINY, Options(states=states))
