"""The verbs that run or judge a program: run, verify."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import io
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from clockstep import api, flags
from clockstep.arrays import read_npy, read_npz
from clockstep.debug import traced, watched
from clockstep.output import finish, number, table_text, warn, working
from clockstep.verdict import judge
from clockstep_isa import Program, UsageError
from clockstep_isa.tensor_file import write_atomically
from clockstep_runtime import ENGINES, Execution, Session, random_inputs

__all__ = ["run", "verify"]

Arrays = dict[str, NDArray[Any]]


def run(
    program: flags.ProgramFile,
    entry: flags.Entry = None,
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=FILE.npy", help="One input from a file."),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", metavar="FILE.npz", help="Inputs by name.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws the inputs that are not given.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.npz", help="Write the outputs.")
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="fast|reference", help="How to execute.")
    ] = ENGINES[0],
    compare_with: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="MODEL.onnx",
            help="Compare with onnxruntime; if outputs differ, layer by layer.",
        ),
    ] = None,
    rtol: Annotated[float | None, typer.Option("--rtol", help="Relative tolerance.")] = None,
    atol: Annotated[float | None, typer.Option("--atol", help="Absolute tolerance.")] = None,
    watch: flags.Watch = None,
    until: flags.Until = None,
    provenance: flags.Element = None,
    json: flags.Json = False,
) -> None:
    """Execute a program and say in how many cycles; compare its outputs if asked to.

    With --watch, print what happened at some places instead; with --provenance, what an element of
    an output was made of.
    """
    _check_engine(engine)
    others = {"--compare": compare_with, "--output": output}
    _check_debugging({"--watch": watch or None, "--provenance": provenance}, until, others)
    loaded = _alone(api.load(program, entry=entry))
    values = _inputs(loaded, inputs, input_, seed)
    if watch or provenance is not None:
        with working(f"watching {program.name}"):
            said, text = (
                traced(loaded, values, provenance)
                if provenance is not None
                else watched(loaded, values, watch or (), until)
            )
        finish(said, text, as_json=json)
        return
    start = time.perf_counter()
    with working(f"running {program.name}"):
        session = Session(loaded, engine)
        # Without weights there is nothing to compute, and time is all that is left to ask for.
        timed = loaded.timing_only and not (inputs or input_ or output or compare_with)
        execution = Execution({}, session.cycles) if timed else session.execute(values)
    wall = time.perf_counter() - start
    data: dict[str, Any] = {
        "cycles": execution.cycles,
        "predicted_cycles": loaded.cycles,
        "seconds": loaded.machine.seconds(execution.cycles, loaded.chips),
        "outputs": {name: _describe(value) for name, value in execution.outputs.items()},
        "engine": engine,
        "timing_only": timed,
        "wall_seconds": round(wall, 3),
    }
    if output is not None:
        _write_npz(output, execution.outputs)
    text = _run_text(data)
    ok = execution.cycles == loaded.cycles
    if not ok:
        warn(f"error[cycles]: predicted {loaded.cycles} cycles and executed {execution.cycles}")
    if compare_with is not None:
        with working(f"comparing with {compare_with.name}"):
            verdict = judge(compare_with, loaded, values, execution.outputs, rtol, atol)
        data |= verdict.data
        text += "\n" + verdict.text
        ok = ok and verdict.match
    finish(data, text, as_json=json, status=0 if ok else 1)


def _alone(program: Program) -> Program:
    """The first entry of a program: the others are neither linked nor run."""
    return program.entry(program.name)


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise UsageError(
            "option-engine",
            f"this version has no engine {engine!r}; it has {', '.join(ENGINES)}",
        )


def _check_debugging(
    views: Mapping[str, object], until: int | None, others: Mapping[str, object]
) -> None:
    """Each of `views` is printed instead of the run, and so stands alone."""
    if until is not None and views["--watch"] is None:
        raise UsageError(
            "option-until", "--until says nothing without --watch", help="--watch vxm.0"
        )
    given = [flag for flag, value in {**views, **others}.items() if value is not None]
    if len(given) > 1 and given[0] in views:
        raise UsageError("option-both", f"{given[0]} and {given[1]} exclude each other")


def _inputs(
    program: Program, archive: Path | None, pairs: list[str] | None, seed: int
) -> Mapping[str, NDArray[Any]]:
    """Inputs from the files, the rest drawn from the seed."""
    given = read_npz(archive) if archive is not None else {}
    for text in pairs or ():
        name, equals, path = text.partition("=")
        if not equals:
            raise UsageError("option-pair", f"--input {text!r} is not NAME=FILE.npy")
        given[name] = read_npy(Path(path))
    known = [binding.name for binding in program.inputs]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"inputs: {', '.join(known)}"
            raise UsageError("input-unknown", f"the program has no input {name!r}", help=hint)
    if seed < 0:
        raise UsageError("option-seed", f"seed {seed} is negative")
    return {**random_inputs(program, seed), **given} if len(given) < len(known) else given


def _write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays by name; equal arrays give equal bytes."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, value in arrays.items():
            member_name = f"{name}.npy".encode("utf-8", "backslashreplace").decode()
            with archive.open(zipfile.ZipInfo(member_name), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)
    write_atomically(path, [whole.getbuffer()])


def _describe(value: NDArray[Any]) -> dict[str, Any]:
    """Shape, dtype, and the hash of the elements in row-major order, little end first."""
    flat = np.ascontiguousarray(value)
    little = flat.astype(flat.dtype.newbyteorder("<"))
    return {
        "shape": list(value.shape),
        "dtype": str(value.dtype),
        "sha256": hashlib.sha256(little.tobytes()).hexdigest(),
    }


def _run_text(data: Mapping[str, Any]) -> str:
    head = (
        f"executed {number(data['cycles'])} cycles, predicted {number(data['predicted_cycles'])}: "
        f"{data['seconds'] * 1e6:.3f} us; {data['engine']} engine, {data['wall_seconds']:.2f} s"
    )
    rows = [
        {"output": name, **facts, "shape": str(facts["shape"])}
        for name, facts in data["outputs"].items()
    ]
    if data["timing_only"]:
        return head + "; the program has no weights, so it was timed only"
    return head + "\n\n" + table_text(rows, ("output", "dtype", "shape", "sha256"))


def verify(program: flags.ProgramFile, json: flags.Json = False) -> None:
    """Check a program's schedule against the machine and the instruction table alone."""
    verdict = api.verify(api.load(program))
    data = {
        "ok": verdict.ok,
        "violations": [dataclasses.asdict(v) for v in verdict.violations],
        "instructions": verdict.instructions,
        "checks": dict(verdict.checks),
    }
    if verdict.ok:
        checks = sum(verdict.checks.values())
        text = f"{program.name}: {verdict.instructions:,} instructions hold, {checks:,} checks"
    else:
        text = "\n".join(
            f"chip {v.chip} {v.unit} cycle {v.cycle}: error[{v.code}]: {v.message}"
            for v in verdict.violations
        )
    finish(data, text, as_json=json, status=0 if verdict.ok else 1)
