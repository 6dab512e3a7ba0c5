"""The verbs that take a model: compile, check, ops."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from clockstep import api, flags, report
from clockstep.output import facts_text, finish, number, table_text, warn, working
from clockstep_compiler import Check
from clockstep_compiler.operators import OPERATORS
from clockstep_isa import (
    Program,
    UnsupportedModel,
    UsageError,
    listing_lines,
    program_sha256,
    save_program,
)
from clockstep_isa.tensor_file import write_atomically

__all__ = ["check", "compile_", "ops"]


def compile_(
    model: flags.Model,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PROGRAM")],
    machine: flags.MachineName = "lpu-v1",
    set_: flags.SetFigure = None,
    chips: flags.Chips = "auto",
    dim: flags.Dim = None,
    shape: flags.Shape = None,
    bind: flags.Bind = None,
    state: flags.State = None,
    entry: flags.Entries = None,
    precision: flags.Precision = "auto",
    no_weights: flags.NoWeights = False,
    effort: flags.Effort = "standard",
    objective: flags.Objective = "latency",
    copies: flags.Copies = "auto",
    listing: Annotated[
        Path | None, typer.Option("--listing", metavar="FILE", help="Write the listing as well.")
    ] = None,
    json: flags.Json = False,
) -> None:
    """Compile a model to a program whose every cycle is known."""
    start = time.perf_counter()
    if listing is not None and len(entry or ()) > 1:
        message = "--listing is of one entry, and there are several"
        raise UsageError("option-both", message, help="clockstep disasm PROGRAM --entry NAME")
    with working(f"compiling {model.name}"):
        program = api.compile(
            model,
            machine=machine,
            set=set_ or (),
            chips=chips,
            dim=flags.parse_dims(dim),
            shape=flags.parse_shapes(shape),
            bind=flags.parse_bindings(bind),
            state=flags.parse_states(state),
            entry=flags.parse_entries(entry),
            precision=precision,
            no_weights=no_weights,
            effort=effort,
            objective=objective,
            copies=copies,
        )
        _prove(program)
        _write(program, output, listing)
    data = {
        "program": str(output),
        "sha256": program_sha256(program),
        **report.summary(program),
        "compile_seconds": round(time.perf_counter() - start, 3),
        "peak_rss_bytes": _peak_rss_bytes(),
    }
    for text in program.info.get("warnings", ()):
        warn(f"warning: {text}")
    finish(data, _compile_text(data, program), as_json=json)


def _prove(program: Program) -> None:
    """A program that breaks the time model is our bug, never the user's, and is not written."""
    verdict = api.verify(program)
    assert verdict.ok, f"the compiler broke the time model: {verdict.violations[0]}"


def _write(program: Program, output: Path, listing: Path | None) -> None:
    """Both files, or neither."""
    save_program(program, output)
    try:
        if listing is not None:
            write_atomically(listing, (f"{line}\n".encode() for line in listing_lines(program)))
    except BaseException:
        output.unlink()
        raise


