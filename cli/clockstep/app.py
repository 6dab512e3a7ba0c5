"""The command `clockstep`: its verbs, and how every failure becomes one line and an exit status.

To add a verb, write a function in the module of its kind and register it below.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from clockstep import build, collectives, execute, machines, quantization, texts, tracing
from clockstep.crash import write_reproducer
from clockstep_isa import (
    ClockstepError,
    Diagnostic,
    ScheduleViolation,
    UnsupportedModel,
    UsageError,
)

__all__ = ["main"]

OUR_BUG = 70
INTERRUPTED = 130

_BadUsage: type[BaseException] = typer.BadParameter.__bases__[0]
"""What typer raises for a command line it cannot parse; it exports only this subclass."""

app = typer.Typer(
    name="clockstep",
    help="Compile ONNX models to programs whose every cycle is known, and run them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
machine_app = typer.Typer(help="Show and check machine files.")

VERBS: dict[str, Callable[..., None]] = {
    "compile": build.compile_,
    "check": build.check,
    "ops": build.ops,
    "run": execute.run,
    "verify": execute.verify,
    "disasm": texts.disasm,
    "asm": texts.asm,
    "inspect": texts.inspect,
    "trace": tracing.trace,
    "quantize": quantization.quantize_,
    "collective": collectives.collective_,
}
MACHINE_VERBS: dict[str, Callable[..., None]] = {
    "list": machines.list_,
    "show": machines.show,
    "validate": machines.validate,
}

for _name, _verb in VERBS.items():
    app.command(_name)(_verb)
app.add_typer(machine_app, name="machine")
for _name, _verb in MACHINE_VERBS.items():
    machine_app.command(_name)(_verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"clockstep {metadata.version('clockstep')}\n")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    """Compile ONNX models to programs whose every cycle is known, and run them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; the console script exits with it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(words or ["--help"], prog_name="clockstep", standalone_mode=False)
    except ClockstepError as error:
        return _refuse(error, words)
    except _BadUsage as error:
        return _refuse(_usage(error), words)
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody left to tell.
        sys.stderr.close()
        return 0
    except OSError as error:
        reason = UsageError("file", error.strerror or str(error), where=str(error.filename or ""))
        return _refuse(reason, words)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        return _crash(error, words)
    return int(status or 0)


def _usage(error: Any) -> UsageError:
    return UsageError("usage", error.format_message(), help="clockstep --help")


def _refuse(error: ClockstepError, words: Sequence[str]) -> int:
    if "--json" in words:
        sys.stdout.write(json.dumps({"error": _as_data(error)}) + "\n")
    else:
        more = _others(error)
        sys.stderr.write(" ".join(f"{error.diagnostic}{more}".split()) + "\n")
    return error.exit_code


def _others(error: ClockstepError) -> str:
    count = len(error.diagnostics) - 1 if isinstance(error, UnsupportedModel) else 0
    return f" (and {count} more: `clockstep check` lists all)" if count else ""


def _as_data(error: ClockstepError) -> dict[str, Any]:
    data: dict[str, Any] = _diagnostic(error.diagnostic)
    if isinstance(error, UnsupportedModel):
        data["diagnostics"] = [_diagnostic(d) for d in error.diagnostics]
    if isinstance(error, ScheduleViolation):
        data["violations"] = [
            {"code": v.code, "chip": v.chip, "unit": v.unit, "cycle": v.cycle, "message": v.message}
            for v in error.violations
        ]
    return data


def _diagnostic(d: Diagnostic) -> dict[str, Any]:
    return {"code": d.code, "message": d.message, "where": d.where, "help": d.help}


def _crash(error: Exception, words: Sequence[str]) -> int:
    path = write_reproducer(words, error)
    told = f"; please report it with {path}" if path else ""
    message = f"a bug in clockstep, not in your input: {type(error).__name__}{told}"
    if "--json" in words:
        data = {"code": "bug", "message": message, "where": str(path or ""), "help": ""}
        sys.stdout.write(json.dumps({"error": data}) + "\n")
    else:
        sys.stderr.write(f"error[bug]: {message}\n")
    return OUR_BUG
