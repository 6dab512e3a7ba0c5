"""Compile, check, run: what every end-to-end test does with a model, and what it compares with.

`run_checked` is the one way in: a program that it returns results of has been verified, and has
taken exactly the cycles that the compiler promised.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from clockstep_compiler import Options, compile_model
from clockstep_isa import (
    Machine,
    Program,
    load_program,
    parse_listing,
    print_listing,
    program_bytes,
    save_program,
)
from clockstep_runtime import Execution, Session, interpret
from tests.support.bounds import assert_sound

__all__ = [
    "Run",
    "assert_close",
    "assert_equal",
    "assert_same_bits",
    "build_session",
    "expected",
    "fp16_inputs",
    "round_trip",
    "run_checked",
]

Array = NDArray[Any]

_SMALL = 3000
"""Programs of fewer instructions are round-tripped through listing and container."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program: outputs by name, and the program itself."""

    outputs: dict[str, Array]
    program: Program


def build_session(
    model: ModelProto, machine: Machine, options: Options | None = None, **settings: Any
) -> Session:
    """A session, which has verified its program, that survives listing and file to the byte.

    It beats no bound that the compiler gives it, and every cycle of it has one cause.
    `settings` are fields of `Options`; the effort is "fast" unless they say otherwise.
    """
    options = options or Options(**{"effort": "fast", **settings})
    program = compile_model(model.SerializeToString(), machine, options)
    assert_sound(program)
    if len(program.code) < _SMALL and program.image.regions[:, 3].sum() < _SMALL:
        round_trip(program)
    return Session(program)


def run_checked(
    model: ModelProto,
    machine: Machine,
    inputs: Mapping[str, Array],
    options: Options | None = None,
    **settings: Any,
) -> Run:
    """Compile, check as `build_session` and run on both engines, in exactly the promised cycles."""
    session = build_session(model, machine, options, **settings)
    program, run = session.program, session.execute(inputs)
    assert run.cycles == program.cycles, f"{program.cycles} promised, {run.cycles} executed"
    assert_same_bits(run, interpret(program, inputs))
    return Run(dict(run.outputs), program)


def assert_same_bits(fast: Execution, reference: Execution) -> None:
    """Two runs of one program agree in every bit of every output, and in the cycles."""
    assert fast.cycles == reference.cycles
    assert list(fast.outputs) == list(reference.outputs)
    for name, want in reference.outputs.items():
        have = fast.outputs[name]
        assert (have.shape, have.dtype) == (want.shape, want.dtype), name
        assert have.tobytes() == want.tobytes(), f"{name}: the engines differ"


def expected(model: ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What onnxruntime makes of a model, unoptimised; where it cannot, onnx's own evaluator."""
    names = [output.name for output in model.graph.output]
    try:
        found = _runtime(model.SerializeToString()).run(names, dict(inputs))
    except _REFUSALS:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(names, dict(inputs))
    return dict(zip(names, found, strict=True))


def fp16_inputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs that fp16 holds exactly, so that a difference is the operator's own."""
    return {
        name: value.astype(np.float16).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in inputs.items()
    }


def assert_close(
    actual: Mapping[str, Array],
    wanted: Mapping[str, Array],
    rtol: float = 5e-3,
    scale: float | None = None,
) -> None:
    """Every output within `rtol` of its range, which is its largest magnitude unless given."""
    assert list(actual) == list(wanted)
    for name, want in wanted.items():
        have = actual[name]
        assert (have.shape, have.dtype) == (want.shape, want.dtype), name
        assert np.isfinite(want).all(), f"{name}: the reference itself is not finite"
        span = scale or float(np.abs(want).max(initial=0.0))
        worst = float(np.abs(have.astype(np.float64) - want).max(initial=0.0))
        assert worst <= rtol * span, f"{name}: off by {worst}, range {span}"


def assert_equal(actual: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    """Every output equal, in shape, type and every element."""
    assert list(actual) == list(wanted)
    for name, want in wanted.items():
        assert (actual[name].shape, actual[name].dtype) == (want.shape, want.dtype), name
        np.testing.assert_array_equal(actual[name], want, err_msg=name)


_REFUSALS = (
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
)


@functools.lru_cache(maxsize=8)
def _runtime(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def round_trip(program: Program) -> None:
    """The listing and the file give the same program, to the byte."""
    data = program_bytes(program)
    assert program_bytes(parse_listing(print_listing(program))) == data, "asm(disasm(p)) is not p"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program"
        save_program(program, file)
        assert file.read_bytes() == data
        assert program_bytes(load_program(file)) == data, "the file read back is another program"
