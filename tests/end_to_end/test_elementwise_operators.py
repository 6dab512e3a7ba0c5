"""Elementwise operators beyond the ring: functions, comparisons, logic, integers, casts.

How near the functions come is tested in `tests/compiler/test_elementwise_functions.py`; here
every operator runs on the machine, with edge values and broadcasting, against onnxruntime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from clockstep_isa.diagnostics import UnsupportedModel, UsageError
from tests.support.endtoend import expected, fp16_inputs, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

Array = NDArray[Any]
TINY = MACHINES["tiny"]

FUNCTIONS = (
    *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu"),
    *("Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Log", "Mish", "Reciprocal", "Round"),
    *("Selu", "Shrink", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan"),
    "ThresholdedRelu",
)
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def _check(op: str, inputs: list[Array], out: str, **settings: Any) -> None:
    """One node on the machine against onnxruntime; constants are given as `constant={1: array}`."""
    opset = settings.pop("opset", 22)
    constants = settings.pop("constant", {})
    names = [f"x{k}" for k in range(len(inputs) + len(constants))]
    rest = iter(fp16_inputs({str(k): a for k, a in enumerate(inputs)}).values())
    every = [constants[k] if k in constants else next(rest) for k in range(len(names))]
    shape = np.broadcast_shapes(*(a.shape for a in every))
    feeds = {names[k]: a for k, a in enumerate(every) if k not in constants}
    model = build(
        [helper.make_node(op, names, ["y"], **settings)],
        {name: (str(a.dtype), a.shape) for name, a in feeds.items()},
        {"y": (out, shape)},
        {f"x{k}": a for k, a in constants.items()},
        opset,
    )
    have, want = run_checked(model, TINY, feeds).outputs["y"], expected(model, feeds)["y"]
    assert (have.dtype, have.shape) == (want.dtype, want.shape)
    if want.dtype.kind == "f":
        np.testing.assert_allclose(have, want, rtol=2**-10, atol=2**-20)
    else:
        np.testing.assert_array_equal(have, want)


def _floats(seed: int, *first: float) -> Array:
    x = np.random.default_rng(seed).normal(size=(3, 20)).astype(np.float32)
    x.flat[: len(first)] = first
    return x


EDGY = _floats(1, 0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, 2.5, -1.5, 100, -100)
OTHER = _floats(2, 0, 1, np.inf, 2, 1, np.nan, 0, 0.5, 2.5, 3, 4, 5)


def _integers(dtype: str, seed: int) -> Array:
    """Over the whole range of the type, or of 32 bits, with its ends."""
    info = np.iinfo(dtype)
    low = max(int(info.min), -(2**31))
    high = min(int(info.max), 2**32 - 1 if dtype == "uint32" else 2**31 - 1)
    x = np.random.default_rng(seed).integers(low, high, (3, 20), endpoint=True).astype(dtype)
    x.flat[:4] = [low, high, 0, 1]
    return x


@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions(op: str) -> None:
    _check(op, [EDGY], "float32")


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Celu", {"alpha": 0.5}),
        ("Elu", {"alpha": 2.0}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
        ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}),
        ("IsInf", {"detect_negative": 0}),
        ("IsInf", {"detect_positive": 0}),
        ("Selu", {"alpha": 2.0, "gamma": 3.0}),
        ("Shrink", {"bias": 0.25, "lambd": 1.0}),
        ("ThresholdedRelu", {"alpha": 0.25}),
    ],
)
def test_attributes(op: str, attributes: dict[str, Any]) -> None:
    _check(op, [EDGY], "bool" if op == "IsInf" else "float32", **attributes)


@pytest.mark.parametrize("op", ["IsInf", "IsNaN"])
def test_kinds_of_floats(op: str) -> None:
    _check(op, [EDGY], "bool")


@pytest.mark.parametrize("op", ["Div", "Pow", "PRelu", "Mean", "Sum"])
def test_two_floats(op: str) -> None:
    _check(op, [EDGY, OTHER], "float32")
    _check(op, [EDGY, OTHER[:1]], "float32")


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 4.0, 0.5, -1.0, -2.0, 1.7])
def test_constant_exponents(exponent: float) -> None:
    _check("Pow", [EDGY], "float32", constant={1: np.float32(exponent).reshape(())})


def test_remainder_of_floats() -> None:
    x = np.where(np.abs(EDGY) < 50, EDGY * 8, EDGY)
    _check("Mod", [x, OTHER], "float32", fmod=1)


@pytest.mark.parametrize("op", COMPARISONS)
def test_comparisons_of_floats(op: str) -> None:
    _check(op, [EDGY, OTHER], "bool")
    _check(op, [EDGY], "bool", constant={1: np.float32(0.5).reshape(())})
    _check(op, [EDGY], "bool", constant={0: OTHER[0]})


@pytest.mark.parametrize("dtype", INTEGERS)
def test_comparisons_of_integers(dtype: str) -> None:
    a, b = _integers(dtype, 3), _integers(dtype, 4)
    b[1] = a[1]
    for op in COMPARISONS:
        _check(op, [a, b], "bool")


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers(dtype: str) -> None:
    a, b = _integers(dtype, 5), _integers(dtype, 6)[:1]
    for op in ("Max", "Min", "BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        _check(op, [a, b], dtype)
    _check("Sign", [a], dtype)
    _check("Clip", [a, np.array(b[0, 3]), np.array(b[0, 5])], dtype)
    _check("Where", [a > b, a, b], dtype)
    _check("BitwiseNot", [a], dtype)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op", ["Div", "Mod", "fmod"])
def test_quotients_of_integers(dtype: str, op: str) -> None:
    if dtype == "int64" and op == "Div":
        return  # -2**31 / -1 does not fit: `test_quotients_that_may_not_fit`
    a, b = _integers(dtype, 7), _integers(dtype, 8)
    b[1] = np.random.default_rng(9).integers(1, 9, 20)
    b[b == 0] = 3
    b[0, 0] = 1  # the least number by -1 is not defined
    settings = {"fmod": 1} if op == "fmod" else {}
    _check("Mod" if op == "fmod" else op, [a, b], dtype, **settings)


def test_every_quotient_of_bytes() -> None:
    a, b = np.meshgrid(np.arange(256), np.arange(1, 256))
    keep = np.s_[::3, ::2]
    _check("Div", [a[keep].astype(np.uint8), b[keep].astype(np.uint8)], "uint8")
    signed = [v[keep].astype(np.uint8).view(np.int8) for v in (a, b)]
    signed[1][signed[1] == 0] = 1
    signed[0][(signed[0] == -128) & (signed[1] == -1)] = 5
    _check("Div", signed, "int8")


def test_quotients_that_may_not_fit() -> None:
    a, b = _integers("int64", 7), np.full((1,), 7, np.int64)
    _check("Div", [a], "int64", constant={1: b})
    with pytest.raises(UsageError, match="outside -1073741823"):
        _check("Div", [a, b], "int64")


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_sums_of_long_integers_fit_or_the_input_is_refused(op: str) -> None:
    a, b = _integers("int64", 7), _integers("int64", 8)
    with pytest.raises(UsageError, match="all that the program takes"):
        _check(op, [a, b], "int64")
    nodes = [
        helper.make_node("Cast", ["a"], ["long"], to=7),
        helper.make_node(op, ["long", "b"], ["y"]),
    ]
    x = _integers("int16", 9)
    kinds = {"a": ("int16", x.shape)}, {"y": ("int64", x.shape)}
    model = build(nodes, *kinds, {"b": np.array([1000], np.int64)})
    have = run_checked(model, TINY, {"a": x}).outputs["y"]
    np.testing.assert_array_equal(have, expected(model, {"a": x})["y"])


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_shifts(dtype: str, direction: str) -> None:
    a = _integers(dtype, 10)
    places = np.arange(a.size).reshape(a.shape) % np.iinfo(dtype).bits
    _check("BitShift", [a, places.astype(dtype)], dtype, direction=direction)


def test_logic() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.integers(0, 2, (3, 20)) > 0, rng.integers(0, 2, (20,)) > 0
    for op in ("And", "Or", "Xor", "Equal"):
        _check(op, [a, b], "bool")
    _check("Not", [a], "bool")
    _check("Where", [b, EDGY, OTHER], "float32")
    _check("Where", [a], "float32", constant={1: np.float32(1.5), 2: OTHER})


@pytest.mark.parametrize("target", ["bool", "float16", "float32", *INTEGERS])
@pytest.mark.parametrize("source", ["bool", "float32", *INTEGERS])
def test_casts(source: str, target: str) -> None:
    """Floats within the range of the target, integers of any size."""
    if source == "float32":
        x: Array = np.trunc(_floats(12, 0, 1, 99.5, 7.9) * 30)
        x = np.abs(x) if target.startswith("u") else np.clip(x, -128, 127)
    elif source == "bool":
        x = EDGY > 0
    else:
        x = _integers(source, 13)
    fits = target not in ("int64", "uint64") or source != "uint32"
    code = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    if not fits:
        with pytest.raises(UnsupportedModel, match="32 bits"):
            _check("Cast", [x], target, to=code)
    elif target == "float16" and source in ("int32", "uint32", "int64", "uint64", "uint16"):
        _check("Cast", [x // 2**17 if x.dtype.itemsize > 2 else x // 2], target, to=code)
    else:
        _check("Cast", [x], target, to=code)


def test_constants_beyond_32_bits_are_refused() -> None:
    huge = np.array([2**40], np.int64)
    a = _integers("int64", 14)
    for op, out in (("Less", "bool"), ("Min", "int64"), ("BitwiseAnd", "int64")):
        with pytest.raises(UnsupportedModel, match="32 bits"):
            _check(op, [a], out, constant={1: huge})
