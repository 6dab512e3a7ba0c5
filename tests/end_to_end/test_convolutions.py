"""Convolutions: every attribute, beside onnxruntime; those of integers exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from clockstep_compiler import Options, compile_model
from clockstep_compiler.lowering.taps import in_one_run
from clockstep_isa import UnsupportedModel, load_machine
from tests.support.endtoend import assert_close, assert_equal, expected, run_checked
from tests.support.images import convolution, inferred, integer_convolution
from tests.support.machines import MACHINES

TINY = MACHINES["tiny"]


def check(image: tuple[int, ...], weights: tuple[int, ...], **settings: Any) -> None:
    """A convolution of floats within float32's rounding of onnxruntime."""
    machine = settings.pop("machine", TINY)
    precision = settings.pop("precision", "auto")
    model, inputs = convolution(np.random.default_rng(0), image, weights, **settings)
    outputs = run_checked(model, machine, inputs, precision=precision).outputs
    assert_close(outputs, expected(model, inputs), 1e-5)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("image", "weights", "attributes"),
    [
        ((1, 3, 6, 7), (5, 3, 3, 3), {}),
        ((2, 3, 6, 7), (5, 3, 3, 2), {"pads": (1, 0, 2, 1), "strides": (2, 1)}),
        ((1, 3, 9), (2, 3, 3), {"dilations": (3,), "pads": (2, 1)}),
        ((1, 2, 3, 4, 3), (3, 2, 2, 3, 2), {"pads": (1, 1, 1, 0, 0, 0)}),
        ((1, 20, 4, 5), (18, 20, 1, 1), {"strides": (2, 3)}),
        ((1, 6, 4, 4), (9, 2, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
        ((2, 4, 5), (8, 1, 3), {"group": 4, "pads": (1, 1)}),
        ((1, 3, 5, 6), (2, 3, 3, 2), {"auto_pad": "SAME_UPPER", "strides": (2, 1)}),
        ((1, 3, 5, 6), (2, 3, 4, 3), {"auto_pad": "SAME_LOWER"}),
        ((1, 3, 5, 6), (2, 3, 4, 3), {"auto_pad": "VALID"}),
    ],
)
def test_conv(
    image: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any], constant: bool
) -> None:
    check(image, weights, constant=constant, bias=constant or len(image) == 4, **attributes)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_on_the_large_machine(op: str) -> None:
    machine = load_machine("lpu-v1")
    check((1, 3, 12, 10), (8, 3, 3, 3) if op == "Conv" else (3, 8, 3, 3), machine=machine, op=op)


@pytest.mark.parametrize(
    ("image", "weights", "attributes"),
    [
        ((1, 3, 4, 5), (3, 2, 3, 3), {}),
        ((1, 3, 3, 4), (3, 3, 3, 3), {"strides": (2, 2), "pads": (1, 0, 1, 2)}),
        ((1, 3, 3, 4), (3, 3, 3, 2), {"strides": (2, 3), "output_padding": (1, 2)}),
        ((2, 4, 4), (4, 3, 3), {"strides": (3,), "dilations": (2,), "group": 2}),
        ((1, 4, 3, 3), (4, 2, 1, 1), {"strides": (3, 2)}),
        ((1, 3, 4, 5), (3, 3, 3, 3), {"strides": (2, 2), "auto_pad": "SAME_UPPER"}),
        ((1, 3, 4, 5), (3, 3, 4, 4), {"strides": (2, 3), "output_shape": (9, 14)}),
        ((1, 2, 3, 2, 2), (2, 2, 2, 2, 3), {"strides": (2, 1, 2)}),
    ],
)
@pytest.mark.parametrize("constant", [True, False])
def test_transposed(
    image: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any], constant: bool
) -> None:
    check(image, weights, op="ConvTranspose", constant=constant, bias=constant, **attributes)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("constant", [True, False])
