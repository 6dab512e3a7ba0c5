"""Sequences inside a model, which vanish on import, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, parser

from clockstep_compiler import Options, compile_model
from clockstep_isa.diagnostics import ClockstepError
from tests.support.endtoend import assert_equal, expected, run_checked
from tests.support.machines import MACHINES

TINY = MACHINES["tiny"]
X = np.arange(20, dtype=np.float32).reshape(5, 4)


def parsed(body: str, outputs: str = "float[a, b] y") -> ModelProto:
    """A model of one input x [5, 4]; `i0` to `i2` and `m1`, `m2` are positions."""
    numbers = "".join(f"i{k} = Constant<value_int={k}>() " for k in range(3))
    numbers += "m1 = Constant<value_int=-1>() m2 = Constant<value_int=-2>() "
    text = f'<ir_version: 8, opset_import: ["" : 17]>\ng (float[5, 4] x) => ({outputs}) {{'
    return parser.parse_model(f"{text} {numbers} n = Neg(x) {body} }}")


def check(model: ModelProto, x: NDArray[Any] = X) -> None:
    run = run_checked(model, TINY, {"x": x}, precision="exact")
    assert_equal(run.outputs, expected(model, {"x": x}))


@pytest.mark.parametrize(
    "body",
    [
        "s = SequenceConstruct(x, n) y = SequenceAt(s, i1)",
        "s = SequenceConstruct(x, n) y = SequenceAt(s, m2)",
        "s = SequenceConstruct(x, n) y = ConcatFromSequence<axis=1>(s)",
        "s = SequenceConstruct(x, n) t = SequenceErase(s) y = ConcatFromSequence<axis=0>(t)",
        "s = SequenceConstruct(x, n) t = SequenceErase(s, i0) y = SequenceAt(t, m1)",
        "e = SequenceEmpty() s = SequenceInsert(e, x) t = SequenceInsert(s, n, i0)"
        " y = ConcatFromSequence<axis=0>(t)",
        "s = SequenceConstruct(x, x) t = SequenceInsert(s, n, m1)"
        " y = ConcatFromSequence<axis=0>(t)",
        "s = SplitToSequence<axis=1>(x) y = SequenceAt(s, i2)",
        "s = SplitToSequence<axis=-1, keepdims=0>(x) y = ConcatFromSequence<axis=1, new_axis=1>(s)",
        "s = SplitToSequence(x, i2) y = SequenceAt(s, m1)",
        "p = Constant<value_ints=[1, 4]>() s = SplitToSequence(x, p) t = Identity(s)"
        " y = SequenceAt(t, i1)",
        "s = SplitToSequence(x, i2) l = SequenceLength(s) f = Cast<to=1>(l) y = Mul(x, f)",
    ],
)
def test_operators(body: str) -> None:
    check(parsed(body))


def test_a_loop_that_fills_a_sequence() -> None:
    check(
        parsed("""e = SequenceEmpty()
        s = Loop(i2, "", e) <body = b (int64 i, bool c, seq(float[5, 4]) v)
                                 => (bool d, seq(float[5, 4]) w) {
            d = Identity(c) f = Cast<to=1>(i) a = Add(x, f) w = SequenceInsert(v, a)
        }>
        y = ConcatFromSequence<axis=0>(s)""")
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_branch_that_gives_a_sequence(sign: int) -> None:
    model = parsed("""zero = Constant<value_float=0.0>() r = ReduceSum<keepdims=0>(x)
        c = Less(r, zero)
        s = If(c) <then_branch = a () => (seq(float[5, 4]) p) { p = SequenceConstruct(x, n) },
                   else_branch = b () => (seq(float[5, 4]) q) { q = SequenceConstruct(n, n) }>
        y = ConcatFromSequence<axis=0>(s)""")
    check(model, X * np.float32(sign))


@pytest.mark.parametrize(
    ("body", "outputs", "code"),
    [
        ("y = SequenceConstruct(x, n)", "seq(float[5, 4]) y", "not-a-tensor"),
        ("s = SequenceConstruct(x, n) y = Shape(s)", "int64[n] y", "not-a-tensor"),
        ("s = SequenceConstruct(x, n) y = SequenceAt(s, i2)", "float[5, 4] y", "shape-mismatch"),
        (
            "s = SequenceConstruct(x, n) r = ReduceMax<keepdims=0>(x) p = Cast<to=7>(r)"
            " y = SequenceAt(s, p)",
            "float[5, 4] y",
            "operand-not-constant",
        ),
    ],
)
def test_refused(body: str, outputs: str, code: str) -> None:
    model = parsed(body, outputs)
    with pytest.raises(ClockstepError) as caught:
        compile_model(model.SerializeToString(), TINY, Options())
    assert caught.value.diagnostic.code == code
