"""Loops pass by pass, branches chosen or both computed, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, parser

from clockstep_compiler import Options, compile_model
from clockstep_compiler.frontend import import_model
from clockstep_isa.diagnostics import MalformedFile, UnsupportedModel
from tests.support.endtoend import assert_close, expected, run_checked
from tests.support.machines import MACHINES

TINY = MACHINES["tiny"]
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def parsed(text: str, opset: int = 17) -> ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    onnx.checker.check_model(model)
    return model


def check(model: ModelProto, **inputs: NDArray[Any]) -> None:
    run = run_checked(model, TINY, inputs, precision="exact")
    assert_close(run.outputs, expected(model, inputs), rtol=1e-6, scale=4.0)


def refused(model: ModelProto, code: str = "control-flow") -> str:
    with pytest.raises(UnsupportedModel) as caught:
        compile_model(model.SerializeToString(), TINY, Options())
    assert caught.value.diagnostic.code == code
    return str(caught.value)


# -- Loop ------------------------------------------------------------------------------------------

COUNTED = """g (float[3,4] x) => (float[3,4] y, float[k,3,4] z) {
    m = Constant<value_int=COUNT>()
    y, z = Loop(m, CONDITION, x) <body = b (int64 i, bool c, float[3,4] v)
                                     => (bool d, float[3,4] w, float[3,4] s) {
        d = Identity(c)
        f = Cast<to=1>(i)
        u = Mul(v, x)
        w = Add(u, f)
        s = Sub(w, x)
    }>
}"""


def counted(count: int, condition: str = "") -> ModelProto:
    return parsed(COUNTED.replace("COUNT", str(count)).replace("CONDITION", condition))


@pytest.mark.parametrize("count", [1, 4])
def test_a_loop_with_a_trip_count(count: int) -> None:
    check(counted(count, '""'), x=X)


def test_a_loop_that_makes_no_pass() -> None:
    model = counted(0, '""')
    run = run_checked(model, TINY, {"x": X}, precision="exact")
    np.testing.assert_array_equal(run.outputs["y"], X)
    assert run.outputs["z"].shape == (0, 3, 4)


UNTIL = """g (float[3,4] x) => (float[3,4] y) {
    m = Constant<value_int=5>()
    limit = Constant<value_float=9.0>()
    t = Constant<value = bool {1}>()
    y = Loop(m, t, x) <body = b (int64 i, bool c, float[3,4] v) => (bool d, float[3,4] w) {
        w = Add(v, v)
        s = ReduceMax<keepdims=0>(w)
        d = Less(s, limit)
    }>
}"""


@pytest.mark.parametrize("scale", [0.01, 0.5, 1.5, 9.0])
def test_a_loop_that_data_ends(scale: float) -> None:
    """All passes are made; results count as long as the condition held."""
    check(parsed(UNTIL), x=X * np.float32(scale))


def test_a_loop_that_a_constant_ends() -> None:
    text = UNTIL.replace("s = ReduceMax<keepdims=0>(w)", "s = Cast<to=1>(i)").replace("9.0", "2.0")
    model = parsed(text)
    check(model, x=X)
    assert len(import_model(model.SerializeToString(), Options()).nodes) == 3


def test_a_loop_whose_state_grows() -> None:
    model = parsed("""g (float[3,4] x) => (float[n,4] y) {
        m = Constant<value_int=2>()
        y = Loop(m, "", x) <body = b (int64 i, bool c, float[k,4] v) => (bool d, float[j,4] w) {
            d = Identity(c)
            w = Concat<axis=0>(v, x)
        }>
    }""")
    check(model, x=X)


def test_loops_within_loops() -> None:
    model = parsed("""g (float[3,4] x) => (float[3,4] y) {
        m = Constant<value_int=2>()
        y = Loop(m, "", x) <body = b (int64 i, bool c, float[3,4] v) => (bool d, float[3,4] w) {
            d = Identity(c)
            w = Loop(m, "", v) <body = a (int64 k, bool e, float[3,4] r)
                                      => (bool h, float[3,4] q) {
                h = Identity(e)
                n = Add(i, k)
                f = Cast<to=1>(n)
                p = Mul(r, x)
                q = Sub(p, f)
            }>
        }>
    }""")
    check(model, x=X)


def test_loops_that_are_refused() -> None:
    assert "trip count" in refused(
        parsed("""g (int64 m, float[3,4] x) => (float[3,4] y) {
        y = Loop(m, "", x) <body = b (int64 i, bool c, float[3,4] v) => (bool d, float[3,4] w) {
            d = Identity(c)
            w = Add(v, x)
        }>
    }""")
    )
    assert "number of passes" in refused(parsed(UNTIL.replace("Loop(m, t, x)", 'Loop("", t, x)')))
    assert "runtimes differ" in refused(parsed(UNTIL.replace("Loop(m, t, x)", 'Loop(m, "", x)')))
    assert "more than 50000" in refused(counted(1 << 40, '""'))
    collected = UNTIL.replace("(bool d, float[3,4] w)", "(bool d, float[3,4] w, float[3,4] w)")
    collected = collected.replace("=> (float[3,4] y)", "=> (float[3,4] y, float[k,3,4] z)")
    assert "number of passes" in refused(parsed(collected.replace("y = Loop", "y, z = Loop")))


# -- Scan ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scan_input_directions": [1], "scan_output_directions": [1]},
        {"scan_input_axes": [1], "scan_output_axes": [-1]},
        {"scan_input_axes": [-1], "scan_input_directions": [1], "scan_output_axes": [1]},
    ],
    ids=str,
)
def test_scans(attributes: dict[str, list[int]]) -> None:
    model = parsed("""g (float a, float[3,4] x) => (float b, float[m,n] z) {
        r = ReduceMax<keepdims=0>(x)
        b, z = Scan<num_scan_inputs=1, body = c (float s, float[k] v) => (float t, float[k] o) {
            u = ReduceSum<keepdims=0>(v)
            t = Sub(u, s)
            p = Mul(v, s)
            o = Add(p, r)
        }>(a, x)
    }""")
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    scan.attribute.extend(helper.make_attribute(*row) for row in attributes.items())
    check(model, a=np.array(0.5, np.float32), x=X)


def test_scans_of_the_first_form() -> None:
    """Opset 8: onnx's converter would take the batch axis off."""
    text = """g (float[2] a, float[2,3,4] x) => (float[2] b, float[2,3,4] z) {
        b, z = Scan<num_scan_inputs=1, body = c (float s, float[4] v) => (float t, float[4] o) {
            t = Neg(s)
            o = Mul(v, s)
        }>("", a, x)
    }"""
    assert "opset 8" in refused(parsed(text, opset=8), "model-form")