def _peak_rss_bytes() -> int:
    """The most memory this process has held at once."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's getrusage would include what the parent held before it started us.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _compile_text(data: dict[str, Any], program: Program) -> str:
    bound = data["lower_bound_cycles"]
    megahertz = program.machine.clock.hz / 1e6
    return facts_text(
        {
            "program": data["program"],
            "machine": f"{data['machine']}, {data['chips']} chip{'s' * (data['chips'] > 1)}"
            + f", {data['copies']} copies of the model" * (data["copies"] > 1),
            "cycles": f"{number(data['cycles'])} = {data['seconds'] * 1e6:.3f} us "
            f"at {megahertz:g} MHz",
            "throughput": f"a run every {number(data['interval_cycles'])} cycles, "
            f"{number(data['runs_per_second'])} a second",
            "lower bound": f"{number(bound)} cycles ({data['bound_by'] or 'not known'}); "
            f"the program takes {number(data['bound_ratio'])} times that",
            **_entries_text(data),
            "as laid out": f"{number(data['layout_cycles'])} cycles of the busiest resource",
            "instructions": number(data["instructions"]),
            "weights": f"{number(data['weight_bytes'])} bytes",
            "sram": f"{number(data['sram_bytes_used'])} of "
            f"{number(data['sram_bytes_total'])} bytes",
            "compiled in": f"{data['compile_seconds']:.2f} s, "
            f"{data['peak_rss_bytes'] / 2**20:.0f} MiB at the peak",
        }
    )


def _entries_text(data: dict[str, Any]) -> dict[str, str]:
    """The cycles of every entry, if there are several."""
    entries = data.get("entries", {}).items()
    text = ", ".join(f"{name} {number(facts['cycles'])} cycles" for name, facts in entries)
    return {"entries": text} if text else {}


def check(
    model: flags.Model,
    machine: flags.MachineName = "lpu-v1",
    set_: flags.SetFigure = None,
    chips: flags.Chips = "auto",
    dim: flags.Dim = None,
    shape: flags.Shape = None,
    bind: flags.Bind = None,
    state: flags.State = None,
    precision: flags.Precision = "auto",
    no_weights: flags.NoWeights = False,
    effort: flags.Effort = "standard",
    json: flags.Json = False,
) -> None:
    """Say every reason why a model would not compile, and how many chips it needs."""
    verdict = api.check(
        model,
        machine=machine,
        set=set_ or (),
        chips=chips,
        dim=flags.parse_dims(dim),
        shape=flags.parse_shapes(shape),
        bind=flags.parse_bindings(bind),
        state=flags.parse_states(state),
        precision=precision,
        no_weights=no_weights,
        effort=effort,
    )
    unsupported = [
        {"node": p.node, "op": p.op, "opset": p.opset, "reason": p.reason, "hint": p.hint}
        for p in verdict.problems
    ]
    data = {
        "supported": verdict.supported,
        "unsupported": unsupported,
        "chips_needed": verdict.chips_needed,
    }
    status = 0 if verdict.supported else UnsupportedModel.exit_code
    finish(data, _check_text(model, machine, verdict), as_json=json, status=status)


def _check_text(model: Path, machine: str, verdict: Check) -> str:
    if verdict.supported:
        chips = verdict.chips_needed
        return (
            f"{model.name}: supported; needs {number(chips)} chip{'s' * (chips != 1)} of {machine}"
        )
    lines = [f"{model.name}: {len(verdict.problems)} problem{'s' * (len(verdict.problems) > 1)}"]
    for p in verdict.problems:
        named = ", ".join([p.op] * bool(p.op) + [f"opset {p.opset}"] * bool(p.opset))
        place = " ".join([p.node] * bool(p.node) + [f"({named})"] * bool(named)) or "the model"
        lines.append(f"  {place}: {p.reason}" + (f" (help: {p.hint})" if p.hint else ""))
    return "\n".join(lines)


def ops(
    markdown: Annotated[bool, typer.Option("--markdown", help="A Markdown table.")] = False,
    json: flags.Json = False,
) -> None:
    """List the supported operators, from the compiler's own table."""
    rows = [{"operator": op.name, "types": op.types, "limits": op.limits} for op in OPERATORS]
    columns = ("operator", "types", "limits")
    text = _operators_page(rows) if markdown else table_text(rows, columns)
    finish({"operators": rows}, text, as_json=json)


def _operators_page(rows: list[dict[str, str]]) -> str:
    """`docs/operators.md`."""
    lines = [
        "# Operators",
        "",
        "What `clockstep ops --markdown` prints: the operators that are compiled, their element",
        "types and limits. Operators that ONNX defines as functions of these are compiled as well.",
        "Errors are in units of the last place.",
        "",
        "| operator | types | limits |",
        "|---|---|---|",
        *(f"| {row['operator']} | {row['types']} | {row['limits']} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"
