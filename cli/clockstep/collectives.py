"""The verb collective: what chips exchange, as a program of its own, with its time and bound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clockstep import api, flags
from clockstep.output import facts_text, finish, number, working
from clockstep_compiler.collective_program import COLLECTIVES
from clockstep_isa import Program, save_program

__all__ = ["collective_"]

Name = Annotated[str, typer.Argument(metavar="|".join(COLLECTIVES), help="What the chips do.")]


def collective_(
    name: Name,
    size: Annotated[int, typer.Option("--bytes", metavar="N", help="Size of the message.")],
    chips: Annotated[int, typer.Option("--chips", metavar="N", help="How many take part.")] = 8,
    element: Annotated[
        str, typer.Option("--type", metavar="i8|i16|i32|f16|f32", help="Type of its elements.")
    ] = "f16",
    algorithm: Annotated[
        str, typer.Option("--algorithm", metavar="auto|NAME", help="auto: by modelled cost.")
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PROGRAM", help="Write the program.")
    ] = None,
    machine: flags.MachineName = "lpu-v1",
    set_: flags.SetFigure = None,
    json: flags.Json = False,
) -> None:
    """Schedule a collective over chips, and say what it takes beside what the links do."""
    with working(f"scheduling {name}"):
        program = api.collective(
            name,
            bytes=size,
            chips=chips,
            type=element,
            algorithm=algorithm,
            machine=machine,
            set=set_ or (),
        )
        verdict = api.verify(program)
        assert verdict.ok, f"the compiler broke the time model: {verdict.violations[0]}"
        if output is not None:
            save_program(program, output)
    data = {
        **{key: program.info[key] for key in ("collective", "algorithm", "message_bytes")},
        "type": element,
        "machine": program.machine.name,
        "chips": program.chips,
        "cycles": program.cycles,
        "seconds": program.seconds,
        "lower_bound_cycles": program.info["lower_bound_cycles"],
        "instructions": len(program.code),
        "estimates": program.info["estimates"],
    }
    finish(data, _text(data, program), as_json=json)


def _text(data: dict[str, Any], program: Program) -> str:
    bound = data["lower_bound_cycles"]
    models = (f"{name} {number(cycles)}" for name, cycles in data["estimates"].items())
    return facts_text(
        {
            "collective": f"{data['collective']} of {number(data['message_bytes'])} bytes "
            f"({data['type']}), {data['algorithm']}",
            "machine": f"{data['machine']}, {data['chips']} chips",
            "cycles": f"{number(data['cycles'])} = {data['seconds'] * 1e6:.3f} us",
            "links alone": f"{number(bound)} cycles, {100 * bound / program.cycles:.0f} %",
            "modelled": ", ".join(models),
            "instructions": number(data["instructions"]),
        }
    )
