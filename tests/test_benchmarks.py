"""The benchmarks measure what they say and print it; how fast anything is, no test asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.contests import CONTESTS, Scale
from benchmarks.engine import BEGIN, END, README, SECTIONS, main, report, written
from benchmarks.models import Mlp
from benchmarks.timing import race

SMALL = Scale(
    int8=20,
    int8_reference=9,
    half=17,
    runs=3,
    mlp=Mlp("mlp", 2, (16, 24, 8)),
    chain=(3, 40),
    tiny=Mlp("tiny", 1, (8, 4)),
    network=(32, 2, 2),
    long=Mlp("long", 2, (70, 30)),
    listed=Mlp("listed", 1, (20, 10)),
    turns=1,
    least=0.0,
)


def test_every_section_is_in_the_report() -> None:
    lines = list(report(SMALL, SECTIONS))
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    for word in (
        "MatMulInteger 20³, float32",
        "MatMul 17³, fp16",
        "digits.int8",
        "resnet50-int8, 32 x 32, 2 images in one call",
        "verify and link",
    ):
        assert any(row[0] == word for row in rows), word
    peers = {row[2] for row in rows}
    assert {"onnxruntime", "onnx reference", "numpy float64", "3 calls"} <= peers
    assert "reference interpreter" in peers
    assert sum("met" in row[-1] or "missed" in row[-1] for row in rows) >= 4
    assert lines[0].startswith("- ")


def test_sections_can_be_chosen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: Scale) -> Iterator[None]:
        return iter(())

    for name in CONTESTS:
        monkeypatch.setitem(CONTESTS, name, none)
    main(["batch", "--quick"])
    printed = capsys.readouterr().out
    assert "against" in printed
    assert "instructions" not in printed
    with pytest.raises(SystemExit):
        main(["speed"])


def test_tables_are_written_between_the_marks() -> None:
    text = README.read_text(encoding="utf-8")
    once = written(text, ["| a |", "| b |"])
    assert f"{BEGIN}\n| a |\n| b |\n{END}" in once
    assert written(once, ["| a |", "| b |"]) == once
    assert once.partition(BEGIN)[0] == text.partition(BEGIN)[0]
    assert once.partition(END)[2] == text.partition(END)[2]


def test_contestants_take_turns() -> None:
    called: list[str] = []
    took = race({name: lambda n=name: called.append(n) for name in "ab"}, turns=2, least=0.0)
    assert "".join(called[-4:]) == "abab"
    assert set(took) == {"a", "b"}
    assert all(seconds >= 0 for seconds in took.values())