# -- If --------------------------------------------------------------------------------------------

BRANCHES = """g (float[3,4] x) => (float[3,4] y, int64[2] z) {
    zero = Constant<value_float=0.0>()
    s = ReduceSum<keepdims=KEEP>(x)
    c = Less(s, zero)
    y, z = If(c) <
        then_branch = a () => (float[3,4] y1, int64[2] z1) {
            y1 = Neg(x)
            z1 = Constant<value_ints=[1, 2]>()
        },
        else_branch = b () => (float[3,4] y2, int64[2] z2) {
            y2 = Exp(x)
            z2 = Constant<value_ints=[3, 4]>()
        }>
}"""


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_branch_that_data_chooses(sign: int, keep: int) -> None:
    """Both branches are computed; what is not chosen may be infinite."""
    check(parsed(BRANCHES.replace("KEEP", str(keep)).replace("y2 = Exp", "y2 = Relu")), x=sign * X)


def test_what_is_not_chosen_does_no_harm() -> None:
    model = parsed(BRANCHES.replace("KEEP", "0"))
    inputs = {"x": np.array([[-1000.0, 0, 0, 0], [300.0, 0, 0, 0], [1, 2, 3, 4]], np.float32)}
    run = run_checked(model, TINY, inputs, precision="exact")
    np.testing.assert_array_equal(run.outputs["y"], -inputs["x"])
    np.testing.assert_array_equal(run.outputs["z"], [1, 2])


def test_branches_of_different_shapes() -> None:
    text = BRANCHES.replace("KEEP", "0").replace("value_ints=[3, 4]", "value_ints=[3, 4, 5]")
    assert "int64[2] or int64[3]" in refused(parsed(text.replace("int64[2] z2", "int64[3] z2")))


def test_a_branch_that_is_not_valid() -> None:
    text = BRANCHES.replace("KEEP", "0").replace("y2 = Exp(x)", "y2 = Add(x, five)")
    text = text.replace("s = Reduce", "five = Constant<value_floats=[1.0, 2.0]>() s = Reduce")
    assert "one is not valid" in refused(parsed(text))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_scan_inputs", 0),
        ("num_scan_inputs", 3),
        ("scan_input_axes", [0, 0]),
        ("scan_input_axes", [2]),
        ("scan_output_axes", [5]),
        ("scan_output_directions", [0, 1]),
    ],
)
def test_scans_that_are_not_valid(name: str, value: int | list[int]) -> None:
    model = parsed("""g (float a, float[3,4] x) => (float b, float[m,n] z) {
        b, z = Scan<num_scan_inputs=1, body = c (float s, float[k] v) => (float t, float[k] o) {
            t = Neg(s)
            o = Mul(v, s)
        }>(a, x)
    }""")
    scan = model.graph.node[0]
    kept = [attribute for attribute in scan.attribute if attribute.name != name]
    del scan.attribute[:]
    scan.attribute.extend([*kept, helper.make_attribute(name, value)])
    with pytest.raises(MalformedFile) as caught:
        compile_model(model.SerializeToString(), TINY, Options())
    assert caught.value.diagnostic.code == "shape-mismatch"