def test_exact(op: str, constant: bool) -> None:
    """Weights and pixels that fp16 does not have."""
    rng = np.random.default_rng(1)
    weights = (4, 2, 2, 3)
    model, inputs = convolution(
        rng, (1, 4, 4, 3), weights, op=op, group=2, pads=(1, 0, 0, 1), constant=constant
    )
    inputs["x"] = (rng.normal(size=(1, 4, 4, 3)) * 1e6).astype(np.float32)
    outputs = run_checked(model, TINY, inputs, precision="exact").outputs
    assert_close(outputs, expected(model, inputs), 1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_any_attributes(data: st.DataObject) -> None:
    def each(low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(low, high)) for _ in range(count))

    rank = data.draw(st.integers(1, 2))
    groups, kernel = data.draw(st.integers(1, 3)), each(1, 3, rank)
    strides, dilations, pads = each(1, 3, rank), each(1, 2, rank), each(0, 2, 2 * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = tuple(r + data.draw(st.integers(0, 4)) for r in reach)
    channels = (groups * data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    check(
        (data.draw(st.integers(1, 2)), groups * channels[1], *sizes),
        (channels[0], channels[1], *kernel),
        group=groups,
        strides=strides,
        dilations=dilations,
        pads=pads,
    )


INTEGERS = [
    ((1, 3, 5, 6), (5, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 3, 6, 5), (4, 3, 2, 3), {"strides": (2, 1), "pads": (0, 1, 2, 0), "dilations": (1, 2)}),
    ((1, 6, 4, 4), (4, 3, 3, 3), {"group": 2, "pads": (1, 1, 1, 1)}),
    ((1, 20, 4, 3), (20, 1, 3, 3), {"group": 20, "pads": (1, 1, 1, 1)}),
    ((1, 3, 7), (2, 3, 3), {"auto_pad": "SAME_UPPER"}),
]


@pytest.mark.parametrize("types", [("uint8", "int8", "uint8"), ("int8", "int8", "int8")])
@pytest.mark.parametrize(("image", "weights", "attributes"), INTEGERS)
def test_integers(
    image: tuple[int, ...],
    weights: tuple[int, ...],
    attributes: dict[str, Any],
    types: tuple[str, str, str],
) -> None:
    """The sums exactly, the requantized within the one rounding that onnxruntime does otherwise."""
    rng = np.random.default_rng(2)
    model, inputs = integer_convolution(rng, image, weights, types, **attributes)
    outputs = run_checked(model, TINY, inputs).outputs
    wanted = expected(model, inputs)
    assert_equal({"sums": outputs["sums"]}, {"sums": wanted["sums"]})
    step = np.abs(outputs["y"].astype(int) - wanted["y"].astype(int))
    assert step.max() <= 1
    assert np.count_nonzero(step) <= step.size // 100


def test_computed_weights_in_groups() -> None:
    rng = np.random.default_rng(6)
    model, inputs = integer_convolution(
        rng, (2, 10, 4, 3), (4, 5, 2, 3), group=2, constant=False, strides=(1, 2), pads=(0, 1, 1, 0)
    )
    outputs = run_checked(model, TINY, inputs).outputs
    wanted = expected(model, inputs)
    assert_equal({"sums": outputs["sums"]}, {"sums": wanted["sums"]})


@pytest.mark.parametrize("constant", [True, False])
def test_zero_points_of_unsigned_weights(constant: bool) -> None:
    rng = np.random.default_rng(3)
    types = ("uint8", "uint8", "uint8")
    model, inputs = integer_convolution(
        rng,
        (1, 3, 5, 5),
        (4, 3, 3, 3),
        types,
        per_channel=False,
        constant=constant,
        pads=(1, 1, 1, 1),
    )
    outputs = run_checked(model, TINY, inputs).outputs
    assert_equal(outputs, expected(model, inputs))


def test_infinity_stays_in_its_group_and_window() -> None:
    """Zero weights of another group must not make NaN of it."""
    model, inputs = convolution(
        np.random.default_rng(4), (1, 4, 5), (4, 2, 3), group=2, pads=(1, 1)
    )
    inputs["x"][0, 1, 2] = np.inf
    outputs = run_checked(model, TINY, inputs).outputs
    finite = np.isfinite(expected(model, inputs)["y"])
    np.testing.assert_array_equal(np.isfinite(outputs["y"]), finite)


def test_a_chain_moves_nothing() -> None:
    """Convolutions, what is elementwise and a residual: no movement but of borders."""
    rng = np.random.default_rng(5)
    weights = {f"w{i}": rng.normal(size=(6, 6, 1, 1)).astype(np.float32) / 3 for i in range(3)}
    constants = {**weights, "c": rng.normal(size=(6, 1, 1)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "first"),
        helper.make_node("Mul", ["a", "c"], ["b"], "scale"),
        helper.make_node("Relu", ["b"], ["d"], "relu"),
        helper.make_node("Conv", ["d", "w1"], ["e"], "second"),
        helper.make_node("Add", ["e", "d"], ["f"], "residual"),
        helper.make_node("Conv", ["f", "w2"], ["y"], "third"),
    ]
    model = inferred(nodes, {"x": ("float32", (1, 6, 4, 5))}, constants)
    x = rng.normal(size=(1, 6, 4, 5)).astype(np.float32)
    run = run_checked(model, TINY, {"x": x})
    assert_close(run.outputs, expected(model, {"x": x}))
    moved = {node.name for node in run.program.nodes if node.op == "Move" and node.end > node.start}
    assert not moved
    assert {p.binding.name: p.binding.shape for p in run.program.probes}["d"] == (1, 6, 4, 5)


@pytest.mark.parametrize(
    ("op", "attributes", "code"),
    [
        ("LpPool", {"kernel_shape": (2, 2), "p": 17}, "unsupported-form"),
    ],
)
def test_refused(op: str, attributes: dict[str, Any], code: str) -> None:
    outputs = ["y", "indices"][: attributes.pop("outputs", 1)]
    node = helper.make_node(op, ["x"], outputs, "it", **attributes)
    model = inferred([node], {"x": ("float32", (1, 3, 5, 5))}, {}, outputs)
    with pytest.raises(UnsupportedModel) as caught:
        compile_model(model.SerializeToString(), TINY, Options(effort="fast"))
    assert [(d.code, d.node, d.op) for d in caught.value.diagnostics] == [(code, "it", op)]


def test_lines_in_one_run() -> None:
    """Lines a whole number of steps apart are one run, unless too much of it is in vain."""
    line = np.arange(6)
    regular = np.concatenate([line, line + 8, line + 16])
    under, kept = in_one_run((regular, regular + 3))
    assert [len(index) for index in under] == [22, 22]
    for index, rows in zip((regular, regular + 3), under, strict=True):
        np.testing.assert_array_equal(rows[kept], index)
    far = np.concatenate([line, line + 100])
    odd = np.concatenate([2 * line, 2 * line + 15])
    for index in (far, odd, line):
        assert in_one_run((index,))[0][0] is index
