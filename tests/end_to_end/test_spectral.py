"""Fourier transforms, determinants, bits of other types: composed, or a step of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from clockstep_isa.diagnostics import UnsupportedModel
from tests.support.endtoend import assert_close, run_checked
from tests.support.machines import MACHINES
from tests.support.models import build

Array = NDArray[Any]
TINY = MACHINES["tiny"]
RNG = np.random.default_rng(7)


def _check(
    op: str,
    feeds: dict[str, Array],
    constants: dict[str, Array],
    out: tuple[int, ...],
    rtol: float = 1e-5,
    **more: Any,
) -> None:
    names = [*feeds, *constants]
    names = [n if n in feeds or n in constants else "" for n in more.pop("order", names)]
    x = feeds["x"]
    model = build(
        [helper.make_node(op, names, ["y"], **more)],
        {name: (a.dtype.name, a.shape) for name, a in feeds.items()},
        {"y": (x.dtype.name, out)},
        constants,
        20,
    )
    found: list[Any] = list(ReferenceEvaluator(model).run(["y"], feeds))
    run = run_checked(model, TINY, feeds, precision="exact")
    assert_close(run.outputs, {"y": np.asarray(found[0])}, rtol)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize(
    ("shape", "axis", "length"), [((2, 9), 1, 9), ((6, 3), 0, 8), ((7,), 0, 5)]
)
def test_transforms(
    shape: tuple[int, ...], axis: int, length: int, onesided: int, parts: int
) -> None:
    x = RNG.normal(size=(*shape, parts)).astype(np.float32)
    constants = {"n": np.array(length), "axis": np.array(axis)}
    size = length // 2 + 1 if onesided else length
    out = (*shape[:axis], size, *shape[axis + 1 :], 2)
    _check("DFT", {"x": x}, constants, out, onesided=onesided)


@pytest.mark.parametrize("length", [8, 9])
def test_inverse_transforms_to_real_numbers(length: int) -> None:
    x = RNG.normal(size=(2, length // 2 + 1, 2)).astype(np.float32)
    constants = {"n": np.array(length), "axis": np.array(1)}
    _check("DFT", {"x": x}, constants, (2, length, 1), onesided=1, inverse=1)
    with pytest.raises(UnsupportedModel, match="inverse transform"):
        _check("DFT", {"x": x}, constants, (2, length, 2), inverse=1)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("given", ["window", "length", "both"])
def test_short_time_transforms(onesided: int, given: str) -> None:
    x = RNG.normal(size=(2, 21, 1)).astype(np.float32)
    window, length = RNG.normal(size=8).astype(np.float32), np.array(8)
    constants = {"step": np.array(3)}
    constants |= {"length": length} if given != "window" else {}
    feeds = {"x": x} | ({"window": window} if given != "length" else {})
    order = ["x", "step", "window", *(["length"] if given != "window" else [])]
    out = (2, 5, 5 if onesided else 8, 2)
    _check("STFT", feeds, constants, out, onesided=onesided, order=order)


def test_signals_without_an_axis_of_parts_are_real() -> None:
    """As onnxruntime takes them, and exporters of speech models write them."""
    x, constants = RNG.normal(size=(2, 21)).astype(np.float32), {"step": 3, "length": 8}
    node = helper.make_node("STFT", ["x", "step", "", "length"], ["y"])
    model = build(
        [node],
        {"x": ("float32", x.shape)},
        {"y": ("float32", (2, 5, 5, 2))},
        {name: np.array(value) for name, value in constants.items()},
    )
    run = run_checked(model, TINY, {"x": x}, precision="exact")
    frames = np.lib.stride_tricks.sliding_window_view(x, 8, axis=1)[:, ::3]
    found = np.fft.rfft(frames.astype(np.float64))
    wanted = np.stack([found.real, found.imag], axis=-1).astype(np.float32)
    assert_close(run.outputs, {"y": wanted}, 1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 2, 2), (2, 3, 3), (2, 2, 5, 5), (7, 7)])
def test_determinants(shape: tuple[int, ...]) -> None:
    _check("Det", {"x": RNG.normal(size=shape).astype(np.float32)}, {}, shape[:-2])


def test_determinants_of_many_rows_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="the determinant of 9 rows"):
        _check("Det", {"x": np.zeros((9, 9), np.float32)}, {}, ())


@pytest.mark.parametrize("precision", ["fp16", "exact"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("float32", "int32"),
        ("uint32", "float32"),
        ("float32", "uint32"),
        ("float16", "int16"),
        ("uint16", "float16"),
        ("float16", "uint16"),
        ("int8", "uint8"),
        ("uint16", "int16"),
        ("int64", "uint64"),
        ("bool", "int8"),
    ],
)
def test_bits(source: str, target: str, precision: str) -> None:
    bits = RNG.integers(0, 256, (3, 40), np.uint8)
    if source == "bool":
        bits &= 1
    x = bits.view(source)
    if source == "int64":
        x = x.astype(np.int32).astype(np.int64)
    if "float" in source:
        x = np.where(np.isnan(x), np.array(np.inf, source), x)
    if "float" in target:
        x = np.where(np.isnan(x.view(target)), np.zeros((), source), x)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    model = build(
        [helper.make_node("BitCast", ["x"], ["y"], to=kind)],
        {"x": (source, x.shape)},
        {"y": (target, x.shape)},
        opset=26,
    )
    y = run_checked(model, TINY, {"x": x}, precision=precision).outputs["y"]
    assert y.dtype == target
    assert y.tobytes() == x.tobytes()
