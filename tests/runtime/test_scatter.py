"""`scatter`: a vector stored where another says, in static time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clockstep_isa import Program, parse_listing, print_listing
from clockstep_runtime import Session, interpret, verify
from clockstep_runtime.debug import provenance
from tests.support.build import east
from tests.support.endtoend import assert_same_bits, round_trip
from tests.support.handmade import scattering

Array = NDArray[Any]
LANES, WORDS = 16, 4


def run(program: Program, places: tuple[int, int]) -> Array:
    """What both engines make of it, which is one and the same."""
    x = np.arange(2 * LANES, dtype=np.int8).reshape(2, -1) - 100
    inputs = {"x": x, "p": np.array(places, np.int16).reshape(2, 1)}
    done = Session(program).execute(inputs)
    assert_same_bits(done, interpret(program, inputs))
    assert done.outputs["y"].tobytes() == done.outputs["z"].tobytes()
    assert done.cycles == program.cycles
    want = np.arange(WORDS * LANES, dtype=np.int8).reshape(WORDS, -1)
    for place, row in zip(places, x, strict=True):
        if 0 <= place < WORDS:
            want[place] = row
    assert (done.outputs["y"] == want).all()
    return x


@pytest.mark.parametrize("places", [(0, 3), (2, 2), (1, 4), (-1, 0), (255, 256), (3, 1000)])
def test_where_it_goes(places: tuple[int, int]) -> None:
    """Both engines store where the place says, and nowhere if that is beyond the words."""
    program = scattering().program()
    round_trip(program)
    assert parse_listing(print_listing(program)).code.args.tolist() == program.code.args.tolist()
    run(program, places)


def test_batch() -> None:
    """Each run of a batch has places of its own."""
    program, places = scattering().program(), np.array([[0, 1], [3, 9], [2, 2]], np.int16)
    x = np.arange(6 * LANES, dtype=np.int8).reshape(3, 2, LANES)
    inputs = {"x": x, "p": places[:, :, None]}
    found = Session(program).run(inputs)
    for i in range(3):
        alone = interpret(program, {name: value[i] for name, value in inputs.items()})
        assert (found["y"][i] == alone.outputs["y"]).all()


def test_too_soon() -> None:
    """All of its words are read and written: a word may be read when it could be there."""
    slow = {"mem.write_latency": 2}
    report = verify(scattering(cycle=9, settings=slow).program())
    assert {v.code for v in report.violations} == {"word-unwritten"}
    assert verify(scattering(cycle=10, settings=slow).program()).ok


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"words": WORDS + 1}, "word-unwritten"),
        ({"words": 0}, "field-range"),
        ({"address": 1022}, "address-range"),
        ({"map": east(3)}, "stream-align"),
        ({"map": east(6)}, "slot-empty"),
    ],
    ids=str,
)
def test_refused(given: dict[str, int], code: str) -> None:
    report = verify(scattering(**given).program())
    assert code in {v.code for v in report.violations}


def test_provenance() -> None:
    """Behind a word is what was put there and the number that said so, or what was there before."""
    program = scattering().program()
    x = np.arange(2 * LANES, dtype=np.int8).reshape(2, -1)
    inputs = {"x": x, "p": np.array([[1], [9]], np.int16)}
    found = provenance(program, inputs, program.outputs[1], (1, 5))
    assert {name: int(mask.sum()) for name, mask in found.inputs.items()} == {"x": 1, "p": 1}
    found = provenance(program, inputs, program.outputs[1], (2, 5))
    assert {name: int(mask.sum()) for name, mask in found.inputs.items()} == {"x": 0, "p": 0}
