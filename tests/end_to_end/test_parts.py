"""Programs that are kept as parts at several places: they are the programs that have them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clockstep_compiler import Options, compile_model, compose
from clockstep_isa import (
    Code,
    Image,
    MalformedFile,
    Part,
    Program,
    UsageError,
    listing_lines,
    load_machine,
    load_program,
    parts_of,
    print_listing,
    program_bytes,
    repeated,
    save_program,
)
from clockstep_runtime import verify
from tests.support.decoder import Decoder

LAYERS = 6


@pytest.fixture(scope="module")
def program() -> Program:
    """A decoder of equal layers, as parts."""
    model = Decoder("opset", layers=LAYERS).model(1).SerializeToString()
    options = Options(chips=LAYERS + 2, weights=False, effort="fast")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "LARGE", 0)
        return compile_model(model, load_machine("tiny"), options)


def flat(program: Program) -> Program:
    """The same program without parts."""
    code = Code(*(getattr(program.code, item.name) for item in dataclasses.fields(Code)))
    image = Image(program.image.regions, program.image.data)
    return dataclasses.replace(program, code=code, image=image, notes=tuple(program.notes))


def changed(program: Program, part: int, **changes: Any) -> Program:
    """The program with one of its parts changed."""
    parts = list(parts_of(program))
    parts[part] = dataclasses.replace(parts[part], **changes)
    code, image, notes = repeated(program.machine, tuple(parts), program.image.data)
    return dataclasses.replace(program, code=code, image=image, notes=notes)


def layer(program: Program) -> int:
    """The part that all layers are."""
    return max(range(len(parts_of(program))), key=lambda i: len(parts_of(program)[i].code))


def test_layers_are_one_part(program: Program) -> None:
    part = parts_of(program)[layer(program)]
    assert len(part.places) >= LAYERS - 1
    assert len(program.code) == len(flat(program).code) > 4 * len(part.code)
    assert len(parts_of(flat(program))) == 1


def test_the_verdict_is_that_of_the_whole(program: Program) -> None:
    assert verify(program) == verify(flat(program))
    assert verify(program).ok


def late(part: Part) -> dict[str, Any]:
    cycle = part.code.cycle.copy()
    cycle[len(cycle) // 2] += 1
    return {"code": dataclasses.replace(part.code, cycle=cycle)}


def moved(part: Part) -> dict[str, Any]:
    places = part.places.copy()
    places[2, 1] = places[1, 1]
    return {"places": places}


def elsewhere(part: Part) -> dict[str, Any]:
    regions = part.regions.copy()
    regions[0, 2] += 1
    return {"regions": regions}


@pytest.mark.parametrize("change", [late, moved, elsewhere])
def test_what_is_wrong_is_found(program: Program, change: Callable[[Part], dict[str, Any]]) -> None:
    number = layer(program)
    wrong = changed(program, number, **change(parts_of(program)[number]))
    found, want = verify(wrong), verify(flat(wrong))
    assert not want.ok
    assert not found.ok
    codes = {(v.code, v.chip, v.unit, v.cycle) for v in found.violations}
    assert codes <= {(v.code, v.chip, v.unit, v.cycle) for v in want.violations}


def test_files_hold_parts_once(program: Program, tmp_path: Path) -> None:
    paths = tmp_path / "parts.lpu", tmp_path / "flat.lpu"
    save_program(program, paths[0])
    save_program(flat(program), paths[1])
    assert paths[0].stat().st_size < 0.7 * paths[1].stat().st_size
    loaded = load_program(paths[0])
    assert len(parts_of(loaded)) == len(parts_of(program))
    assert program_bytes(loaded) == paths[0].read_bytes()
    assert program_bytes(flat(loaded)) == paths[1].read_bytes()
    assert print_listing(loaded) == print_listing(flat(program))


def test_a_chip_is_listed_alone(program: Program) -> None:
    every = 0
    for chip in range(program.chips):
        lines = list(listing_lines(program, chip=chip, data=False))
        assert lines == list(listing_lines(flat(program), chip=chip, data=False))
        every += len(lines)
    assert every == len(program.code)
    with pytest.raises(UsageError):
        list(listing_lines(program, chip=program.chips, data=False))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 99, "chips that do not exist"),
        (0, -1, "chips that do not exist"),
        (0, 0, "an image on one chip"),
        (1, -1, "starts outside"),
        (2, 10**6, "nodes that do not exist"),
    ],
)
def test_places_that_are_none(
    program: Program, tmp_path: Path, column: int, value: int, message: str
) -> None:
    number = layer(program)
    places = parts_of(program)[number].places.copy()
    places[3, column] = value
    path = tmp_path / "x.lpu"
    save_program(changed(program, number, places=places), path)
    with pytest.raises(MalformedFile, match=message):
        load_program(path)


def test_notes_and_regions_come_when_asked_for(program: Program) -> None:
    notes = program.notes
    every = list(notes)
    assert [notes[i] for i in range(0, len(notes), 7)] == every[::7]
    assert list(notes[1:3]) == every[1:3]
    with pytest.raises(IndexError):
        notes[len(notes)]
    assert program.image.words == int(np.sum(program.image.regions[:, 3]))
