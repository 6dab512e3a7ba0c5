"""The engine against its peers: who is timed against whom, on what.

To add a contest, add a function that yields rows to `CONTESTS`; its sizes are fields of `Scale`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

import clockstep
from benchmarks import convnets, models
from benchmarks.models import Mlp
from benchmarks.timing import race
from clockstep.quantization import quantize
from clockstep_isa import Program
from clockstep_runtime.inputs import random_inputs
from clockstep_runtime.products import int8_provider, int8_provider_available

__all__ = ["CONTESTS", "FULL", "QUICK", "Row", "Scale"]

Call = Callable[[], object]
Inputs = Mapping[str, NDArray[Any]]

_INTERPRETER = "reference interpreter"


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes. `int8`, `int8_reference` and `half` are rows, depth and columns of products.

    `long` is what the toolchain is timed on (`costs.py`), `listed` what listings are made of.
    """

    int8: int
    int8_reference: int
    half: int
    runs: int
    mlp: Mlp
    chain: tuple[int, int]
    tiny: Mlp
    network: tuple[int, int, int]
    """Size and width of ResNet-50 (`convnets.py`), and images in one call."""

    long: Mlp
    listed: Mlp
    turns: int
    least: float
    """Turns that each contestant has, and the seconds of one: see `timing.race`."""


FULL = Scale(
    int8=4096,
    int8_reference=512,
    half=1024,
    runs=64,
    mlp=Mlp("mlp", 32, (640,) * 9),
    chain=(512, 2560),
    tiny=Mlp("tiny", 3, (400, 500, 400)),
    network=(224, 64, 32),
    long=Mlp("long", 16, (1600,) * 13),
    listed=Mlp("listed", 16, (1600,) * 3),
    turns=5,
    least=0.05,
)
QUICK = Scale(
    int8=1024,
    int8_reference=256,
    half=512,
    runs=64,
    mlp=Mlp("mlp", 32, (640,) * 3),
    chain=(256, 640),
    tiny=Mlp("tiny", 3, (40, 50, 40)),
    network=(64, 16, 8),
    long=Mlp("long", 16, (1600,) * 3),
    listed=Mlp("listed", 16, (1600,) * 2),
    turns=3,
    least=0.01,
)


@dataclass(frozen=True, slots=True)
class Row:
    """`ours` seconds of `what` against `theirs` of `against`; `limit` is the ratio required."""

    what: str
    ours: float
    against: str
    theirs: float
    limit: float | None = None


def int8_products(scale: Scale) -> Iterator[Row]:
    """A large MatMulInteger, with and without the provider of int8 products."""
    model = models.matmul_integer(scale.int8)
    program = clockstep.compile(model)
    inputs, session = random_inputs(program, 0), clockstep.Session(program)
    ways = {"float32": "none"}
    if int8_provider_available():
        ways["provider"] = "onnxruntime"
    calls = {way: _provided(name, session, inputs) for way, name in ways.items()}
    padded, biased = "numpy float32, K and N padded", "onnxruntime, uint8 x int8"
    shifted = {name: value.view(np.uint8) ^ np.uint8(128) for name, value in inputs.items()}
    peers = {
        padded: _padded_product(scale.int8, program.machine.vector),
        "onnxruntime": _onnxruntime(model, inputs),
        biased: _onnxruntime(models.matmul_integer(scale.int8, unsigned=True), shifted),
    }
    took = race(calls | peers, scale.turns, scale.least)
    for way, limit in (("float32", 2.5), ("provider", 1.0)):
        if way in ways:
            for peer in peers:
                required = limit if peer == padded else None
                what = f"MatMulInteger {scale.int8}³, {way}"
                yield Row(what, took[way], peer, took[peer], required)
    n = scale.int8_reference
    yield from _against(scale, f"MatMulInteger {n}³", models.matmul_integer(n))


def half_products(scale: Scale) -> Iterator[Row]:
    """A float32 MatMul, which the program computes from fp16 operands."""
    n = scale.half
    single = np.random.default_rng(1).standard_normal((2, n, n), dtype=np.float32)
    double = single.astype(np.float64)
    others: dict[str, Call] = {
        "numpy float32": lambda: np.matmul(*single),
        "numpy float64": lambda: np.matmul(*double),
    }
    yield from _against(scale, f"MatMul {n}³, fp16", models.matmul(n), others)


