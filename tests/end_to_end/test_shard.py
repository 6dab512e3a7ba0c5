"""Operators shared by several chips: the same answers, in fewer cycles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from benchmarks.builder import Net
from clockstep_compiler import Options, check_model, compile_model
from clockstep_compiler.arranged import arranged
from clockstep_compiler.frontend import survey
from clockstep_compiler.placements import WHOLE
from clockstep_compiler.shard_rules import View
from clockstep_isa import DoesNotFit, Machine, Program
from clockstep_isa.table import BY_NAME
from samples.llama.write import SIZES, llama
from tests.support.endtoend import (
    assert_close,
    assert_equal,
    build_session,
    expected,
    fp16_inputs,
    run_checked,
)
from tests.support.machines import MACHINES, with_words
from tests.support.models import ACTIVATIONS, mlp, random_inputs
from tests.support.quantized import matmul_integer, qdq_mlp

TINY = MACHINES["tiny"]


def residual_mlp(rows: int, width: int, hidden: int, layers: int = 1) -> ModelProto:
    """x + Relu(x @ A + a) @ B, normalized."""
    net = Net("residual")
    x = net.input("x", (rows, width))
    for _ in range(layers):
        h = net.op("MatMul", x, net.normal((width, hidden), width**-0.5))
        h = net.op("Relu", net.op("Add", h, net.normal((hidden,), 0.1)))
        y = net.op("MatMul", h, net.normal((hidden, width), hidden**-0.5))
        x = net.op("LayerNormalization", net.op("Add", x, y), net.constant(np.ones(width)), axis=-1)
    net.output(x, "y", (rows, width))
    return net.model()


def attention(rows: int, heads: int, size: int) -> ModelProto:
    """Attention of some heads with its projections, and what comes in added to what goes out."""
    width = heads * size
    net = Net("attention")
    x = net.input("x", (rows, width))
    shape = net.constant(np.array((rows, heads, size)), dtype="int64")
    back = net.constant(np.array((rows, width)), dtype="int64")
    q, k, v = (
        net.op("Reshape", net.op("MatMul", x, net.normal((width, width), width**-0.5)), shape)
        for _ in range(3)
    )
    q, v = (net.op("Transpose", t, perm=(1, 0, 2)) for t in (q, v))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=(1, 2, 0)))
    scaled = net.op("Softmax", net.op("Mul", scores, net.constant(np.array(size**-0.5))), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", scaled, v), perm=(1, 0, 2))
    joined = net.op("Reshape", mixed, back)
    out = net.op("MatMul", joined, net.normal((width, width), width**-0.5))
    net.output(net.op("Add", x, out), "y", (rows, width))
    return net.model()


def test_a_table_is_shared_by_columns() -> None:
    """Rows of a table that one chip cannot hold: each rank has a part of every row."""
    net = Net("table")
    taken = net.op("Gather", net.normal((4000, 64), 1), net.input("i", (3,), dtype="int64"), axis=0)
    net.output(net.op("MatMul", taken, net.normal((64, 24), 0.1)), "y", (3, 24))
    model, inputs = net.model(), {"i": np.array([3999, 0, 7])}
    shared = run_checked(model, TINY, inputs, chips=4)
    assert_close(shared.outputs, expected(model, inputs))
    held = [chip["weights"] for chip in shared.program.info["chip_bytes"]]
    assert 3 * max(held) < sum(held)


def cycles_on(
    model: ModelProto, machine: Machine, chips: int, inputs: dict[str, np.ndarray]
) -> int:
    """Of a program that gives the right answer."""
    run = run_checked(model, machine, inputs, chips=chips)
    assert_close(run.outputs, expected(model, inputs))
    return run.program.cycles


def sends(program: Program) -> int:
    return int((program.code.opcode == BY_NAME["send"].opcode).sum())


def test_an_mlp_takes_less_on_more_chips() -> None:
    model = residual_mlp(2, 64, 256)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(1)))
    one, two, four = (cycles_on(model, TINY, chips, inputs) for chips in (1, 2, 4))
    assert two < 0.8 * one
    assert four < 0.8 * two


def test_attention_takes_less_on_more_chips() -> None:
    model = attention(16, 4, 16)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(2)))
    one, two, four = (cycles_on(model, TINY, chips, inputs) for chips in (1, 2, 4))
    assert four < two < 0.9 * one


def test_parts_are_joined_before_they_are_turned() -> None:
    """Rows that every rank wants as columns: turned once, not part by part."""
    net = Net("turned")
    x = net.input("x", (32, 48))
    net.output(net.op("Transpose", x, perm=(1, 0)), "y", (48, 32))
    ends = (net.constant([n], dtype="int64") for n in (4, 28, 0))
    net.output(net.op("Slice", x, *ends), "z", (24, 48))
    found = survey(net.model(), Options(chips=4))
    view = View(arranged(found.graph, TINY), 4)
    turned, cut = (view.graph.nodes[i] for i in (0, 1))
    assert (0,) not in {s.inputs for s in view.strategies(turned) if s.output == WHOLE}
    assert (0,) in {s.inputs for s in view.strategies(cut) if s.output == WHOLE}


def test_floats_times_weights_of_a_byte_take_less_on_more_chips() -> None:
    """Each rank has columns of the first weights and rows of the second, and parts are added."""
    net, rng = Net("mlp"), np.random.default_rng(3)
    x = h = net.input("x", (2, 64))
    for depth, columns in ((64, 256), (256, 64)):
        codes = net.constant(rng.integers(-127, 128, (depth, columns)), dtype="int8")
        scale = net.constant(rng.uniform(0.5, 1.5, columns) / 73 / depth**0.5)
        h = net.op("MatMul", h, net.op("DequantizeLinear", codes, scale, axis=1))
    net.output(net.op("Add", x, h), "y", (2, 64))
    model = net.model()
    inputs = fp16_inputs(random_inputs(model, rng))
    one, two, four = (cycles_on(model, TINY, chips, inputs) for chips in (1, 2, 4))
    assert two < 0.7 * one
    assert four < 0.8 * two


@pytest.mark.parametrize("chips", [2, 4])
def test_integers_are_the_same(chips: int) -> None:
    rng = np.random.default_rng(4)
    model = matmul_integer(rng, (3, 192), (192, 160), "uint8", "int8", "column")
    inputs = random_inputs(model, rng)
    one, shared = (run_checked(model, TINY, inputs, chips=n) for n in (1, chips))
    assert_equal(shared.outputs, one.outputs)
    assert shared.program.cycles < one.program.cycles
    assert sends(shared.program) == 0  # the host fetches each column from where it is


@pytest.mark.parametrize("chips", [2, 4])
def test_quantized_products_are_the_same(chips: int) -> None:
    """Sums of integers are not taken apart: what is rounded to a byte is exact before."""
    rng = np.random.default_rng(5)
    model = qdq_mlp(rng, (64, 192, 64), 2, ACTIVATIONS)
    inputs = random_inputs(model, rng)
    one, shared = (run_checked(model, TINY, inputs, chips=n, effort="fast") for n in (1, chips))
    assert_equal(shared.outputs, one.outputs)
    assert shared.program.cycles < one.program.cycles


def test_a_state_stays_in_parts_where_it_is_read() -> None:
    """A cache of attention on the chips of its heads: no more than the token goes over links."""
    sizes = replace(SIZES["tiny"], layers=1, hidden=64, heads=4, kv_heads=4, ffn=256, vocab=24)
    model = llama(sizes, context=16, attention="contrib")
    alone, shared = (build_session(model, TINY, chips=chips, effort="fast") for chips in (1, 2))
    assert shared.program.states == alone.program.states
    assert shared.program.cycles < alone.program.cycles
    caches = {given for given, _ in shared.program.states}
    for binding in shared.program.inputs:
        if binding.name in caches:
            (layout,) = binding.layouts
            sizes_by_chip = np.bincount(layout.pieces[:, 5], weights=layout.pieces[:, 2])
            assert sizes_by_chip[0] == sizes_by_chip[1] == layout.rows  # two bytes of half of them
    for token in range(4):
        given = {
            b.name: np.full(b.shape, token, b.dtype)
            for b in shared.program.inputs
            if b.name not in caches
        }
        assert_close(shared.execute(given).outputs, alone.execute(given).outputs)


def test_what_is_no_shorter_stays_on_one_chip() -> None:
    """So small that sending anything takes longer than all of it: the other chips are empty."""
    model = residual_mlp(1, 8, 8)
    one, two = (
        compile_model(model.SerializeToString(), TINY, Options(chips=n, effort="fast"))
        for n in (1, 2)
    )
    assert two.chips == 2
    assert two.cycles == one.cycles
    assert sends(two) == 0


def test_throughput_keeps_to_the_order_of_the_model() -> None:
    """Each chip has its part, which takes one run longer."""
    model = residual_mlp(2, 64, 256, layers=2)
    latency, throughput = (
        compile_model(
            model.SerializeToString(),
            TINY,
            Options(chips=2, effort="fast", objective=objective, copies=1),
        )
        for objective in ("latency", "throughput")
    )
    assert latency.cycles < throughput.cycles
    assert sends(latency) > 0
    assert sends(throughput) > 0


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 5),
    width=st.sampled_from((12, 32, 40, 60)),
    hidden=st.sampled_from((30, 64, 100, 192)),
    chips=st.integers(2, 4),
)
def test_any_mlp(rows: int, width: int, hidden: int, chips: int) -> None:
    model = residual_mlp(rows, width, hidden)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(rows)))
    run = run_checked(model, TINY, inputs, chips=chips, effort="fast")
    assert_close(run.outputs, expected(model, inputs))
    alone = compile_model(model.SerializeToString(), TINY, Options(chips=1, effort="fast"))
    assert run.program.cycles <= alone.cycles


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 9),
    heads=st.integers(1, 6),
    size=st.sampled_from((4, 8, 12)),
    chips=st.integers(2, 4),
)
def test_any_attention(rows: int, heads: int, size: int, chips: int) -> None:
    model = attention(rows, heads, size)
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(rows)))
    run = run_checked(model, TINY, inputs, chips=chips, effort="fast")
    assert_close(run.outputs, expected(model, inputs))
    alone = compile_model(model.SerializeToString(), TINY, Options(chips=1, effort="fast"))
    assert run.program.cycles <= alone.cycles


def test_an_element_of_a_row() -> None:
    """A result without axes has nothing that ranks could share."""
    net = Net("element")
    x = net.op("Relu", net.input("x", (4,)))
    net.output(net.op("Gather", x, net.constant(np.array(2), dtype="int64")), "y", ())
    inputs = {"x": np.array([-1, 2, 3, -4], np.float32)}
    run = run_checked(net.model(), TINY, inputs, chips=2)
    assert_equal(run.outputs, {"y": np.float32(3)})


def test_what_only_ranks_have_room_for_is_shared() -> None:
    """Rows of a hidden layer that no chip has room for, and so no division by weights."""
    machine, rows = with_words("tiny", 32), 96
    model = mlp(
        np.random.default_rng(1), (20, 60, 20), rows, ("Relu", ""), forms=("matmul", "linear")
    )
    inputs = fp16_inputs(random_inputs(model, np.random.default_rng(2)))
    run = run_checked(model, machine, inputs, chips=2)
    assert_close(run.outputs, expected(model, inputs))
    options = Options(chips=2, objective="throughput")
    with pytest.raises(DoesNotFit):
        compile_model(model.SerializeToString(), machine, options)
    assert check_model(model.SerializeToString(), machine, Options(chips=2)).supported
