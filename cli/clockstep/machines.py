"""The verb `machine`: list, show and validate machine files."""

from __future__ import annotations

from typing import Annotated

import typer

from clockstep import flags
from clockstep.output import finish, number, table_text
from clockstep_isa import (
    Machine,
    load_machine,
    machine_to_dict,
    preset_names,
    schema,
)
from clockstep_isa.topology import hop_cycles, systems, topology

__all__ = ["list_", "show", "validate"]

MachineArgument = Annotated[str, typer.Argument(metavar="NAME|FILE.toml")]


def list_(json: flags.Json = False) -> None:
    """The machines that ship with Clockstep."""
    rows = [
        {"machine": machine.name, **_derived(machine), "doc": machine.doc}
        for machine in map(load_machine, preset_names())
    ]
    columns = ("machine", "lanes", "sram_bytes", "clock_hz", "max_chips")
    finish({"machines": rows}, table_text(rows, columns), as_json=json)


def show(name: MachineArgument, set_: flags.SetFigure = None, json: flags.Json = False) -> None:
    """Every figure of a machine: its value, unit, provenance and meaning; and its systems."""
    machine = load_machine(name, set_ or ())
    described = schema()
    rows = [
        {
            "key": key,
            "value": figure.value,
            "unit": described[key].unit,
            "from": figure.provenance,
            "meaning": described[key].doc,
        }
        for key, figure in machine.figures.items()
    ]
    head = f"{machine.name}: {machine.doc}\n\n"
    text = head + table_text(rows, ("key", "value", "unit", "from", "meaning"))
    wired = [_system(machine, chips) for chips in systems(machine)]
    text += "\n\n" + table_text(wired, tuple(wired[0]))
    data = {**machine_to_dict(machine), "derived": _derived(machine), "systems": wired}
    finish(data, text, as_json=json)


def validate(name: MachineArgument, set_: flags.SetFigure = None, json: flags.Json = False) -> None:
    """Check a machine file against the schema."""
    machine = load_machine(name, set_ or ())
    facts = _derived(machine)
    text = (
        f"{machine.name}: valid; {number(facts['lanes'])} lanes, "
        f"{number(facts['sram_bytes'])} bytes of SRAM a chip, {number(facts['clock_hz'])} Hz, "
        f"at most {number(facts['max_chips'])} chips"
    )
    finish({"valid": True, "machine": machine.name, **facts}, text, as_json=json)


def _derived(machine: Machine) -> dict[str, int]:
    return {
        "lanes": machine.vector,
        "sram_bytes": machine.sram_bytes,
        "clock_hz": machine.clock.hz,
        "max_chips": machine.max_chips,
    }


def _system(machine: Machine, chips: int) -> dict[str, int]:
    """What `show` says of a system of `chips`; the farthest chips are `cycles` apart.

    `all_to_all` is what every chip can send, in bytes a second, if all send to all.
    """
    found = topology(machine, chips)
    return {
        "chips": chips,
        "nodes": found.nodes,
        "racks": found.racks,
        "links": found.links,
        "diameter": found.diameter,
        "cycles": found.diameter * hop_cycles(machine),
        "all_to_all_bytes_per_s": round(found.bisection),
    }
