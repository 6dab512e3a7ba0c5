"""`--entry`: several entries compiled, run, listed and named where there are several."""

from __future__ import annotations

from pathlib import Path

import pytest

from samples.llama.write import SIZES, llama
from tests.support.command import clockstep

ENTRIES = ("--entry", "prefill:tokens=2", "--entry", "decode:tokens=1")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("entries")
    model = llama(SIZES["tiny"], context=8, tokens=None, weights="float16")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    done = clockstep(
        *("compile", folder / "model.onnx", "-o", folder / "model.lpu", "--machine", "tiny"),
        *(*ENTRIES, "--effort", "fast", "--json"),
    )
    assert done.status == 0, done.err
    facts = done.json()
    assert list(facts["entries"]) == ["prefill", "decode"]
    assert facts["cycles"] == facts["entries"]["prefill"]["cycles"]
    return folder / "model.lpu"


def test_run_takes_an_entry(program: Path) -> None:
    cycles = {}
    for name in ("prefill", "decode"):
        done = clockstep("run", program, "--entry", name, "--seed", 3, "--json").json()
        assert done["cycles"] == done["predicted_cycles"]
        cycles[name] = done["cycles"]
    assert clockstep("run", program, "--json").json()["cycles"] == cycles["prefill"]
    assert cycles["decode"] < cycles["prefill"]
    assert clockstep("verify", program, "--json").json()["checks"]["entries"] == 2


def test_what_shows_one_entry_says_which(program: Path, tmp_path: Path) -> None:
    whole = clockstep("inspect", program)
    assert "entry decode" in whole.out
    own = clockstep("inspect", program, "--entry", "decode", "--section", "layers", "--csv")
    assert own.status == 0
    assert own.out != clockstep("inspect", program, "--section", "layers", "--csv").out
    assert "prefill, decode" in clockstep("disasm", program).error()
    listing, again = tmp_path / "decode.txt", tmp_path / "decode.lpu"
    assert clockstep("disasm", program, "--entry", "decode", "-o", listing).status == 0
    assert clockstep("asm", listing, "-o", again).status == 0
    cycles = [
        clockstep("run", path, *more, "--json").json()["cycles"]
        for path, more in (
            (program, ("--entry", "decode")),
            (again, ()),
        )
    ]
    assert cycles[0] == cycles[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--entry", ":tokens=1"), "NAME:DIM=N"),
        (("--entry", "a:tokens=1", "--entry", "a:tokens=2"), "twice"),
        (("--entry", "a:tokens"), "NAME=VALUE"),
        ((*ENTRIES, "--listing", "x.txt"), "one entry"),
        ((*ENTRIES, "--objective", "throughput", "--copies", "2", "--chips", "2"), "one copy"),
    ],
)
def test_wrong_entries(words: tuple[str, ...], message: str, program: Path) -> None:
    model, out = program.with_suffix(".onnx"), program.with_name("none.lpu")
    done = clockstep("compile", model, "-o", out, "--machine", "tiny", *words)
    assert done.status == 2
    assert message in done.error()
    assert not out.exists()
