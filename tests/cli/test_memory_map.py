"""The map of SRAM over time, against counting every cycle and word."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clockstep as face
from clockstep.memory_map import ABSENT, memory_map, memory_peaks
from clockstep_isa import MalformedFile, Program, geometry, load_machine
from clockstep_isa.geometry import Unit
from clockstep_isa.program import Image
from tests.support.build import Builder
from tests.support.command import clockstep

MACHINE = load_machine("tiny")
SLICES = [q.name for q in geometry(MACHINE).queues if q.unit is Unit.MEM]
DIGITS = Path(__file__).parents[2] / "samples" / "digits" / "digits.onnx"
CYCLES = 150


def program(chips: int = 2, regions: tuple[tuple[int, str, int, int], ...] = ()) -> Program:
    """No instructions, but some words of weights: (chip, unit, address, words)."""
    ids = geometry(MACHINE).by_name
    table = [(chip, ids[unit].id, address, words) for chip, unit, address, words in regions]
    image = Image(np.array(table, np.int64).reshape(-1, 4), None)
    made = Builder(MACHINE, chips=chips).program(CYCLES)
    return dataclasses.replace(made, image=image)


def block(**given: Any) -> dict[str, Any]:
    """A row as `compile` writes it."""
    row = {"chip": 0, "unit": "mem.W0", "tensor": "x", "kind": "step", "address": 0, "words": 4}
    return {**row, "first_cycle": 10, "last_cycle": 20, **given}


BLOCKS = st.builds(
    lambda first, length, **rest: block(first_cycle=first, last_cycle=first + length, **rest),
    first=st.integers(0, CYCLES - 1),
    length=st.integers(0, 90),
    chip=st.integers(0, 1),
    unit=st.sampled_from(SLICES),
    tensor=st.sampled_from("xyz"),
    kind=st.sampled_from(["step", "input"]),
    address=st.integers(40, 60),
    words=st.integers(0, 9),
)


@given(st.lists(BLOCKS, max_size=8))
def test_peaks_are_those_of_counting(rows: list[dict[str, Any]]) -> None:
    made = program(regions=((1, "mem.E1", 0, 7),))
    peaks = memory_peaks(made, rows)
    assert [peak["chip"] for peak in peaks] == [0, 1]
    for chip, peak in enumerate(peaks):
        alive: dict[int, Counter[tuple[str, str]]] = {c: Counter() for c in range(2 * CYCLES)}
        for cycle, counted in alive.items():
            counted["(weights and constants)", "image"] = 7 * chip
            for row in rows:
                if row["chip"] == chip and row["first_cycle"] <= cycle < row["last_cycle"]:
                    counted[row["tensor"], row["kind"]] += row["words"]
        most = max(sum(counted.values()) for counted in alive.values())
        assert peak["words"] == most
        if most:
            assert peak["cycle"] == min(c for c, held in alive.items() if held.total() == most)
        found = {(row["tensor"], row["kind"]): row["words"] for row in peak["tensors"]}
        assert found == +alive[peak["cycle"]]
        assert peak["capacity"] == MACHINE.words_per_chip


def lines_of(text: str) -> dict[str, tuple[str, int]]:
    """The rows of the map: what is between the bars, and the figure behind them."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {name.strip(): (shades, int(most.replace(",", ""))) for name, shades, most in rows}


def test_darker_is_fuller_and_later_is_further_right() -> None:
    rows = [
        block(unit="mem.W0", words=10, first_cycle=0, last_cycle=51),
        block(unit="mem.W0", address=10, words=10, first_cycle=30, last_cycle=90),
        block(unit="mem.E3", words=1, first_cycle=147, last_cycle=CYCLES),
    ]
    text = memory_map(program(chips=1), rows)
    # Three cycles a column: 150 are at most 64 of them.
    assert "a column is 3 cycles of 150, '@' 10 words a slice of" in text
    found = lines_of(text)
    assert found["W0-W1"] == ("+" * 10 + "@" * 7 + "+" * 13 + " " * 20, 20)
    east, figure = found["hemisphere E"]
    assert east == " " * 49 + "."
    assert figure == 1
    assert "20 of " in text.splitlines()[0]
    assert text.splitlines()[0].endswith("in cycle 30")


def test_a_short_block_is_not_lost_in_its_column() -> None:
    rows = [block(words=5, first_cycle=100, last_cycle=101)]
    found = lines_of(memory_map(program(chips=1), rows))
    assert found["W0-W1"] == (" " * 33 + "@" + " " * 16, 5)
    assert found["hemisphere W"] == (" " * 33 + ":" + " " * 16, 5)


def test_constants_are_counted_once() -> None:
    made = program(chips=1, regions=((0, "mem.W0", 0, 6), (0, "mem.W0", 6, 4)))
    rows = [
        block(address=3, words=7, kind="block", first_cycle=0, last_cycle=30),
        block(address=9, words=2, kind="block", first_cycle=0, last_cycle=30),
    ]
    (peak,) = memory_peaks(made, rows)
    assert peak["words"] == 10 + 2
    shown = [(row["tensor"], row["words"]) for row in peak["tensors"]]
    assert shown == [("(weights and constants)", 10), ("x", 2)]


def test_many_tensors_are_summed_up() -> None:
    rows = [block(tensor=f"t{i}", words=i + 1, address=20 * i) for i in range(14)]
    text = memory_map(program(chips=1), rows)
    assert "t13 " in text
    assert "t3 " not in text
    assert "(4 others)" in text
    assert any(line.split()[2:3] == ["10"] for line in text.splitlines() if "(4 others)" in line)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chip": 2},
        {"unit": "vxm.0"},
        {"unit": 3},
        {"words": -1},
        {"words": 2**70},
        {"last_cycle": None},
        {"first_cycle": True},
        {"tensor": []},
        {"kind": None},
    ],
)
def test_rows_that_are_no_blocks(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedFile) as caught:
        memory_map(program(), [block(**wrong)])
    assert caught.value.diagnostic.code == "program-info"


def test_the_section_of_a_compiled_program(tmp_path: Path) -> None:
    path = tmp_path / "d.lpu"
    flags = ("--dim", "N=20", "--machine", DIGITS.parent / "small.toml", "--chips", 3)
    parts = ("--objective", "throughput", "--copies", 1)  # one on each chip
    assert clockstep("compile", DIGITS, "-o", path, *flags, *parts).status == 0
    text = clockstep("inspect", path, "--section", "memory").out
    heads = [line for line in text.splitlines() if line.startswith("chip ")]
    assert len(heads) == 3
    assert all("hemisphere W" in part for part in text.split("\n\nchip "))
    said = clockstep("inspect", path, "--section", "memory", "--json").json()
    loaded = face.load(path)
    assert said["peaks"] == memory_peaks(loaded, said["rows"])
    for peak, held in zip(said["peaks"], loaded.info["chip_bytes"], strict=True):
        stored = held["weights"] + held["constants"] + held["activations"]
        assert 0 < peak["words"] * loaded.machine.vector <= stored
        image = next(row["words"] for row in peak["tensors"] if row["kind"] == "image")
        assert image * loaded.machine.vector == held["weights"] + held["constants"]


def test_a_program_that_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.lpu"
    program().save(path)
    assert clockstep("inspect", path, "--section", "memory").out == f"{ABSENT}\n"
