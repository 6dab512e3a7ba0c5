"""Machine files: inheritance, settings, provenance, and a reason for whatever is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from clockstep_isa import (
    PROVENANCE,
    MalformedFile,
    UsageError,
    load_machine,
    machine_from_dict,
    machine_to_dict,
    preset_names,
    schema,
)


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["lpu-v1", "tiny"])
def test_presets(name: str) -> None:
    assert name in preset_names()
    machine = load_machine(name)
    assert machine.name == name
    assert list(machine.figures) == list(schema())
    assert {figure.provenance for figure in machine.figures.values()} <= set(PROVENANCE)
    for key, figure in machine.figures.items():
        section, _, item = key.partition(".")
        assert getattr(getattr(machine, section), item) == figure.value


def test_every_figure_of_the_reference_machine_has_a_source() -> None:
    assert all(figure.source for figure in load_machine("lpu-v1").figures.values())


def test_reference_machine() -> None:
    machine = load_machine("lpu-v1")
    assert machine.vector == 320
    assert machine.sram_bytes == 220 * 2**20
    assert machine.quads == 8
    assert [a for a in range(16) if machine.is_large(a)] == [0, 2, 5, 7, 8, 10, 13, 15]
    windows = [sorted(machine.window(4 * row)) for row in range(4)]
    assert windows == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [0, 1, 6, 7]]


def test_inherit_changes_only_what_it_says(tmp_path: Path) -> None:
    text = 'inherit = "lpu-v1"\n[mem]\nbanks = 4\n[c2c]\nlatency = {value = 5, from = "measured"}\n'
    machine = load_machine(write(tmp_path, text))
    base = load_machine("lpu-v1")
    assert machine.name == "mine"
    assert machine.doc == base.doc
    changed = [k for k in schema() if machine.figures[k] != base.figures[k]]
    assert changed == ["mem.banks", "c2c.latency"]
    assert machine.mem.banks == 4
    assert machine.figures["mem.banks"].provenance == "assumed"
    assert machine.figures["c2c.latency"].provenance == "measured"
    assert machine.figures["mem.words_per_bank"].provenance == "sdk"


def test_inherit_from_a_file_beside(tmp_path: Path) -> None:
    write(tmp_path, 'inherit = "tiny"\n[mem]\nbanks = 4\n', "base.toml")
    machine = load_machine(write(tmp_path, 'name = "x"\ninherit = "base.toml"\n'))
    assert (machine.name, machine.mem.banks) == ("x", 4)


def test_inherit_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, 'inherit = "b.toml"\n', "a.toml")
    write(tmp_path, 'inherit = "a.toml"\n', "b.toml")
    with pytest.raises(MalformedFile, match="inherits itself"):
        load_machine(tmp_path / "a.toml")


def test_settings() -> None:
    machine = load_machine("tiny", ["mem.banks=4", " c2c.latency = 9 "])
    assert (machine.mem.banks, machine.c2c.latency) == (4, 9)
    assert machine.figures["mem.banks"].provenance == "assumed"
    assert machine.figures["mem.banks"].source == "set on the command line"


@pytest.mark.parametrize(
    "text", ["mem.banks", "mem.banks=", "mem.banks=x", "mem.banks=--5", "mem.banks=²", "=1.5"]
)
def test_malformed_settings(text: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=INTEGER"):
        load_machine("tiny", [text])


def test_unknown_names_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown key 'mem.bank' .*did you mean 'mem.banks'"):
        load_machine("tiny", ["mem.bank=3"])
    with pytest.raises(UsageError, match=r"no machine 'lpu-1' .*did you mean 'lpu-v1'"):
        load_machine("lpu-1")
    with pytest.raises(UsageError, match=r"no machine 'zebra' .*presets: lpu-v1, tiny"):
        load_machine("zebra")
    path = write(tmp_path, 'inherit = "tiny"\n[mem]\nbankz = 3\n')
    with pytest.raises(MalformedFile, match=r"unknown key 'mem.bankz' .*did you mean 'mem.banks'"):
        load_machine(path)
    path = write(tmp_path, 'inherit = "tiny"\n[mxn]\n')
    with pytest.raises(MalformedFile, match=r"unknown key 'mxn' .*did you mean \[mxm\]"):
        load_machine(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mem", "not valid TOML"),
        ("x = " + "9" * 5000, "not valid TOML"),
        ("x = " + "[" * 100000, "not valid TOML"),
        ('name = "x"', "no value for clock.hz"),
        ('inherit = "tiny"\nmem = 3', r"\[mem\] is not a table"),
        ('inherit = "tiny"\n[mem]\nbanks = 2.5', "mem.banks = 2.5 is not an integer"),
        ('inherit = "tiny"\n[mem]\nbanks = true', "mem.banks = True is not an integer"),
        ('inherit = "tiny"\n[mem]\nbanks = 17', "mem.banks = 17 is outside 1 to 16 banks"),
        ('inherit = "tiny"\n[mem]\nbanks = {from = "paper"}', "mem.banks: no 'value'"),
        ('inherit = "tiny"\n[mem]\nbanks = {value = 2, form = "paper"}', "unknown 'form'"),
        ('inherit = "tiny"\n[mem]\nbanks = {value = 2, from = "hearsay"}', "from = 'hearsay'"),
    ],
    ids=lambda text: text[:30],
)
def test_files_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedFile, match=message) as caught:
        load_machine(write(tmp_path, text))
    assert caught.value.diagnostic.where == "mine.toml"
    assert "\n" not in str(caught.value)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(MalformedFile, match="not a text file"):
        load_machine(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["streams.per_direction=10"], "multiple of 4"),
        (["mxm.planes_per_hemisphere=3"], "multiple of mxm.fp16_planes"),
        (["mxm.install_streams=17"], "more than streams.per_direction"),
        (["lanes.superlanes=128", "lanes.per_superlane=64"], "more than 4096 lanes"),
        (["mem.banks=16", "mem.words_per_bank=100000"], "more than 2\\*\\*20 words"),
        (["system.local_links=4"], "= 7 is more than c2c.links"),
        (["c2c.drift_margin=3"], "more than c2c.margin"),
        (["c2c.cycles_per_vector=0", "c2c.lane_kbps=1"], "outside 0 to 4095"),
    ],
)
def test_combinations_that_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(MalformedFile, match=message):
        load_machine("tiny", settings)


def test_as_a_dictionary_and_back() -> None:
    machine = load_machine("lpu-v1", ["mem.banks=4"])
    data = json.loads(json.dumps(machine_to_dict(machine)))
    again = machine_from_dict(data, "here")
    assert again == machine
    assert dict(again.figures) == dict(machine.figures)
    assert machine_to_dict(again) == machine_to_dict(machine)


def test_a_machine_is_frozen() -> None:
    machine = load_machine("tiny")
    with pytest.raises(dataclasses.FrozenInstanceError):
        machine.name = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kbps", "cycles"), [(25_781_250, 24), (28_000_000, 22), (30_000_000, 21), (60_000_000, 11)]
)
def test_a_link_is_as_fast_as_its_lanes(kbps: int, cycles: int) -> None:
    machine = load_machine("lpu-v1", [f"c2c.lane_kbps={kbps}"])
    assert machine.c2c.cycles_per_vector == cycles
    assert load_machine("lpu-v1", ["c2c.cycles_per_vector=9"]).c2c.cycles_per_vector == 9
    again = machine_from_dict(machine_to_dict(machine), "here")
    assert again.c2c.cycles_per_vector == cycles


def test_clocks_drift_apart() -> None:
    """Two clocks 200 ppm apart are 8 cycles apart after 40,000; one chip has one clock."""
    machine = load_machine("lpu-v1")
    assert machine.realign_interval == 40_000
    assert [machine.pauses(c, 2) for c in (0, 1, 40_000, 40_001, 90_000)] == [0, 0, 0, 1, 2]
    assert machine.seconds(90_000, 1) == 90_000 / 900e6
    assert machine.seconds(90_000, 2) == (90_000 + 2 * machine.c2c.realign) / 900e6
    steady = load_machine("lpu-v1", ["c2c.drift_ppm=0"])
    assert steady.seconds(90_000, 2) == 90_000 / 900e6
