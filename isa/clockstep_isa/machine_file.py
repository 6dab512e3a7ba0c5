"""Read, check and write machine files: TOML with a provenance for each figure, and `inherit`."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from clockstep_isa.diagnostics import MalformedFile, UsageError, shown
from clockstep_isa.geometry import geometry
from clockstep_isa.machine import PROVENANCE, SECTIONS, Figure, Machine, schema

__all__ = ["load_machine", "machine_from_dict", "machine_to_dict", "preset_names"]


def preset_names() -> tuple[str, ...]:
    """Names of the machines that ship with the package, sorted."""
    folder = resources.files("clockstep_isa") / "machines"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def load_machine(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Machine:
    """Read a preset by name, or a TOML by path, and apply `section.key=value` overrides.

    Raises `UsageError` if there is no such machine or an override is malformed, `MalformedFile`
    if the file breaks the schema; the message names the key and suggests the nearest one.
    """
    name, doc, figures = _resolve(str(name_or_path), ())
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
            raise UsageError("machine-set", f"--set {shown(text)} is not KEY=INTEGER")
        _check_key(key.strip(), "--set", UsageError)
        figures[key.strip()] = Figure(int(value), "assumed", "set on the command line")
    return _build(name, doc, figures, Path(name_or_path).name)


def machine_from_dict(data: Mapping[str, Any], where: str) -> Machine:
    """The inverse of `machine_to_dict`; raises `MalformedFile` on anything unexpected."""
    figures: dict[str, Figure] = {}
    _read_sections(data, where, figures)
    return _build(_text(data, "name", "", where), _text(data, "doc", "", where), figures, where)


def machine_to_dict(machine: Machine) -> dict[str, Any]:
    """A JSON-ready dictionary: name, doc, and `section -> key -> {value, from, source}`."""
    result: dict[str, Any] = {"name": machine.name, "doc": machine.doc}
    for key, figure in machine.figures.items():
        section, _, item = key.partition(".")
        row = {"value": figure.value, "from": figure.provenance, "source": figure.source}
        result.setdefault(section, {})[item] = row
    return result


def _resolve(name_or_path: str, seen: tuple[str, ...]) -> tuple[str, str, dict[str, Figure]]:
    if name_or_path in seen:
        raise MalformedFile("machine-inherit", f"machine {name_or_path!r} inherits itself")
    text, where = _read(name_or_path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedFile("machine-toml", f"not valid TOML: {error}", where=where) from None
    doc = ""
    figures: dict[str, Figure] = {}
    if "inherit" in data:
        base = _text(data, "inherit", "", where)
        beside = Path(name_or_path).parent / base
        if base.endswith(".toml") and beside.exists():
            base = str(beside)
        _, doc, figures = _resolve(base, (*seen, name_or_path))
    _read_sections(data, where, figures)
    name = _text(data, "name", Path(name_or_path).stem, where)
    return name, _text(data, "doc", doc, where), figures


def _read(name_or_path: str) -> tuple[str, str]:
    if name_or_path in preset_names():
        file = resources.files("clockstep_isa") / "machines" / f"{name_or_path}.toml"
        return file.read_text(encoding="utf-8"), name_or_path
    path = Path(name_or_path)
    try:
        if not path.is_file():
            raise _unknown(name_or_path)
        return path.read_text(encoding="utf-8"), path.name
    except UnicodeDecodeError:
        raise MalformedFile("machine-toml", "not a text file", where=path.name) from None
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UsageError("machine-unknown", reason, where=str(path)) from None


def _unknown(name: str) -> UsageError:
    close = difflib.get_close_matches(name, preset_names(), 1)
    known = f"presets: {', '.join(preset_names())}; or give a TOML file"
    hint = f"did you mean {close[0]!r}?" if close else known
    return UsageError("machine-unknown", f"no machine {shown(name)}", help=hint)


def _text(data: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = data.get(key, default)
    if not isinstance(value, str):
        raise MalformedFile("machine-type", f"{key} = {shown(value)} is not a text", where=where)
    return value


def _check_key(key: str, where: str, error: type[MalformedFile] | type[UsageError]) -> None:
    if key not in schema():
        close = difflib.get_close_matches(key, list(schema()), 1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else "see `clockstep machine show lpu-v1`"
        raise error("machine-key", f"unknown key {shown(key)}", where=where, help=hint)


def _read_sections(data: Mapping[str, Any], where: str, figures: dict[str, Figure]) -> None:
    for section, rows in data.items():
        if section in ("name", "doc", "inherit"):
            continue
        if section not in SECTIONS:
            close = difflib.get_close_matches(section, list(SECTIONS), 1, cutoff=0.5)
            hint = f"did you mean [{close[0]}]?" if close else f"sections: {', '.join(SECTIONS)}"
            message = f"unknown key {shown(section)}"
            raise MalformedFile("machine-key", message, where=where, help=hint)
        if not isinstance(rows, Mapping):
            raise MalformedFile("machine-type", f"[{section}] is not a table", where=where)
        for item, value in rows.items():
            key = f"{section}.{item}"
            _check_key(key, where, MalformedFile)
            figures[key] = _read_figure(key, value, where)


_SAID = {"source": "", "from": "assumed"}
"""What a figure may say of itself, and what it says if it does not."""


def _read_figure(key: str, value: Any, where: str) -> Figure:
    source, provenance = "", "assumed"
    if isinstance(value, Mapping):
        extra = sorted(set(value) - {"value", "from", "source"})
        if extra or "value" not in value:
            problem = f"unknown {shown(extra[0])}" if extra else "no 'value'"
            raise MalformedFile("machine-figure", f"{key}: {problem}", where=where)
        source, provenance = (_text(value, k, d, where) for k, d in _SAID.items())
        value = value["value"]
    if provenance not in PROVENANCE:
        known = ", ".join(PROVENANCE)
        raise MalformedFile(
            "machine-provenance",
            f"{key}: from = {shown(provenance)}",
            where=where,
            help=f"one of {known}",
        )
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"{key} = {shown(value)} is not an integer"
        raise MalformedFile("machine-type", message, where=where)
    return Figure(value, provenance, source)


_NAME = 100
"""Longest name of a machine."""


def _build(name: str, doc: str, figures: dict[str, Figure], where: str) -> Machine:
    if len(name) > _NAME or not name.isprintable():
        message = f"name = {shown(name)} is not a short line"
        raise MalformedFile("machine-name", message, where=where)
    ordered = {}
    figures = _with_link_rate(figures)
    for key, row in schema().items():
        if key not in figures:
            raise MalformedFile(
                "machine-missing",
                f"no value for {key} ({row.doc})",
                where=where,
                help='start the file with inherit = "lpu-v1"',
            )
        value = figures[key].value
        if not row.low <= value <= row.high:
            raise MalformedFile(
                "machine-range",
                f"{key} = {shown(value)} is outside {row.low} to {row.high} {row.unit}",
                where=where,
            )
        ordered[key] = figures[key]
    sections: dict[str, Any] = {
        section: kind(
            **{
                k.partition(".")[2]: f.value
                for k, f in ordered.items()
                if k.startswith(section + ".")
            }
        )
        for section, kind in SECTIONS.items()
    }
    machine = Machine(name=name, doc=doc, figures=ordered, **sections)
    _check_consistency(machine, where)
    return machine


_RATE = ("c2c.wire_bits", "c2c.lanes", "c2c.lane_kbps", "clock.hz")
"""What the time of a vector on a link follows from."""


def _with_link_rate(figures: dict[str, Figure]) -> dict[str, Figure]:
    """The figures with the time of a vector on a link, where that is left to the lane rate."""
    given = figures.get("c2c.cycles_per_vector")
    known = [figures[key].value for key in _RATE if key in figures]
    if given is None or given.value or len(known) < len(_RATE) or min(known) < 1:
        return figures
    bits, lanes, kbps, hz = known
    cycles = -(-bits * hz // (lanes * kbps * 1000))
    return {**figures, "c2c.cycles_per_vector": Figure(cycles, given.provenance, given.source)}


def _check_consistency(machine: Machine, where: str) -> None:
    """Refuse combinations of figures that no chip could have, or no computer could imitate."""
    hops = machine.mem.slices_per_hemisphere // machine.mem.slices_per_hop
    links = machine.system.local_links + machine.system.global_links
    arrays = 2 * machine.mxm.planes_per_hemisphere * machine.vector**2
    problems = (
        (machine.streams.per_direction % 4, "streams.per_direction must be a multiple of 4"),
        (
            machine.mxm.planes_per_hemisphere % machine.mxm.fp16_planes,
            "mxm.planes_per_hemisphere must be a multiple of mxm.fp16_planes",
        ),
        (
            machine.mxm.install_streams > machine.streams.per_direction,
            "mxm.install_streams is more than streams.per_direction",
        ),
        (machine.vector > 4096, "a vector has more than 4096 lanes"),
        (machine.words_per_slice > 2**20, "a slice has more than 2**20 words"),
        (machine.icu.repeat_max < machine.vector, "icu.repeat_max is less than the lanes"),
        (machine.words_per_chip > 2**24, "a chip has more than 2**24 words"),
        (hops > 4096, "a hemisphere has more than 4096 hops"),
        (arrays > 2**24, "the arrays of a chip have more than 2**24 cells"),
        (machine.max_chips > 2**14, "the largest system has more than 2**14 chips"),
        (machine.max_chips * links > 2**18, "the largest system has more than 2**18 links"),
        (
            machine.c2c.drift_margin > machine.c2c.margin,
            "c2c.drift_margin is more than c2c.margin",
        ),
        (
            links > machine.c2c.links,
            f"system.local_links + system.global_links = {links} is more than c2c.links",
        ),
    )
    for wrong, message in problems:
        if wrong:
            raise MalformedFile("machine-consistency", message, where=where)
    registers = 2 * machine.streams.per_direction * geometry(machine).positions
    if registers * machine.vector > 2**26:
        message = "the stream registers of a chip have more than 2**26 bytes"
        raise MalformedFile("machine-consistency", message, where=where)
