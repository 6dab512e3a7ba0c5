"""`inspect --section links` and `stages`: what passes between chips, and which layers are where."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from clockstep.report import SECTIONS
from clockstep_compiler import Options, compile_model, compose
from clockstep_isa import BY_NAME, MalformedFile, Program, load_machine, wiring
from tests.support.decoder import Decoder

LAYERS = 6


@pytest.fixture(scope="module", params=[0, compose.LARGE])
def program(request: pytest.FixtureRequest) -> Program:
    """A decoder in stages, as parts and without."""
    model = Decoder("opset", layers=LAYERS).model(1).SerializeToString()
    options = Options(chips=LAYERS + 2, weights=False, effort="fast")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "LARGE", request.param)
        return compile_model(model, load_machine("tiny"), options)


def test_links_add_up_to_what_is_sent(program: Program) -> None:
    rows = SECTIONS["links"].rows(program)
    sends = program.code.take(program.code.opcode == BY_NAME["send"].opcode)
    assert sum(row["vectors"] for row in rows) == int(sends.repeat.sum()) > 0
    wires = wiring(program.machine, program.chips)
    for row in rows:
        assert wires[row["chip"], row["link"]][0] == row["peer"]
        assert 0 <= row["first_cycle"] <= row["last_cycle"] < program.cycles
    assert min(row["first_cycle"] for row in rows) == int(sends.cycle.min())


def test_stages_have_all_layers(program: Program) -> None:
    rows = SECTIONS["stages"].rows(program)
    assert len(rows) >= LAYERS
    assert sum(row["layers"] for row in rows) == len(program.nodes)
    assert [row["chips"] for row in rows] == [str(chip) for chip in range(len(rows))]
    assert all(a["end"] < b["start"] for a, b in pairwise(rows))
    assert rows[-1]["end"] == program.cycles


def test_chips_and_layers_count_instructions(program: Program) -> None:
    for section in ("chips", "layers"):
        rows = SECTIONS[section].rows(program)
        assert sum(row["instructions"] for row in rows) == len(program.code)
        assert all(row["instructions"] for row in rows if row.get("total_bytes"))


@pytest.mark.parametrize("rows", ["x", [[0, 1, 2]], [[0, 99, 0, 1, 0, 1]], [[0, 1, 0, 1, 0, 9**9]]])
def test_stages_that_are_none(program: Program, rows: object) -> None:
    wrong = replace(program, info={**program.info, "stages": rows})
    with pytest.raises(MalformedFile):
        SECTIONS["stages"].rows(wrong)