def batches(scale: Scale) -> Iterator[Row]:
    """Many runs in one call against as many calls of one; and how that is in onnxruntime."""
    single = f"{scale.runs} calls"
    for form in ("", ".int8"):
        model = models.digits(form)
        program = clockstep.compile(model, dim={"N": 1})
        runs = [random_inputs(program, seed) for seed in range(scale.runs)]
        stacked = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
        flat = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
        session, peer = clockstep.Session(program), _session(model)
        calls = {
            "engine": lambda s=session, x=stacked: s.run(x),
            "engine, single": lambda s=session, x=runs: [s.run(each) for each in x],
            "peer": lambda s=peer, x=flat: s.run(None, x),
            "peer, single": lambda s=peer, x=runs: [s.run(None, each) for each in x],
        }
        took = race(calls, scale.turns, scale.least)
        what = f"digits{form}, {scale.runs} runs in one call"
        yield Row(what, took["engine"], single, took["engine, single"], 0.1)
        yield Row(f"{what} (onnxruntime)", took["peer"], single, took["peer, single"])


def whole_models(scale: Scale) -> Iterator[Row]:
    """Models against whatever else runs them; the interpreter where it needs no minutes."""
    for form in ("", ".int8"):
        model = models.digits(form)
        yield from _against(scale, f"digits{form}", model, interpreter=True, dim={"N": 1})
    layers, width = len(scale.mlp.widths) - 1, scale.mlp.widths[0]
    name = f"MLP {layers} x {width}, batch {scale.mlp.batch}"
    yield from _against(scale, name, scale.mlp.model())
    yield from _against(
        scale, f"{name}, on two chips", scale.mlp.model(), chips=2, objective="throughput", copies=1
    )
    rows, columns = scale.chain
    chain = models.chain(rows, columns)
    yield from _against(scale, f"elementwise chain, {rows} x {columns}", chain)
    name = f"MLP {'-'.join(map(str, scale.tiny.widths))} on `tiny`"
    yield from _against(scale, name, scale.tiny.model(), interpreter=True, machine="tiny")


def networks(scale: Scale) -> Iterator[Row]:
    """ResNet-50 in int8, one image a call and many."""
    size, width, images = scale.network
    model = _quantized(convnets.resnet50(size, width), (2, 3, size, size))
    program = clockstep.compile(model)
    session, reference = clockstep.Session(program), ReferenceEvaluator(model)
    inputs = random_inputs(program, 0)
    stacked = {name: np.stack([value] * images) for name, value in inputs.items()}
    calls: dict[str, Call] = {
        "engine": lambda: session.run(inputs),
        "many": lambda: session.run(stacked),
        "onnxruntime": _onnxruntime(model, inputs),
        "onnx reference": lambda: reference.run(None, dict(inputs)),
    }
    took = race(calls, min(scale.turns, 2), 0.0)
    what = "resnet50-int8" if (size, width) == (224, 64) else f"resnet50-int8, {size} x {size}"
    for peer, limit in (("onnxruntime", None), ("onnx reference", 1.0)):
        yield Row(what, took["engine"], peer, took[peer], limit)
    single = images * took["engine"]
    yield Row(
        f"{what}, {images} images in one call", took["many"], f"{images} calls", single, 1 / 3
    )


def _quantized(model: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.ModelProto:
    samples = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return onnx.load_from_string(quantize(path, {"x": samples}, activations="uint8"))


CONTESTS: dict[str, Callable[[Scale], Iterator[Row]]] = {
    "int8": int8_products,
    "fp16": half_products,
    "batch": batches,
    "models": whole_models,
    "networks": networks,
}
"""The sections of the table, by name."""


def _against(
    scale: Scale,
    what: str,
    model: onnx.ModelProto,
    others: Mapping[str, Call] | None = None,
    *,
    interpreter: bool = False,
    **options: Any,
) -> Iterator[Row]:
    """The engine on a model, compiled with `options`, against `others` and all that can run it."""
    program: Program = clockstep.compile(model, **options)
    inputs, session = random_inputs(program, 0), clockstep.Session(program)
    reference = ReferenceEvaluator(model)
    calls: dict[str, Call] = {
        "engine": lambda: session.run(inputs),
        **(others or {}),
        "onnxruntime": _onnxruntime(model, inputs),
        "onnx reference": lambda: reference.run(None, dict(inputs)),
    }
    if interpreter:
        slow = clockstep.Session(program, engine="reference")
        calls[_INTERPRETER] = lambda: slow.run(inputs)
    took = race(calls, scale.turns, scale.least)
    for peer in calls:
        if peer != "engine":
            yield Row(what, took["engine"], peer, took[peer])


def _provided(name: str, session: clockstep.Session, inputs: Inputs) -> Call:
    def call() -> object:
        with int8_provider(name):
            return session.run(inputs)

    return call


def _padded_product(n: int, lanes: int) -> Call:
    """numpy's float32 product [n, k] @ [k, k], k being n padded to whole vectors."""
    k = -(-n // lanes) * lanes
    generator = np.random.default_rng(1)
    a, b = (generator.standard_normal(shape, dtype=np.float32) for shape in ((n, k), (k, k)))
    return lambda: np.matmul(a, b)


def _onnxruntime(model: onnx.ModelProto, inputs: Inputs) -> Call:
    session = _session(model)
    return lambda: session.run(None, dict(inputs))


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
