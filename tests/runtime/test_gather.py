"""`gather`: vectors from where another says, in static time."""

from __future__ import annotations

import numpy as np
import pytest

from clockstep_isa import parse_listing, print_listing
from clockstep_runtime import Session, interpret, verify
from clockstep_runtime.debug import provenance
from tests.support.build import east
from tests.support.endtoend import assert_same_bits, round_trip
from tests.support.handmade import gathering

LANES, WORDS = 16, 4


@pytest.mark.parametrize("places", [(0, 3, 1), (2, 2, 2), (1, 4, 0), (-1, 0, 3), (256, 255, 1000)])
@pytest.mark.parametrize(
    ("stride", "given"),
    [(1, {}), (0, {}), (2, {}), (-1, {"address": 103}), (1, {"first": 1})],
    ids=str,
)
def test_what_is_taken(places: tuple[int, ...], stride: int, given: dict[str, int]) -> None:
    """Both engines take the word that the place says, and zeros if that is beyond the words."""
    program = gathering(stride, **given).program()
    round_trip(program)
    assert parse_listing(print_listing(program)).code.args.tolist() == program.code.args.tolist()
    inputs = {"p": np.array(places, np.int16).reshape(3, 1)}
    done = Session(program).execute(inputs)
    assert_same_bits(done, interpret(program, inputs))
    assert done.cycles == program.cycles
    table = np.arange(8 * LANES, dtype=np.int8).reshape(8, -1)
    want = np.zeros((3, LANES), np.int8)
    for row, place in enumerate(places):
        number = place - given.get("first", 0) & 0xFFFF
        if number < WORDS:
            want[row] = table[given.get("address", 100) - 100 + row * stride + number]
    assert (done.outputs["y"] == want).all()


def test_batch() -> None:
    """Each run of a batch has places of its own."""
    program = gathering().program()
    places = np.array([[0, 1, 3], [3, 9, 0], [2, 2, -1]], np.int16)[:, :, None]
    found = Session(program).run({"p": places})
    for i in range(3):
        assert (found["y"][i] == interpret(program, {"p": places[i]}).outputs["y"]).all()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"words": 7}, "word-unwritten"),
        ({"address": 99}, "word-unwritten"),
        ({"stride": -1}, "word-unwritten"),
        ({"words": 0}, "field-range"),
        ({"address": 1020}, "address-range"),
        ({"map": east(3)}, "stream-align"),
        ({"map": east(6)}, "slot-empty"),
    ],
    ids=str,
)
def test_refused(given: dict[str, int], code: str) -> None:
    report = verify(gathering(**given).program())
    assert code in {v.code for v in report.violations}


def test_provenance() -> None:
    """Behind a vector are the word and the number that said which; the number alone behind none."""
    program = gathering().program()
    inputs = {"p": np.array([[1], [9], [0]], np.int16)}
    for row, addresses in ((0, [101]), (1, []), (2, [102])):
        found = provenance(program, inputs, program.outputs[0], (row, 5))
        assert np.flatnonzero(found.inputs["p"]).tolist() == [row]
        assert [word.address for word in found.words if not word.input] == addresses
