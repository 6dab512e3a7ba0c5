"""The verbs as Python functions: the command line is these plus text.

Every flag of a verb is a keyword of the same name here. To add a flag, add it to `_request` and
to `flags.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from clockstep.limits import causes_of
from clockstep_compiler import Check, check_model, compile_entries, compile_model
from clockstep_compiler.collective_program import compile_collective
from clockstep_compiler.options import EFFORTS, OBJECTIVES, PRECISIONS, Options
from clockstep_isa import Machine, Program, UsageError, load_machine, load_program
from clockstep_isa.table import TYPES
from clockstep_runtime import Report
from clockstep_runtime import verify as verify_program
from clockstep_runtime.trace import Cause, Drawn, draw

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["check", "collective", "compile", "load", "trace", "verify"]


def compile(  # noqa: A001 - the contract's name
    model: str | os.PathLike[str] | bytes | ModelProto,
    *,
    machine: str | Path | Machine = "lpu-v1",
    set: Mapping[str, int] | Iterable[str] = (),  # noqa: A002 - the flag's name
    chips: int | str = "auto",
    dim: Mapping[str, int] | None = None,
    shape: Mapping[str, Sequence[int]] | None = None,
    bind: Mapping[str, ArrayLike] | None = None,
    state: Mapping[str, str] | None = None,
    entry: Mapping[str, Mapping[str, int]] | None = None,
    precision: str = "auto",
    no_weights: bool = False,
    effort: str = "standard",
    objective: str = "latency",
    copies: int | str = "auto",
) -> Program:
    """Compile an ONNX model (path, bytes or proto) to a program for `machine`.

    `set` overrides figures of a named machine, as {"mem.banks": 4} or ["mem.banks=4"]; `dim`
    binds symbolic dimensions by name, `shape` those of whole inputs, and `bind` makes inputs
    constant. `state` pairs inputs with the outputs that the next run finds in their place; None:
    past and present by their names. `entry` has further dimensions by name of entry, as
    {"prefill": {"tokens": 128}, "decode": {"tokens": 1}}: entries of one program, which find the
    same weights and states. Raises `UsageError`, `MalformedFile`, `UnsupportedModel` or
    `DoesNotFit`.
    """
    target, options = _request(
        machine,
        set,
        chips,
        dim,
        shape,
        bind,
        state,
        precision,
        weights=not no_weights,
        effort=effort,
        objective=objective,
        copies=copies,
    )
    if entry is not None:
        return compile_entries(model, target, options, entry)
    return compile_model(model, target, options)


def check(
    model: str | os.PathLike[str] | bytes | ModelProto,
    *,
    machine: str | Path | Machine = "lpu-v1",
    set: Mapping[str, int] | Iterable[str] = (),  # noqa: A002 - the flag's name
    chips: int | str = "auto",
    dim: Mapping[str, int] | None = None,
    shape: Mapping[str, Sequence[int]] | None = None,
    bind: Mapping[str, ArrayLike] | None = None,
    state: Mapping[str, str] | None = None,
    precision: str = "auto",
    no_weights: bool = False,
    effort: str = "standard",
) -> Check:
    """Find every reason why the model could not be compiled, and the chips that it needs.

    Same keywords and errors as `compile`, except that what is unsupported is returned.
    """
    target, options = _request(
        machine,
        set,
        chips,
        dim,
        shape,
        bind,
        state,
        precision,
        weights=not no_weights,
        effort=effort,
    )
    return check_model(model, target, options)


def collective(
    name: str,
    *,
    bytes: int,  # noqa: A002 - the flag's name
    chips: int = 8,
    type: str = "f16",  # noqa: A002 - the flag's name
    algorithm: str = "auto",
    machine: str | Path | Machine = "lpu-v1",
    set: Mapping[str, int] | Iterable[str] = (),  # noqa: A002 - the flag's name
) -> Program:
    """Schedule a collective of `name` (all-reduce, ...) over the first `chips` of a machine.

    Input `x` and output `y` are messages of whole vectors, [rows, lanes], with a leading axis of
    chips where each has one. Raises `UsageError`, `MalformedFile` or `DoesNotFit`.
    """
    _one_of("type", type, sorted(TYPES))
    return compile_collective(_machine(machine, set), name, chips, bytes, TYPES[type], algorithm)


def load(path: str | os.PathLike[str], *, entry: str | None = None) -> Program:
    """Read a program, or one `entry` of it; raises `UsageError` if there is no such file or entry,
    `MalformedFile` otherwise."""
    program = load_program(Path(path))
    return program if entry is None else program.entry(entry)


def verify(program: Program) -> Report:
    """Check the schedule against the machine and the instruction table, and nothing else."""
    return verify_program(program)


def trace(
    program: Program,
    output: str | os.PathLike[str],
    *,
    chip: int | None = None,
    cycles: tuple[int | None, int | None] | None = None,
) -> Drawn:
    """Write the schedule to `output` as a Perfetto trace, which https://ui.perfetto.dev shows.

    Of one `chip`, or of all; of the `cycles` [first, end), either of which may be None. Raises
    `UsageError` if there is no such chip or the file cannot be written, `ScheduleViolation` if the
    program breaks a rule of the time model, `MalformedFile` if what it says of causes is none.
    """
    causes = [Cause(*row) for row in causes_of(program)] if "causes" in program.info else []
    return draw(program, chip=chip, cycles=cycles, causes=causes).save(output)


def _request(
    machine: str | Path | Machine,
    overrides: Mapping[str, int] | Iterable[str],
    chips: int | str,
    dim: Mapping[str, int] | None,
    shape: Mapping[str, Sequence[int]] | None,
    bind: Mapping[str, ArrayLike] | None,
    state: Mapping[str, str] | None,
    precision: str,
    *,
    weights: bool,
    effort: str,
    objective: str = "latency",
    copies: int | str = "auto",
) -> tuple[Machine, Options]:
    _one_of("precision", precision, PRECISIONS)
    _one_of("effort", effort, EFFORTS)
    _one_of("objective", objective, OBJECTIVES)
    options = Options(
        chips=_count("chips", chips),
        dims=dict(dim or {}),
        shapes={name: tuple(sizes) for name, sizes in (shape or {}).items()},
        bind={name: np.asarray(value) for name, value in (bind or {}).items()},
        states=None if state is None else dict(state),
        precision=precision,
        weights=weights,
        effort=effort,
        objective=objective,
        copies=_count("copies", copies),
    )
    return _machine(machine, overrides), options


def _machine(
    machine: str | Path | Machine, overrides: Mapping[str, int] | Iterable[str]
) -> Machine:
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={value}" for key, value in overrides.items()]
    if not isinstance(machine, Machine):
        return load_machine(machine, overrides)
    if list(overrides):
        raise UsageError("machine-set", "set applies to a machine given by name or by file")
    return machine


def _count(name: str, count: int | str) -> int | None:
    if count == "auto":
        return None
    text = str(count)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"option-{name}", f"{name} is {text!r}; it is 'auto' or a positive number")
    return int(text)


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"option-{name}", f"{name} {value!r} is not one of {', '.join(known)}")
